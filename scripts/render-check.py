#!/usr/bin/env python3
"""Renders a kustomization of your own and checks it as CI checks ours: render-check.py DIR [--kubernetes 1.33]

Each object against Kubernetes' schemas (and ours for KEDA's and the Prometheus operator's), every pod against Pod Security
"restricted" (told, not refused), the relations between the numbers, and the gateway's own configuration by the gateway ($TIDEGATE_BIN,
or a build in target/; left out without one). Changes nothing. Needs scripts/install-test-deps.sh python kubectl; run it with
.deps/venv/bin/python. Exit codes: 0 fine, 1 something is wrong, 2 bad arguments.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/deploy"))
try:
    import yaml

    from conftest import binary
    from pod_security import offences
    from relations import complaints, gateway_toml, of_kind
    from schema import Invalid, validate
except ImportError as error:
    sys.exit(f"render-check.py: {error}; run scripts/install-test-deps.sh python kubectl, and this script with .deps/venv/bin/python")


def rendered(directory):
    """The objects that kustomize makes of a directory."""
    own = ROOT / ".deps/bin/kubectl"
    kubectl = own if own.exists() else shutil.which("kubectl")
    if not kubectl:
        sys.exit("render-check.py: no kubectl, which carries kustomize; run scripts/install-test-deps.sh python kubectl")
    result = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"render-check.py: kustomize refuses {directory}:\n{result.stderr.strip()}")
    return [o for o in yaml.safe_load_all(result.stdout) if o]


def invalid(objects, version):
    """One line for each object that the API server would refuse."""
    for o in objects:
        try:
            validate(o, version)
        except Invalid as error:
            yield f"{o['kind']} {o['metadata']['name']}: {error}"


def refused_by_the_gateway(objects):
    """What the gateway itself says about its configuration."""
    if not binary():
        print("no gateway binary here, so tidegate.toml was not checked by it; cargo build, or set TIDEGATE_BIN")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(gateway_toml(objects))
        file.flush()
        result = subprocess.run([binary(), "--config", file.name, "--print-config"], capture_output=True, text=True, check=False)
    if result.returncode:
        yield f"tidegate.toml: {result.stderr.strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--kubernetes", default="1.33", metavar="VERSION")
    arguments = parser.parse_args()
    if not (arguments.directory / "kustomization.yaml").exists():
        parser.error(f"'{arguments.directory}' has no kustomization.yaml")
    if not re.fullmatch(r"1\.\d\d", arguments.kubernetes):
        parser.error(f"--kubernetes is '{arguments.kubernetes}'; give a version such as 1.33")
    objects = rendered(arguments.directory)
    wrong = list(invalid(objects, arguments.kubernetes))
    if not wrong and any(o["metadata"]["name"] == "tidegate" for o in of_kind(objects, "Deployment")):
        wrong = list(complaints(objects)) or list(refused_by_the_gateway(objects))
    for complaint in wrong:
        print(f"wrong: {complaint}", file=sys.stderr)
    for o in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet"):
        for offence in offences(o["spec"]["template"]["spec"]):
            print(f"not admitted by Pod Security restricted: {o['kind']} {o['metadata']['name']}: {offence}")
    print(f"{len(objects)} objects, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
