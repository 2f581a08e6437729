#!/usr/bin/env bash
# Measures tidegate beside its peers in one run, pinned alike: each server on core 0, the load on core 1.
#
#   scripts/bench-peers.sh [--quick] [--only PATTERN] [--skip PATTERN] [--gateway PATH] [--install-only]
#
# --quick        a smoke: small loads, figures of no use
# --only         only peers whose name matches this pattern of `case`, such as 'tidegate*|nats-ws'
# --skip         not those whose name matches this one (sockudo takes long to build)
# --gateway      a tidegate that is already built (builds one otherwise)
# --install-only install what the peers need into .deps/, and stop
#
# Echo servers: tokio-tungstenite, fastwebsockets, sockudo-ws. Room servers: nats-server's own WebSocket listener, Node's ws with
# Redis, Socket.IO with its Redis adapter, sockudo; Centrifugo and a uWebSockets program where CENTRIFUGO or UWS names a binary.
# A peer that cannot be had here is a row that says "not measured". Brokers run on the server's core, as the peers' own parts;
# CPU and memory are those of the server that clients connect to.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh

QUICK='' ONLY='*' SKIP='' GATEWAY='' INSTALL_ONLY=''
while [ $# -gt 0 ]; do
    case $1 in
    --quick) QUICK=1 ;;
    --install-only) INSTALL_ONLY=1 ;;
    --only)
        ONLY=${2:?--only wants a pattern}
        shift
        ;;
    --skip)
        SKIP=${2:?--skip wants a pattern}
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
    *)
        say "bench-peers.sh: $1 is unknown; see --help"
        exit 2
        ;;
    esac
    shift
done

# matches NAME PATTERN: whether one of the alternatives of the pattern, parted by |, matches.
matches() {
    local alternative alternatives
    IFS='|' read -ra alternatives <<<"$2"
    for alternative in "${alternatives[@]}"; do
        # shellcheck disable=SC2254 # the pattern is meant to be one
        case $1 in $alternative) return 0 ;; esac
    done
    return 1
}

wanted() { matches "$1" "$ONLY" && ! matches "$1" "$SKIP"; }

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

install_sockudo() {
    [ -x .deps/sockudo/bin/sockudo ] && return
    cargo install --quiet --locked --root .deps/sockudo sockudo --no-default-features --features local
}

install_echoes() { cargo build --release --quiet --manifest-path benches/peers/Cargo.toml; }

declare -A MISSING
install() {
    local name=$1
    "install_$name" >"$RUN/logs/install-$name.log" 2>&1 || {
        MISSING[$name]="$name could not be installed: $(tail -1 "$RUN/logs/install-$name.log" | tr -d '"\\' | cut -c1-160)"
        say "${MISSING[$name]}"
    }
}

# --- Servers: each sets PID, URL and WORDS, or fails. PORT is fresh for each.

