#!/bin/sh
# Compares the kernel settings of this host with sysctl.d/90-tidegate.conf, applies them, and takes them back.
# POSIX sh: it also runs in the busybox container of the node-tuning DaemonSet.
set -eu

usage() {
    cat <<'TEXT'
tune.sh [--check | --apply | --undo | --print] [--target N] [--conf FILE] [--state FILE] [--sysctls DIR]

  --check      show each setting, what the host has and what is wanted (the default; changes nothing, needs no root)
  --apply      show the difference, remember the old values, change what is short; never lowers a limit
  --undo       write the remembered values back
  --print      print the settings for the target as a sysctl.d file
  --target N   connections of this host, 1000 to 10000000 (default 1000000)
  --conf FILE  settings (default: sysctl.d/90-tidegate.conf beside this script)
  --state FILE where --apply remembers the old values (default /var/lib/tidegate/tune.undo)
  --sysctls DIR the settings' files (default /proc/sys)

Exit codes: 0 the host fits (or was made to), 1 it does not or a write failed, 2 bad arguments or a bad settings file.
TEXT
}

bad() {
    echo "tune.sh: $1" >&2
    exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
mode=check
target=1000000
conf=$here/sysctl.d/90-tidegate.conf
state=/var/lib/tidegate/tune.undo
sysctls=/proc/sys
memory_file=${TIDEGATE_TUNE_MEMINFO:-/proc/meminfo}

mode_given=
while [ $# -gt 0 ]; do
    case $1 in
    --check | --apply | --undo | --print)
        [ -z "$mode_given" ] || bad "--$mode_given and $1 exclude each other; give one of them"
        mode=${1#--}
        mode_given=$mode
        ;;
    --target | --conf | --state | --sysctls)
        [ $# -ge 2 ] || bad "$1 needs a value; see --help"
        case $1 in
        --target) target=$2 ;;
        --conf) conf=$2 ;;
        --state) state=$2 ;;
        --sysctls) sysctls=$2 ;;
        esac
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) bad "unknown argument '$1'; see --help" ;;
    esac
    shift
done

