#!/usr/bin/env bash
# Runs the pure core's tests and end-to-end stories under the address sanitizer and valgrind, and the core under Miri.
set -euo pipefail

usage() {
    cat <<'TEXT'
sanitize.sh [CHECK...]

  asan-core         the core's tests under the address sanitizer
  asan-gateway      the gateway built with it, leaks included, through the end-to-end stories of the protocol, on both drivers
  valgrind-core     the tests of messages under valgrind
  valgrind-gateway  the gateway under valgrind, through one file of stories, on epoll
  miri-core         the core's protocol tests under Miri

Without arguments all of them, a quarter of an hour on two cores. What this machine lacks is said and left out. The gateway is
built without mimalloc here: its own allocator hides errors from both tools. Outcomes are saved in target/sanitize/summary.tsv,
logs beside it. A nightly toolchain is used where there is one, else RUSTC_BOOTSTRAP=1.
Exit codes: 0 nothing was found, 1 a check failed, 2 bad arguments.
TEXT
}

root=$(cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
out=$root/target/sanitize summary=$root/target/sanitize/summary.tsv triple=$(rustc -vV | sed -n 's/^host: //p')
all=(asan-core asan-gateway valgrind-core valgrind-gateway miri-core)
status=0

# Replaces the line of check $1 in the summary by: check, outcome.
note() {
    local rest
    rest=$(awk -F'\t' -v name="$1" '$1 != name' "$summary")
    { [ -z "$rest" ] || printf '%s\n' "$rest"; printf '%s\t%s\n' "$1" "$2"; } | sort >"$summary.new"
    mv "$summary.new" "$summary"
    printf '%s: %s\n' "$1" "$2"
}

passed() { awk '/^test result:/ {n += $4} END {print n + 0}' "$1"; }

# Runs function "$2" as check "$1": ok is status 0, a test that ran, and no finding.
check() {
    local log=$out/$1.log found
    rm -f "$out"/finding.*
    local verdict=ok
    "$2" >"$log" 2>&1 || verdict=failed
    found=$(find "$out" -name 'finding.*' -size +0 -exec cat {} +)
    if [ $verdict = ok ] && [ "$(passed "$log")" -gt 0 ] && [ -z "$found" ]; then
        note "$1" "ok, $(passed "$log") tests"
        return
    fi
    printf '%s\n' "$found" >>"$log"
    note "$1" "FAILED, see ${log#"$root"/}"
    status=1
}

with_nightly() {
    if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then cargo +nightly "$@"; else RUSTC_BOOTSTRAP=1 cargo "$@"; fi
}

with_asan() {
    RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$root/target/asan with_nightly "$@" --target "$triple"
}

# The path of the binary that "cargo $2..." makes and that is called $1.
made() {
    local name=$1
    shift
    "$@" --message-format json | sed -n 's/.*"executable":"\([^"]*\/'"$name"'[^"/]*\)".*/\1/p' | tail -1
}

# Tells end-to-end stories of the gateway $1.
stories() {
    local gateway=$1
    shift
    GATEWAY_UNDER_TEST=$gateway cargo test --test e2e -- --test-threads 2 "$@"
}

asan_core() {
    with_asan test --package tidegate-core --package tidegate --no-default-features --lib --test ws_message --test http_handshake --test ws_deflate --test native_dialect
}

asan_gateway() {
    local gateway
    gateway=$(made tidegate with_asan build --bin tidegate --no-default-features)
    ASAN_OPTIONS=detect_leaks=1:log_path=$out/finding \
        LSAN_OPTIONS=suppressions=$root/scripts/leaks.supp:print_suppressions=0 stories "$gateway" protocol:: raw:: rooms::
}

valgrind_core() {
    local tests
    tests=$(made ws_message cargo test --no-default-features --test ws_message --no-run)
    # What is "possibly lost" is std's: it keeps the main thread's handle.
    valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$tests" --test-threads 1 --skip 65_536 --skip every_close_code
}

# Errors end in a file, since the gateway's log belongs to its test.
valgrind_gateway() {
    local gateway
    gateway=$(made tidegate cargo build --bin tidegate --no-default-features)
    # Building the stories builds the ordinary gateway in its place.
    cp "$gateway" "$out/gateway"
    cat >"$out/under-valgrind" <<TEXT
#!/bin/sh
exec valgrind -q --error-exitcode=9 --log-file="$out/finding.%p" "$out/gateway" "\$@"
TEXT
    chmod +x "$out/under-valgrind"
    stories "$out/under-valgrind" raw::on_epoll
}

miri_core() { with_nightly miri test --package tidegate-core --lib ws::; }

for name in "$@"; do
    case $name in
    --help | -h) usage && exit 0 ;;
    asan-core | asan-gateway | valgrind-core | valgrind-gateway | miri-core) ;;
    *) echo "sanitize.sh: there is no check $name; see --help" >&2 && exit 2 ;;
    esac
done
[ $# -gt 0 ] || set -- "${all[@]}"
mkdir -p "$out"
touch "$summary"
for name in "$@"; do
    case $name in
    valgrind-*) command -v valgrind >/dev/null || { note "$name" 'not run: valgrind is not installed'; continue; } ;;
    miri-*)
        with_nightly miri --version >/dev/null 2>&1 ||
            { note "$name" 'not run: the toolchain has no Miri (rustup component add miri)'; continue; }
        ;;
    esac
    check "$name" "${name//-/_}"
done
exit $status
