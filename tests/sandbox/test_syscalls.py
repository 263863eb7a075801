from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from runner.sandbox import syscalls

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(program: bytes, architecture: int, number: int, first: int = 0, second: int = 0) -> int:
    """Run a filter as the kernel does, on one call with these arguments."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, first, second, 0, 0, 0, 0)
    lines = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"a line that the filter has no need of: {code:#x}")


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
@pytest.mark.parametrize("imports", [True, False])
def test_only_what_is_listed_passes(machine: str, imports: bool) -> None:
    column, architecture = syscalls.ARCHITECTURES[machine]
    program = syscalls.build_seccomp_filters(machine)[0 if imports else 1]
    listed = {
        pair[column]
        for pair in (
            syscalls.ALLOWED | (syscalls.BY_PATH | syscalls.SIGNAL_HANDLERS if imports else {})
        ).values()
    } - {None}
    special = {syscalls.FCNTL[column], *(pair[column] for pair, _ in syscalls.ANSWERED.values())}
    special |= {syscalls.PRCTL[column]} if imports else set()
    for number in range(1000):
        if number not in special:
            assert verdict(program, architecture, number) == (ALLOW if number in listed else REFUSE), number
    for numbers, error in syscalls.ANSWERED.values():
        assert verdict(program, architecture, numbers[column]) == 0x00050000 | error
    for value in range(2000):
        wanted = ALLOW if value in syscalls.FCNTL_COMMANDS else REFUSE
        assert verdict(program, architecture, syscalls.FCNTL[column], second=value) == wanted, value
        wanted = ALLOW if imports and value in syscalls.PRCTL_OPTIONS else REFUSE
        assert verdict(program, architecture, syscalls.PRCTL[column], first=value) == wanted, value


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_calls_by_another_architectures_numbers_end_the_process(machine: str) -> None:
    _, architecture = syscalls.ARCHITECTURES[machine]
    for program in syscalls.build_seccomp_filters(machine):
        assert verdict(program, 0x40000003, 0) == KILL  # i386's calls: int 0x80
        assert verdict(program, architecture, 0x40000000) == KILL  # x32's


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].is_file():
        pytest.skip(f"{HEADERS[machine]} is not on this machine")
    column, _ = syscalls.ARCHITECTURES[machine]
    # aarch64's file has __NR3264_fstat for what is fstat on 64 bits
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", HEADERS[machine].read_text())
    kernel = {name: int(number) for name, number in found}
    kernel.setdefault("newfstatat", kernel.get("fstatat", -1))
    ours = {
        name: pair[column]
        for name, pair in (syscalls.ALLOWED | syscalls.BY_PATH | syscalls.SIGNAL_HANDLERS).items()
    }
    ours |= {name: numbers[column] for name, (numbers, _) in syscalls.ANSWERED.items()}
    ours |= {"fcntl": syscalls.FCNTL[column], "prctl": syscalls.PRCTL[column]}
    assert {name: number for name, number in ours.items() if number is not None} == {
        name: kernel[name] for name, number in ours.items() if number is not None
    }


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert syscalls.build_seccomp_filters("riscv64") == ()
