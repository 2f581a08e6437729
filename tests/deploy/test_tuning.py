"""tuning/: the files that make a host fit, and the script that applies them."""

import json
import os
import re
import sys
import tempfile

import pytest

from conftest import ROOT, TUNING, run

TUNE = ROOT / "scripts" / "tune.sh"
CONF = TUNING / "sysctl.d" / "90-tidegate.conf"
UNIT = TUNING / "systemd" / "tidegate.service"
LIMITS = TUNING / "limits.d" / "90-tidegate.conf"
SECCOMP = TUNING / "seccomp" / "tidegate-io-uring.json"
MILLION = 1_000_000


def sysctls():
    """The settings by name, each a list of numbers."""
    found = {}
    for line in CONF.read_text().splitlines():
        if line and not line.startswith("#"):
            key, value = line.split(" = ")
            found[key.removeprefix("-")] = [int(n) for n in re.split(r"[ ,]", value)]
    return found


@pytest.fixture
def host(tmp_path):
    """A /proc/sys of a host with the kernel's defaults, and where tune.sh remembers."""
    defaults = {
        "fs.nr_open": "1048576", "fs.file-max": "2466186", "fs.epoll.max_user_watches": "5491511",
        "net.core.somaxconn": "4096", "net.ipv4.tcp_max_syn_backlog": "2048", "net.core.netdev_max_backlog": "1000",
        "net.ipv4.tcp_mem": "287901\t383868\t575802", "net.ipv4.tcp_max_orphans": "131072",
        "net.ipv4.tcp_fin_timeout": "60", "net.ipv4.tcp_keepalive_time": "7200", "net.ipv4.tcp_keepalive_intvl": "75",
        "net.ipv4.tcp_keepalive_probes": "9", "net.ipv4.tcp_migrate_req": "0",
        "net.ipv4.ip_local_port_range": "32768\t60999", "net.ipv4.ip_local_reserved_ports": "",
    }
    for key, value in defaults.items():
        path = tmp_path / "sys" / key.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24576000 kB\n")
    return tmp_path


def tune(host, *arguments):
    """Runs tune.sh against the made-up host."""
    return run(TUNE, "--sysctls", host / "sys", "--state", host / "undo", *arguments, check=False,
               env={**os.environ, "TIDEGATE_TUNE_MEMINFO": str(host / "meminfo")})


def snapshot(host):
    """Every setting of the made-up host."""
    return {str(p): p.read_text().split() for p in (host / "sys").rglob("*") if p.is_file()}


def test_each_setting_says_why_and_has_a_rule_and_a_unit():
    for block in CONF.read_text().split("\n\n")[1:]:
        comments = [line for line in block.splitlines() if re.match(r"# \S", line)]
        rules = [line for line in block.splitlines() if line.startswith("#:")]
        settings = [line for line in block.splitlines() if not line.startswith("#")]
        if settings:
            assert comments and len(rules) == len(settings), block


def test_a_million_sockets_fit_every_limit_at_once():
    value = sysctls()
    nofile = {int(line.split()[3]) for line in LIMITS.read_text().splitlines() if line and not line.startswith("#")}
    unit_nofile = int(re.search(r"^LimitNOFILE=(\d+)$", UNIT.read_text(), re.M)[1])
    assert nofile == {unit_nofile}
    assert MILLION * 1.1 < unit_nofile <= value["fs.nr_open"][0] <= value["fs.file-max"][0]
    assert value["fs.epoll.max_user_watches"][0] > MILLION
    low, pressure, high = value["net.ipv4.tcp_mem"]
    assert low <= pressure <= high and pressure > MILLION, "a full broadcast is a page for each socket"
    assert value["net.netfilter.nf_conntrack_max"][0] > MILLION


def test_every_trap_that_is_known_has_its_setting():
    value = sysctls()
    keepalive = [value[f"net.ipv4.tcp_keepalive_{name}"] for name in ("time", "intvl", "probes")]
    assert keepalive == [[60], [10], [6]]
    assert value["net.ipv4.tcp_migrate_req"] == [1]
    # Each above the kernel's default, which the host of these tests has.
    for name, default in (("net.core.somaxconn", 4096), ("net.ipv4.tcp_max_syn_backlog", 2048), ("net.core.netdev_max_backlog", 1000),
                          ("net.ipv4.tcp_max_orphans", 131_072), ("fs.nr_open", 1_048_576)):
        assert value[name][0] > default, name
    # The module is not loaded everywhere: the "-" tells sysctl not to mind.
    assert "\n-net.netfilter.nf_conntrack_max = " in CONF.read_text()


