#!/usr/bin/env bash
# What takes longer than the tests of CI: slow.sh [--smoke]
#   - a day of the autoscaler's loop over real gateways and a real Prometheus, in eight minutes (autoscale_live.py)
#   - the load generator through each balancer (balancers_load.py)
#   - idle connections for 100 s through the reference configurations (not with --smoke)
# Needs cargo build -p tidegate -p tideload (release for figures) and scripts/install-test-deps.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.deps/venv/bin/python
smoke=()
case ${1:-} in
'') ;;
--smoke) smoke=(--smoke) ;;
*) echo "slow.sh: unknown argument '$1'; use --smoke or nothing" >&2 && exit 2 ;;
esac
$python tests/deploy/autoscale_live.py "${smoke[@]}"
$python tests/deploy/balancers_load.py "${smoke[@]}"
[ ${#smoke[@]} -gt 0 ] || $python -m pytest tests/deploy -m slow
