#!/usr/bin/env bash
# Runs the Autobahn testsuite's cases for WebSocket servers against the gateway's /echo, once for each driver.
set -euo pipefail

usage() {
    cat <<'TEXT'
conformance.sh [--smoke | --all | --deflate] [--driver epoll|io_uring] [--binary FILE] [--port N] [--out DIR]

  (nothing)       the 301 cases without compression, half a minute for each driver
  --smoke         73 cases that touch every rule
  --all           all 517, with permessage-deflate: ten minutes for each driver
  --deflate       only the 216 with permessage-deflate
  --driver NAME   this driver only; without it both, and io_uring is left out, aloud, where the host refuses it
  --binary FILE   the gateway; without it, it is built (release)
  --port N        its public port, the admin port is the next one (default 18600)
  --out DIR       reports: DIR/DRIVER/index.html, and the last line in DIR/DRIVER/result.txt (default target/conformance)

The gateway runs with `--profile conformance`, which raises the message limit to the 16 MiB that group 9 sends. The suite is
installed on first use into .venv/autobahn, for which CPython 3.9 to 3.12 is needed (PYTHON=...).
Exit codes: 0 all passed, 1 a case failed, 2 bad arguments or the suite did not work, 3 the gateway did not start.
TEXT
}

bad() {
    echo "conformance.sh: $1; see --help" >&2
    exit 2
}

here=$(cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")
binary='' port=18600 out=$root/target/conformance drivers='epoll io_uring' all_drivers=yes gateway=''
# Octets of frames and masks, pings, reserved bits and opcodes, fragments, UTF-8 inside a frame, closing, a large message.
smoke=('1.*' '2.*' '3.*' '4.1.*' '5.1*' '6.1.*' '6.4.*' '7.1.*' '7.3.*' '7.7.1' '7.9.1' '9.1.1' '10.*')
cases=('*' '-12.*' '-13.*')

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --smoke) cases=("${smoke[@]}") ;;
        --all) cases=('*') ;;
        --deflate) cases=('12.*' '13.*') ;;
        --driver | --binary | --port | --out)
            [ $# -ge 2 ] || bad "$1 needs a value"
            case $1 in
            --driver) drivers=$2 all_drivers='' ;;
            --binary) binary=$(realpath -- "$2") ;;
            --port) port=$2 ;;
            --out) out=$2 ;;
            esac
            shift
            ;;
        --help | -h) usage && exit 0 ;;
        *) bad "unknown argument $1" ;;
        esac
        shift
    done
    case $drivers in epoll | io_uring | 'epoll io_uring') ;; *) bad "--driver is epoll or io_uring" ;; esac
    case $port in '' | *[!0-9]*) bad "--port is a number" ;; esac
}

build() {
    [ -z "$binary" ] || return 0
    (cd "$root" && cargo build --release --locked --bin tidegate)
    binary=${CARGO_TARGET_DIR:-$root/target}/release/tidegate
}

# Starts the gateway with driver $1 and waits until it listens. Status 3: it ended instead, as its log says.
start() {
    "$binary" serve --profile conformance --driver "$1" --listen "127.0.0.1:$port" --admin "127.0.0.1:$((port + 1))" \
        >"$out/$1/gateway.log" 2>&1 &
    gateway=$!
    for _ in {1..100}; do
        kill -0 "$gateway" 2>/dev/null || { wait "$gateway" || true; gateway=''; return 3; }
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    return 3
}

stop() {
    [ -n "$gateway" ] || return 0
    kill "$gateway" 2>/dev/null || true
    for _ in {1..50}; do
        kill -0 "$gateway" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$gateway" 2>/dev/null || true
    wait "$gateway" 2>/dev/null || true
    gateway=''
}

run() {
    mkdir -p "$out/$1"
    rm -f "$out/$1/result.txt"
    local status=0
    start "$1" || status=$?
    if [ $status -ne 0 ]; then
        cat "$out/$1/gateway.log" >&2
        if [ "$1" = io_uring ] && [ -n "$all_drivers" ] && grep -qi 'io_uring' "$out/$1/gateway.log"; then
            echo 'not run: this host refuses io_uring' >"$out/$1/result.txt"
            echo "$1: NOT RUN, this host refuses io_uring (above)"
            return 0
        fi
        echo "conformance.sh: the gateway did not start with --driver $1; its log is above" >&2
        exit 3
    fi
    "$here/conformance/run.sh" "ws://127.0.0.1:$port/echo" "$out/$1" "${cases[@]}" | sed "s/^/$1: /" || status=$?
    stop
    return $status
}

parse "$@"
trap stop EXIT
trap 'exit 130' INT TERM
"$here/conformance/install.sh" "$root/.venv/autobahn"
export AUTOBAHN_VENV=$root/.venv/autobahn
build
worst=0
for driver in $drivers; do
    run "$driver" || { status=$?; [ $status -le $worst ] || worst=$status; }
done
exit $worst
