#!/usr/bin/env bash
# Holds as many connections on this host as were asked for, both ends of them, and sends one message to all.
#
#   scripts/million.sh [CONNECTIONS] [--smoke] [--check] [--broadcasts N] [--driver auto|epoll|io_uring] [--gateway PATH]
#
# CONNECTIONS   100000 unless given; 1000000 for the real thing (about 15 GB)
# --smoke       3,000 connections and a few seconds, for CI
# --check       only say how many this host holds
# --broadcasts  messages to all, one a second (1)
# --driver      of the gateways (auto)
# --gateway     a tidegate that is already built (builds one otherwise)
#
# Many gateway processes share one port through SO_REUSEPORT, each within its limit of open files, behind one nats-server; the
# load runs in as many client processes. Every client joins one room; heartbeats are on. It prints user and kernel memory per
# connection, the connect rate, the CPU while idle and the time to the last delivery. Exit code 0: everybody got every message
# exactly once; 1: not so; 3: this host cannot hold it, and why. As root it raises net.ipv4.tcp_mem and fs.file-max where they are
# too low, and from 50,000 connections on net.core.netdev_max_backlog; at its end it puts them back. A smoke changes nothing. What
# a container hides is told, and the run goes on. benches/report/report.py publishes the results.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh

CONNECTIONS=100000 SMOKE='' CHECK='' BROADCASTS=1 DRIVER=auto
PORT=10200 ADMIN=10300 BROKER=10091 RAISED=()
# Of a limit of 20,000 open files a process uses this many for connections, and the kernel's choice among the listeners of a
# port is random: some get a few hundred more than others.
PER_GATEWAY=17000

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) show_help ;;
    --check) CHECK=1 ;;
    --smoke) SMOKE=1 CONNECTIONS=3000 PER_GATEWAY=1000 ;;
    --broadcasts | --driver | --gateway)
        [ $# -ge 2 ] || usage_error "$1 wants a value"
        case $1 in
        --broadcasts) BROADCASTS=$2 ;;
        --driver) DRIVER=$2 ;;
        --gateway) GATEWAY=$2 ;;
        esac
        shift
        ;;
    *[!0-9]* | '') usage_error "$1 is unknown" ;;
    *) CONNECTIONS=$1 ;;
    esac
    shift
done
GATEWAYS=$(((CONNECTIONS + PER_GATEWAY - 1) / PER_GATEWAY))

# What one connection takes, both of its ends on this host: two sockets of 4.3 KB, the load's own 300 B, and a page each while
# a broadcast waits to be read. A gateway takes about 30 MB before anybody connects, broker and load half a gigabyte.
KB_EACH=13 KB_PER_GATEWAY=30000 KB_BESIDE=500000

# A socket whose message is unread holds a page, and a fifth more for what is on its way; above the third figure of tcp_mem the
# kernel drops what arrives.
TCP_MEM=/proc/sys/net/ipv4/tcp_mem FILE_MAX=/proc/sys/fs/file-max BACKLOG=/proc/sys/net/core/netdev_max_backlog
MEMINFO=/proc/meminfo
pages_for() { printf '%s' $(($1 + $1 / 5)); }
# From so many connections on a broadcast fills the queue of packets on their way over loopback; what finds it full is dropped
# and comes again after 200 ms and more.
CROWD=50000 PATIENT_BACKLOG=65536

# seen FILE: what it says; fails where a container hides it.
seen() { cat "$1" 2>/dev/null; }

# enough KNOWN WANTED: whether it is, as far as is known.
enough() { [ -z "$1" ] || [ "$1" -ge "$2" ]; }