def test_the_listeners_ports_are_reserved_wherever_the_outgoing_range_contains_them():
    low, high = sysctls()["net.ipv4.ip_local_port_range"]
    reserved = sysctls()["net.ipv4.ip_local_reserved_ports"]
    for port in (8080, 9090, 4222, 6222, 8222):
        assert port in reserved or not low <= port <= high


def test_the_check_shows_the_difference_and_changes_nothing(host):
    before = snapshot(host)
    result = tune(host)
    assert result.returncode == 1
    assert re.search(r"net.core.somaxconn +4096 +65535 +connections", result.stdout)
    assert re.search(r"epoll.max_user_watches +5491511 +ok", result.stdout)
    assert snapshot(host) == before


def test_apply_then_check_is_content_and_undo_gives_everything_back(host):
    before = snapshot(host)
    assert tune(host, "--apply").returncode == 0
    assert snapshot(host) != before
    assert tune(host).returncode == 0
    # A second apply must not forget what the host had at first.
    assert tune(host, "--apply").returncode == 0
    assert tune(host, "--undo").returncode == 0
    assert snapshot(host) == before
    assert tune(host, "--undo").returncode == 2, "nothing is left to undo"


def test_a_host_that_has_more_is_never_lowered(host):
    (host / "sys/net/core/somaxconn").write_text("100000\n")
    (host / "sys/net/ipv4/tcp_mem").write_text("1 2 99999999\n")
    (host / "sys/net/ipv4/tcp_keepalive_time").write_text("30\n")
    (host / "sys/net/ipv4/ip_local_reserved_ports").write_text("8080-8090,9999\n")
    tune(host, "--apply")
    assert (host / "sys/net/core/somaxconn").read_text() == "100000\n"
    assert (host / "sys/net/ipv4/tcp_mem").read_text() == "1048576 1572864 99999999\n"
    assert (host / "sys/net/ipv4/tcp_keepalive_time").read_text() == "30\n"
    assert (host / "sys/net/ipv4/ip_local_reserved_ports").read_text() == "4222,6222,8080-8090,8222,9090,9999\n"


def test_it_works_with_nothing_but_busybox_as_on_the_nodes(host):
    before, tools = snapshot(host), host / "bin"
    tools.mkdir()
    run("busybox", "--install", "-s", tools)
    environment = {"PATH": str(tools), "TIDEGATE_TUNE_MEMINFO": str(host / "meminfo")}
    for arguments, code in ((["--check"], 1), (["--apply"], 0), (["--check"], 0), (["--undo"], 0)):
        result = run(tools / "sh", TUNING / "tune.sh", "--sysctls", host / "sys", "--state", host / "undo", *arguments, check=False,
                     env=environment)
        assert result.returncode == code, result.stdout + result.stderr
    assert snapshot(host) == before


def test_the_target_scales_what_grows_with_connections(host):
    printed = dict(line.split(" = ") for line in tune(host, "--print", "--target", "100000").stdout.splitlines()[1:])
    assert printed["net.ipv4.tcp_mem"] == "104857 157286 209715"
    assert printed["net.core.somaxconn"] == "65535"
    whole = dict(line.split(" = ") for line in tune(host, "--print").stdout.splitlines()[1:])
    assert {k.removeprefix("-"): [int(n) for n in re.split("[ ,]", v)] for k, v in whole.items()} == sysctls()


@pytest.mark.parametrize("arguments, complaint", [
    (["--target", "many"], "--target is 'many'"),
    (["--target", "999"], "from 1000 to 10000000"),
    (["--target", "-5"], "from 1000 to 10000000"),
    (["--target", "99999999999999999999999"], "from 1000 to 10000000"),
    (["--target"], "needs a value"),
    (["--check", "--apply"], "exclude each other"),
    (["--force"], "unknown argument '--force'"),
    (["--conf", "/nonexistent"], "cannot read the settings file"),
    (["--apply", "--target", "10000000"], "lower --target"),
    (["--undo"], "nothing to undo"),
])
def test_nonsense_is_refused_before_anything_changes(host, arguments, complaint):
    before = snapshot(host)
    result = tune(host, *arguments)
    assert result.returncode == 2 and complaint in result.stderr
    assert snapshot(host) == before


