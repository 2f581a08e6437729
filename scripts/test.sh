#!/usr/bin/env bash
# Runs all tests, from a fresh clone on: installs what they need beside cargo into .deps, then unit, integration and
# end-to-end tests, the documentation's examples, and the deployment's own tests where pytest is there.
# Arguments are passed on to the test runner, for example: scripts/test.sh drain
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-test-deps.sh
# 2,000 clients in one story.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --no-fail-fast "$@"
else
    cargo test --workspace --no-fail-fast "$@"
fi
# Filters are for the runner above; the rest is for whole runs.
[ $# -eq 0 ] || exit 0
cargo test --workspace --doc

if python3 -c 'import pytest' 2>/dev/null; then
    python3 -m pytest -q tests/deploy
else
    echo "test: pytest is missing, the deployment's tests did not run (pip install -r tests/deploy/requirements.txt)"
fi
