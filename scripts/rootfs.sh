#!/usr/bin/env bash
# Assembles the image's root file system (the binary, the libraries that it loads, a user, certificates) and starts the
# gateway in it, without a container engine. The Dockerfile uses the first half, the tests both.
set -euo pipefail

usage() {
    cat <<'TEXT'
rootfs.sh --out DIR [--binary FILE]   assemble the file system in DIR, which must be empty or not exist
rootfs.sh --check DIR [--port N]      start it as the image would be started, and check it; needs root
rootfs.sh --run DIR COMMAND...        run a command of it in the same way (for tests); needs root

  --binary FILE   the gateway (default target/release/tidegate)
  --port N        public port of the check, the admin port is the next one (default 18080)

The gateway runs as user 65532 in its own mount and process namespace, with the file system read-only, without capabilities
and with no_new_privs. Exit codes: 0 fine, 1 a check failed, 2 bad arguments.
TEXT
}

bad() {
    echo "rootfs.sh: $1" >&2
    exit 2
}

readonly user=65532
mode='' out='' binary=target/release/tidegate port=18080
command=()

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --out | --check | --run)
            [ -z "$mode" ] || bad "--$mode and $1 exclude each other; give one of them"
            [ $# -ge 2 ] || bad "$1 needs a directory; see --help"
            mode=${1#--} out=$2
            if [ "$mode" = run ]; then
                shift 2
                [ $# -gt 0 ] || bad "--run needs a command of the file system; see --help"
                command=("$@")
                return
            fi
            shift 2
            ;;
        --binary | --port)
            [ $# -ge 2 ] || bad "$1 needs a value; see --help"
            if [ "$1" = --binary ]; then binary=$2; else port=$2; fi
            shift 2
            ;;
        -h | --help) usage && exit 0 ;;
        *) bad "unknown argument '$1'; see --help" ;;
        esac
    done
    [ -n "$mode" ] || bad "give --out, --check or --run; see --help"
    [[ $port =~ ^[1-9][0-9]{3,4}$ ]] && [ "$port" -ge 1024 ] && [ "$port" -le 32766 ] ||
        bad "--port is '$port'; give a number from 1024 to 32766"
}

# Where a directory has to be a root file system that --out made.
need_rootfs() {
    [ -x "$out/usr/bin/tidegate" ] && [ -d "$out/proc" ] || bad "'$out' is no root file system of tidegate; make one with --out"
    [ "$(id -u)" -eq 0 ] || bad "--$mode needs root for its namespaces; run it with sudo"
}

assemble() {
    [ -f "$binary" ] && [ -x "$binary" ] || bad "'$binary' is no program; build it (cargo build --release --locked) or give --binary"
    [ ! -e "$out" ] || [ -z "$(ls -A "$out")" ] || bad "'$out' is not empty; give a new directory"
    install -D -m 755 "$binary" "$out/usr/bin/tidegate"
    # ldd prints "name => path (address)", or only the path for the loader itself.
    ldd "$binary" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        install -D -m 755 "$library" "$out$library"
    done
    mkdir -p "$out"/{etc/tidegate,etc/ssl/certs,proc,sys,dev,tmp}
    chmod 1777 "$out/tmp"
    echo "tidegate:x:$user:$user:tidegate:/:/sbin/nologin" >"$out/etc/passwd"
    echo "tidegate:x:$user:" >"$out/etc/group"
    # The broker's name is looked up in /etc/hosts first, then by DNS.
    echo "hosts: files dns" >"$out/etc/nsswitch.conf"
    # For tls:// brokers.
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] || install -m 644 /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/"
    # The same input gives the same files.
    find "$out" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
    echo "assembled $out: $(du -sh "$out" | cut -f1), $(find "$out" -type f | wc -l) files"
}

# inside COMMAND...: runs a command of the file system as the image would, and passes its exit code on. The three capabilities
# are what chroot needs to become the other user; they are gone when it has.
inside() {
    # shellcheck disable=SC2016 # the inner shell expands
    exec unshare --mount --pid --fork --kill-child=KILL sh -c '
        mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount -o remount,bind,ro "$0" || exit 125
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid \
            chroot --userspec='$user:$user' --groups= "$0" "$@"' "$out" "$@"
}

# get PATH: the answer of the admin port, head and body.
get() {
    exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))" || return 1
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
    timeout 5 cat <&3
    exec 3>&- 3<&-
}

# upgrade: the first line of the answer to a WebSocket upgrade (the key is the example of RFC 6455).
upgrade() {
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf 'GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' >&3
    printf 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n' >&3
    timeout 5 head -n 1 <&3
    exec 3>&- 3<&-
}

expect() {
    local what=$1 wanted=$2 got=$3
    case $got in
    *"$wanted"*) echo "ok    $what" ;;
    *)
        echo "wrong $what: expected '$wanted', got '${got:0:200}'" >&2
        failed=1
        ;;
    esac
}

# The gateway's process: the only child chain below unshare ends in it.
gateway_pid() {
    local pid=$1 child
    while child=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null) && [ -n "$child" ]; do
        pid=${child%% *}
    done
    echo "$pid"
}

check() {
    failed=0
    local log
    log=$(mktemp)
    (inside /usr/bin/tidegate serve --listen "127.0.0.1:$port" --admin "127.0.0.1:$((port + 1))" --drain-window 1s) >"$log" 2>&1 &
    local outer=$!
    trap 'kill -KILL '"$outer"' 2>/dev/null || true; rm -f '"$log" EXIT
    for _ in $(seq 100); do
        get /ready 2>/dev/null | grep -q ' 200 ' && break
        kill -0 "$outer" 2>/dev/null || break
        sleep 0.1
    done
    if ! kill -0 "$outer" 2>/dev/null; then
        cat "$log" >&2
        echo "the gateway did not start in $out" >&2
        exit 1
    fi
    local pid
    pid=$(gateway_pid "$outer")
    expect "it is alive" " 200 " "$(get /live)"
    expect "it is ready" " 200 " "$(get /ready)"
    expect "it counts" "tidegate_build_info" "$(get /metrics)"
    expect "it upgrades" " 101 " "$(upgrade)"
    expect "it runs as user $user" "$user" "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")"
    expect "it has no capability" "0000000000000000" "$(awk '/^CapEff:/ { print $2 }' "/proc/$pid/status")"
    expect "it can gain none" "1" "$(awk '/^NoNewPrivs:/ { print $2 }' "/proc/$pid/status")"
    expect "its root is read-only" "ro" "$(awk '$5 == "/" { print $6 }' "/proc/$pid/mountinfo")"
    kill -TERM "$pid"
    local code=0
    wait "$outer" || code=$?
    expect "it drains and ends with 0" "0" "$code"
    [ "$failed" -eq 0 ] || { cat "$log" >&2; exit 1; }
}

parse "$@"
case $mode in
out) assemble ;;
check) need_rootfs && check ;;
run) need_rootfs && inside "${command[@]}" ;;
esac