@pytest.mark.parametrize("text, complaint", [
    ("net.core.somaxconn = 5\n", "needs a line"),
    ("#: at-least n\nnet.core.somaxconn = lots\n", "not a number"),
    ("#: at-least n\nnet.core.somaxconn 5\n", "expected"),
    ("#: twice n\nnet.core.somaxconn = 5\n", "the rule is"),
    ("#: at-least n\n../../etc/passwd = 5\n", "no sysctl name"),
    ("#: at-least n\na.b = 5\n#: at-least n\na.b = 6\n", "set twice"),
    ("# nothing\n", "no setting"),
    ("#: at-least n\nnet.core.no_such_thing = 5\n", "does not know"),
])
def test_a_bad_settings_file_is_refused_with_its_line(host, text, complaint):
    (host / "conf").write_text(text)
    before = snapshot(host)
    result = tune(host, "--apply", "--conf", host / "conf")
    assert result.returncode == 2 and complaint in result.stderr
    assert snapshot(host) == before


def test_a_doctored_memory_is_not_written_back(host):
    (host / "undo").write_text("net.core.somaxconn=4096\n../../../tmp/x=1\n")
    before = snapshot(host)
    assert tune(host, "--undo").returncode == 2
    assert snapshot(host) == before


def test_an_unprivileged_user_can_check_this_very_host():
    # The script and the settings come by pipe, so that the checkout need not be readable by that user.
    drop = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    script = 'cat >conf && sh -c "$1" tune.sh --conf conf --target 1000'
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o777)
        result = run(*drop, "sh", "-c", script, "sh", (TUNING / "tune.sh").read_text(), check=False, cwd=scratch,
                     input=CONF.read_text())
    assert result.returncode in (0, 1) and "net.core.somaxconn" in result.stdout, result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root")
def test_on_a_real_kernel_apply_and_undo_work_in_a_network_namespace(tmp_path):
    local = ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_time",
             "net.ipv4.tcp_migrate_req", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports")
    blocks = CONF.read_text().split("#: ")[1:]
    (tmp_path / "conf").write_text("".join("#: " + "\n".join(b.splitlines()[:2]) + "\n" for b in blocks
                                           if b.splitlines()[1].split(" ")[0] in local))
    script = f"""set -e
        tune() {{ {TUNE} --conf {tmp_path}/conf --state {tmp_path}/undo "$@"; }}
        read_all() {{ sysctl {' '.join(local)}; }}
        read_all >{tmp_path}/before
        ! tune --check && tune --apply && tune --check && tune --undo
        read_all >{tmp_path}/after
        cmp {tmp_path}/before {tmp_path}/after"""
    run("unshare", "--net", "sh", "-c", script)


IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
PROBE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return libc.syscall(number, *arguments) >= 0
print("io_uring", call({"x86_64": 425, "aarch64": 425}[__import__("platform").machine()], 8, ctypes.create_string_buffer(120)))
print("user namespace", libc.unshare(0x10000000) == 0)
print("mount", libc.mount(b"none", b"/", None, 0x4000, None) == 0)
import threading
thread = threading.Thread(target=print, args=("thread True",)); thread.start(); thread.join()
"""


def under_profile(*without):
    """What a program may do under the profile, on the real kernel."""
    leave_out = ["--without", ",".join(without)] if without else []
    result = run(sys.executable, ROOT / "tests/deploy/seccomp.py", SECCOMP, *leave_out, sys.executable, "-c", PROBE)
    return dict(line.rsplit(" ", 1) for line in result.stdout.splitlines())


def test_the_profile_adds_io_uring_to_the_runtime_default_and_nothing_else():
    profile = json.loads(SECCOMP.read_text())
    assert profile["syscalls"][0] == {"names": IO_URING, "action": "SCMP_ACT_ALLOW"}
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    # What the default refuses to a process without capabilities.
    refused = {"bpf", "chroot", "delete_module", "init_module", "finit_module", "fsopen", "kexec_load", "keyctl", "add_key", "mount",
               "move_mount", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "quotactl", "reboot", "setns",
               "swapon", "umount2", "unshare", "userfaultfd", "acct", "iopl", "settimeofday", "kcmp", "syslog"}
    assert not allowed & refused


def test_under_the_profile_a_real_process_gets_a_ring_and_no_namespace():
    assert under_profile() == {"io_uring": "True", "user namespace": "False", "mount": "False", "thread": "True"}


def test_without_the_three_calls_the_same_profile_refuses_a_ring():
    assert under_profile(*IO_URING) == {"io_uring": "False", "user namespace": "False", "mount": "False", "thread": "True"}
