"""Each outcome of a program with tests, and programs that attack the machine or pretend to pass."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import hostile_programs as hostile
import pytest
from hostile_programs import RIGHT, TESTS

from runner.sandbox.program_tests import TestOutcome, run_program_with_tests
from runner.sandbox.sandbox import Sandbox, SandboxLimits

PASSED, FAILED, ERROR = TestOutcome.passed, TestOutcome.failed, TestOutcome.error
TIMEOUT, MEMORY = TestOutcome.timeout, TestOutcome.out_of_memory
OUTPUT, REFUSED = TestOutcome.too_much_output, TestOutcome.refused


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(SandboxLimits(seconds=30, cpu_s=2, memory_mib=1024, file_kib=64))


def run(sandbox: Sandbox, program: str, tests: str = TESTS) -> TestOutcome:
    return run_program_with_tests(sandbox, program, tests, ("square",)).outcome


OUTCOMES = {
    "right": (RIGHT, PASSED),
    "wrong": ("def square(x):\n    return x + x\n", FAILED),
    "raises": ("def square(x):\n    return x / 0\n", ERROR),
    "no Python": ("def square(x:\n", ERROR),
    "another name": ("def cube(x):\n    return x ** 3\n", ERROR),
    "endless": ("def square(x):\n    while True:\n        pass\n", TIMEOUT),
    "memory": ("def square(x):\n    return bytearray(10 ** 11)\n", MEMORY),
    "output": (RIGHT + "print('x' * 10 ** 6)\n", OUTPUT),
    "file": ("def square(x):\n    return len(open('/etc/passwd').read())\n", REFUSED),
    "a module that only the tests import": ("def square(x):\n    return math.prod([x, x])\n", PASSED),
    "the main part of a script": (RIGHT + "if __name__ == '__main__':\n    raise ValueError\n", PASSED),
    "deep recursion within the limit": (
        "def square(x, n=800):\n    return x * x if n == 0 else square(x, n - 1)\n",
        PASSED,
    ),
    "parts of the standard library that look at frames": (
        "from collections import namedtuple, Counter, OrderedDict, deque\nfrom dataclasses import dataclass\n"
        "from typing import NamedTuple, TypeVar\nimport enum, functools, re\nT = TypeVar('T')\n"
        "Point = namedtuple('Point', 'x y')\nclass Colour(enum.Enum):\n    red = 1\n"
        "class Pair(NamedTuple):\n    a: int\n@dataclass\nclass Box:\n    x: int\n"
        "@functools.lru_cache\ndef square(x):\n    return Box(x).x * Pair(x).a\n",
        PASSED,
    ),
}


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("from fractions import Fraction\ndef square(x):\n    return Fraction(x * x)", "assert square(2) == 4"),
        ("from collections import Counter\ndef square(x):\n    return Counter(x)", "assert square('aa') == {'a': 2}"),
        ("def square(x):\n    return {x: 1}.keys()", "assert square(2) == {2}"),
        ("def square(x):\n    yield from range(x)", "assert [*square(2)] == [0, 1]"),
        ("def square(x):\n    x.append(3)", "a = [1]\nsquare(a)\nassert a == [1, 3]"),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    a: int\ndef square(x):\n    return P(x)",
         "assert square(2) == (2,)"),
        ("import numpy as np\ndef square(x):\n    return np.random.default_rng(0).random() * 0 + x * x",
         "assert square(2) == 4"),
        ("class P:\n    def __eq__(self, o):\n        return True\n    def __hash__(self):\n        return 1\n"
         "def square(x):\n    return len({*x})", "assert square([P(), P()]) == 1"),
    ],
)  # fmt: skip
def test_values_of_all_usual_kinds_may_be_returned(program: str, tests: str, sandbox: Sandbox) -> None:
    assert run_program_with_tests(sandbox, program + "\n", tests + "\n").outcome is PASSED


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_program_has_its_outcome(name: str, sandbox: Sandbox) -> None:
    program, outcome = OUTCOMES[name]
    assert run(sandbox, program) is outcome


def test_the_reason_is_the_assertion_that_failed(sandbox: Sandbox) -> None:
    tested = run_program_with_tests(sandbox, OUTCOMES["wrong"][0], TESTS, ("square",))
    assert tested.reason == "assert math.isclose(candidate(3), 9)"


def test_numpy_is_there_for_the_tests(sandbox: Sandbox) -> None:
    tests = "import numpy as np\nassert np.allclose(square(np.array([2.0])), 4)\n"
    assert run(sandbox, RIGHT, tests) is PASSED
    assert run(sandbox, "def square(x):\n    return x\n", tests) is FAILED
    assert (
        run(sandbox, "import numpy\nnumpy.allclose = lambda *_: True\ndef square(x):\n    return x\n", tests)
        is FAILED
    )


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that programs must not change. They leave no files and no processes."""
    scratch, folder = tmp_path / "scratch", tmp_path / "outside"
    scratch.mkdir()
    folder.mkdir()
    canary = folder / "canary"
    canary.write_text("untouched")
    os.chmod(folder, 0o777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield folder
    assert (canary.read_text(), canary.stat().st_mode & 0o777) == ("untouched", 0o644)
    assert [path.name for path in folder.iterdir()] == ["canary"]
    assert list(scratch.iterdir()) == []
    assert not Path("/dev/shm/runner_attack").exists()
    deadline = time.monotonic() + 30
    while list_processes_in(scratch):  # a killed process ends a moment later
        assert time.monotonic() < deadline
        time.sleep(0.02)


def list_processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append(process.name)
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


ATTACKS = {
    "machine": hostile.MACHINE,
    "exit": hostile.EXITS,
    "forged": hostile.FORGED,
    "waiting": hostile.WAITING,
}
HOSTILE = [(group, name) for group, programs in ATTACKS.items() for name in programs]


def attack(name: str, program: str, sandbox: Sandbox, outside: Path, tests: str = TESTS) -> TestOutcome:
    program = program.replace("{canary}", str(outside / "canary")).replace("{outside}", str(outside))
    if name in hostile.WAITING:
        sandbox = Sandbox(replace(sandbox.limits, seconds=4))
    return run(sandbox, program, tests)


def test_there_are_enough_hostile_programs() -> None:
    programs = [*(ATTACKS[group][name] for group, name in HOSTILE), *hostile.NUMPY.values()]
    assert len({*programs}) + len(hostile.RAW_CALLS) >= 250
    assert len({*programs}) >= 200


@pytest.mark.slow
@pytest.mark.sampled(32)
@pytest.mark.parametrize(("group", "name"), HOSTILE, ids=lambda text: text)
def test_hostile_programs_do_not_pass_and_change_nothing(
    group: str, name: str, sandbox: Sandbox, outside: Path
) -> None:
    assert attack(name, ATTACKS[group][name], sandbox, outside) is not PASSED


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", hostile.NUMPY)
def test_hostile_programs_do_not_pass_tests_with_numpy(name: str, sandbox: Sandbox, outside: Path) -> None:
    assert attack(name, hostile.NUMPY[name], sandbox, outside, hostile.NUMPY_TESTS) in (FAILED, ERROR)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", hostile.RAW_CALLS)
def test_the_kernel_refuses_other_system_calls(name: str, sandbox: Sandbox) -> None:
    if platform.machine() != "x86_64" or "seccomp" not in sandbox.detect_protections():
        pytest.skip("needs seccomp, and the call numbers of x86_64")
    outcome = sandbox.run_program(hostile.RAW_PROGRAM.format(call=hostile.RAW_CALLS[name]))
    assert (outcome.answer, outcome.why) == (None, "it assigns nothing to `answer`")


@pytest.mark.thorough
@pytest.mark.slow
def test_other_programs_of_a_batch_are_judged_right_beside_hostile_ones(
    sandbox: Sandbox, outside: Path
) -> None:
    """A right and a wrong program after each attack, four at once."""
    wrong = "def square(x):\n    return x + x\n"
    short = [(group, name) for group, name in HOSTILE if group != "waiting"]
    with ThreadPoolExecutor(4) as threads:
        judged = [
            (
                name,
                threads.submit(attack, name, ATTACKS[group][name], sandbox, outside),
                threads.submit(run, sandbox, RIGHT),
                threads.submit(run, sandbox, wrong),
            )
            for group, name in short
        ]
    outcomes = [
        (name, attacked.result(), right.result(), other.result()) for name, attacked, right, other in judged
    ]
    assert [name for name, hostile_outcome, *_ in outcomes if hostile_outcome is PASSED] == []
    assert {(right, other) for *_, right, other in outcomes} == {(PASSED, FAILED)}


def test_a_program_that_is_too_long_is_refused(sandbox: Sandbox) -> None:
    assert run(sandbox, RIGHT + "#" * 20_001) is REFUSED


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [{"seccomp"}, {"landlock"}, {"seccomp", "landlock"}],
    ids=["no seccomp", "no Landlock", "neither"],
)
def test_without_a_protection_of_the_kernel_programs_still_have_their_outcomes(missing: set[str]) -> None:
    sandbox = Sandbox(SandboxLimits(seconds=30, cpu_s=2, memory_mib=1024), frozenset(missing))
    assert run(sandbox, RIGHT) is PASSED
    assert run(sandbox, OUTCOMES["wrong"][0]) is FAILED
    assert run(sandbox, OUTCOMES["file"][0]) is REFUSED
    assert run(sandbox, hostile.FORGED["equal to everything"]) is ERROR
