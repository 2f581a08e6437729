"""What the deployment tests share: where things are, the rendered manifests, the gateway's binary."""

import functools
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from gateway import Gateway

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUNING = ROOT / "tuning"
K8S = ROOT / "k8s"


def run(*command, check=True, **options):
    """Runs a command and gives its result with the output as text; a failure shows what it printed."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"{command} ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def kubectl():
    """The kubectl that install.sh chose."""
    own = ROOT / ".deps" / "bin" / "kubectl"
    return str(own) if own.exists() else shutil.which("kubectl") or pytest.fail("no kubectl; run tests/deploy/install.sh")


@functools.cache
def rendered(name):
    """The objects that `kubectl kustomize` makes of one directory under the root."""
    return [document for document in yaml.safe_load_all(run(kubectl(), "kustomize", ROOT / name).stdout) if document]


def one(objects, kind, name=None):
    """The only object of a kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"expected one {kind} {name or ''}, found {[o['metadata']['name'] for o in found]}"
    return found[0]


def binary():
    """The gateway: $TIDEGATE_BIN, or the newest build of this tree; None where there is none."""
    named = os.environ.get("TIDEGATE_BIN")
    if named:
        return pathlib.Path(named).resolve(strict=True)
    built = [p for p in (ROOT / "target" / kind / "tidegate" for kind in ("release", "debug")) if p.exists()]
    return max(built, key=lambda p: p.stat().st_mtime, default=None)


@pytest.fixture(scope="session")
def tidegate():
    """The gateway's binary. CI sets TIDEGATE_REQUIRE_BIN, so that a missing build fails there instead of skipping."""
    path = binary()
    if path is None:
        if os.environ.get("TIDEGATE_REQUIRE_BIN"):
            pytest.fail("no gateway binary: cargo build, or set TIDEGATE_BIN")
        pytest.skip("no gateway binary: cargo build, or set TIDEGATE_BIN")
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
