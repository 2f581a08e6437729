#!/usr/bin/env bash
# Writes the lock files of this folder anew: python.txt and kubectl.txt from the .in files, package-lock.json from package.json.
#
#   tests/deps/lock.sh [--upgrade]
#
# --upgrade   takes the newest Python packages; without it, those that are locked stay, and only what is new or gone changes
#
# The versions of Node packages stand in package.json. Python's lock holds for every Python from 3.10 on. Afterwards run
# scripts/install-test-deps.sh and the tests, then commit.
set -euo pipefail
cd "$(dirname "$0")"

upgrade=()
case ${1:-} in
'') ;;
--upgrade) upgrade=(--upgrade) ;;
-h | --help)
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*)
    echo "lock: $1 is unknown; see --help" >&2
    exit 2
    ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch"
"$scratch/bin/pip" install --quiet --disable-pip-version-check uv==0.13.8

# lock NAME ARGUMENT...: NAME.txt from NAME.in.
lock() {
    local name=$1
    shift
    UV_CUSTOM_COMPILE_COMMAND=tests/deps/lock.sh "$scratch/bin/uv" --no-config pip compile --quiet --universal --python-version 3.10 \
        --generate-hashes --no-annotate --no-emit-find-links --no-emit-index-url "${upgrade[@]}" "$@" "$name.in" --output-file "$name.txt"
}

lock python
# The archive alone is used, not what it would install beside it.
lock kubectl --no-deps

# Without "resolved" fields the lock names no registry, so it is the same wherever it is written.
npm install --silent --package-lock-only --ignore-scripts --no-fund --no-audit --omit-lockfile-registry-resolved
