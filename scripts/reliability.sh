#!/usr/bin/env bash
# Runs what proves the guarantees, long stories too, and writes what came out to target/reliability/report.md.
set -euo pipefail

usage() {
    cat <<'TEXT'
reliability.sh [--report]

  (nothing)   runs every test that docs/reliability.md names (a quarter of an hour: stories mostly wait), then writes
              target/reliability/report.md and holds the times beside a hostile client, and what one client takes of a core, to
              their bounds (scripts/reliability/bounds.py)
  --report    only writes the report and judges the times, from the last run

Conformance, fuzzing and sanitizers have scripts of their own (conformance.sh --all, fuzz.sh, sanitize.sh); what they left
under target/ goes into the report. Needs what scripts/install-test-deps.sh installs, and cargo-nextest.
Exit codes: 0 all passed, 1 a test failed, lost something untold, or a figure is over its bound (the report says which), 2 bad arguments.
TEXT
}

cd -- "$(dirname -- "$0")/.."
out=target/reliability
run=yes
case ${1-} in
--help | -h) usage && exit 0 ;;
--report) run='' ;;
'') ;;
*) echo "reliability.sh: unknown argument $1; see --help" >&2; exit 2 ;;
esac

# Stories that measure, and judge nothing themselves.
MEASURED='/(neighbours|inflating)::long_on_/'
status=0

# stories FILTER ARGUMENT...: runs them, and appends what they say to the log.
stories() {
    local filter=$1
    shift
    cargo nextest run --no-fail-fast --run-ignored all --success-output final --failure-output final --color never "$@" -E "$filter" 2>&1 |
        tee -a "$out/stories.log" | grep -E '^ +(FAIL|TIMEOUT|SIG|Summary)'
    [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
}

if [ -n "$run" ]; then
    command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
    scripts/install-test-deps.sh >/dev/null
    ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
    mkdir -p "$out"
    set +e
    : >"$out/stories.log"
    stories "test(/(^|::)($(python3 scripts/reliability/report.py --names))\$/) - test($MEASURED)" --test-threads 6
    # What is measured is measured alone, on the gateway that users run.
    if cargo build --release --bin tidegate; then
        GATEWAY_UNDER_TEST=$PWD/target/release/tidegate stories "test($MEASURED)" --test-threads 1
    else
        status=1
    fi
    set -e
fi
python3 scripts/reliability/report.py
python3 scripts/reliability/bounds.py "$out/stories.log" || status=1
sed -n 3p "$out/report.md"
exit "$status"
