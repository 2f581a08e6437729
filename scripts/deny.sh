#!/usr/bin/env bash
# Checks the dependencies against deny.toml: licences, bans, sources; with --advisories the known vulnerabilities too, for which
# the advisory database is fetched. Installs cargo-deny where it is missing, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

checks=(licenses bans sources)
case ${1:-} in
    "") ;;
    --advisories) checks+=(advisories) ;;
    *)
        echo "deny: $1 is not known; the only option is --advisories" >&2
        exit 2
        ;;
esac

cargo deny --version >/dev/null 2>&1 || nice cargo install cargo-deny --locked
exec cargo deny check "${checks[@]}"
