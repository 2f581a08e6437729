#!/usr/bin/env bash
# Counts the instructions of the hot paths under callgrind and compares them with benches/instructions.txt.
#
#   scripts/instructions.sh [--update]
#
# --update   write what was counted into the file; commit it with the change that explains it
#
# The programs are benches/instructions.rs: what is counted is the shard with everything above the kernel, and the same
# instructions run each time. Exit code 0: nothing grew by more than 5 %; 1: something did; 3: it could not be counted.
#
# Another compiler, processor architecture or C library gives other counts from the same source, so the file names those it was
# made with. Elsewhere the counts are printed and judged by nobody: a new compiler wants --update once, in a commit of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

FILE=benches/instructions.txt
PATHS=(frame-in publish deliver upgrade heartbeat)
MOST_PERCENT=5

say() { printf 'instructions: %s\n' "$*"; }

die() {
    say "$*" >&2
    exit 3
}

UPDATE=
case ${1:-} in
'') ;;
--update) UPDATE=1 ;;
-h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    say "$1 is unknown; see --help" >&2
    exit 2
    ;;
esac

command -v valgrind >/dev/null || die "valgrind is missing: run scripts/install-test-deps.sh (Debian: apt-get install valgrind)"

# made_with: all that the counts depend on beside the source.
made_with() {
    printf '%s, %s, glibc %s' "$(rustc --version | cut -d' ' -f1-2)" "$(uname -m)" "$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
}

# built: path of the program, built as a release is but for link-time optimisation.
built() {
    cargo build --quiet --profile counted --example instructions --message-format json |
        sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

# counted PROGRAM PATH: instructions of one.
counted() {
    local out times total
    out=$(mktemp)
    times=$(valgrind --tool=callgrind --callgrind-out-file="$out" --toggle-collect='instructions::measured*' \
        --log-file="$out.log" "$1" "$2") || die "$2 failed: $(tail -1 "$out.log")"
    total=$(sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$out" | head -1)
    rm -f "$out" "$out.log"
    [ "${total:-0}" -gt 0 ] || die "callgrind counted nothing of $2: is the function measured() still there?"
    printf '%s' $((total / times))
}

program=$(built)
[ -x "$program" ] || die "benches/instructions.rs does not build"
declare -A NOW
for path in "${PATHS[@]}"; do
    NOW[$path]=$(counted "$program" "$path")
done

if [ "$UPDATE" ]; then
    {
        echo "# Instructions of one of each hot path (benches/instructions.rs says what one is), as callgrind counts them."
        echo "# Written by scripts/instructions.sh --update; CI fails where one grows by more than $MOST_PERCENT % without this file."
        echo "with $(made_with)"
        for path in "${PATHS[@]}"; do echo "$path ${NOW[$path]}"; done
    } >"$FILE"
    say "$FILE is written:"
    sed -n '/^[^#]/s/^/  /p' "$FILE"
    exit 0
fi

[ -f "$FILE" ] || die "$FILE is missing: scripts/instructions.sh --update writes it"
before_with=$(sed -n 's/^with //p' "$FILE")
COMPARED=1
[ "$before_with" = "$(made_with)" ] || COMPARED=
grown=0
for path in "${PATHS[@]}"; do
    before=$(sed -n "s/^$path //p" "$FILE")
    now=${NOW[$path]}
    if [ -z "$before" ]; then
        die "$FILE does not know $path: scripts/instructions.sh --update"
    fi
    mark=
    if [ "$COMPARED" ] && [ $((now * 100)) -gt $((before * (100 + MOST_PERCENT))) ]; then
        mark='  more than allowed'
        grown=1
    fi
    printf '  %-10s %7d before  %7d now%s\n' "$path" "$before" "$now" "$mark"
done
if [ -z "$COMPARED" ]; then
    say "not compared: the file was made with $before_with, this is $(made_with)"
elif [ "$grown" = 1 ]; then
    say "a hot path grew by more than $MOST_PERCENT %. If that is meant, run scripts/instructions.sh --update and commit the file with it"
    exit 1
else
    say "nothing grew by more than $MOST_PERCENT %"
fi
