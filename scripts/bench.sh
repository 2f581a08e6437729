#!/usr/bin/env bash
# Measures tidegate beside the bare loops, in one run, pinned alike: the server on core 0, the load on core 1.
#
#   scripts/bench.sh [--quick] [--driver epoll|io_uring|both] [--rows PATTERN] [--gateway PATH]
#   scripts/bench.sh --smoke
#
# --smoke       tries the measuring tools, in a minute (benches/smoke.sh): what CI runs
# --quick       small loads, two minutes or so, figures of no use
# --driver      which wire (both)
# --rows        only rows whose name matches this pattern of `case`, such as 'echo*|idle*'
# --gateway     a tidegate that is already built (builds one otherwise; TIDELOAD and FLOOR name the other two programs)
#
# Rows: idle-N, echo-N, echo-N-pipelined-16, self-N, fanout-N, fanout-N-rooms, flat-out-N, upgrade, bystander, cross-node. flat-out-N
# has N publications under way, over ten rooms.
# Writes RUN/results.jsonl (RUN is benches/results/DATE unless set) and prints the ratios against the targets. Rows are measured
# ROUNDS (3) times with fresh servers, flat-out-N once. In a round those of echo, self, paced fan-out and upgrade are loaded one server
# after the other, TURNS (3) times, for SECONDS_EACH (1); flat-out, bystander and cross-node once, for three times as long. The middle
# one counts. All of it takes about 30 minutes; benches/report/report.py publishes the results.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/harness.sh

[ "$*" != --smoke ] || exec benches/smoke.sh
QUICK='' DRIVERS=(epoll io_uring) ROWS='*'
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) show_help ;;
    --smoke) usage_error "--smoke goes with no other option" ;;
    --quick) QUICK=1 WHOLE=false ;;
    --driver | --rows | --gateway)
        [ $# -ge 2 ] || usage_error "$1 wants a value"
        case $1:$2 in
        --driver:both) ;;
        --driver:epoll | --driver:io_uring) DRIVERS=("$2") ;;
        --driver:*) usage_error "--driver is epoll, io_uring or both, not $2" ;;
        --rows:*) ROWS=$2 WHOLE=false ;;
        --gateway:*) GATEWAY=$2 ;;
        esac
        shift
        ;;
    *) usage_error "$1 is unknown" ;;
    esac
    shift
done

wanted() { matches "$1" "$ROWS"; }

if [ "$QUICK" ]; then
    SECONDS_EACH=1 WARMUP=0.3 ECHO="64 500" FANOUT="500:50" STORM=1000 IDLE=4000 IDLE_SECONDS=3 ROOMS=50 MANY_RATE=500
    CROWD=1000 IDLE_SIZES="1000 4000" ROUNDS=1 TURNS=1
else
    SECONDS_EACH=${SECONDS_EACH:-1} ROUNDS=${ROUNDS:-3} TURNS=${TURNS:-3} WARMUP=0.7 ECHO="64 1000 5000 10000 15000"
    FANOUT="1000:100 2000:50 5000:20 10000:10 15000:10" STORM=15000
    # Two pings each at the default interval of 25 s, at the largest size only: memory needs no waiting.
    IDLE_SIZES="4000 10000 19000" IDLE=19000 IDLE_SECONDS=52 ROOMS=1000 MANY_RATE=3000 CROWD=15000
fi
whole_numbers SECONDS_EACH ROUNDS TURNS
TIMES=(-t "$SECONDS_EACH" --warmup "$WARMUP")
# Rows that are loaded once a round: what somebody waits for needs more messages than what it costs.
LONG=$((3 * SECONDS_EACH))
LONG_TIMES=(-t "$LONG" --warmup "$WARMUP")
PORT=10100
# Of the calm clients, above whatever this script itself runs with.
CALM_PRIORITY=50

prepare

# gateway NAME DRIVER ARGUMENT...: a fresh tidegate on PORT with one shard; PID is its process.
gateway() {
    local name=$1 driver=$2
    shift 2
    PORT=$((PORT + 2))
    start "$name" "$SERVER_CORE" "$GATEWAY" --listen "127.0.0.1:$PORT" --admin "127.0.0.1:$((PORT + 1))" --shards 1 \
        --driver "$driver" --message-rate 0 --connection-rate 0 "$@"
    await_port "$PORT" "$PID" || {
        not_measured "${name%-*}/$driver" "tidegate does not start: $(last_words "$name")"
        return 1
    }
}

# bare TASK: a fresh bare loop on PORT.
bare() {
    PORT=$((PORT + 2))
    start "floor-$1" "$SERVER_CORE" "$FLOOR" "$1" "$PORT"
    await_port "$PORT" "$PID" || die "the bare loop does not start: $(last_words "floor-$1")"
}

# Commands of `load`, each behind the pid of its server.
ENTERED=()

# enter LABEL ARGUMENT...: has by_turns load the server PID so.
enter() {
    local label=$1 command
    shift
    printf -v command '%q ' load "$label" "$@" --server-pid "$PID"
    ENTERED+=("$PID $command")
}

