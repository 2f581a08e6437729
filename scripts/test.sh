#!/usr/bin/env bash
# Runs all tests, from a fresh clone on: installs what they need beside cargo (into .deps, and with apt what only the system
# has), then unit, integration and end-to-end tests, the documentation's examples, the measuring tools, the hot paths'
# instruction counts, and the deployment's own tests.
# Arguments are passed on to the test runner, for example: scripts/test.sh drain
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    printf '\n-- %s\n' "$*"
    "$@"
}

step scripts/install-test-deps.sh
# 15,000 clients in one story.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

if cargo nextest --version >/dev/null 2>&1; then
    step cargo nextest run --workspace --no-fail-fast --test-threads "$((2 * $(nproc)))" "$@"
else
    step cargo test --workspace --no-fail-fast "$@"
fi
# Filters are for the runner above; the rest is for whole runs.
[ $# -eq 0 ] || exit 0
step cargo test --workspace --doc
step scripts/bench.sh --smoke
step scripts/instructions.sh
step .deps/venv/bin/python -m pytest tests/deploy
