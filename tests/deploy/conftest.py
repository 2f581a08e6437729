"""What the deployment tests share: where things are, the rendered manifests, the gateway's binary."""

import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
import yaml

from gateway import Gateway

# A shell script cannot trap a signal that was ignored when it began, and a job in the background of a script ignores this one.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUNING = ROOT / "tuning"
K8S = ROOT / "k8s"
# What can be applied as it is: each of them but the nodes' tuning has gateways in it.
OVERLAYS = sorted(f"k8s/overlays/{p.name}" for p in (K8S / "overlays").iterdir() if not p.name.startswith("."))
BUILDS = ["k8s/base", "k8s/node-tuning", *OVERLAYS]
GATEWAYS = [build for build in BUILDS if build != "k8s/node-tuning"]


def run(*command, check=True, **options):
    """Runs a command and gives its result with the output as text; a failure shows what it printed."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"{command} ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def kubectl():
    """The kubectl that install.sh chose."""
    own = ROOT / ".deps" / "bin" / "kubectl"
    return str(own) if own.exists() else shutil.which("kubectl") or pytest.fail("no kubectl; run scripts/install-test-deps.sh python kubectl")


@functools.cache
def rendered(name):
    """The objects that `kubectl kustomize` makes of one directory under the root."""
    return [document for document in yaml.safe_load_all(run(kubectl(), "kustomize", ROOT / name).stdout) if document]


def one(objects, kind, name=None):
    """The only object of a kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"expected one {kind} {name or ''}, found {[o['metadata']['name'] for o in found]}"
    return found[0]


@functools.cache
def commented_triggers():
    """The ScaledObject's alternatives, which stand in its file as comments."""
    lines = (K8S / "autoscaling/keda/scaledobject.yaml").read_text().splitlines()
    commented = [line.removeprefix("    # ") for line in lines if re.match(r"    # (- type: prometheus$|  \S|    \S)", line)]
    return yaml.safe_load("\n".join(commented))


def uncommented(text, *starts):
    """A file with some of the options that stand in its comments switched on."""
    lines = []
    for line in text.splitlines():
        bare = line.lstrip().removeprefix("# ")
        on = line.lstrip().startswith("# ") and any(bare.startswith(start) for start in starts)
        lines.append(line.replace("# ", "", 1) if on else line)
    return "\n".join(lines) + "\n"


def alternative_triggers():
    """Their queries."""
    return [trigger["metadata"]["query"] for trigger in commented_triggers()]


def binary():
    """The gateway: $TIDEGATE_BIN, or the newest build of this tree; None where there is none."""
    named = os.environ.get("TIDEGATE_BIN")
    if named:
        return pathlib.Path(named).resolve(strict=True)
    folder = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    built = [p for p in (folder / kind / "tidegate" for kind in ("release", "debug")) if p.exists()]
    return max(built, key=lambda p: p.stat().st_mtime, default=None)


@pytest.fixture(scope="session")
def tidegate():
    """The gateway's binary."""
    path = binary()
    if path is None:
        pytest.fail("no gateway binary: cargo build, or set TIDEGATE_BIN")
    return path


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """Every component together, the HPA instead of KEDA: what no overlay of ours builds."""
    folder = tmp_path_factory.mktemp("build")
    scratch = K8S / "overlays" / f".{folder.name}"
    scratch.mkdir()
    try:
        (scratch / "kustomization.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../../base"],
            "components": ["../../autoscaling/hpa", "../../monitoring", "../../ingress-nginx", "../../nats"]}))
        yield list(yaml.safe_load_all(run(kubectl(), "kustomize", scratch).stdout))
    finally:
        (scratch / "kustomization.yaml").unlink()
        scratch.rmdir()


@pytest.fixture
def gateways(tidegate):
    """Starts gateways that end with the test."""
    started = []

    def start(*arguments, **options):
        started.append(Gateway(tidegate, *arguments, **options))
        return started[-1]

    yield start
    for gateway in started:
        gateway.close()


@pytest.fixture(scope="session")
def gateway(tidegate):
    """One gateway for tests that only look."""
    started = Gateway(tidegate)
    yield started
    started.close()