is_number() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    [ ${#1} -le 19 ]
}

{ is_number "$target" && [ ${#target} -le 8 ] && [ "$target" -ge 1000 ] && [ "$target" -le 10000000 ]; } ||
    bad "--target is '$target'; give a number of connections from 1000 to 10000000"
[ -r "$conf" ] || bad "cannot read the settings file '$conf'; give another with --conf"
[ -d "$sysctls" ] || bad "'$sysctls' is no directory; is /proc mounted?"

# An idle connection costs the kernel and the gateway about 4,100 bytes (docs/operations.md, sizing).
memory_kib=$(awk '$1 == "MemTotal:" { print $2 }' "$memory_file")
needed_kib=$((target * 4100 / 1024))
if [ "$mode" != undo ] && [ "$mode" != print ] && [ "$needed_kib" -gt "${memory_kib:-0}" ]; then
    bad "$target connections need $((needed_kib / 1024)) MiB before they say anything, and this host has $((${memory_kib:-0} / 1024)) MiB; lower --target"
fi

# settings: prints "key optional rule unit value..." for each setting, scaled to the target; fails on the first bad line.
settings() {
    awk -v target="$target" -v base=1000000 '
        function bad(why) { printf "tune.sh: %s:%d: %s\n", FILENAME, NR, why > "/dev/stderr"; failed = 1; exit 2 }
        /^#:/ {
            rule = $2; unit = $3; scales = ($4 == "scales")
            if (rule !~ /^(at-least|at-most|range|ports)$/) bad("the rule is \"" rule "\"; use at-least, at-most, range or ports")
            if (unit == "") bad("a rule names the unit of its value")
            next
        }
        /^[ \t]*(#|;|$)/ { next }
        {
            if (rule == "") bad("a setting needs a line \"#: RULE UNIT\" before it")
            eq = index($0, "=")
            if (!eq) bad("expected \"key = value\"")
            key = substr($0, 1, eq - 1); value = substr($0, eq + 1)
            gsub(/[ \t]/, "", key); gsub(/^[ \t]+|[ \t]+$/, "", value)
            optional = sub(/^-/, "", key)
            if (key !~ /^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/) bad("\"" key "\" is no sysctl name")
            if (key in seen) bad("\"" key "\" is set twice")
            seen[key] = 1
            pattern = (rule == "ports") ? "^[0-9]+(,[0-9]+)*$" : "^[0-9]+([ \t]+[0-9]+)*$"
            if (value !~ pattern) bad("the value of " key " is \"" value "\", not a number or list of numbers")
            if (scales) {
                n = split(value, part, /[ \t]+/); value = ""
                for (i = 1; i <= n; i++) value = value (i > 1 ? " " : "") sprintf("%d", part[i] * target / base)
            }
            print key, optional, rule, unit, value
            rule = ""; found = 1
        }
        END { if (!failed && !found) bad("no setting in this file") }
    ' "$conf"
}

path_of() {
    echo "$sysctls/$(echo "$1" | tr . /)"
}

# merged RULE NOW WANTED...: what the host should have: never less than it has, never less than wanted.
merged() {
    rule=$1 now=$2
    shift 2
    if [ "$rule" = ports ]; then
        # The kernel shows neighbours as a range; a port inside one counts as listed.
        echo "$now,$1" | tr ',' '\n' | awk -F- '
            NF == 2 { for (p = $1; p <= $2; p++) have[p] = 1 }
            NF == 1 && $1 != "" { have[$1 + 0] = 1 }
            END {
                for (p = 1; p <= 65536; p++) {
                    if (p in have) { if (!start) start = p; end = p }
                    else if (start) { printf "%s%s", comma, (start == end ? start : start "-" end); comma = ","; start = 0 }
                }
                print ""
            }'
        return
    fi
    index=0 out=
    for wanted in "$@"; do
        index=$((index + 1))
        has=$(echo "$now" | awk -v i=$index '{ print $i }')
        is_number "$has" || has=$wanted
        better=$has
        case $rule$index in
        at-most* | range1) [ "$has" -le "$wanted" ] || better=$wanted ;;
        *) [ "$has" -ge "$wanted" ] || better=$wanted ;;
        esac
        out="$out${out:+ }$better"
    done
    echo "$out"
}

read_value() {
    tr '\t' ' ' <"$1" | sed 's/^ *//; s/ *$//'
}

# plan: prints "verdict|key|now|then|unit" for each setting of this host.
plan() {
    while read -r key optional rule unit value; do
        file=$(path_of "$key")
        if [ ! -e "$file" ]; then
            if [ "$optional" = 1 ]; then echo "absent|$key|-|-|$unit"; else echo "missing|$key|-|$value|$unit"; fi
            continue
        fi
        now=$(read_value "$file")
        # shellcheck disable=SC2086 # the value's fields are arguments
        then=$(merged "$rule" "$now" $value)
        if [ "$now" = "$then" ]; then echo "ok|$key|$now|$then|$unit"; else echo "short|$key|$now|$then|$unit"; fi
    done
}

show() {
    awk -F'|' '
        BEGIN { printf "%-36s %-24s %-24s %s\n", "setting", "host", "wanted", "unit" }
        $1 == "ok" { printf "%-36s %-24s %-24s %s\n", $2, $3, "ok", $5 }
        $1 == "short" { printf "%-36s %-24s %-24s %s\n", $2, ($3 == "" ? "(none)" : $3), $4, $5 }
        $1 == "absent" { printf "%-36s %-24s %-24s %s\n", $2, "not loaded", "nothing to do", $5 }
        $1 == "missing" { printf "%-36s %-24s %-24s %s\n", $2, "unknown here", $4, $5 }'
}

# Writes key=value lines from standard input; stops at the first that the kernel refuses.
write_all() {
    while IFS='=' read -r key value; do
        if ! printf '%s\n' "$value" 2>/dev/null >"$(path_of "$key")"; then
            echo "tune.sh: the kernel refused $key = $value; run as root, and in the host's network namespace" >&2
            return 1
        fi
        echo "$key = $value"
    done
}

undo() {
    [ -r "$state" ] || bad "nothing to undo: '$state' does not exist; --apply writes it"
    if grep -Evq '^[a-z0-9_-]+(\.[a-z0-9_-]+)+=[0-9, 	-]*$' "$state"; then
        bad "'$state' has a line that is no remembered setting; nothing was changed"
    fi
    write_all <"$state" || exit 1
    rm -f "$state"
}

apply() {
    changes=$(echo "$planned" | awk -F'|' '$1 == "short" { print $2 "=" $4 }')
    if [ -z "$changes" ]; then
        echo "nothing to change"
        return
    fi
    # An older memory stays: undo goes back to what the host had before the first apply.
    mkdir -p "$(dirname "$state")" && touch "$state" || bad "cannot write '$state'; give another with --state, or run as root"
    echo "$planned" | awk -F'|' '$1 == "short" { print $2 "=" $3 }' | while IFS='=' read -r key value; do
        grep -q "^$key=" "$state" || echo "$key=$value" >>"$state"
    done
    if ! echo "$changes" | write_all; then
        echo "tune.sh: taking back what was changed" >&2
        undo >&2
        exit 1
    fi
    echo "undo with: tune.sh --undo --state $state"
}

all=$(settings) || exit 2
case $mode in
print)
    echo "# tidegate, for $target connections"
    echo "$all" | while read -r key optional _rule _unit value; do
        [ "$optional" = 1 ] && key=-$key
        echo "$key = $value"
    done
    exit 0
    ;;
undo)
    undo
    exit 0
    ;;
esac

planned=$(echo "$all" | plan)
echo "$planned" | show
if echo "$planned" | grep -q '^missing|'; then
    bad "this kernel does not know the settings marked 'unknown here' (or they belong to the host's namespace); nothing was changed"
fi
if [ "$mode" = apply ]; then
    apply
    exit 0
fi
short=$(echo "$planned" | grep -c '^short|' || true)
[ "$short" -eq 0 ] && { echo "the host fits $target connections"; exit 0; }
echo "$short settings are short of $target connections; scripts/tune.sh --apply raises them"
exit 1
