#!/usr/bin/env bash
# Measures tidegate beside its peers in one run, pinned alike: each server on core 0, the load on core 1.
#
#   scripts/bench-peers.sh [--quick] [--peers PATTERN] [--skip PATTERN] [--rows PATTERN] [--gateway PATH] [--install-only]
#
# --quick        a run of a few minutes: small loads, figures of no use
# --peers        only peers whose name matches this pattern of `case`, such as 'tidegate*|nats-ws|floor'
# --skip         not those whose name matches this one (sockudo takes 10 minutes or more to build)
# --rows         only rows whose name matches this one, such as 'idle*|fanout*'
# --gateway      a tidegate that is already built (builds one otherwise; TIDELOAD and FLOOR name the other two programs)
# --install-only install what the peers need into .deps/, and stop; exit code 1 names what could not be installed
#
# Rows: idle-N, upgrade, echo-N, fanout-N, fanout-N-rooms, flat-out-N (N publications under way, over ten rooms), half-load (at half of
# what the best of these reached), cross-node. SECONDS_EACH (2) is how long each row is loaded, half-load and cross-node twice as long;
# ROUNDS (3) how often upgrade, echo-N and paced fan-out are measured, each peer beside the others; the median counts. All of it takes
# about 25 minutes.
# Servers that only echo: tokio-tungstenite, fastwebsockets, sockudo-ws. Room servers: uwebsockets (uWebSockets 20 with its own
# pub/sub on its own loop), nats-ws (nats-server's own WebSocket listener), ws-redis (Node's ws with Redis), socketio-redis (Socket.IO
# with its Redis adapter), sockudo, and centrifugo where CENTRIFUGO names a binary. UWS and SOCKUDO may name ones that are already
# built. `floor` is the bare loops, in the same run.
# A peer that cannot be had here is a row that says "not measured". Brokers run on the server's core, as the peers' own parts;
# CPU and memory are those of the server that clients connect to, of all its threads.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh
. benches/peers/install.sh
. benches/peers/servers.sh

QUICK='' PEERS='*' SKIP='' ROWS='*' INSTALL_ONLY=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) show_help ;;
    --quick) QUICK=1 WHOLE=false ;;
    --install-only) INSTALL_ONLY=1 ;;
    --peers | --skip | --rows | --gateway)
        [ $# -ge 2 ] || usage_error "$1 wants a value"
        case $1 in
        --peers) PEERS=$2 WHOLE=false ;;
        --skip) SKIP=$2 ;;
        --rows) ROWS=$2 WHOLE=false ;;
        --gateway) GATEWAY=$2 ;;
        esac
        shift
        ;;
    *) usage_error "$1 is unknown" ;;
    esac
    shift
done

wanted() { matches "$1" "$PEERS" && ! matches "$1" "$SKIP"; }

# row NAME: whether this row was asked for.
row() { matches "$1" "$ROWS"; }

if [ "$QUICK" ]; then
    SECONDS_EACH=1 WARMUP=0.3 ECHO="64" FANOUT="500:20" ROOMS=20 MANY_RATE=200 IDLE=4000 IDLE_SECONDS=3 STORM=500 CROSS_RATE=200 ROUNDS=1
else
    # While idle, one ping to each at the usual 25 s.
    SECONDS_EACH=${SECONDS_EACH:-2} ROUNDS=${ROUNDS:-3} WARMUP=1 ECHO="64 1000 10000" FANOUT="1000:100 10000:5" ROOMS=1000 MANY_RATE=3000 IDLE=10000
    IDLE_SECONDS=30 STORM=10000 CROSS_RATE=1000
fi
whole_numbers SECONDS_EACH ROUNDS
TIMES=(-t "$SECONDS_EACH" --warmup "$WARMUP")
# Rows that are loaded once.
LONG=$((2 * SECONDS_EACH))
LONG_TIMES=(-t "$LONG" --warmup "$WARMUP")
# Next to each other what is compared most: a host's mood changes within minutes.
ROOM_SERVERS=(floor tidegate-epoll uwebsockets tidegate-io_uring nats-ws ws-redis socketio-redis sockudo centrifugo)
ECHO_SERVERS=(floor tidegate-epoll uwebsockets tidegate-io_uring tokio-tungstenite fastwebsockets sockudo-ws)

# load_it LABEL MODE ARGUMENT...: loads the server that was started, as it wants to be talked to.
load_it() { load "$1" "$2" "$URL" "${WORDS[@]}" "${@:3}" --server-pid "$PID" --timeout 120; }

# row_of ROW MODE ARGUMENT...: each room server in turn, fresh.
row_of() {
    local name=$1 mode=$2 peer
    row "$name" || return 0
    for peer in "${ROOM_SERVERS[@]}"; do
        measured "$peer" "$name" && started "$peer" "$name" "$mode" || continue
        # Who only connects has nothing to publish.
        [ "$mode" != storm ] || PUBLISH=()
        load_it "$name/$peer" "$mode" "${PUBLISH[@]}" "${@:3}"
        ended
    done
}