# by_turns: loads those who were entered, one after the other, TURNS times, so that whatever else the host does in between falls on the
# bare loop as on the gateway; then ends them.
by_turns() {
    local turn entry
    [ ${#ENTERED[@]} -gt 0 ] || return 0
    for ((turn = 0; turn < TURNS; turn++)); do
        for entry in "${ENTERED[@]}"; do eval "${entry#* }"; done
        # Another one begins the next turn: what comes first may find the host in another state.
        ENTERED=("${ENTERED[@]:1}" "${ENTERED[0]}")
    done
    for entry in "${ENTERED[@]}"; do stop "${entry%% *}"; done
    ENTERED=()
}

# echo_row CONNECTIONS PIPELINE: the conformance profile's /echo, which goes through no room.
echo_row() {
    local connections=$1 pipeline=$2 row=echo-$1 driver
    [ "$pipeline" = 1 ] || row=echo-$1-pipelined-$2
    wanted "$row" || return 0
    bare echo
    # The bare loop gets the octets that a WebSocket client sends: 64 and a masked header.
    enter "$row/floor" echo "tcp://127.0.0.1:$PORT" -c "$connections" -p "$pipeline" -s 69 "${TIMES[@]}"
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" --profile conformance || continue
        enter "$row/$driver" echo "ws://127.0.0.1:$PORT/echo" --dialect raw -c "$connections" -p "$pipeline" -s 64 "${TIMES[@]}"
    done
    by_turns
}

# self_row CONNECTIONS: a room for each connection, so a message goes by way of the relay and back.
self_row() {
    local connections=$1 row=self-$1 driver
    wanted "$row" || return 0
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        enter "$row/$driver" echo "ws://127.0.0.1:$PORT/raw/{room}" -c "$connections" -s 64 "${TIMES[@]}"
    done
    by_turns
}

# fanout_row ROW LOAD...: members of raw rooms, published to by a client.
fanout_row() {
    local row=$1 driver
    shift
    wanted "$row" || return 0
    bare fanout
    # A line's end is one octet, a server's frame header four: the bare loop sends as many as the gateway.
    enter "$row/floor" fanout "tcp://127.0.0.1:$PORT" -s 131 "${TIMES[@]}" "$@"
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        enter "$row/$driver" fanout "ws://127.0.0.1:$PORT/raw/{room}" -s 128 "${TIMES[@]}" "$@"
    done
    by_turns
}

# flat_out_row WINDOW: the same as fast as it goes, with so many publications under way over ten rooms; one fresh server after the other,
# whose turns are watched.
flat_out_row() {
    local row=flat-out-$1 driver server load=(-c 1000 -r 10 --window "$1" "${LONG_TIMES[@]}")
    wanted "$row" || return 0
    bare fanout
    load "$row/floor" fanout "tcp://127.0.0.1:$PORT" -s 131 --server-pid "$PID" "${load[@]}"
    stop "$PID"
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        server=$PID
        watch_turns "$row/$driver"
        load "$row/$driver" fanout "ws://127.0.0.1:$PORT/raw/{room}" -s 128 --server-pid "$server" "${load[@]}"
        stop "$PID"
        stop "$server"
    done
}

# watch_turns LABEL: looks at the gateway four times a second until it is ended, and then tells the longest turn of its loop and
# within which time it delivered. Coalescing may make no message wait for longer than a turn.
watch_turns() {
    start turns "$LOAD_CORE" python3 benches/turns.py "$1" "http://127.0.0.1:$((PORT + 1))/metrics" "$RESULTS"
}

# storm_row: how fast everybody gets in, and comes back after a cut.
storm_row() {
    local row=upgrade driver
    wanted "$row" || return 0
    local storm=(storm --dialect raw -c "$STORM" --connecting 512 --cut)
    bare handshake
    enter "$row/floor" "${storm[@]}" "ws://127.0.0.1:$PORT/"
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        enter "$row/$driver" "${storm[@]}" "ws://127.0.0.1:$PORT/"
    done
    by_turns
}

# idle_row MEMBERS: memory of members who say nothing, and at the largest size what their heartbeats cost.
idle_row() {
    local row=idle-$1 driver seconds=2
    wanted "$row" || return 0
    [ "$1" != "$IDLE" ] || seconds=$IDLE_SECONDS
    bare idle
    load "$row/floor" idle "ws://127.0.0.1:$PORT/" --dialect raw -c "$1" -t "$seconds" --server-pid "$PID"
    stop "$PID"
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        load "$row/$driver" idle "ws://127.0.0.1:$PORT/" -c "$1" -t "$seconds" --server-pid "$PID"
        stop "$PID"
    done
}

# bystander_row: messages in rooms of their own at a steady pace, alone and then beside broadcasts to a crowd. The crowd's 15,000
# readers are on the load's core, as the calm clients are: those go before them, or it would be the load side that is measured. Their
# servers go before whatever else the host runs. How much is left of that is the floor's row: there a bare echo that nothing can hold
# up stands beside a crowd on another bare loop.
bystander_row() {
    local row=bystander driver server calm crowd
    wanted "$row" || return 0
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" || continue
        server=$PID
        chrt -a -r -p "$CALM_PRIORITY" "$server" 2>/dev/null || true
        beside_a_crowd "$driver" "$server" "ws://127.0.0.1:$PORT/raw/calm.{n}" raw "ws://127.0.0.1:$PORT/raw/{room}"
        stop "$server"
    done
    bare echo
    server=$PID
    if ! chrt -a -r -p "$CALM_PRIORITY" "$server" 2>/dev/null; then
        not_measured "$row-alone/floor" "chrt -r is not permitted: what the load side does to the calm clients is not known"
        stop "$server"
        return 0
    fi
    calm=tcp://127.0.0.1:$PORT
    bare fanout
    crowd=$PID
    beside_a_crowd floor "$server" "$calm" lines "tcp://127.0.0.1:$PORT"
    stop "$crowd"
    stop "$server"
}

# beside_a_crowd SUBJECT SERVER CALM DIALECT CROWD: the two rows, and the crowd's own.
beside_a_crowd() {
    local subject=$1 server=$2 url=$3 dialect=$4 crowded=$5 load_of_crowd
    local calm=(echo "$url" --dialect "$dialect" -c 10 --rate 500 -s 64 --server-pid "$server" "${LONG_TIMES[@]}")
    local AHEAD=()
    ! chrt -r "$CALM_PRIORITY" true 2>/dev/null || AHEAD=(chrt -r "$CALM_PRIORITY")
    load "bystander-alone/$subject" "${calm[@]}"
    start crowd - "$TIDELOAD" fanout "$crowded" -c "$CROWD" --rate 1 -t $((LONG + 5)) --warmup 0 \
        --label "bystander-crowd/$subject" --pin "$LOAD_CORE" --json "$RESULTS" -q
    load_of_crowd=$PID
    await_crowd "$load_of_crowd"
    load "bystander-beside/$subject" "${calm[@]}"
    wait "$load_of_crowd" || not_measured "bystander-crowd/$subject" "the crowd's load failed"
}

# await_crowd PID: until a crowd has its connections, both ends of which are on this host: broadcasts begin then. That people arrive is
# another story than that they are spoken to.
await_crowd() {
    local tries=0
    until [ "$(sed -n 's/^TCP: inuse \([0-9]*\).*/\1/p' /proc/net/sockstat)" -ge $((CROWD * 2)) ]; do
        kill -0 "$1" 2>/dev/null && [ "$tries" -lt 600 ] || return 0
        tries=$((tries + 1))
        sleep 0.1
    done
    sleep 1
}

# cross_row: publish to the broker, deliver on a node; a bare subscriber of the same broker hears the same messages.
cross_row() {
    local row=cross-node driver nats_pid server subscriber
    wanted "$row" || return 0
    start_nats 10090 "$LOAD_CORE" || {
        not_measured "$row/epoll" "no nats-server: run scripts/install-test-deps.sh"
        return 0
    }
    nats_pid=$PID
    for driver in "${DRIVERS[@]}"; do
        gateway "$row-$driver" "$driver" --nats-url nats://127.0.0.1:10090 || continue
        server=$PID
        start subscriber "$SERVER_CORE" "$FLOOR" subscribe nats://127.0.0.1:10090 'tidegate.room.load.0' \
            -t $((LONG + 4)) --label "$row/floor-beside-$driver" --json "$RESULTS"
        subscriber=$PID
        load "$row/$driver" fanout "ws://127.0.0.1:$PORT/" -c 10 --rate 1000 --publish-url nats://127.0.0.1:10090 \
            --publish-room 'tidegate.room.{room}' --server-pid "$server" "${LONG_TIMES[@]}" --exactly-once
        wait "$subscriber" || not_measured "$row/floor-beside-$driver" "the bare subscriber failed"
        stop "$server"
    done
    stop "$nats_pid"
}

# In rounds, so that whatever else the host does falls on everybody alike; of each row the median run counts.
for ((round = 0; round < ROUNDS; round++)); do
    for connections in $IDLE_SIZES; do
        idle_row "$connections"
    done
    for connections in $ECHO; do
        echo_row "$connections" 1
    done
    echo_row 64 16
    self_row 64
    for pair in $FANOUT; do
        fanout_row "fanout-${pair%:*}" -c "${pair%:*}" --rate "${pair#*:}"
    done
    fanout_row "fanout-$ROOMS-rooms" -c $((ROOMS * 10)) -r "$ROOMS" --rate "$MANY_RATE"
    storm_row
    bystander_row
    cross_row
done
for window in $WINDOWS; do
    flat_out_row "$window"
done

python3 benches/report/report.py "$RESULTS"
say "results: $RESULTS"
