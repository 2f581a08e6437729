#!/usr/bin/env python3
"""Runs a command under an OCI seccomp profile, as a container runtime would:
seccomp.py PROFILE [--without NAME,...] [--root DIR] COMMAND...

Uses libseccomp, which the runtimes use too. The filter is installed with no_new_privs, so no privilege is needed.
--without leaves system calls out of the profile: the runtime default, where the profile adds to it. --root (needs root) is the image's
root file system, whose command then runs as the image's user.
"""

import ctypes
import errno
import json
import os
import platform
import sys

ALLOW = 0x7FFF0000
USER = 65532
OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "aarch64": ["SCMP_ARCH_ARM"]}


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = [("index", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def action(name, errno_value):
    """The libseccomp value of an action."""
    if name == "SCMP_ACT_ALLOW":
        return ALLOW
    if name == "SCMP_ACT_ERRNO":
        return 0x00050000 | (errno.EPERM if errno_value is None else errno_value)
    raise ValueError(f"the action {name!r} is not used by our profiles; teach seccomp.py about it first")


def comparison(arg):
    """One condition; a masked comparison has its mask in value and its datum in valueTwo."""
    return Comparison(arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo", 0))


def load(lib, profile, without=()):
    """Installs the profile on this thread."""
    lib.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(lib.seccomp_init(action(profile["defaultAction"], profile.get("defaultErrnoRet"))))
    for name in ARCHITECTURES[platform.machine()]:
        token = lib.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if name in profile["architectures"]:
            lib.seccomp_arch_add(filter_, ctypes.c_uint32(token))
    for rule in profile["syscalls"]:
        what = ctypes.c_uint32(action(rule["action"], rule.get("errnoRet")))
        conditions = [comparison(arg) for arg in rule.get("args", [])]
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            # A name that this libseccomp or architecture does not know is skipped, as runc does.
            if number == -1 or name in without:
                continue
            array = (Comparison * len(conditions))(*conditions)
            if lib.seccomp_rule_add_array(filter_, what, number, len(conditions), array) < 0:
                raise OSError(f"libseccomp refused the rule for {name}")
    if lib.seccomp_load(filter_) < 0:
        raise OSError("the kernel refused the filter")


def enter(root):
    """Becomes the image's user in its file system."""
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


def main():
    arguments = sys.argv[1:]
    if len(arguments) < 2:
        sys.exit(__doc__)
    name = arguments.pop(0)
    try:
        with open(name, encoding="utf-8") as file:
            profile = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"seccomp.py: '{name}' is no profile: {error}")
    without = ()
    if arguments[0] == "--without":
        without = arguments[1].split(",")
        arguments = arguments[2:]
    root = None
    if arguments and arguments[0] == "--root":
        root = arguments[1] if len(arguments) > 1 else ""
        arguments = arguments[2:]
        if not os.path.isdir(root) or os.geteuid() != 0:
            sys.exit(f"seccomp.py: --root is '{root}'; give a directory, as root")
    if not arguments:
        sys.exit("seccomp.py: give a command to run under the profile")
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    if root is not None:
        enter(root)
    load(lib, profile, without)
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main()
