# shellcheck shell=bash
# How each peer is started, and what its rows must say of it. Sourced by scripts/bench-peers.sh.
#
# A server sets PID, the process that clients connect to, URL, WORDS and, where it is not published to over WebSocket, PUBLISH; or it
# fails. PORT is fresh for each.

PORT=10500 REDIS=10490 BROKER=10491 EXTRA=()

# up NAME COMMAND...: starts the server whose clients connect to PORT.
up() {
    local name=$1
    shift
    start "$name" "$SERVER_CORE" "$@"
    await_port "$PORT" "$PID"
}

# beside NAME CORE PORT COMMAND...: starts what a server needs beside it; it is ended with the server.
beside() {
    local name=$1 core=$2 port=$3
    shift 3
    start "$name" "$core" "$@"
    EXTRA+=("$PID")
    await_port "$port" "$PID"
}

redis() {
    beside redis "$SERVER_CORE" "$REDIS" env LD_LIBRARY_PATH="$(libraries_in .deps/redis)" "$(redis_server)" \
        --port "$REDIS" --bind 127.0.0.1 --save '' --appendonly no
}
redis_server() { command -v redis-server || printf '%s' .deps/redis/usr/bin/redis-server; }
redis_version() { LD_LIBRARY_PATH=$(libraries_in .deps/redis) "$(redis_server)" --version | sed 's/.*v=\([^ ]*\).*/Redis \1/'; }

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
    # Its own default is a ping in two minutes.
    printf 'listen: "127.0.0.1:%s"\nping_interval: "25s"\nwebsocket { listen: "127.0.0.1:%s", no_tls: true }\n' \
        "$BROKER" "$PORT" >"$RUN/nats-ws.conf"
    up nats-ws env GOMAXPROCS=1 "$nats" -c "$RUN/nats-ws.conf" || return 1
    URL=ws://127.0.0.1:$PORT/ WORDS=(--dialect nats)
}
serve_ws-redis() { redis && node_server ws-redis && URL=ws://127.0.0.1:$PORT/{room}; }
serve_socketio-redis() {
    redis && node_server socketio-redis || return 1
    URL="ws://127.0.0.1:$PORT/socket.io/?EIO=4&transport=websocket" WORDS=(--dialect socket-io)
}
serve_sockudo() { sockudo && published_to_sockudo && URL=$(members_of_sockudo); }
# Two nodes share a memory of what they have taken before, which wants a Redis, or have none.
sockudo() {
    printf '{"idempotency":{"enabled":false}}\n' >"$RUN/sockudo.json"
    up sockudo env HOST=127.0.0.1 PORT="$PORT" METRICS_ENABLED=false SOCKUDO_DEFAULT_APP_ID=bench SOCKUDO_DEFAULT_APP_KEY=key \
        SOCKUDO_DEFAULT_APP_SECRET=secret SOCKUDO_DEFAULT_APP_ENABLED=true SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS=100000 \
        SOCKUDO_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND=1000000 RATE_LIMITER_ENABLED=false WEBSOCKET_PING_INTERVAL=25 \
        SHUTDOWN_GRACE_PERIOD=1 RUST_LOG=error "$@" "$SOCKUDO" --config "$RUN/sockudo.json" && WORDS=(--dialect pusher)
}
members_of_sockudo() { echo "ws://127.0.0.1:$PORT/app/key?protocol=7&client=tideload&version=1"; }
# Who publishes is the load side: the signer is on its core.
published_to_sockudo() {
    local signer=$((PORT + 1)) server=$PID
    EXTRA+=("$server")
    beside pusher-signer "$LOAD_CORE" "$signer" node benches/peers/node/pusher-signer.js "$signer" "$PORT" bench key secret || return 1
    PID=$server PUBLISH=(--publish-url "http://127.0.0.1:$signer/{room}")
}
serve_centrifugo() {
    printf '{"client":{"insecure":true},"channel":{"without_namespace":{"allow_publish_for_client":true,"allow_subscribe_for_client":true}},"http_server":{"address":"127.0.0.1","port":"%s"}}\n' \
        "$PORT" >"$RUN/centrifugo.json"
    up centrifugo env GOMAXPROCS=1 "$CENTRIFUGO" --config "$RUN/centrifugo.json" || return 1
    URL=ws://127.0.0.1:$PORT/connection/websocket WORDS=(--dialect centrifugo)
}
serve_uwebsockets() { up uwebsockets "$UWS" "$PORT" && URL=ws://127.0.0.1:$PORT/{room}; }

# The bare loops, by what a row does.
serve_bare() { up "floor-$1" "$FLOOR" "$1" "$PORT" && URL=tcp://127.0.0.1:$PORT WORDS=(-s "$2"); }
serve_bare_echo() { serve_bare echo 69; }
serve_bare_fanout() { serve_bare fanout 131; }
serve_bare_storm() { up floor-handshake "$FLOOR" handshake "$PORT" && URL=ws://127.0.0.1:$PORT/; }
serve_bare_idle() { up floor-idle "$FLOOR" idle "$PORT" && URL=ws://127.0.0.1:$PORT/; }

# Servers of the echo rows: those that have no rooms, and the echo of those that have.
serve_crate() { up "$1" benches/peers/target/release/peers "$1" "$PORT" && URL=ws://127.0.0.1:$PORT/; }
serve_echo_of_tidegate() { tidegate "${1#tidegate-}" --profile conformance && URL=ws://127.0.0.1:$PORT/echo; }
serve_echo_of_uwebsockets() { serve_uwebsockets && URL=ws://127.0.0.1:$PORT/echo; }

# serving PEER LABEL [SERVER...]: a fresh server; a row that says why where there is none.
serving() {
    local peer=$1 label=$2
    shift 2
    [ $# -gt 0 ] || set -- "serve_$peer"
    PORT=$((PORT + 3)) PID='' URL='' WORDS=(--dialect raw) PUBLISH=() EXTRA=()
    "$@" && return
    not_measured "$label" "$peer does not start: $(last_words "$peer")"
    ended
    return 1
}

ended() {
    local pid
    for pid in $PID "${EXTRA[@]}"; do stop "$pid"; done
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
# As with tidegate.
second_sockudo() {
    local pid nodes=(ADAPTER_DRIVER=nats "NATS_SERVERS=nats://127.0.0.1:$BROKER")
    for pid in "${EXTRA[@]}"; do stop "$pid"; done
    start_nats "$BROKER" "$SERVER_CORE" || return 1
    EXTRA=("$PID")
    sockudo "${nodes[@]}" && published_to_sockudo || return 1
    BEFORE=${PUBLISH[1]} PUBLISH=() PORT=$((PORT + 3))
    sockudo "${nodes[@]}" && URL=$(members_of_sockudo)
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

# --- What a reader must know of a peer's rows.

# tell PEER: its version, and what it does more or less than the others, into the results.
tell() {
    local text
    text=$("about_$1" 2>/dev/null | tr '\n' ' ' | tr -d '"\\') || true
    printf '{"tool":"about","peer":"%s","about":"%s"}\n' "$1" "${text% }" >>"$RESULTS"
}

# version_of PACKAGE: of the one that our servers load; others depend on versions of their own.
version_of() { node -p 'require(process.argv[1]).version' "$PWD/.deps/peers/node_modules/$1/package.json"; }
crate_version() { sed -n "/^name = \"$1\"/{n;s/version = \"\(.*\)\"/\1/p}" benches/peers/Cargo.lock; }

about_floor() { echo "The bare loops: the system calls that the row cannot do without, and nothing else. They coalesce nothing."; }
about_tidegate() { echo "$("$GATEWAY" --version); one shard, the local bus, the raw dialect: a message goes out as it came in."; }
about_tidegate-epoll() { about_tidegate; }
about_tidegate-io_uring() { about_tidegate; }
about_uwebsockets() {
    [ "$UWS" = "$UWS_BUILT" ] || { echo "A binary that was given." && return; }
    echo "uWebSockets 20 as in the crate $UWEBSOCKETS_CRATE $UWEBSOCKETS_CRATE_VERSION: C++ on its own epoll loop, -O3 -flto -march=native,"
    echo "its own pub/sub, 256 KiB of backpressure as tidegate. A message goes out as it came in. One process: no second node."
}
about_nats-ws() {
    echo "$("$(broker)" --version), GOMAXPROCS=1. Each delivery has the line of NATS' protocol (MSG, subject, subscription, length) before it;"
    echo "its writers coalesce. It is a broker itself: nothing stands behind it."
}
about_ws-redis() {
    echo "Node $(node --version), ws $(version_of ws), $(redis_version). A message goes out as it came in, by way of"
    echo "Redis, which shares the server's core; Redis' CPU and memory are not counted."
}
about_socketio-redis() {
    echo "Node $(node --version), Socket.IO $(version_of socket.io) with its Redis adapter, $(redis_version). A delivery is an event in JSON."
    echo "Redis shares the server's core and is not counted; the adapter delivers to its own node without it."
}
about_sockudo() {
    [ "$SOCKUDO" = "$SOCKUDO_BUILT" ] || { echo "A binary that was given." && return; }
    echo "sockudo $SOCKUDO_VERSION, all its threads on the server's core. A delivery is an event in JSON with the content quoted within. Published"
    echo "over its HTTP API, as Pusher's protocol has public channels published: its CPU includes taking these requests; who signs them is on"
    echo "the load side. Its two nodes are connected by NATS; its idempotency keys are off, for two nodes would share them in a Redis."
}
about_centrifugo() { echo "$("$CENTRIFUGO" version), GOMAXPROCS=1. A delivery is JSON with the channel's name."; }
about_tokio-tungstenite() { echo "tokio-tungstenite $(crate_version tokio-tungstenite) on tokio, one thread."; }
about_fastwebsockets() { echo "fastwebsockets $(crate_version fastwebsockets) on tokio and hyper, one thread."; }
about_sockudo-ws() { echo "sockudo-ws $(crate_version sockudo-ws) on tokio, one thread."; }