PORT=10500 REDIS=10490 BROKER=10491 EXTRA=()

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
        SOCKUDO_DEFAULT_APP_SECRET=secret SOCKUDO_DEFAULT_APP_ENABLED=true .deps/sockudo/bin/sockudo || return 1
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
# A program that takes its port as an argument and has a room for each path; /echo sends back.
serve_uws() { up uws "$UWS" "$PORT" && URL=ws://127.0.0.1:$PORT/{room}; }

# serving PEER: a fresh server; a row that says why where there is none.
serving() {
    local peer=$1 label=$2
    PORT=$((PORT + 3)) URL='' WORDS=(--dialect raw) PUBLISH=() EXTRA=()
    "serve_$peer" && return
    not_measured "$label" "$peer does not start: $(tail -1 "$RUN/logs/$peer.log" 2>/dev/null | tr -d '"\\' | cut -c1-160)"
    return 1
}

ended() {
    local pid
    stop "$PID"
    for pid in "${EXTRA[@]}"; do stop "$pid"; done
}

# --- Rows.

if [ "$QUICK" ]; then
    TIMES=(-t 1 --warmup 0.3) ECHO="64" CROWD=500 CROWD_RATE=20 ROOMS=20 MANY_RATE=200 IDLE=4000 IDLE_SECONDS=3 STORM=500
else
    TIMES=(-t 8 --warmup 2) ECHO="64 1000 10000" CROWD=10000 CROWD_RATE=5 ROOMS=1000 MANY_RATE=500 IDLE=10000 IDLE_SECONDS=52
    STORM=10000
fi

echo_servers() {
    local connections peer
    for connections in $ECHO; do
        for peer in tokio-tungstenite fastwebsockets sockudo-ws; do
            wanted "$peer" || continue
            [ -z "${MISSING[echoes]:-}" ] || { not_measured "echo-$connections/$peer" "${MISSING[echoes]}"; continue; }
            PORT=$((PORT + 3))
            up "$peer" benches/peers/target/release/peers "$peer" "$PORT" || { not_measured "echo-$connections/$peer" "does not start"; continue; }
            load "echo-$connections/$peer" echo "ws://127.0.0.1:$PORT/" --dialect raw -c "$connections" -s 64 --server-pid "$PID" "${TIMES[@]}"
            stop "$PID"
        done
        for peer in epoll io_uring; do
            wanted "tidegate-$peer" || continue
            PORT=$((PORT + 3))
            tidegate "$peer" --profile conformance || { not_measured "echo-$connections/tidegate-$peer" "does not start"; continue; }
            load "echo-$connections/tidegate-$peer" echo "ws://127.0.0.1:$PORT/echo" --dialect raw -c "$connections" -s 64 --server-pid "$PID" "${TIMES[@]}"
            stop "$PID"
        done
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

room_server() {
    local peer=$1
    serving "$peer" "idle/$peer" || return 0
    load "idle/$peer" idle "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c "$IDLE" -t "$IDLE_SECONDS" --server-pid "$PID"
    ended
    serving "$peer" "upgrade/$peer" || return 0
    load "upgrade/$peer" storm "$URL" "${WORDS[@]}" -c "$STORM" --server-pid "$PID"
    ended
    serving "$peer" "fanout-$CROWD/$peer" || return 0
    load "fanout-$CROWD/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c "$CROWD" --rate "$CROWD_RATE" --server-pid "$PID" "${TIMES[@]}"
    ended
    serving "$peer" "fanout-$ROOMS-rooms/$peer" || return 0
    load "fanout-$ROOMS-rooms/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c $((ROOMS * 10)) -r "$ROOMS" --rate "$MANY_RATE" \
        --server-pid "$PID" "${TIMES[@]}"
    ended
    serving "$peer" "flat-out/$peer" || return 0
    load "flat-out/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c 1000 --window 16 --server-pid "$PID" "${TIMES[@]}"
    load "half-load/$peer" fanout "$URL" "${WORDS[@]}" "${PUBLISH[@]}" -c 1000 --rate "$(half_load "$peer")" --server-pid "$PID" "${TIMES[@]}"
    ended
}

room_servers() {
    local peer needs
    for peer in tidegate-epoll tidegate-io_uring nats-ws ws-redis socketio-redis sockudo centrifugo uws; do
        wanted "$peer" || continue
        for needs in $(needs_of "$peer"); do
            [ -z "${MISSING[$needs]:-}" ] || { not_measured "rooms/$peer" "${MISSING[$needs]}"; continue 2; }
        done
        case $peer in
        centrifugo) [ -n "${CENTRIFUGO:-}" ] || { not_measured "rooms/$peer" "no binary given: CENTRIFUGO=path"; continue; } ;;
        uws) [ -n "${UWS:-}" ] || { not_measured "rooms/$peer" "no binary given: UWS=path"; continue; } ;;
        esac
        room_server "$peer"
    done
}

needs_of() {
    case $1 in
    ws-redis | socketio-redis) echo node redis ;;
    sockudo) echo sockudo node ;;
    esac
}

begin_run
wanted tokio-tungstenite || wanted fastwebsockets || wanted sockudo-ws && install echoes
for peer in ws-redis socketio-redis sockudo; do
    for needs in $(needs_of "$peer"); do
        wanted "$peer" && [ -z "${MISSING[$needs]:-}" ] && install "$needs"
    done
done
[ -z "$INSTALL_ONLY" ] || exit 0
build_load
if [ -z "$GATEWAY" ]; then
    cargo build --release --quiet --bin tidegate || die "tidegate does not build"
    GATEWAY=${CARGO_TARGET_DIR:-target}/release/tidegate
fi
describe_run
echo_servers
room_servers
python3 benches/report/peers.py "$RESULTS"
say "results: $RESULTS"
