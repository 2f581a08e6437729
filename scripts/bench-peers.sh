#!/usr/bin/env bash
# Measures tidegate beside its peers in one run, pinned alike: each server on core 0, the load on core 1.
#
#   scripts/bench-peers.sh [--quick] [--peers PATTERN] [--skip PATTERN] [--rows PATTERN] [--gateway PATH] [--install-only]
#
# --quick        a run of a few minutes: small loads, figures of no use
# --peers        only peers whose name matches this pattern of `case`, such as 'tidegate*|nats-ws'
# --skip         not those whose name matches this one (sockudo takes long to build)
# --rows         only rows whose name matches this one, such as 'idle*|fanout*'
# --gateway      a tidegate that is already built (builds one otherwise; TIDELOAD and FLOOR name the other two programs)
# --install-only install what the peers need into .deps/, and stop
#
# Rows: echo-N, idle-N, upgrade, fanout-N, fanout-N-rooms, flat-out, half-load, cross-node.
# Echo servers: tokio-tungstenite, fastwebsockets, sockudo-ws. Room servers: nats-ws (nats-server's own WebSocket listener),
# ws-redis (Node's ws with Redis), socketio-redis (Socket.IO with its Redis adapter), uwebsockets (uWebSockets 20 with its own
# pub/sub, from C, on libuv's event loop: what the registries have of it), sockudo, and centrifugo where CENTRIFUGO names a
# binary. UWS and SOCKUDO may name ones that are already built, a uWebSockets program on its own loop for example: it takes its
# port as an argument, has a room for each path, and /echo.
# A peer that cannot be had here is a row that says "not measured". Brokers run on the server's core, as the peers' own parts;
# CPU and memory are those of the server that clients connect to.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh

QUICK='' PEERS='*' SKIP='' ROWS='*' INSTALL_ONLY=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) show_help ;;
    --quick) QUICK=1 ;;
    --install-only) INSTALL_ONLY=1 ;;
    --peers | --skip | --rows | --gateway)
        [ $# -ge 2 ] || usage_error "$1 wants a value"
        case $1 in
        --peers) PEERS=$2 ;;
        --skip) SKIP=$2 ;;
        --rows) ROWS=$2 ;;
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

# --- What the peers need, from the package registries, into .deps/.

install_node() {
    [ -d .deps/peers/node_modules/@socket.io/redis-adapter ] && return
    command -v npm >/dev/null || return 1
    mkdir -p .deps/peers
    npm install --silent --no-fund --no-audit --no-save --prefix .deps/peers ws redis socket.io @socket.io/redis-adapter
}

# Debian's packages, unpacked and not installed: nothing outside .deps changes.
install_redis() {
    command -v redis-server >/dev/null && return
    [ -x .deps/redis/usr/bin/redis-server ] && return
    command -v apt-get >/dev/null || return 1
    mkdir -p .deps/redis
    (
        cd .deps/redis
        apt-get download -qq redis-server redis-tools liblzf1 liblua5.1-0 lua-cjson lua-bitop libjemalloc2 libatomic1 2>/dev/null
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm -f -- *.deb
    )
    [ -x .deps/redis/usr/bin/redis-server ]
}

