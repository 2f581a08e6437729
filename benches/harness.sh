# shellcheck shell=bash
# What the measuring scripts share: their options, starting servers pinned, loading them, ending exactly what was started.
# Sourced by scripts/bench.sh, scripts/bench-peers.sh and scripts/million.sh, from the repository's root.

SERVER_CORE=${SERVER_CORE:-0}
LOAD_CORE=${LOAD_CORE:-1}
STARTED=()
# Publications under way where a server shall go as fast as it can: each is tried, over ten rooms, and the best one counts.
WINDOWS=${WINDOWS:-64 640 2560}
# Whether all that a script measures is measured, at its full size. What is not is not published.
WHOLE=true
# What stands before the load generator's command, such as a priority.
AHEAD=()
# Functions that end_all calls last.
AT_END=()

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 3
}

# usage_error TEXT: a wrong argument.
usage_error() {
    say "$(basename "$0"): $*; see --help"
    exit 2
}

# whole_numbers VARIABLE...: refuses what is no whole number from 1 on.
whole_numbers() {
    local name
    for name; do
        case ${!name} in '' | 0* | *[!0-9]*) usage_error "$name is a whole number from 1 on, not ${!name}" ;; esac
    done
}

# show_help: the comment that the script begins with, without the shebang.
show_help() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
}

# matches NAME PATTERN: whether one of the alternatives of a pattern of `case`, parted by |, matches.
matches() {
    local alternative alternatives
    IFS='|' read -ra alternatives <<<"$2"
    for alternative in "${alternatives[@]}"; do
        # shellcheck disable=SC2254 # the pattern is meant to be one
        case $1 in $alternative) return 0 ;; esac
    done
    return 1
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
    [ "$(cut -d. -f1 /proc/loadavg)" -lt 1 ] || say "warning: the host is busy (load average $(cut -d' ' -f1-3 /proc/loadavg))"
    printf '{"tool":"bench","script":"%s","whole":%s,"commit":"%s%s","kernel":"%s","cpu":"%s","cpus":%s,"memory_kb":%s,"server_core":%s,"load_core":%s,"nofile":%s,"load_average":"%s"}\n' \
        "$(basename "$0")" "$WHOLE" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$dirty" "$(uname -r | grep -o '^[0-9.]*')" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(nproc)" \
        "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)" "$SERVER_CORE" "$LOAD_CORE" "$(ulimit -n)" \
        "$(cut -d' ' -f1-3 /proc/loadavg)" >>"$RESULTS"
}

# not_measured LABEL WHY: a row that says so.
not_measured() {
    local why
    why=$(printf '%s' "$2" | tr -d '"\\' | tr -c '[:print:]' ' ' | cut -c1-200)
    printf '{"tool":"bench","label":"%s","not_measured":["%s"]}\n' "$1" "$why" >>"$RESULTS"
    say "  $1: not measured: $why"
}

# last_words NAME: the last line of a server's log.
last_words() { tail -1 "$RUN/logs/$1.log" 2>/dev/null || true; }

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
    local pid action
    # Whoever is impatient now would leave servers behind, and settings of the kernel raised.
    trap '' INT TERM
    for pid in "${STARTED[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${STARTED[@]}"; do
        gone "$pid"
    done
    STARTED=()
    for action in "${AT_END[@]}"; do "$action"; done
    AT_END=()
}

# load LABEL ARGUMENT...: one run of tideload on the load's core; a failure is a row that says so.
load() {
    local label=$1 told
    shift
    if ! told=$("${AHEAD[@]}" "$TIDELOAD" "$@" --label "$label" --pin "$LOAD_CORE" --json "$RESULTS" 2>&1); then
        not_measured "$label" "$(printf '%s' "$told" | tail -1)"
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

# prepare: the load generator, the bare loops and the gateway, optimised, and the run's files. TIDELOAD, FLOOR and GATEWAY name
# programs that are already built.
prepare() {
    local program built=${CARGO_TARGET_DIR:-target}/release
    if [ -z "${TIDELOAD:-}" ] || [ -z "${FLOOR:-}" ]; then
        cargo build --release --quiet -p tideload || die "the load generator does not build"
        TIDELOAD=$built/tideload FLOOR=$built/floor
    fi
    if [ -z "${GATEWAY:-}" ]; then
        cargo build --release --quiet --bin tidegate || die "tidegate does not build"
        GATEWAY=$built/tidegate
    fi
    for program in "$TIDELOAD" "$FLOOR" "$GATEWAY"; do
        [ -x "$program" ] || die "$program is no program: build it, or leave it out and it is built"
    done
    begin_run
    describe_run
}

# start_nats PORT CORE: a broker at this port; fails without one.
start_nats() {
    local nats
    nats=$(broker)
    [ -n "$nats" ] || return 1
    start nats "$2" "$nats" -a 127.0.0.1 -p "$1"
    await_port "$1" "$PID" || die "nats-server does not start: $(last_words nats)"
}
