#!/usr/bin/env bash
# Starts a broker and two gateways that share it, says what to try, and ends all of them on Ctrl-C.
#
#   scripts/two-nodes.sh             ports 8081 and 8082, admin 9091 and 9092, broker 4223
#   GATEWAY=… NATS_SERVER=…          other binaries than target/release/tidegate (or debug) and the installed nats-server
#   FIRST_PORT=18080                 other ports: this one, the next, and those 10, 11 and 20 above it
set -euo pipefail
cd "$(dirname "$0")/.."

bad() {
    echo "two-nodes: $1" >&2
    exit 2
}

case ${1:-} in
'') ;;
-h | --help) sed -n 's/^# \{0,1\}//; 2,6p' "$0" && exit 0 ;;
*) bad "unknown argument '$1'; it takes none, --help shows the variables" ;;
esac
first=${FIRST_PORT:-}
if [ -n "$first" ] && { [[ ! $first =~ ^[1-9][0-9]{3,4}$ ]] || [ "$first" -lt 1024 ] || [ "$first" -gt 65500 ]; }; then
    bad "FIRST_PORT is '$first'; give a number from 1024 to 65500"
fi
one=${first:-8081} two=$((${first:-8081} + 1))
admin_one=$((first ? first + 10 : 9091)) admin_two=$((first ? first + 11 : 9092))
broker_port=$((first ? first + 20 : 4223))

gateway=${GATEWAY:-}
if [ -z "$gateway" ]; then
    for built in target/release/tidegate target/debug/tidegate; do
        [ -x "$built" ] && { gateway=$built; break; }
    done
    [ -n "$gateway" ] || { cargo build --release && gateway=target/release/tidegate; }
fi
[ -x "$(command -v "$gateway")" ] || bad "GATEWAY is '$gateway', which is no program; build it (cargo build --release) or leave GATEWAY out"

nats=${NATS_SERVER:-$(command -v nats-server || true)}
[ -n "$nats" ] || nats=.deps/venv/bin/nats-server
[ -x "$nats" ] || {
    echo "two-nodes: no nats-server: run scripts/install-test-deps.sh, or set NATS_SERVER to one" >&2
    exit 1
}

pids=()
finish() {
    trap - EXIT
    # A second Ctrl-C must not leave the broker behind.
    trap '' INT TERM
    # The gateways first: they tell their clients while the broker is still there.
    for pid in "${pids[@]:1}" "${pids[@]:0:1}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap 'finish; exit 0' INT TERM
trap finish EXIT

# Sessions of their own: a Ctrl-C is for this script, which then asks each of them once.
setsid "$nats" --addr 127.0.0.1 --port "$broker_port" >/dev/null 2>&1 &
pids+=($!)
# A gateway goes on without a broker, but warns. One that never listens is told by the gateways.
for _ in $(seq 50); do
    (: <"/dev/tcp/127.0.0.1/$broker_port") 2>/dev/null && break
    sleep 0.1
done

start() {
    TIDEGATE_NODE_NAME=$1 setsid "$gateway" --listen "127.0.0.1:$2" --admin "127.0.0.1:$3" \
        --nats-url "nats://127.0.0.1:$broker_port" --demo --drain-window 2s --log warn &
    pids+=($!)
}
start one "$one" "$admin_one"
start two "$two" "$admin_two"

# ready PORT: whether the gateway there wants clients.
ready() {
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    local line
    read -r line <&3
    exec 3>&- 3<&-
    [[ $line == *" 200 "* ]]
}
# all_run: whether the broker and both gateways are still there.
all_run() {
    local pid
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}
for admin in "$admin_one" "$admin_two"; do
    for _ in $(seq 100); do
        ready "$admin" 2>/dev/null && continue 2
        # One that ended has said why.
        all_run || break
        sleep 0.1
    done
    echo "two-nodes: the gateway with the admin port $admin is not ready; what it says stands above" >&2
    exit 1
done

cat <<TEXT

Two gateways and a broker run. Try:

  in a browser         http://127.0.0.1:$one/demo and http://127.0.0.1:$two/demo: what one says, both hear
  in two terminals     $gateway sub lobby --node 127.0.0.1:$two
                       $gateway pub lobby '{"hello":"world"}' --node 127.0.0.1:$admin_one
  what they count      curl -s 127.0.0.1:$admin_one/metrics | grep ^ws_
  a drain              curl -s -X POST 127.0.0.1:$admin_two/drain
  the broker           nats://127.0.0.1:$broker_port, subjects tidegate.room.ROOM

Ctrl-C ends all of it.
TEXT
wait "${pids[@]:1}"
