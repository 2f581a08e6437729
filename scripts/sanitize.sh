#!/usr/bin/env bash
# Runs the pure core's tests under the address sanitizer, and under valgrind and Miri where this machine has them.
set -euo pipefail

root=$(cd -- "$(dirname -- "$0")/.." && pwd)
out=$root/target/sanitize triple=$(rustc -vV | sed -n 's/^host: //p') status=0
mkdir -p "$out"
: >"$out/summary.tsv"
cd "$root"
core=(--no-default-features --lib --test proto_message --test proto_handshake --test proto_deflate --test proto_native)

note() { printf '%s\t%s\n' "$1" "$2" | tee -a "$out/summary.tsv"; }

# Runs "$2..." as the check called $1.
check() {
    local name=$1
    shift
    if "$@" >"$out/$name.log" 2>&1; then note "$name" ok; else note "$name" "FAILED, see $out/$name.log"; status=1; fi
}

under_valgrind() {
    local binary
    binary=$(cargo test --no-default-features --test proto_message --no-run --message-format json | sed -n 's/.*"executable":"\([^"]*proto_message[^"]*\)".*/\1/p')
    valgrind --error-exitcode=9 --leak-check=full "$binary" --test-threads 1 --skip 65_536 --skip every_close_code
}

nightly=''
! rustup toolchain list 2>/dev/null | grep -q '^nightly' || nightly=+nightly
[ -n "$nightly" ] || export RUSTC_BOOTSTRAP=1
check address-sanitizer-core env RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR="$root/target/asan" \
    cargo $nightly test --target "$triple" "${core[@]}"
if command -v valgrind >/dev/null; then check valgrind-core under_valgrind; else note valgrind-core "not run: valgrind is not installed"; fi
if cargo $nightly miri --version >/dev/null 2>&1; then
    check miri-core cargo $nightly miri test --no-default-features --lib proto::
else
    note miri-core "not run: the toolchain has no Miri; rustup component add miri"
fi
exit $status
