"""A real systemd as the first process of namespaces of its own, for the unit of tuning/systemd: same kernel, same loopback, its own
file system, processes and control group. Needs root, a control group file system that can be written, and overlays."""

import os
import pathlib
import shutil
import signal
import subprocess

from gateway import wait_until

SYSTEMD = pathlib.Path("/lib/systemd/systemd")
SCRIPT = pathlib.Path(__file__).with_name("manager.sh")


def why_not():
    """What this host lacks, or nothing."""
    if os.geteuid() != 0:
        return "a systemd of its own needs root"
    if not SYSTEMD.exists():
        return "no systemd; run scripts/install-test-deps.sh system"
    if not cgroup2() or not os.access(cgroup2(), os.W_OK):
        return "no version 2 control groups that can be written"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"], capture_output=True, check=False).returncode:
        return "namespaces are not allowed here"
    return None


def cgroup2():
    """Where the unified hierarchy is mounted."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    return next((pathlib.Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2"), None)


class Manager:
    """A running systemd with the unit and a configuration. `drop_in` changes single values of the unit."""

    def __init__(self, folder, binary, unit, toml, drop_in=""):
        self.folder = pathlib.Path(folder)
        (self.folder / "system/tidegate.service.d").mkdir(parents=True)
        shutil.copy(unit, self.folder / "system")
        (self.folder / "system/tidegate.service.d/test.conf").write_text(f"[Service]\n{drop_in}\n")
        (self.folder / "tidegate.toml").write_text(toml)
        shutil.copy(binary, self.folder / "tidegate")
        self.group = cgroup2() / f"tidegate-test-{os.getpid()}"
        self.group.mkdir()
        self.log = open(self.folder / "log", "w", encoding="utf-8")
        # The shell enters the group first, so that the new namespace begins there.
        self.outer = subprocess.Popen(
            ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.group, "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc",
             "--cgroup", "--propagation=private", "--kill-child=KILL", "sh", SCRIPT, self.folder], stdout=self.log, stderr=self.log)
        try:
            self.pid = wait_until(self._child, 20, "systemd's process")
            wait_until(lambda: self.systemctl("is-active", "idle.target").stdout.strip() == "active", 30, "systemd's start")
        except BaseException:
            self.close()
            raise

    def _child(self):
        if self.outer.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        children = pathlib.Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def systemctl(self, *arguments):
        """One command to it."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        return subprocess.run([*enter, "systemctl", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=60)

    def state(self, name):
        """A property of the unit."""
        return self.systemctl("show", "--value", f"--property={name}", "tidegate").stdout.strip()

    def close(self):
        """Ends it and everything in it."""
        if self.outer.poll() is None:
            self.outer.send_signal(signal.SIGKILL)
        self.outer.wait()
        self.log.close()
        wait_until(self._forget, 20, "the end of its processes")

    def _forget(self):
        for folder in sorted(self.group.rglob("*/"), reverse=True):
            if folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    return False
        try:
            self.group.rmdir()
        except OSError:
            return False
        return True
