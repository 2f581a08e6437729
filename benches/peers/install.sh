# shellcheck shell=bash
# What the peers need, from the package registries, into .deps/; nothing outside changes. Sourced by scripts/bench-peers.sh.

UWS_BUILT=.deps/uws/uwebsockets
SOCKUDO_BUILT=.deps/sockudo/bin/sockudo
SOCKUDO=${SOCKUDO:-$SOCKUDO_BUILT} UWS=${UWS:-$UWS_BUILT}
SOCKUDO_VERSION=5.2.0
# A crate that has the sources of uWebSockets 20 and uSockets in it.
UWEBSOCKETS_CRATE=libuwebsockets-sys UWEBSOCKETS_CRATE_VERSION=0.0.10
# Why a need could not be met, by need; and which were tried.
declare -A MISSING=() TRIED=()

# needs_of PEER: what is installed for it.
needs_of() {
    case $1 in
    ws-redis | socketio-redis) echo node redis ;;
    nats-ws) echo broker ;;
    uwebsockets) echo uwebsockets ;;
    sockudo) echo sockudo node ;;
    tokio-tungstenite | fastwebsockets | sockudo-ws) echo echoes ;;
    esac
}

# The packages of benches/peers/node/package-lock.json, each of exactly that content.
install_node() {
    local from=benches/peers/node to=.deps/peers
    # npm begins with node_modules gone, so this copy is there only when all of it came in.
    cmp -s "$from/package-lock.json" "$to/node_modules/.locked.json" && return
    command -v npm >/dev/null || lacks npm "apt-get install npm"
    mkdir -p "$to"
    cp "$from/package.json" "$from/package-lock.json" "$to"
    npm ci --silent --no-fund --no-audit --ignore-scripts --prefix "$to" || lacks "an answer of npm's registry" "npm ci --prefix $to tells more"
    cp "$from/package-lock.json" "$to/node_modules/.locked.json"
}

# lacks WHAT REMEDY: ends an installation, with its last words.
lacks() {
    echo "$1 is missing: $2"
    exit 1
}

# unpack DIRECTORY PACKAGE...: Debian's packages, unpacked and not installed.
unpack() {
    local to=$1
    shift
    command -v apt-get >/dev/null || lacks apt-get "install $1 yourself"
    mkdir -p "$to"
    (
        cd "$to"
        apt-get download -qq "$@" 2>&1 || lacks "one of Debian's packages $*" "apt-get update, or install $1 yourself"
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm -f -- *.deb
    )
}

# libraries_in DIRECTORY: where the packages unpacked there have their shared libraries, whatever the processor.
libraries_in() {
    local directory
    for directory in "$PWD/$1"/usr/lib/*-linux-gnu*; do printf '%s' "$directory" && return; done
}

install_redis() {
    command -v redis-server >/dev/null && return
    [ -x .deps/redis/usr/bin/redis-server ] && return
    unpack .deps/redis redis-server redis-tools liblzf1 liblua5.1-0 lua-cjson lua-bitop libjemalloc2 libatomic1
}

# uWebSockets' sources out of a crate, and our program on them, with the flags of its own Makefile: C and C++ compilers, half a minute.
install_uwebsockets() {
    local at=.deps/uws sources flags=(-O3 -flto=auto -march=native -DLIBUS_NO_SSL -DUWS_NO_ZLIB)
    [ -x "$UWS" ] && { [ "$UWS" != "$UWS_BUILT" ] || [ "$UWS" -nt benches/peers/cpp/uwebsockets.cpp ]; } && return
    rm -rf "$at"
    mkdir -p "$at/objects" "$at/fetch/src"
    : >"$at/fetch/src/lib.rs"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
        "$UWEBSOCKETS_CRATE" "$UWEBSOCKETS_CRATE_VERSION" >"$at/fetch/Cargo.toml"
    (cd "$at/fetch" && cargo vendor --quiet vendor >/dev/null)
    mv "$at/fetch/vendor/$UWEBSOCKETS_CRATE/uWebSockets" "$at/sources"
    rm -rf "$at/fetch"
    sources=$PWD/$at/sources
    (
        cd "$at/objects" || exit 1
        cc -std=gnu11 "${flags[@]}" "-I$sources/uSockets/src" -c "$sources"/uSockets/src/*.c \
            "$sources"/uSockets/src/eventing/epoll_kqueue.c "$sources"/uSockets/src/crypto/openssl.c
    )
    c++ -std=c++20 "${flags[@]}" "-I$sources/src" "-I$sources/uSockets/src" -o "$UWS_BUILT" benches/peers/cpp/uwebsockets.cpp "$at"/objects/*.o
}

# Some 350 crates: 10 minutes on two quiet cores. One of them wants a protoc. What a failed build has compiled is kept for the next one.
install_sockudo() {
    [ -x "$SOCKUDO" ] && return
    local protoc=.deps/protoc/usr
    if ! command -v protoc >/dev/null; then
        [ -x "$protoc/bin/protoc" ] || unpack .deps/protoc protobuf-compiler libprotobuf-dev libprotoc32 libprotobuf32
        export PROTOC=$PWD/$protoc/bin/protoc LD_LIBRARY_PATH
        LD_LIBRARY_PATH=$(libraries_in .deps/protoc)
    fi
    CARGO_TARGET_DIR=.deps/sockudo/build cargo install --quiet --locked --version "=$SOCKUDO_VERSION" --root .deps/sockudo sockudo \
        --no-default-features --features local,nats
    rm -rf .deps/sockudo/build
}

install_broker() { [ -n "$(broker)" ] || lacks nats-server "run scripts/install-test-deps.sh, or set TIDEGATE_NATS_SERVER to one"; }

install_echoes() { cargo build --release --quiet --manifest-path benches/peers/Cargo.toml; }

# install NEED: once; a failure is told here, and where a row needs it.
install() {
    local name=$1
    [ -z "${TRIED[$name]:-}" ] || return 0
    TRIED[$name]=1
    [ "$name" != sockudo ] || [ -x "$SOCKUDO" ] || say "building sockudo: 10 minutes or more; --skip sockudo leaves it out"
    # Beside this shell and not in a condition, so that its first failing command ends it.
    "install_$name" >"$RUN/logs/install-$name.log" 2>&1 &
    wait $! || {
        MISSING[$name]="$name could not be installed: $(last_words "install-$name")"
        say "${MISSING[$name]}"
    }
}

# all_installed: whether everything that was tried is there; says what is not.
all_installed() {
    [ ${#MISSING[@]} -gt 0 ] || return 0
    say "not installed: ${!MISSING[*]}; the logs are in $RUN/logs"
    return 1
}

# there PEER LABEL: whether it can be had; a row that says why not.
there() {
    local need
    for need in $(needs_of "$1"); do
        [ -z "${MISSING[$need]:-}" ] || { not_measured "$2" "${MISSING[$need]}"; return 1; }
    done
    if [ "$1" = centrifugo ] && [ -z "${CENTRIFUGO:-}" ]; then
        not_measured "$2" "no binary given: CENTRIFUGO=path"
        return 1
    fi
}
