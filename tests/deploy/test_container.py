"""The image: its root file system started without an engine, and the gateway under what runtimes do to it."""

import fnmatch
import json
import os
import re
import shutil
import sys

import pytest

from conftest import ROOT, TUNING, run
from gateway import free_port

ROOTFS = ROOT / "scripts/rootfs.sh"
SECCOMP = [sys.executable, ROOT / "tests/deploy/seccomp.py", TUNING / "seccomp/tidegate-io-uring.json"]
WITHOUT = ["--without", "io_uring_setup,io_uring_enter,io_uring_register"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and chroot need root")


@pytest.fixture(scope="module")
def rootfs(tidegate, tmp_path_factory):
    """The image's root file system."""
    folder = tmp_path_factory.mktemp("image") / "rootfs"
    run(ROOTFS, "--out", folder, "--binary", tidegate)
    return folder


@needs_root
def test_the_image_starts_serves_and_drains_as_an_unprivileged_user(rootfs):
    checked = run(ROOTFS, "--check", rootfs, "--port", free_port()).stdout
    assert len(re.findall(r"^ok ", checked, re.M)) == 9


def test_the_image_holds_the_binary_its_libraries_and_nothing_to_attack_with(rootfs):
    files = {str(p.relative_to(rootfs)) for p in rootfs.rglob("*") if p.is_file()}
    other = {f for f in files if not re.fullmatch(r"(usr/)?lib(64|/x86_64-linux-gnu|/aarch64-linux-gnu)?/(ld-|lib).*\.so(\.\d+)*", f)}
    assert other == {"usr/bin/tidegate", "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt"}


@needs_root
def test_every_command_works_in_the_image(rootfs):
    assert run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "--version").stdout.startswith("tidegate ")
    assert '"binding"' in run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "check", "--json").stdout
    refused = run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "--no-such-flag", check=False)
    assert refused.returncode == 2


@pytest.mark.parametrize("arguments, complaint", [
    ([], "give --out, --check or --run"),
    (["--out"], "needs a directory"),
    (["--out", "a", "--check", "b"], "exclude each other"),
    (["--out", "{new}", "--binary", "/etc/passwd"], "is no program"),
    (["--out", "{full}"], "is not empty"),
    (["--check", "{full}"], "no root file system"),
    (["--wat"], "unknown argument"),
])
def test_the_script_refuses_nonsense_before_it_changes_anything(tmp_path, arguments, complaint):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    arguments = [a.format(new=tmp_path / "new", full=tmp_path / "full") for a in arguments]
    result = run(ROOTFS, *arguments, check=False, cwd=ROOT, env={**os.environ, "PATH": os.environ["PATH"]})
    if complaint == "is not empty":
        result = run(ROOTFS, *arguments, "--binary", sys.executable, check=False)
    assert result.returncode == 2 and complaint in result.stderr
    assert not (tmp_path / "new").exists() and (tmp_path / "full" / "file").read_text() == "mine"


def test_the_dockerfile_builds_locked_and_runs_unprivileged():
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    assert len(stages) == 3 and stages[2].startswith("scratch")
    assert "cargo build --release --locked" in stages[1] and "scripts/rootfs.sh" in stages[1]
    assert "\nUSER 65532:65532\n" in stages[2] and "RUN" not in stages[2]
    entry = re.search(r'ENTRYPOINT \["([^"]+)"\]', stages[2])[1]
    assert entry == "/usr/bin/tidegate"


def test_the_build_context_is_complete_and_holds_nothing_else(tmp_path):
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    tracked = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    kept = [f for f in tracked if any(f == r[1:] or f.startswith(r[1:] + "/") for r in rules if r.startswith("!"))]
    kept = [f for f in kept if not any(fnmatch.fnmatch(part, r[3:]) for r in rules if r.startswith("**/") for part in f.split("/"))]
    assert {f.split("/")[0] for f in kept} <= {"Cargo.toml", "Cargo.lock", "src", "benches", "examples", "scripts"}
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    run("cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", cwd=tmp_path)
    assert (tmp_path / "scripts/rootfs.sh").exists()


def test_under_the_runtimes_default_profile_the_gateway_runs_on_epoll_and_says_so(gateways):
    gateway = gateways(prefix=[*SECCOMP, *WITHOUT])
    gateway.hear_one_message()
    assert gateway.get("/v1/node")["driver"]["name"] == "epoll"
    assert 'driver="epoll"' in gateway.metrics() and '"driver":"epoll"' in gateway.text()


def test_under_our_profile_the_gateway_runs_on_io_uring(gateways):
    gateway = gateways(prefix=SECCOMP)
    gateway.hear_one_message()
    assert gateway.get("/v1/node")["driver"]["name"] == "io_uring"


def test_check_asks_for_nothing_that_the_tuning_does_not_give(tidegate):
    rows = json.loads(run(tidegate, "check", "--json", "--target", "1000000", check=False).stdout)["rows"]
    advice = " ; ".join(row["advice"] or "" for row in rows)
    conf = (TUNING / "sysctl.d/90-tidegate.conf").read_text()
    asked = re.findall(r"sysctl -w ([a-z0-9_.-]+)=\"?([0-9 ,]+)", advice)
    assert asked, "this host has everything for a million connections; nothing to compare"
    for key, value in asked:
        given = re.search(rf"^-?{re.escape(key)} = (.*)$", conf, re.M)
        assert given, f"check asks for {key}, the tuning does not set it"
        least = [int(n) for n in re.findall(r"\d+", value)]
        if key.endswith("reserved_ports"):
            assert set(least) <= {int(n) for n in re.findall(r"\d+", given[1])}
        else:
            assert all(have >= want for have, want in zip((int(n) for n in given[1].split()), least)), key
    nofile = re.search(r"LimitNOFILE=(\d+)", advice)
    if nofile:
        unit = re.search(r"^LimitNOFILE=(\d+)$", (TUNING / "systemd/tidegate.service").read_text(), re.M)
        assert int(unit[1]) >= int(nofile[1])
