"""Each script says what is wrong with its arguments before it does anything. Those with more to say have their own places:
test_tuning.py (tune.sh), test_container.py (rootfs.sh), test_relations.py (render-check.py), test_autoscaling.py."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import pytest

from conftest import ROOT, run
from gateway import free_port

TWO_NODES, INSTALL = ROOT / "scripts/two-nodes.sh", ROOT / "scripts/install-test-deps.sh"
MILLION, PEERS = ROOT / "scripts/million.sh", ROOT / "scripts/bench-peers.sh"
NO_PROGRAMS = {"GATEWAY": "/nonexistent", "TIDELOAD": "/nonexistent", "FLOOR": "/nonexistent"}


@pytest.mark.parametrize("arguments, variables, complaint", [
    (["--ports", "1"], {}, "unknown argument '--ports'"),
    ([], {"FIRST_PORT": "abc"}, "FIRST_PORT is 'abc'"),
    ([], {"FIRST_PORT": "70000"}, "from 1024 to 65500"),
    ([], {"FIRST_PORT": "80"}, "from 1024 to 65500"),
    ([], {"GATEWAY": "/nonexistent"}, "is no program; build it"),
])
def test_two_nodes_refuses_nonsense(arguments, variables, complaint):
    refused = run(TWO_NODES, *arguments, check=False, env={**os.environ, **variables}, timeout=30)
    assert refused.returncode == 2 and complaint in refused.stderr


def test_two_nodes_ends_when_a_gateway_does():
    ended = run(TWO_NODES, check=False, env={**os.environ, "GATEWAY": "/bin/true", "FIRST_PORT": str(free_port())}, timeout=60)
    assert ended.returncode == 1 and "is not ready; what it says stands above" in ended.stderr


def test_two_nodes_leaves_nothing_behind_when_ctrl_c_is_pressed_twice(tidegate):
    first = free_port()
    script = subprocess.Popen([TWO_NODES], env={**os.environ, "GATEWAY": str(tidegate), "FIRST_PORT": str(first)},
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert any(line.startswith("Ctrl-C") for line in script.stdout)
        script.send_signal(signal.SIGINT)
        time.sleep(0.3)
        script.send_signal(signal.SIGINT)
        assert script.wait(30) == 0
        for port in (first, first + 1, first + 20):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, f"somebody still listens at {port}"
    finally:
        script.kill()
        script.wait()
        script.stdout.close()


def test_two_nodes_says_what_it_takes():
    told = run(TWO_NODES, "--help").stdout
    assert "GATEWAY" in told and "NATS_SERVER" in told and "FIRST_PORT" in told


def test_a_smoke_of_the_million_changes_no_setting_of_the_host():
    # Settings are raised before anything is started; here nothing can be.
    ended = run(MILLION, "--smoke", check=False, timeout=60, env={**os.environ, **NO_PROGRAMS})
    assert ended.returncode == 3 and "/nonexistent is no program" in ended.stderr, ended.stderr
    assert "for this run" not in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace, where the kernel hides tcp_mem, needs root")
def test_the_million_says_what_a_container_hides_and_goes_on():
    told = run("unshare", "--net", MILLION, "--check", timeout=60).stderr
    assert "connections by memory" in told
    assert "not known here, and taken to be enough: /proc/sys/net/ipv4/tcp_mem" in told


@pytest.fixture
def no_cargo(tmp_path):
    """The environment of a host whose cargo builds nothing, with the measuring programs given."""
    cargo = tmp_path / "bin/cargo"
    cargo.parent.mkdir()
    cargo.write_text("#!/bin/sh\necho 'error: no compiler here' >&2\nexit 101\n")
    cargo.chmod(0o755)
    programs = dict.fromkeys(NO_PROGRAMS, "/bin/true")
    return {**os.environ, **programs, "PATH": f"{cargo.parent}:{os.environ['PATH']}", "RUN": str(tmp_path / "run")}


def test_installing_the_peers_fails_by_the_name_of_what_is_missing(no_cargo):
    refused = run(PEERS, "--install-only", "--peers", "tokio-tungstenite", check=False, env=no_cargo, timeout=60)
    assert refused.returncode == 1
    assert "echoes could not be installed: error: no compiler here" in refused.stderr
    assert "not installed: echoes; the logs are in" in refused.stderr


def test_installing_peers_that_need_nothing_succeeds(no_cargo):
    run(PEERS, "--install-only", "--peers", "floor", env=no_cargo, timeout=60)


def test_a_peer_that_is_missing_is_a_row_that_says_why(no_cargo):
    run(PEERS, "--quick", "--peers", "tokio-tungstenite", "--rows", "echo-64", env=no_cargo, timeout=60)
    rows = [json.loads(line) for line in open(f"{no_cargo['RUN']}/results.jsonl")]
    assert {"tool": "bench", "label": "echo-64/tokio-tungstenite",
            "not_measured": ["echoes could not be installed: error: no compiler here"]} in rows


def test_what_the_tests_need_is_there_so_that_a_second_installation_has_nothing_to_do():
    parts = ["python", "kubectl", "system", *(["node"] if shutil.which("npm") else [])]
    assert run(INSTALL, "--missing", *parts).stdout == ""


def test_the_locks_hold_every_package_that_is_asked_for():
    folder = ROOT / "tests/deps"
    for name in ("python", "kubectl"):
        wanted = set(re.findall(r"^([\w-]+)", (folder / f"{name}.in").read_text().lower(), re.M))
        locked = set(re.findall(r"^([\w-]+)==\S+.*\\\n +--hash=sha256:", (folder / f"{name}.txt").read_text(), re.M))
        assert wanted and wanted <= locked, wanted - locked
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert wanted and wanted == locked[""]["dependencies"]
    assert all("integrity" in package and "resolved" not in package for name, package in locked.items() if name)


@pytest.mark.parametrize("script, arguments, complaint", [
    (INSTALL, ["--quiet"], "unknown argument '--quiet'"),
    (ROOT / "tests/deploy/slow.sh", ["--fast"], "unknown argument '--fast'"),
])
def test_scripts_without_parameters_take_none(script, arguments, complaint):
    refused = run(script, *arguments, check=False)
    assert refused.returncode == 2 and complaint in refused.stderr


def test_a_corpus_that_is_packed_again_is_the_same_archive_and_a_new_input_is_added_to_it(tmp_path):
    shutil.copytree(ROOT / "fuzz/targets", tmp_path / "fuzz/targets")
    shutil.copytree(ROOT / "fuzz/corpus", tmp_path / "fuzz/corpus")
    (tmp_path / "scripts").mkdir()
    script, archive = shutil.copy(ROOT / "scripts/fuzz.sh", tmp_path / "scripts"), tmp_path / "fuzz/corpus/utf8.tar"
    committed = archive.read_bytes()
    run("tar", "-xf", archive, "-C", tmp_path)
    names = tarfile.open(archive).getnames()
    run(script, "--add", "utf8", *(tmp_path / name for name in names))
    assert archive.read_bytes() == committed
    (tmp_path / "new").write_text("a new input")
    run(script, "--add", "utf8", tmp_path / "new")
    assert tarfile.open(archive).getnames() == sorted([*names, "new"])
    refused = run(script, "--add", "nothing", tmp_path / "new", check=False)
    assert refused.returncode == 2 and "--add TARGET FILE" in refused.stderr


@pytest.mark.parametrize("arguments, complaint", [
    ([], "seccomp.py PROFILE"),
    (["/nonexistent", "true"], "'/nonexistent' is no profile"),
    ([INSTALL, "true"], "is no profile"),
    ([ROOT / "tuning/seccomp/tidegate-io-uring.json", "--without", "bpf"], "give a command"),
    ([ROOT / "tuning/seccomp/tidegate-io-uring.json", "--root", "/nonexistent", "true"], "--root is '/nonexistent'"),
])
def test_the_seccomp_runner_refuses_nonsense(arguments, complaint):
    refused = run(sys.executable, ROOT / "tests/deploy/seccomp.py", *arguments, check=False)
    assert refused.returncode == 1 and complaint in refused.stderr


@pytest.fixture
def steps(tmp_path):
    """A tree with the real test.sh, whose steps say at once what real ones say at their end. A step is changed by its file."""
    def write(name, *lines):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
        path.chmod(0o755)

    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=lambda _, names: [n for n in names if n != "test.sh"])
    report = '<testsuites name="nextest-run" tests="7" failures="0" errors="0">'
    write("bin/cargo", '[ "$*" != "nextest --version" ] || exit 0',
          f"[ $1 = test ] && echo 'test result: ok. 2 passed; 0 failed; 0 ignored' || {{ mkdir -p target/nextest/ci; echo '{report}' >target/nextest/ci/junit.xml; }}")
    write("scripts/install-test-deps.sh", "echo nothing to install")
    write("tests/dummy-dialect.sh", "echo 'dialect: 1 of 1 checks'")
    write("tests/dummy-broker.sh", "echo 'broker: 2 of 2 checks'")
    write("scripts/bench.sh", "echo 'smoke: 16 of 16 checks hold' >&2")
    write("scripts/instructions.sh", "echo 'instructions: 5 of 5 paths grew by no more than 2 %'")
    report = '<testsuites><testsuite name="pytest" errors="0" failures="0" skipped="1" tests="12">'
    write(".deps/venv/bin/python", f"echo '{report}' >${{@: -1}}")
    write.run = lambda *arguments: run(tmp_path / "scripts/test.sh", *arguments, check=False, timeout=60, env={
        **os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CARGO_TARGET_DIR": "target"})
    return write


def test_the_test_script_ends_with_the_sum_over_all_of_its_steps(steps):
    ended = steps.run()
    assert ended.returncode == 0 and ended.stdout.splitlines()[-2:] == ["all 8 steps held", "44 passed, 0 failed"], ended.stdout
    assert [f"-- step {n} of 8, " in ended.stdout for n in range(1, 9)] == [True] * 8


def test_the_test_script_names_the_steps_that_failed_and_shows_the_counts(steps):
    # The last line had a number of failures; which steps they were stood in a table far above it.
    steps("scripts/bench.sh", "exit 3")
    steps("tests/dummy-broker.sh", "exit 1")
    ended = steps.run()
    assert ended.stdout.splitlines()[-2] == "2 of 8 steps failed: a new broker touches two files; the measuring tools"
    assert "instructions: 5 of 5 paths grew by no more than 2 %\n" in ended.stdout


def test_installing_says_first_what_is_missing_and_then_which_part_is_being_installed(tmp_path):
    # After the list nothing was shown for minutes.
    for folder in ("scripts", "tests/deps"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    kubectl = tmp_path / "bin/kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text("#!/bin/sh\n")
    kubectl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{kubectl.parent}:{os.environ['PATH']}"}
    told = run(tmp_path / "scripts/install-test-deps.sh", "kubectl", env=environment, timeout=60).stdout
    assert re.fullmatch("install-test-deps: to install: kubectl into .deps/bin\n"
                        "install-test-deps: kubectl: installing\n"
                        r"install-test-deps: kubectl: \d+ s\n", told), told
    assert (tmp_path / ".deps/bin/kubectl").exists()


@pytest.mark.parametrize("step, lines, total", [
    ("scripts/install-test-deps.sh", ["exit 1"], "44 passed, 1 failed"),
    ("tests/dummy-dialect.sh", ["exit 1"], "43 passed, 1 failed"),
    ("tests/dummy-broker.sh", ["exit 1"], "42 passed, 1 failed"),
    ("scripts/bench.sh", ["echo 'smoke: 14 of 16 checks hold' >&2", "exit 1"], "42 passed, 2 failed"),
    ("scripts/bench.sh", ["exit 3"], "28 passed, 1 failed"),
    ("scripts/instructions.sh", ["echo 'instructions: 4 of 5 paths grew by no more than 2 %'", "exit 1"], "43 passed, 1 failed"),
    ("scripts/instructions.sh", ["echo 'instructions: error: this is rustc 1.97.0' >&2", "exit 3"], "39 passed, 1 failed"),
    ("bin/cargo", ['[ "$*" != "nextest --version" ] || exit 0', "echo 'error: no compiler here' >&2", "exit 101"], "35 passed, 2 failed"),
    (".deps/venv/bin/python", ["exit 4"], "33 passed, 1 failed"),
    (".deps/venv/bin/python", ["echo not a report"], "33 passed, 1 failed"),
])
def test_a_step_that_fails_is_counted_and_the_others_still_run(steps, step, lines, total):
    steps(step, *lines)
    ended = steps.run()
    assert ended.returncode == 1 and ended.stdout.splitlines()[-1] == total, ended.stdout
    assert "-- step 8 of 8, " in ended.stdout


def test_with_a_filter_the_steps_after_the_test_runner_are_left_out(steps):
    ended = steps.run("drain")
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "7 passed, 0 failed", ended.stdout
    assert "-- step 2 of 2, " in ended.stdout and "step 3" not in ended.stdout
