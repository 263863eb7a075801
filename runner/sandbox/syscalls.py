"""Seccomp filters for Linux, which allow only the few system calls that a computation needs.

There are no sockets, processes, signals to others, tracing, or changes of limits or
priorities, and no calls of later kernels. A refused call does not end the program: it
raises PermissionError in Python.

There are two filters. Under the first, Python reads the modules that the code imports. The
second is added before the code runs and refuses every call with a path: if Landlock or a
filter refused only some paths, the errors would show which of the others exist. It also
refuses handlers of signals.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys

# name: number on x86_64, number on aarch64 (None: the call does not exist there)
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "ftruncate": (77, 46),
    "fstat": (5, 80),
    "getcwd": (79, 17),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Also allowed until the code runs: each of them shows whether a path exists.
BY_PATH: dict[str, tuple[int, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
}
# Also allowed until the code runs: a handler of signals would see the frames of other code.
SIGNAL_HANDLERS: dict[str, tuple[int, int | None]] = {"rt_sigaction": (13, 134)}
# Refused with another errno, after which libraries continue without the call: no terminal, and an
# older kernel.
ANSWERED = {"ioctl": ((16, 29), errno.ENOTTY), "clone3": ((435, 435), errno.ENOSYS)}
FCNTL = (72, 25)
# Of fcntl: duplicate, and read or set what closes on exec. Not F_SETFL and F_SETOWN, with which a
# file sends signals.
FCNTL_COMMANDS = (0, 1, 2, 3, 1030)
PRCTL = (157, 167)
PRCTL_OPTIONS = (22,)  # PR_SET_SECCOMP, which adds a filter and removes none; until the code runs
# column above, AUDIT_ARCH_…
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # numbers from here on are x86_64's calls under other names

# of the kernel's BPF: ld abs, jeq, jge, ret
_LOAD, _EQUAL, _AT_LEAST, _RETURN = (0x20, 0x15, 0x35, 0x06)
# in struct seccomp_data, little-endian
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = (0, 4, 16, 24)
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def build_seccomp_filters(cpu_architecture: str | None = None) -> tuple[bytes, ...]:
    """Return two seccomp filters, for importing modules and for running code. Both are empty on unknown CPUs.

    Each filter is an array of struct sock_filter.
    """
    cpu_architecture = cpu_architecture or (platform.machine() if sys.platform == "linux" else "")
    if cpu_architecture not in ARCHITECTURES or sys.byteorder != "little":
        return ()
    return _build_seccomp_filter(cpu_architecture, allow_imports=True), _build_seccomp_filter(
        cpu_architecture, allow_imports=False
    )


def _build_seccomp_filter(cpu_architecture: str, allow_imports: bool) -> bytes:
    column, architecture = ARCHITECTURES[cpu_architecture]
    allowed = ALLOWED | (BY_PATH | SIGNAL_HANDLERS if allow_imports else {})
    numbers = [number for pair in allowed.values() if (number := pair[column]) is not None]
    # from the top: (code, operand, how many lines to skip if true, if false)
    lines = [
        (_LOAD, _ARCH_AT, 0, 0),
        (_EQUAL, architecture, 1, 0),
        (_RETURN, _KILL, 0, 0),
        (_LOAD, _NUMBER_AT, 0, 0),
        (_AT_LEAST, _X32, 0, 1),
        (_RETURN, _KILL, 0, 0),
    ]
    for answered, error in ANSWERED.values():
        lines += [(_EQUAL, answered[column], 0, 1), (_RETURN, _ERRNO | error, 0, 0)]
    lines += _build_argument_check_instructions(FCNTL[column], _SECOND_ARGUMENT_AT, FCNTL_COMMANDS)
    if allow_imports:
        lines += _build_argument_check_instructions(PRCTL[column], _FIRST_ARGUMENT_AT, PRCTL_OPTIONS)
    lines += [(_EQUAL, number, len(numbers) - index, 0) for index, number in enumerate(numbers)]
    lines += [(_RETURN, _ERRNO | errno.EPERM, 0, 0), (_RETURN, _ALLOW, 0, 0)]
    return b"".join(
        struct.pack("=HBBI", code, if_true, if_false, operand) for code, operand, if_true, if_false in lines
    )


def _build_argument_check_instructions(
    syscall_number: int, argument_offset: int, values: tuple[int, ...]
) -> list[tuple[int, int, int, int]]:
    """Return seccomp instructions that allow a system call only if one of its arguments has certain
    values.
    """
    count = len(values)
    lines = [(_EQUAL, syscall_number, 0, count + 3), (_LOAD, argument_offset, 0, 0)]
    lines += [(_EQUAL, value, count - index, 0) for index, value in enumerate(values)]
    return [*lines, (_RETURN, _ERRNO | errno.EPERM, 0, 0), (_RETURN, _ALLOW, 0, 0)]
