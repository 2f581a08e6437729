#!/usr/bin/env bash
# Fuzzes every target for a given time, and tells how many inputs each took.
set -euo pipefail

usage() {
    cat <<'TEXT'
fuzz.sh [--keep] [SECONDS] [TARGET...]
fuzz.sh --add TARGET FILE...

  SECONDS   for each target (default 30)
  TARGET    some of fuzz/targets; without any, all of them
  --keep    afterwards puts up to 10 small files of what was found into fuzz/corpus/TARGET.tar, which every test run replays
  --add     puts these files into fuzz/corpus/TARGET.tar, and does nothing else

What is found is minimised into fuzz/target/corpus/TARGET and used again by the next run. Executions and sizes are saved in
target/fuzz/summary.tsv. cargo-fuzz is installed if it is missing; it needs a nightly toolchain, or takes RUSTC_BOOTSTRAP=1.
SANITIZER=address runs under the address sanitizer; the default is none, because the core is safe code, and four times as fast.
Exit codes: 0 nothing was found, 1 a target failed (its input is in fuzz/artifacts/TARGET), 2 bad arguments.
TEXT
}

root=$(cd -- "$(dirname -- "$0")/.." && pwd)
sanitizer=${SANITIZER:-none} seconds=30 keep='' targets=()

# unpack TARGET: its committed corpus into a folder of its own.
unpack() {
    rm -rf "$root/fuzz/target/committed/$1"
    mkdir -p "$root/fuzz/target/committed/$1"
    [ ! -f "$root/fuzz/corpus/$1.tar" ] || tar -xf "$root/fuzz/corpus/$1.tar" -C "$root/fuzz/target/committed/$1"
}

# pack TARGET: that folder into the archive again. The same files make the same archive, octet for octet, on any host and at any time.
pack() {
    (cd "$root/fuzz/target/committed/$1" && find . -type f -printf '%P\0' | LC_ALL=C sort -z |
        tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 --null --files-from=- -cf "$root/fuzz/corpus/$1.tar")
}

if [ "${1-}" = --add ]; then
    [ $# -ge 3 ] && [ -f "$root/fuzz/targets/$2.rs" ] || { usage >&2; exit 2; }
    unpack "$2"
    cp -- "${@:3}" "$root/fuzz/target/committed/$2"
    pack "$2"
    exit
fi
for argument in "$@"; do
    case $argument in
    --help | -h) usage && exit 0 ;;
    --keep) keep=yes ;;
    *[!0-9]*)
        [ -f "$root/fuzz/targets/$argument.rs" ] || { echo "fuzz.sh: there is no target $argument; see --help" >&2; exit 2; }
        targets+=("$argument")
        ;;
    *) seconds=$argument ;;
    esac
done
if [ ${#targets[@]} -eq 0 ]; then
    for driver in "$root"/fuzz/targets/*.rs; do targets+=("$(basename "$driver" .rs)"); done
fi

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
toolchain=()
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then toolchain=(+nightly); else export RUSTC_BOOTSTRAP=1; fi
fuzz() { (cd "$root/fuzz" && nice cargo "${toolchain[@]}" fuzz "$@"); }

out=$root/target/fuzz summary=$root/target/fuzz/summary.tsv
mkdir -p "$out"
touch "$summary"

# Replaces the line of target $1 in the summary by: target, executions, seconds, corpus files, corpus bytes, verdict.
note() {
    local rest
    rest=$(awk -F'\t' -v name="$1" '$1 != name' "$summary")
    { [ -z "$rest" ] || printf '%s\n' "$rest"; (IFS=$'\t'; printf '%s\n' "$*"); } | sort >"$summary.new"
    mv "$summary.new" "$summary"
}

# Commits of target $1 up to 10 files of at most 4 KiB from $2, from the smallest to the largest, in place of those of the last
# time. Each covers what no other does. Written by hand, and so never touched: what is not called by 12 digits of its SHA-1.
keep_some() {
    local kept=$root/fuzz/target/committed/$1 found=() file i room step
    find "$kept" -type f -regextype posix-extended -regex '.*/[0-9a-f]{12}' -delete
    mapfile -t found < <(find "$2" -type f -size -9 -printf '%s %p\n' | sort -n | cut -d' ' -f2-)
    room=$((30 - $(find "$kept" -type f | wc -l)))
    [ $room -lt 10 ] || room=10
    if [ ${#found[@]} -gt 0 ] && [ $room -gt 0 ]; then
        step=$(((${#found[@]} + room - 1) / room))
        for ((i = 0; i < ${#found[@]}; i += step)); do
            file=${found[i]}
            cp "$file" "$kept/$(sha1sum "$file" | cut -c1-12)"
        done
    fi
    pack "$1"
}

fuzz build --sanitizer "$sanitizer"
status=0
for target in "${targets[@]}"; do
    corpus=$root/fuzz/target/corpus/$target log=$out/$target.log verdict=ok
    mkdir -p "$corpus"
    unpack "$target"
    dictionary=$root/fuzz/dictionaries/$target.dict options=(-max_total_time="$seconds" -max_len=4096 -timeout=20 -print_final_stats=1)
    [ ! -f "$dictionary" ] || options+=(-dict="$dictionary")
    if ! fuzz run --sanitizer "$sanitizer" "$target" "$corpus" "target/committed/$target" -- "${options[@]}" >"$log" 2>&1; then
        verdict=FAILED status=1
        grep -E 'panicked|ERROR|Test unit' -A2 "$log" | head -20 >&2 || true
    fi
    executions=$(awk '/stat::number_of_executed_units/ {print $2}' "$log")
    if [ $verdict = ok ]; then
        fuzz run --sanitizer "$sanitizer" "$target" "$corpus.new" "$corpus" "target/committed/$target" -- \
            -set_cover_merge=1 -max_len=4096 >>"$log" 2>&1 || mkdir -p "$corpus.new"
        if [ -n "$(find "$corpus.new" -type f -print -quit)" ]; then rm -rf "$corpus" && mv "$corpus.new" "$corpus"; fi
        [ -z "$keep" ] || keep_some "$target" "$corpus"
    fi
    files=$(find "$corpus" -type f | wc -l) bytes=$(find "$corpus" -type f -printf '%s\n' | awk '{n += $1} END {print n + 0}')
    note "$target" "${executions:-0}" "$seconds" "$files" "$bytes" "$verdict"
    printf '%-18s %10s executions in %s s, corpus %s files, %s bytes: %s\n' \
        "$target" "${executions:-0}" "$seconds" "$files" "$bytes" "$verdict"
done
exit $status