# holds: how many connections memory, socket buffers and open files allow, each by itself; empty where that cannot be read.
holds() {
    local value per_process told=() unread=()
    BY_MEMORY='' BY_BUFFERS='' BY_FILES=''
    if value=$(seen "$MEMINFO" | sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p') && [ "$value" ]; then
        BY_MEMORY=$(((value - KB_BESIDE) * PER_GATEWAY / (KB_EACH * PER_GATEWAY + KB_PER_GATEWAY)))
        told+=("$BY_MEMORY connections by memory")
    else
        unread+=("$MEMINFO")
    fi
    if value=$(seen "$TCP_MEM"); then
        BY_BUFFERS=$(($(cut -f3 <<<"$value") * 5 / 6))
        told+=("$BY_BUFFERS by socket buffers (tcp_mem)")
    else
        unread+=("$TCP_MEM")
    fi
    if value=$(seen "$FILE_MAX"); then
        # Two descriptors each, and a hundred for every process.
        BY_FILES=$(((value - 200 * GATEWAYS) / 2))
        told+=("$BY_FILES by open files")
    else
        unread+=("$FILE_MAX")
    fi
    per_process=$(ulimit -H -n)
    [ "$per_process" = unlimited ] || enough "$per_process" $((PER_GATEWAY + 2500)) ||
        die "each gateway needs $((PER_GATEWAY + 2500)) open files and the hard limit is $per_process: raise it (ulimit -H -n)"
    [ ${#told[@]} -eq 0 ] || say "this host holds $(joined "${told[@]}")"
    [ ${#unread[@]} -eq 0 ] || say "not known here, and taken to be enough: $(joined "${unread[@]}") (a container may hide it)"
}

# joined WORD...: as a list.
joined() { printf '%s' "$1" && shift && [ $# -eq 0 ] || printf ', %s' "$@"; }

# fits: refuses what does not, with what would help; raises for the run what root may raise.
fits() {
    local pages backlog
    holds
    enough "$BY_MEMORY" "$CONNECTIONS" || die "memory does not hold $CONNECTIONS connections: ask for $BY_MEMORY or fewer"
    enough "$BY_FILES" "$CONNECTIONS" || raise "$FILE_MAX" $((CONNECTIONS * 2 + 300 * GATEWAYS)) "$BY_FILES"
    if [ "$CONNECTIONS" -ge "$CROWD" ] && backlog=$(seen "$BACKLOG") && [ "$backlog" -lt "$PATIENT_BACKLOG" ] && [ -w "$BACKLOG" ]; then
        raise "$BACKLOG" "$PATIENT_BACKLOG" "as many as are patient"
    fi
    pages=$(pages_for "$CONNECTIONS")
    enough "$BY_BUFFERS" "$CONNECTIONS" || raise "$TCP_MEM" "$((pages / 2)) $((pages * 3 / 4)) $((pages + 65536))" "$BY_BUFFERS"
}

# raise FILE VALUE ENOUGH_FOR: a setting of the kernel, until the end of this run.
raise() {
    local name before
    name=$(printf '%s' "${1#/proc/sys/}" | tr / .)
    before=$(tr '\t' ' ' <"$1")
    [ -z "$SMOKE" ] || die "$name is \"$before\", enough for $3 connections: a smoke of $CONNECTIONS changes no setting, raise it first"
    # A shell of its own, whose complaint about the file is replaced by ours.
    (echo "$2" >"$1") 2>/dev/null ||
        die "$name is \"$before\", enough for $3 connections: as root, sysctl -w $name=\"$2\"; or ask for $3 or fewer"
    RAISED+=("$1" "$before")
    AT_END=(lower)
    say "$name is \"$2\" for this run; it was \"$before\" and will be again"
}

# lower: puts back what was raised.
# shellcheck disable=SC2317 # end_all calls it
lower() {
    local index
    for ((index = 0; index < ${#RAISED[@]}; index += 2)); do echo "${RAISED[index + 1]}" >"${RAISED[index]}"; done
}

if [ "$CHECK" ]; then
    holds
    exit 0
fi
trap end_all EXIT
fits
[ -n "$(broker)" ] || die "no nats-server: run scripts/install-test-deps.sh, or set TIDEGATE_NATS_SERVER to one"
prepare

start_nats "$BROKER" -
PIDS=()
for number in $(seq "$GATEWAYS"); do
    start "gateway-$number" - env TIDEGATE_SHARE_PORT=true "$GATEWAY" --listen "127.0.0.1:$PORT" \
        --admin "127.0.0.1:$((ADMIN + number))" --shards 1 --driver "$DRIVER" --node-name "node-$number" \
        --nats-url "nats://127.0.0.1:$BROKER" --message-rate 0 --connection-rate 0
    PIDS+=(--server-pid "$PID")
    await_port $((ADMIN + number)) "$PID" || die "gateway $number does not start: $(last_words "gateway-$number")"
done
printf '{"tool":"about","peer":"tidegate","about":"%s, driver %s"}\n' "$("$GATEWAY" --version)" "$DRIVER" >>"$RESULTS"
say "$GATEWAYS gateways on port $PORT, $CONNECTIONS connections to come"

IDLE=52 SETTLE=5
[ -z "$SMOKE" ] || IDLE=2 SETTLE=1
# One ping in 25 s for each: two rounds of them are watched. One broadcast a second; the last may take its time.
code=0
"$TIDELOAD" idle "ws://127.0.0.1:$PORT/" -c "$CONNECTIONS" --connecting 1000 --retry -t "$IDLE" --settle "$SETTLE" --timeout 900 \
    --broadcasts "$BROADCASTS" --publish-url "nats://127.0.0.1:$BROKER" --publish-room 'tidegate.room.{room}' \
    --exactly-once --label "million-$CONNECTIONS/tidegate" --json "$RESULTS" "${PIDS[@]}" || code=$?
say "results: $RESULTS"
exit "$code"
