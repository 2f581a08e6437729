#!/usr/bin/env bash
# What scripts/bench.sh --smoke runs: tries the measuring tools themselves, in about a minute. Every mode of the load generator
# against a real gateway, rows of scripts/bench.sh on both drivers, 3,000 connections of scripts/million.sh, Artillery's scenario,
# and the report of all that. Its figures are of no use: the programs are those that the tests built, unoptimised.
#
# Ends with "smoke: N of M checks hold". Exit code 0: all of them; 1: one does not; 3: the gateway or its broker does not start.
set -euo pipefail
cd "$(dirname "$0")/.."
RUN_ROOT=$(mktemp -d)
built=${CARGO_TARGET_DIR:-target}/debug
export GATEWAY=${GATEWAY:-$built/tidegate} TIDELOAD=${TIDELOAD:-$built/tideload} FLOOR=${FLOOR:-$built/floor}
[ -x "$GATEWAY" ] && [ -x "$TIDELOAD" ] && [ -x "$FLOOR" ] || cargo build --quiet --workspace --bins

RUN=$RUN_ROOT/modes
. benches/harness.sh
prepare
PORT=10700 ADMIN=10701 BROKER=10702
HELD=0 TRIED=0

# expect WHAT COMMAND...: a command that must succeed; its output is shown where it does not.
expect() {
    local what=$1 told
    shift
    TRIED=$((TRIED + 1))
    if told=$("$@" 2>&1); then
        HELD=$((HELD + 1))
        say "  $what"
    else
        say "$told"
        say "  $what: FAILED"
    fi
}

# modes: each mode of the load generator, against one gateway.
modes() {
    local native=ws://127.0.0.1:$PORT/ raw=ws://127.0.0.1:$PORT/raw/{room} server=$PID
    local ends=(--server-pid "$server" -q --json "$RESULTS" --exactly-once -t 0.5)
    local short=("${ends[@]}" --warmup 0.1)
    expect "echo" "$TIDELOAD" echo "$raw" -c 20 "${short[@]}"
    expect "echo at a rate, in two processes" "$TIDELOAD" echo "$raw" -c 20 --rate 200 --processes 2 "${short[@]}"
    expect "fan-out, published by a client" "$TIDELOAD" fanout "$native" -c 50 -r 5 --rate 100 "${short[@]}"
    expect "fan-out, published through the broker" "$TIDELOAD" fanout "$native" -c 50 --rate 100 \
        --publish-url "nats://127.0.0.1:$BROKER" --publish-room 'tidegate.room.{room}' "${short[@]}"
    expect "fan-out, published over HTTP" "$TIDELOAD" fanout "$native" -c 50 --rate 50 \
        --publish-url "http://127.0.0.1:$ADMIN/v1/rooms/{room}/messages" "${short[@]}"
    expect "fan-out, as fast as it is acknowledged" "$TIDELOAD" fanout "$raw" -c 50 --window 8 "${short[@]}"
    expect "connection storm, cut and reconnect" "$TIDELOAD" storm "$native" -c 200 --cut --server-pid "$server" -q --json "$RESULTS"
    expect "slow readers" "$TIDELOAD" slow "$native" -c 20 -k 3 --rate 50 "${short[@]}"
    expect "soak" "$TIDELOAD" soak "$native" -c 20 --rate 50 --rounds 2 --churn 10 "${ends[@]}"
    expect "idle and a broadcast" "$TIDELOAD" idle "$native" -c 100 --settle 0.2 --broadcasts 1 "${ends[@]}"
    if [ -d .deps/node/node_modules/@artilleryio/int-core ]; then
        expect "Artillery's scenario" env NODE_PATH=.deps/node/node_modules node benches/scenarios/artillery.js "$native" 1 10
    else
        say "  Artillery's scenario: not tried, npm was missing when scripts/install-test-deps.sh ran"
    fi
}

# every_row_is_measured: of the run of bench.sh. Where priorities may not be set, the bystander has no floor.
every_row_is_measured() {
    local results=$RUN_ROOT/bench/results.jsonl
    [ -s "$results" ] && ! grep '"tool":"bench","label"' "$results" | grep -v '"bystander-alone/floor"'
}

report_is_complete() {
    local label
    OUT=$RUN_ROOT/report python3 benches/report/report.py "$RUN_ROOT/bench/results.jsonl" "$RUN_ROOT/million/results.jsonl" || return 1
    for label in idle-4000/epoll fanout-500/io_uring cross-node/floor-beside-epoll million-3000/tidegate; do
        grep -qF "| $label |" "$RUN_ROOT/report/report.md" || { echo "the report has no row $label" && return 1; }
    done
}

expect "the report's own tests" python3 -m unittest discover -s benches/report
start_nats "$BROKER" - || die "no nats-server: run scripts/install-test-deps.sh python"
start gateway - "$GATEWAY" --listen "127.0.0.1:$PORT" --admin "127.0.0.1:$ADMIN" --shards 1 --nats-url "nats://127.0.0.1:$BROKER" \
    --message-rate 0 --connection-rate 0
await_port "$PORT" "$PID" || die "tidegate does not start: $(last_words gateway)"
modes
end_all
trap - EXIT

RUN=$RUN_ROOT/bench expect "scripts/bench.sh" scripts/bench.sh --quick --rows 'idle-*|echo-64|fanout-500|flat-out-640|bystander|upgrade|cross-node'
expect "every row of it is measured" every_row_is_measured
RUN=$RUN_ROOT/million expect "scripts/million.sh" scripts/million.sh --smoke
expect "the report" report_is_complete
rm -rf "$RUN_ROOT"
say "smoke: $HELD of $TRIED checks hold"
[ "$HELD" = "$TRIED" ]
