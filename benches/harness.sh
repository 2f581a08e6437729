# What the measuring scripts share: starting servers pinned, loading them, ending exactly what was started.
# Sourced by scripts/bench.sh, scripts/bench-peers.sh and scripts/million.sh, from the repository's root.

SERVER_CORE=${SERVER_CORE:-0}
LOAD_CORE=${LOAD_CORE:-1}
STARTED=()

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 3
}

# The files of a run: RUN/results.jsonl, and the servers' logs beside it.
begin_run() {
    RUN=${RUN:-benches/results/$(date +%Y%m%d-%H%M%S)}
    RESULTS=$RUN/results.jsonl
    mkdir -p "$RUN/logs"
    : >"$RESULTS"
    trap end_all EXIT
    trap 'exit 130' INT TERM
    [ "$(nproc)" -ge 2 ] || say "warning: one core only, server and load share it: figures are of no use"
    command -v taskset >/dev/null || die "taskset is missing: install util-linux"
    ulimit -n "$(ulimit -H -n)"
}

# Describes what is measured: machine, kernel, commit. The report reads it.
describe_run() {
    local dirty=""
    git diff --quiet HEAD 2>/dev/null || dirty="+changes"
    printf '{"tool":"bench","script":"%s","commit":"%s%s","kernel":"%s","cpu":"%s","cpus":%s,"memory_kb":%s,"server_core":%s,"load_core":%s,"nofile":%s,"load_average":"%s"}\n' \
        "$(basename "$0")" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$dirty" "$(uname -r)" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(nproc)" \
        "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)" "$SERVER_CORE" "$LOAD_CORE" "$(ulimit -n)" \
        "$(cut -d' ' -f1-3 /proc/loadavg)" >>"$RESULTS"
}

# not_measured LABEL WHY: a row that says so.
not_measured() {
    printf '{"tool":"bench","label":"%s","not_measured":["%s"]}\n' "$1" "$2" >>"$RESULTS"
    say "  $1: not measured: $2"
}

# start NAME CORE COMMAND...: starts a server pinned to a core (- for none); its pid is in PID.
start() {
    local name=$1 core=$2
    shift 2
    if [ "$core" = - ]; then
        "$@" >"$RUN/logs/$name.log" 2>&1 &
    else
        taskset -c "$core" "$@" >"$RUN/logs/$name.log" 2>&1 &
    fi
    PID=$!
    STARTED+=("$PID")
}

# await_port PORT PID: until something listens there; fails when the process has ended.
await_port() {
    local port=$1 pid=$2 tries=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$pid" 2>/dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || return 1
        sleep 0.05
    done
}

# stop PID: ends one process that start started, and waits for it.
stop() {
    kill "$1" 2>/dev/null || true
    gone "$1"
}

# gone PID: waits until it has ended, and ends it for good after five seconds.
gone() {
    local tries=0
    while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

end_all() {
    local pid
    for pid in "${STARTED[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${STARTED[@]}"; do
        gone "$pid"
    done
    STARTED=()
}

# load LABEL ARGUMENT...: one run of tideload on the load's core; a failure is a row that says so.
load() {
    local label=$1 told
    shift
    if ! told=$("$TIDELOAD" "$@" --label "$label" --pin "$LOAD_CORE" --json "$RESULTS" 2>&1); then
        not_measured "$label" "$(printf '%s' "$told" | tail -1 | tr -d '"\\' | cut -c1-200)"
        return 0
    fi
    say "  $label"
    [ -z "${VERBOSE:-}" ] || printf '%s\n' "$told" >&2
}

# broker: path of a nats-server, or nothing.
broker() {
    local candidate
    for candidate in "${TIDEGATE_NATS_SERVER:-}" .deps/venv/bin/nats-server "$(command -v nats-server || true)"; do
        [ -n "$candidate" ] && [ -x "$candidate" ] && printf '%s' "$candidate" && return
    done
    true
}

# build_load: the load generator and the bare loops, optimised; TIDELOAD and FLOOR name ones that are already built.
build_load() {
    if [ -n "${TIDELOAD:-}" ] && [ -n "${FLOOR:-}" ]; then
        return
    fi
    cargo build --release --quiet -p tideload || die "the load generator does not build"
    TIDELOAD=${CARGO_TARGET_DIR:-target}/release/tideload
    FLOOR=${CARGO_TARGET_DIR:-target}/release/floor
}