# The library in the package of Python's socketify, Debian's libuv, and our program on both.
install_uwebsockets() {
    local at=.deps/uws uv=.deps/uws/usr/lib/x86_64-linux-gnu
    [ -x "$UWS" ] && return
    mkdir -p "$at"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$at" socketify==0.0.31
    tar -xzf "$at"/socketify-0.0.31.tar.gz -C "$at" --strip-components 3 --wildcards '*/libsocketify_linux_amd64.so'
    (cd "$at" && apt-get download -qq libuv1 2>/dev/null && dpkg-deb -x libuv1_*.deb .)
    rm -f "$at"/*.tar.gz "$at"/*.deb
    cc -O2 -o "$UWS" benches/peers/c/uwebsockets.c -Wl,--no-as-needed "-L$at" -l:libsocketify_linux_amd64.so "-L$uv" -l:libuv.so.1 \
        -Wl,--disable-new-dtags,-rpath,"\$ORIGIN:\$ORIGIN/usr/lib/x86_64-linux-gnu"
}

install_sockudo() {
    [ -x "$SOCKUDO" ] && return
    cargo install --quiet --locked --root .deps/sockudo sockudo --no-default-features --features local
}

install_echoes() { cargo build --release --quiet --manifest-path benches/peers/Cargo.toml; }

declare -A MISSING TRIED
install() {
    local name=$1
    "install_$name" >"$RUN/logs/install-$name.log" 2>&1 || {
        MISSING[$name]="$name could not be installed: $(last_words "install-$name")"
        say "${MISSING[$name]}"
    }
}

# --- Servers: each sets PID, URL and WORDS, or fails. PORT is fresh for each.

PORT=10500 REDIS=10490 BROKER=10491 EXTRA=()
SOCKUDO=${SOCKUDO:-.deps/sockudo/bin/sockudo} UWS=${UWS:-.deps/uws/uwebsockets}

# up NAME COMMAND...: starts the server whose clients connect to PORT.
up() {
    local name=$1
    shift
    start "$name" "$SERVER_CORE" "$@"
    await_port "$PORT" "$PID"
}

# beside NAME PORT COMMAND...: starts what a server needs beside it; it is ended with the server.
beside() {
    local name=$1 port=$2
    shift 2
    start "$name" "$SERVER_CORE" "$@"
    EXTRA+=("$PID")
    await_port "$port" "$PID"
}

redis() {
    local server
    server=$(command -v redis-server || printf '%s' .deps/redis/usr/bin/redis-server)
    beside redis "$REDIS" env LD_LIBRARY_PATH="$PWD/.deps/redis/usr/lib/x86_64-linux-gnu" "$server" --port "$REDIS" \
        --bind 127.0.0.1 --save '' --appendonly no
}

node_server() { up "$1" env NODE_PATH="$PWD/.deps/peers/node_modules" node "benches/peers/node/$1.js" "$PORT" "$REDIS"; }

tidegate() {
    up "tidegate-$1" "$GATEWAY" --listen "127.0.0.1:$PORT" --admin "127.0.0.1:$((PORT + 1))" --shards 1 --driver "$1" \
        --message-rate 0 --connection-rate 0 "${@:2}"
}

serve_tidegate-epoll() { tidegate epoll && URL=ws://127.0.0.1:$PORT/raw/{room}; }
serve_tidegate-io_uring() { tidegate io_uring && URL=ws://127.0.0.1:$PORT/raw/{room}; }
serve_nats-ws() {
    local nats
    nats=$(broker)
    [ -n "$nats" ] || return 1
    printf 'listen: "127.0.0.1:%s"\nwebsocket { listen: "127.0.0.1:%s", no_tls: true }\n' "$BROKER" "$PORT" >"$RUN/nats-ws.conf"
    up nats-ws env GOMAXPROCS=1 "$nats" -c "$RUN/nats-ws.conf"
    URL=ws://127.0.0.1:$PORT/ WORDS=(--dialect nats)
}
serve_ws-redis() { redis && node_server ws-redis && URL=ws://127.0.0.1:$PORT/{room}; }
serve_socketio-redis() {
    redis && node_server socketio-redis || return 1
    URL="ws://127.0.0.1:$PORT/socket.io/?EIO=4&transport=websocket" WORDS=(--dialect socket-io)
}
serve_sockudo() {
    local signer=$((PORT + 1))
    up sockudo env HOST=127.0.0.1 PORT="$PORT" METRICS_ENABLED=false SOCKUDO_DEFAULT_APP_ID=bench SOCKUDO_DEFAULT_APP_KEY=key \
        SOCKUDO_DEFAULT_APP_SECRET=secret SOCKUDO_DEFAULT_APP_ENABLED=true "$SOCKUDO" || return 1
    local server=$PID
    beside pusher-signer "$signer" node benches/peers/node/pusher-signer.js "$signer" "$PORT" bench key secret || return 1
    PID=$server URL="ws://127.0.0.1:$PORT/app/key?protocol=7&client=tideload&version=1"
    WORDS=(--dialect pusher)
    PUBLISH=(--publish-url "http://127.0.0.1:$signer/{room}")
}
serve_centrifugo() {
    printf '{"client":{"insecure":true},"channel":{"without_namespace":{"allow_publish_for_client":true,"allow_subscribe_for_client":true}},"http_server":{"address":"127.0.0.1","port":"%s"}}\n' \
        "$PORT" >"$RUN/centrifugo.json"
    up centrifugo env GOMAXPROCS=1 "$CENTRIFUGO" --config "$RUN/centrifugo.json"
    URL=ws://127.0.0.1:$PORT/connection/websocket WORDS=(--dialect centrifugo)
}
serve_uwebsockets() { up uwebsockets "$UWS" "$PORT" && URL=ws://127.0.0.1:$PORT/{room}; }

# serving PEER LABEL [SERVER]: a fresh server; a row that says why where there is none.
serving() {
    local peer=$1 label=$2
    PORT=$((PORT + 3)) URL='' WORDS=(--dialect raw) PUBLISH=() EXTRA=()
    "${3:-serve_$peer}" && return
    not_measured "$label" "$peer does not start: $(last_words "$peer")"
    return 1
}

ended() {
    local pid
    stop "$PID"
    for pid in "${EXTRA[@]}"; do stop "$pid"; done
}

# --- Rows.

if [ "$QUICK" ]; then
    TIMES=(-t 1 --warmup 0.3) ECHO="64" CROWD=500 CROWD_RATE=20 ROOMS=20 MANY_RATE=200 IDLE=4000 IDLE_SECONDS=3 STORM=500 CROSS_RATE=200
else
    TIMES=(-t 8 --warmup 2) ECHO="64 1000 10000" CROWD=10000 CROWD_RATE=5 ROOMS=1000 MANY_RATE=500 IDLE=10000 IDLE_SECONDS=52
    STORM=10000 CROSS_RATE=1000
fi

serve_crate() { up "$peer" benches/peers/target/release/peers "$peer" "$PORT" && URL=ws://127.0.0.1:$PORT/; }
serve_echo_of_tidegate() { tidegate "${peer#tidegate-}" --profile conformance && URL=ws://127.0.0.1:$PORT/echo; }
serve_echo_of_uwebsockets() { serve_uwebsockets && URL=ws://127.0.0.1:$PORT/echo; }

# echo_servers CONNECTIONS: those who have no rooms, and the echo of those who have.
echo_servers() {
    local peer label server
    row "echo-$1" || return 0
    for peer in tokio-tungstenite fastwebsockets sockudo-ws uwebsockets tidegate-epoll tidegate-io_uring; do
        wanted "$peer" || continue
        label=echo-$1/$peer
        there "$peer" "$label" || continue
        case $peer in
        tidegate-*) server=serve_echo_of_tidegate ;;
        uwebsockets) server=serve_echo_of_uwebsockets ;;
        *) server=serve_crate ;;
        esac
        serving "$peer" "$label" "$server" || continue
        load "$label" echo "$URL" --dialect raw -c "$1" -s 64 --server-pid "$PID" "${TIMES[@]}"
        ended
    done
}

# half_load PEER: publications a second that are half of what the last flat-out run reached, at least 1.
half_load() {
    python3 - "$RESULTS" "flat-out/$1" <<'PYTHON'
import json, sys
path, label = sys.argv[1:]
rate = 2.0
for line in open(path, encoding="utf-8"):
    row = json.loads(line)
    if row.get("label") == label and "results" in row:
        found = row["results"]
        rate = found["published"] / max(found["delivered"], 1) * found["deliveries_per_s"]
print(max(rate / 2, 1))
PYTHON
}

# measure ROW PEER MODE ARGUMENT...: one run of a room server that was started for it.
measure() {
    local label=$1/$2 mode=$3
    row "$1" || return 0
    serving "$2" "$label" || return 0
    # Who only connects has nothing to publish.
    [ "$mode" != storm ] || PUBLISH=()
    load "$label" "$mode" "$URL" "${WORDS[@]}" "${PUBLISH[@]}" "${@:4}" --server-pid "$PID"
    ended
}

room_server() {
    local peer=$1
    measure "idle-$IDLE" "$peer" idle -c "$IDLE" -t "$IDLE_SECONDS"
    measure upgrade "$peer" storm -c "$STORM"
    measure "fanout-$CROWD" "$peer" fanout -c "$CROWD" --rate "$CROWD_RATE" "${TIMES[@]}"
    measure "fanout-$ROOMS-rooms" "$peer" fanout -c $((ROOMS * 10)) -r "$ROOMS" --rate "$MANY_RATE" "${TIMES[@]}"
    if row half-load && serving "$peer" "flat-out/$peer"; then
        load "flat-out/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c 1000 --window 16 --server-pid "$PID" "${TIMES[@]}"
        load "half-load/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c 1000 --rate "$(half_load "$peer")" --server-pid "$PID" \
            "${TIMES[@]}"
        ended
    fi
    cross_node "$peer"
}

# --- Two nodes: members on one, a publisher on the other. Each pair is joined the way the peer is meant to be.

# second PEER: a second node beside the first; sets PID, URL and BEFORE, the first one's URL and process.
second() {
    local first=$PID
    BEFORE=$URL EXTRA+=("$first") PORT=$((PORT + 3))
    "second_$1"
}
second_tidegate-epoll() { pair_of_tidegate epoll; }
second_tidegate-io_uring() { pair_of_tidegate io_uring; }
# The first node does not know the broker; both are begun anew.
pair_of_tidegate() {
    stop "${EXTRA[-1]}"
    start_nats "$BROKER" "$SERVER_CORE" || return 1
    EXTRA=("$PID")
    tidegate "$1" --nats-url "nats://127.0.0.1:$BROKER" || return 1
    EXTRA+=("$PID")
    BEFORE=ws://127.0.0.1:$PORT/raw/{room} PORT=$((PORT + 3))
    tidegate "$1" --nats-url "nats://127.0.0.1:$BROKER" && URL=ws://127.0.0.1:$PORT/raw/{room}
}
second_ws-redis() { node_server ws-redis && URL=ws://127.0.0.1:$PORT/{room}; }
second_socketio-redis() { node_server socketio-redis && URL="ws://127.0.0.1:$PORT/socket.io/?EIO=4&transport=websocket"; }
second_nats-ws() {
    stop "${EXTRA[-1]}"
    EXTRA=()
    nats_node $((PORT - 1)) $((PORT + 1)) "" || return 1
    EXTRA=("$PID")
    BEFORE=ws://127.0.0.1:$PORT/ PORT=$((PORT + 4))
    nats_node $((PORT - 1)) $((PORT + 1)) "nats://127.0.0.1:$((PORT - 3))" && URL=ws://127.0.0.1:$PORT/
}
# nats_node CLIENTS CLUSTER ROUTE: a nats-server whose WebSocket listener is at PORT, in a cluster with ROUTE.
nats_node() {
    local conf=$RUN/nats-$PORT.conf
    printf 'listen: "127.0.0.1:%s"\nwebsocket { listen: "127.0.0.1:%s", no_tls: true }\ncluster { name: bench, listen: "127.0.0.1:%s", routes: [%s] }\n' \
        "$1" "$PORT" "$2" "${3:+\"$3\"}" >"$conf"
    up "nats-ws-$PORT" env GOMAXPROCS=1 "$(broker)" -c "$conf"
}

cross_node() {
    local label=cross-node/$1 server subscriber=''
    row cross-node || return 0
    declare -F "second_$1" >/dev/null || {
        not_measured "$label" "$1 has no second node in this set-up"
        return 0
    }
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
        start subscriber "$SERVER_CORE" "$FLOOR" subscribe "nats://127.0.0.1:$BROKER" 'tidegate.room.load.0' -t 8 \
            --label "cross-node/bare-nats-beside-$1" --json "$RESULTS"
        subscriber=$PID
        ;;
    esac
    load "$label" fanout "$URL" "${WORDS[@]}" --publish-url "$BEFORE" -c 10 --rate "$CROSS_RATE" "${TIMES[@]}"
    if [ "$subscriber" ]; then
        wait "$subscriber" || not_measured "cross-node/bare-nats-beside-$1" "the bare subscriber failed"
    fi
    PID=$server
    ended
}

needs_of() {
    case $1 in
    ws-redis | socketio-redis) echo node redis ;;
    uwebsockets) echo uwebsockets ;;
    sockudo) echo sockudo node ;;
    tokio-tungstenite | fastwebsockets | sockudo-ws) echo echoes ;;
    esac
}

# there PEER LABEL: whether it can be had; a row that says why not.
there() {
    local needs
    for needs in $(needs_of "$1"); do
        [ -z "${MISSING[$needs]:-}" ] || { not_measured "$2" "${MISSING[$needs]}"; return 1; }
    done
    if [ "$1" = centrifugo ] && [ -z "${CENTRIFUGO:-}" ]; then
        not_measured "$2" "no binary given: CENTRIFUGO=path"
        return 1
    fi
}

begin_run
for peer in tokio-tungstenite fastwebsockets sockudo-ws ws-redis socketio-redis uwebsockets sockudo; do
    for needs in $(needs_of "$peer"); do
        if wanted "$peer" && [ -z "${TRIED[$needs]:-}" ]; then
            TRIED[$needs]=1
            install "$needs"
        fi
    done
done
[ -z "$INSTALL_ONLY" ] || exit 0
prepare
for connections in $ECHO; do
    echo_servers "$connections"
done
for peer in tidegate-epoll tidegate-io_uring nats-ws ws-redis socketio-redis uwebsockets sockudo centrifugo; do
    if wanted "$peer" && there "$peer" "rooms/$peer"; then
        room_server "$peer"
    fi
done
python3 benches/report/peers.py "$RESULTS"
say "results: $RESULTS"
