#!/usr/bin/env bash
# Runs all tests, from a fresh clone on.
#
#   scripts/test.sh [ARGUMENT...]
#
# Steps: installs what the tests need beside cargo (into .deps, and with apt-get what only the system has; it says first what is
# missing), then unit, integration and end-to-end tests, the documentation's examples, a dialect and a broker that are each added to
# a copy of the source, the measuring tools, the deployment's tests, and the hot paths' instruction counts. A step that fails does
# not keep the later ones from running.
#
# Arguments are passed on to the test runner, for example: scripts/test.sh drain. Then the steps after it are left out.
#
# The last lines say whether all steps held, and "N passed, N failed", over all steps. Exit code 0: nothing failed; 1: something did.
set -uo pipefail
cd "$(dirname "$0")/.."

LOGS=$(mktemp -d)
STEPS=8 STEP=0 PASSED=0 FAILED=0
SUMMARY=() BROKEN=()

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# begin WHAT: the heading of the next step.
begin() {
    STEP=$((STEP + 1)) WHAT=$1 BEGAN=$SECONDS
    printf '\n-- step %d of %d, %s elapsed: %s\n' "$STEP" "$STEPS" "$(clock "$SECONDS")" "$WHAT"
}

# finish STATUS PASSED FAILED [none-is-fine]: adds the step that was begun to the sum. One that fails before it counts anything is
# one failure, and so is one that counts nothing, unless that is fine.
finish() {
    local status=$1 passed=$2 failed=$3 outcome
    [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ $((passed + failed)) -gt 0 ] || [ "${4:-}" = none-is-fine ] || failed=1
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
    outcome="$passed of $((passed + failed)) passed"
    [ $((passed + failed)) -gt 0 ] || outcome=done
    [ "$failed" -eq 0 ] || { outcome="FAILED, $outcome"; BROKEN+=("$WHAT"); }
    SUMMARY+=("$(printf '%7s  %s: %s' "$(clock $((SECONDS - BEGAN)))" "$WHAT" "$outcome")")
}

# in_report FILE: passed and failed tests of a JUnit report, from its first element that counts them.
in_report() {
    grep -o '<testsuites\? [^>]*tests="[^>]*>' "$1" 2>/dev/null | head -1 | tr ' ' '\n' | awk -F'"' '
        $1 == "tests=" { tests = $2 }
        $1 == "skipped=" { skipped = $2 }
        $1 == "failures=" || $1 == "errors=" { failed += $2 }
        END { print tests - skipped - failed, failed + 0 }'
}

# in_cargo_test LOG: the same of cargo's own test runner.
in_cargo_test() {
    sed -n 's/^test result:.* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$1" |
        awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }'
}

# in_checks LOG: the same of a script that ends with "N of M checks" or "N of M paths".
in_checks() {
    sed -n 's/^[a-z]*: \([0-9]*\) of \([0-9]*\) .*/\1 \2/p' "$1" | awk '{ passed = $1; all = $2 } END { print passed + 0, all - passed }'
}

# logged LOG COMMAND...: shows what the command prints, and keeps it to be counted.
logged() {
    local log=$1
    shift
    "$@" 2>&1 | tee "$log"
}

rust_tests() {
    # Below the workspace, wherever cargo builds.
    local report=target/nextest/ci/junit.xml status
    begin "unit, integration and end-to-end tests"
    if cargo nextest --version >/dev/null 2>&1; then
        rm -f "$report"
        cargo nextest run --profile ci --workspace --no-fail-fast --test-threads "$((4 * $(nproc)))" "$@"
        status=$?
        finish $status $(in_report "$report")
    else
        logged "$LOGS/tests" cargo test --workspace --no-fail-fast "$@"
        status=$?
        finish $status $(in_cargo_test "$LOGS/tests")
    fi
}

# The counts' program takes minutes to build and the steps beside it mostly wait, so it is built and counted in the background.
COUNTING=
begin_counting() {
    set -m
    nice scripts/instructions.sh >"$LOGS/counts" 2>&1 &
    COUNTING=$!
    set +m
}

end() {
    [ -z "$COUNTING" ] || kill -- "-$COUNTING" 2>/dev/null
    rm -rf "$LOGS"
}
trap end EXIT

[ $# -eq 0 ] || STEPS=2
begin "what the tests need"
scripts/install-test-deps.sh
finish $? 0 0 none-is-fine
# 15,000 clients in one story.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
rust_tests "$@"

if [ $# -eq 0 ]; then
    begin_counting
    begin "the documentation's examples"
    logged "$LOGS/examples" cargo test --workspace --doc
    finish $? $(in_cargo_test "$LOGS/examples") none-is-fine

    begin "a new client protocol touches two files"
    logged "$LOGS/dialect" tests/dummy-dialect.sh
    finish $? $(in_checks "$LOGS/dialect")

    begin "a new broker touches two files"
    logged "$LOGS/broker" tests/dummy-broker.sh
    finish $? $(in_checks "$LOGS/broker")

    begin "the measuring tools"
    logged "$LOGS/smoke" scripts/bench.sh --smoke
    finish $? $(in_checks "$LOGS/smoke")

    begin "the deployment's tests"
    .deps/venv/bin/python -m pytest tests/deploy --junitxml "$LOGS/deploy.xml"
    finish $? $(in_report "$LOGS/deploy.xml")

    begin "the hot paths' instruction counts, counted meanwhile"
    # What it printed so far, then each line as it comes.
    tail --quiet -n +1 --follow --pid="$COUNTING" "$LOGS/counts"
    wait "$COUNTING"
    status=$?
    COUNTING=
    # On another platform the counts are not compared.
    finish $status $(in_checks "$LOGS/counts") none-is-fine
fi

printf '\nin %s:\n' "$(clock "$SECONDS")"
printf '%s\n' "${SUMMARY[@]}"
if [ ${#BROKEN[@]} -eq 0 ]; then
    printf '\nall %d steps held\n' "$STEPS"
else
    printf '\n%d of %d steps failed: %s\n' ${#BROKEN[@]} "$STEPS" "$(IFS=';' && echo "${BROKEN[*]}" | sed 's/;/; /g')"
fi
printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[ "$FAILED" -eq 0 ]