# measured PEER ROW: whether it was asked for and can be had.
measured() { wanted "$1" && there "$1" "$2/$1"; }

started() {
    local peer=$1 name=$2 mode=$3
    case $peer in
    floor) serving floor "$name/floor" "serve_bare_$mode" ;;
    *) serving "$peer" "$name/$peer" ;;
    esac
}

echo_row() {
    local name=echo-$1 peer server
    row "$name" || return 0
    for peer in "${ECHO_SERVERS[@]}"; do
        measured "$peer" "$name" || continue
        case $peer in
        floor) server=(serve_bare_echo) ;;
        tidegate-*) server=(serve_echo_of_tidegate "$peer") ;;
        uwebsockets) server=(serve_echo_of_uwebsockets) ;;
        *) server=(serve_crate "$peer") ;;
        esac
        serving "$peer" "$name/$peer" "${server[@]}" || continue
        # The bare loop's own size, given before, wins: it gets the octets of a masked frame.
        [ "$peer" = floor ] && WORDS=(-s 69) || WORDS=(--dialect raw -s 64)
        load_it "$name/$peer" echo -c "$1" "${TIMES[@]}"
        ended
    done
}

half_load_row() {
    local peer rate
    row half-load || return 0
    for peer in "${ROOM_SERVERS[@]}"; do
        [ "$peer" != floor ] && measured "$peer" half-load || continue
        rate=$(python3 benches/report/report.py --half-load "$RESULTS" "$peer") || {
            not_measured "half-load/$peer" "there is no flat-out row of $peer to halve"
            continue
        }
        serving "$peer" "half-load/$peer" || continue
        load_it "half-load/$peer" fanout "${PUBLISH[@]}" -c 1000 -r 10 --rate "$rate" "${LONG_TIMES[@]}"
        ended
    done
}

cross_node_row() {
    local peer
    row cross-node || return 0
    for peer in "${ROOM_SERVERS[@]}"; do
        [ "$peer" != floor ] && measured "$peer" cross-node || continue
        if declare -F "second_$peer" >/dev/null; then
            cross_node "$peer"
        else
            not_measured "cross-node/$peer" "$peer has no second node in this set-up"
        fi
    done
}

# cross_node PEER: members on one node, a publisher on the other.
cross_node() {
    local label=cross-node/$1 server subscriber=''
    serving "$1" "$label" || return 0
    second "$1" || {
        not_measured "$label" "two nodes of $1 do not start"
        ended
        return 0
    }
    server=$PID
    # The moment that nodes need to find each other.
    sleep 2
    case $1 in
    tidegate-*)
        # What any subscriber of the same broker would see of the same messages.
        start subscriber "$SERVER_CORE" "$FLOOR" subscribe "nats://127.0.0.1:$BROKER" 'tidegate.room.load.0' \
            -t $((LONG + 4)) --label "cross-node/bare-nats-beside-$1" --json "$RESULTS"
        subscriber=$PID
        PID=$server
        ;;
    esac
    load_it "$label" fanout --publish-url "$BEFORE" -c 10 --rate "$CROSS_RATE" "${LONG_TIMES[@]}"
    [ -z "$subscriber" ] || wait "$subscriber" || not_measured "cross-node/bare-nats-beside-$1" "the bare subscriber failed"
    ended
}

begin_run
for peer in "${ECHO_SERVERS[@]}" "${ROOM_SERVERS[@]}"; do
    for need in $(needs_of "$peer"); do
        ! wanted "$peer" || install "$need"
    done
done
if [ "$INSTALL_ONLY" ]; then
    all_installed || exit 1
    exit 0
fi
prepare
for peer in $(printf '%s\n' "${ROOM_SERVERS[@]}" "${ECHO_SERVERS[@]}" | awk '!seen[$0]++'); do
    if wanted "$peer" && { [ "$peer" != centrifugo ] || [ -n "${CENTRIFUGO:-}" ]; }; then tell "$peer"; fi
done

row_of "idle-$IDLE" idle -c "$IDLE" -t "$IDLE_SECONDS"
for ((round = 0; round < ROUNDS; round++)); do
    row_of upgrade storm -c "$STORM"
    for connections in $ECHO; do
        echo_row "$connections"
    done
    for pair in $FANOUT; do
        row_of "fanout-${pair%:*}" fanout -c "${pair%:*}" --rate "${pair#*:}" "${TIMES[@]}"
    done
    row_of "fanout-$ROOMS-rooms" fanout -c $((ROOMS * 10)) -r "$ROOMS" --rate "$MANY_RATE" "${TIMES[@]}"
done
for window in $WINDOWS; do
    row_of "flat-out-$window" fanout -c 1000 -r 10 --window "$window" "${TIMES[@]}"
done
half_load_row
cross_node_row

python3 benches/report/report.py "$RESULTS"
say "results: $RESULTS"
