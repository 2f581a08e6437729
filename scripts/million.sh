#!/usr/bin/env bash
# Holds as many connections on this host as were asked for, both ends of them, and sends one message to all.
#
#   scripts/million.sh [CONNECTIONS] [--smoke] [--broadcasts N] [--gateway PATH]
#
# CONNECTIONS   100000 unless given; 1000000 for the real thing (about 14 GB)
# --smoke       3,000 connections and a few seconds, for CI
# --broadcasts  messages to all, one a second (1)
# --gateway     a tidegate that is already built (builds one otherwise)
#
# Many gateway processes share one port through SO_REUSEPORT, each within its limit of open files, behind one nats-server; the
# load runs in as many client processes. Every client joins one room; heartbeats are on. It prints user and kernel memory per
# connection, the connect rate, the CPU while idle and the time to the last delivery. Exit code 0: everybody got every message
# exactly once; 1: not so; 3: this host cannot hold it, and why.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh

CONNECTIONS=100000 SMOKE= BROADCASTS=1 GATEWAY=
PORT=10200 ADMIN=10300 BROKER=10091
# Of a limit of 20,000 open files a process uses this many for connections, and the kernel's choice among the listeners of a
# port is random: some get a few hundred more than others.
PER_GATEWAY=17000

while [ $# -gt 0 ]; do
    case $1 in
    --smoke) SMOKE=1 CONNECTIONS=3000 PER_GATEWAY=1000 ;;
    --broadcasts)
        BROADCASTS=${2:?--broadcasts wants a number}
        shift
        ;;
    --gateway)
        GATEWAY=${2:?--gateway wants a path}
        shift
        ;;
    -h | --help)
        sed -n '2,15s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *[!0-9]* | '')
        say "million.sh: $1 is unknown; see --help"
        exit 2
        ;;
    *) CONNECTIONS=$1 ;;
    esac
    shift
done
GATEWAYS=$(((CONNECTIONS + PER_GATEWAY - 1) / PER_GATEWAY))

# fits: refuses what memory, socket buffers or processes do not allow, with what would help.
fits() {
    local files available wanted pages limit
    files=$(ulimit -H -n)
    [ "$files" = unlimited ] || [ "$files" -ge $((PER_GATEWAY + 2500)) ] ||
        die "each gateway needs $((PER_GATEWAY + 2500)) open files and the hard limit is $files: raise it (ulimit -H -n)"
    # Both ends: two sockets of 4.3 KB, the load's own 300 B, and a page each while the broadcast is under way.
    available=$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo)
    wanted=$((CONNECTIONS * 13 + GATEWAYS * 30000 + 500000))
    [ "$available" -ge "$wanted" ] ||
        die "$CONNECTIONS connections want about $((wanted / 1024)) MB and $((available / 1024)) MB are available: ask for fewer"
    # An unread message holds a page; above the third figure of tcp_mem the kernel drops what arrives.
    pages=$((CONNECTIONS + CONNECTIONS / 5))
    limit=$(cut -f3 /proc/sys/net/ipv4/tcp_mem)
    [ "$limit" -ge "$pages" ] ||
        die "a broadcast to $CONNECTIONS holds up to $pages pages and net.ipv4.tcp_mem allows $limit: sysctl -w net.ipv4.tcp_mem=\"$((pages / 2)) $((pages * 3 / 4)) $((pages + 65536))\""
}

fits
NATS=$(broker)
[ -n "$NATS" ] || die "no nats-server: run scripts/install-test-deps.sh, or set TIDEGATE_NATS_SERVER to one"
build_load
if [ -z "$GATEWAY" ]; then
    cargo build --release --quiet --bin tidegate || die "tidegate does not build"
    GATEWAY=${CARGO_TARGET_DIR:-target}/release/tidegate
fi
begin_run
describe_run

start nats - "$NATS" -a 127.0.0.1 -p "$BROKER"
await_port "$BROKER" "$PID" || die "nats-server does not start: $(tail -1 "$RUN/logs/nats.log")"
PIDS=()
for number in $(seq "$GATEWAYS"); do
    start "gateway-$number" - env TIDEGATE_SHARE_PORT=true "$GATEWAY" --listen "127.0.0.1:$PORT" --admin "127.0.0.1:$((ADMIN + number))" --shards 1 \
        --node-name "node-$number" --nats-url "nats://127.0.0.1:$BROKER" --message-rate 0 --connection-rate 0
    PIDS+=(--server-pid "$PID")
    await_port $((ADMIN + number)) "$PID" || die "gateway $number does not start: $(tail -1 "$RUN/logs/gateway-$number.log")"
done
say "$GATEWAYS gateways on port $PORT, $CONNECTIONS connections to come"

IDLE=52 SETTLE=5
[ -z "$SMOKE" ] || IDLE=2 SETTLE=1
# One ping in 25 s for each: two rounds of them are watched. One broadcast a second; the last may take its time.
set +e
"$TIDELOAD" idle "ws://127.0.0.1:$PORT/" -c "$CONNECTIONS" --connecting 2000 -t "$IDLE" --settle "$SETTLE" --patience 900 \
    --broadcasts "$BROADCASTS" --publish-url "nats://127.0.0.1:$BROKER" --publish-room 'tidegate.room.{room}' \
    --exactly-once --label "million-$CONNECTIONS/tidegate" --json "$RESULTS" "${PIDS[@]}"
code=$?
set -e
say "results: $RESULTS"
exit "$code"
