#!/usr/bin/env bash
# Counts the instructions of the hot paths under callgrind and compares them with benches/instructions.txt.
#
#   scripts/instructions.sh [--update]
#
# --update   write what was counted into the file, as the counts of the commit that is checked out
#
# The programs are benches/instructions.rs: what is counted is the shard with everything above the kernel, and the same
# instructions run each time. The file names the commit at which its counts were taken. Every later change is compared with that
# commit, not with the change before it, so that small growth does not add up unseen.
#
# Exit code 0: no path grew by more than 2 %; 1: one did; 3: it could not be counted or compared. Another compiler than that of
# rust-toolchain.toml gives other counts from the same source and is an error. On another processor architecture or with another
# C library the counts are printed and not compared.
#
# The counts are rebased where growth is meant, and where the compiler, the profile or a path's program changes: in a commit of
# its own that says why, with the counts before and after. For a new compiler or profile, count the commit that the file names
# again: check it out, take the new rust-toolchain.toml or Cargo.toml, run --update, and commit the file that this writes.
set -euo pipefail
cd "$(dirname "$0")/.."

FILE=benches/instructions.txt
PATHS=(frame-in publish deliver upgrade heartbeat)
MOST_PERCENT=2
# The source of what is counted.
SOURCE=(src benches/instructions.rs benches/harness Cargo.lock)

say() { printf 'instructions: %s\n' "$*"; }

die() {
    say "$*" >&2
    exit 3
}

pinned_compiler() { sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml; }

compiler() { rustc --version | cut -d' ' -f2; }

# platform: what the counts depend on beside the source and the compiler. The C library and the crates choose their loops over
# octets by what the processor can do.
platform() {
    local vectors=
    ! grep -qw avx2 /proc/cpuinfo || vectors=' with AVX2'
    printf '%s%s, glibc %s' "$(uname -m)" "$vectors" "$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)"
}

require_pinned_compiler() {
    local pinned now
    pinned=$(pinned_compiler)
    now=$(compiler) || now='that does not start (its error is above)'
    [ "$now" = "$pinned" ] || die "error: this is rustc $now, and the counts are those of rustc $pinned, which rust-toolchain.toml names;" \
        "install it (rustup toolchain install $pinned), unset RUSTUP_TOOLCHAIN, and let rustup's rustc be the first in PATH"
}

require_counts_of_this_compiler() {
    local taken
    [ -f "$FILE" ] || die "error: $FILE is missing; git checkout brings it back"
    taken=$(sed -n 's/^rustc //p' "$FILE")
    [ "$taken" = "$(pinned_compiler)" ] || die "error: the counts in $FILE are those of rustc $taken, and rust-toolchain.toml names" \
        "$(pinned_compiler); take them anew, as --help says for a new compiler"
}

require_committed_source() {
    git diff --quiet HEAD -- "${SOURCE[@]}" ||
        die "error: ${SOURCE[*]} differ from the commit that is checked out; commit the change, then take its counts"
}

# built: path of the program, built as a release is.
built() {
    # Another value in the caller's environment would have other functions inlined.
    CARGO_INCREMENTAL=0 cargo build --quiet --profile counted --package tidegate-core --example instructions --message-format json |
        sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

# counted PROGRAM PATH: instructions of one, in tenths.
counted() {
    local out times total
    out=$(mktemp)
    times=$(valgrind --tool=callgrind --callgrind-out-file="$out" --toggle-collect='instructions::measured*' \
        --log-file="$out.log" "$1" "$2") || die "$2 failed: $(tail -1 "$out.log")"
    total=$(sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$out" | head -1)
    rm -f "$out" "$out.log"
    [ "${total:-0}" -gt 0 ] || die "callgrind counted nothing of $2: is the function measured() still there?"
    printf '%s' $((total * 10 / times))
}

# decimal TENTHS: as a number with one digit after the point.
decimal() { printf '%d.%d' $(($1 / 10)) $(($1 % 10)); }

write_counts() {
    local path
    {
        echo "# Instructions of one of each hot path (benches/instructions.rs says what one is), as callgrind counts them at a commit."
        echo "# Written by scripts/instructions.sh --update; CI fails where one grows by more than $MOST_PERCENT % over this commit's."
        echo "commit $(git rev-parse --short=7 HEAD)"
        echo "rustc $(compiler)"
        echo "platform $(platform)"
        for path in "${PATHS[@]}"; do echo "$path $(decimal "${NOW[$path]}")"; done
    } >"$FILE"
    say "$FILE is written:"
    sed -n '/^[^#]/s/^/  /p' "$FILE"
}

# compare: prints each path's growth; with a "yes", judges it too. Sets GROWN to the number of paths that grew too much.
compare() {
    local judged=$1 path before now tenths mark
    GROWN=0
    for path in "${PATHS[@]}"; do
        before=$(sed -n "s/^$path //p" "$FILE") now=${NOW[$path]} mark=
        [[ $before =~ ^[0-9]+\.[0-9]$ ]] || die "error: $FILE has no count of $path; rebase it, as --help says"
        tenths=${before/./}
        if [ "$judged" ] && [ $((now * 100)) -gt $((tenths * (100 + MOST_PERCENT))) ]; then
            mark='  more than allowed'
            GROWN=$((GROWN + 1))
        fi
        awk -v path="$path" -v before="$before" -v now="$(decimal "$now")" -v mark="$mark" -v commit="$COMMIT" \
            'BEGIN { printf "  %-10s %9.1f at %s %9.1f now  %+7.2f %%%s\n", path, before, commit, now, (now / before - 1) * 100, mark }'
    done
}

UPDATE=
case ${1:-} in
'') ;;
--update) UPDATE=1 ;;
-h | --help)
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*)
    say "$1 is unknown; see --help" >&2
    exit 2
    ;;
esac

command -v valgrind >/dev/null || die "valgrind is missing: run scripts/install-test-deps.sh (Debian: apt-get install valgrind)"
require_pinned_compiler
if [ "$UPDATE" ]; then require_committed_source; else require_counts_of_this_compiler; fi

program=$(built)
[ -x "$program" ] || die "benches/instructions.rs does not build"
declare -A NOW
for path in "${PATHS[@]}"; do
    NOW[$path]=$(counted "$program" "$path")
done

if [ "$UPDATE" ]; then
    write_counts
    exit 0
fi

COMMIT=$(sed -n 's/^commit //p' "$FILE")
before_on=$(sed -n 's/^platform //p' "$FILE")
if [ "$before_on" != "$(platform)" ]; then
    compare ''
    say "not compared: the counts of $COMMIT were taken on $before_on, this is $(platform)"
    exit 0
fi
compare yes
say "$((${#PATHS[@]} - GROWN)) of ${#PATHS[@]} paths grew by no more than $MOST_PERCENT % since $COMMIT"
[ "$GROWN" = 0 ] || {
    say "make the path cheaper again; where the growth is meant, rebase the counts, as --help says"
    exit 1
}
