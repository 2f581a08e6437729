"""The image: its root file system started without an engine, and the gateway under what runtimes do to it."""

import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from conftest import ROOT, TUNING, rendered, run
from gateway import free_port, http, wait_until
from relations import gateway_pod

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


def test_the_same_input_makes_the_same_file_system(rootfs, tidegate, tmp_path):
    def described(folder):
        return {str(p.relative_to(folder)): (p.lstat().st_mode, p.lstat().st_mtime, p.read_bytes() if p.is_file() else b"")
                for p in folder.rglob("*")}

    run(ROOTFS, "--out", tmp_path / "again", "--binary", tidegate)
    assert described(tmp_path / "again") == described(rootfs)


@needs_root
def test_every_command_works_in_the_image(rootfs):
    assert run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "--version").stdout.startswith("tidegate ")
    assert '"binding"' in run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "check", "--json").stdout
    refused = run(ROOTFS, "--run", rootfs, "/usr/bin/tidegate", "--no-such-flag", check=False)
    assert refused.returncode == 2


@needs_root
@pytest.mark.parametrize("without, driver, why", [([], "io_uring", "the probe succeeded"), (WITHOUT, "epoll", "io_uring is refused")])
def test_the_image_runs_on_io_uring_under_our_profile_and_on_epoll_under_the_runtimes(without, driver, why, rootfs):
    port, admin = free_port(), free_port()
    # A mount namespace for its /proc; each step becomes the next one, so the process id stays.
    namespace = ["unshare", "--mount", "sh", "-c", 'mount -t proc proc "$0/proc" && exec "$@"', rootfs]
    serve = ["/usr/bin/tidegate", "serve", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    process = subprocess.Popen([*namespace, *SECCOMP, *without, "--root", rootfs, *serve], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        def node():
            try:
                return json.loads(http(f"http://127.0.0.1:{admin}/v1/node")[1])
            except OSError:
                return None

        told = wait_until(node, 30, "the gateway in the image")
        assert told["driver"]["name"] == driver and told["driver"]["why"].startswith(why)
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t65532\t", status, re.M) and re.search(r"^Seccomp:\t2$", status, re.M)
        with connect(f"ws://127.0.0.1:{port}") as client:
            assert json.loads(client.recv(timeout=5))["type"] == "welcome"
    finally:
        process.kill()
        process.wait()


def test_the_pods_pre_stop_hook_drains_a_gateway_that_has_a_token_and_returns_when_it_is_empty(tidegate, gateways):
    program, *words = gateway_pod(rendered("k8s/base"))["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "/usr/bin/tidegate"
    gateway = gateways('[drain]\nwindow = "1s"\n', admin_token="s3cret")
    hook = [tidegate] + [word.replace("127.0.0.1:9090", f"127.0.0.1:{gateway.admin_port}") for word in words]
    with connect(gateway.url) as client:
        refused = run(*hook, check=False)
        assert refused.returncode == 1 and "TIDEGATE_ADMIN_TOKEN" in refused.stderr
        # As the Secret puts it into the container's environment.
        run(*hook, env={**os.environ, "TIDEGATE_ADMIN_TOKEN": "s3cret"})
        assert [json.loads(client.recv(timeout=5))["type"] for _ in range(2)] == ["welcome", "server-shutdown"]
    assert gateway.metric("ws_connections_active") == 0 and gateway.ready() == 503


@pytest.mark.parametrize("arguments, complaint", [
    ([], "give --out, --check or --run"),
    (["--out"], "needs a directory"),
    (["--out", "a", "--check", "b"], "exclude each other"),
    (["--out", "{new}", "--binary", "/etc/passwd"], "is no program"),
    (["--out", "{full}"], "is not empty"),
    (["--check", "{full}"], "no root file system"),
    (["--out", "{new}", "--binary"], "--binary needs a value"),
    (["--check", "{full}", "--port"], "--port needs a value"),
    (["--check", "{full}", "--port", "80"], "from 1024 to 32766"),
    (["--check", "{full}", "--port", "http"], "--port is 'http'"),
    (["--run", "{full}"], "needs a command"),
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


def test_the_dockerfile_builds_with_the_compiler_that_the_tests_run_with():
    pinned = re.search(r'^channel = "([^"]+)"$', (ROOT / "rust-toolchain.toml").read_text(), re.M)[1]
    assert f"\nARG RUST={pinned}\n" in (ROOT / "Dockerfile").read_text()


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
    assert {f.split("/")[0] for f in kept} <= {"Cargo.toml", "Cargo.lock", "src", "benches", "docs", "examples", "scripts"}
    included = [(f, name) for f in tracked if re.match(r"src/.*\.rs$", f) for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', (ROOT / f).read_text())]
    assert included and {os.path.normpath(f"{pathlib.Path(f).parent}/{name}") for f, name in included} <= set(kept)
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
