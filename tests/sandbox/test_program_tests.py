"""Each outcome of a program with tests, and programs that attack the machine or pretend to pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.sandbox.program_tests import TestOutcome, run_program_with_tests
from runner.sandbox.sandbox import Sandbox, SandboxLimits

TESTS = "import math\ndef check(candidate):\n    assert candidate(2) == 4\n    assert math.isclose(candidate(3), 9)\n"
TESTS += "    assert all(candidate(n) == n * n for n in range(4))\ncheck(square)\n"
RIGHT = "def square(x):\n    return x * x\n"
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


EQUAL = "class Equal:\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n        return 9.0\n"
NOTHING = "def square(x):\n    return None\n"
HOSTILE = {
    # against the machine
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "fork in the function": "import os\ndef square(x):\n    os.fork()\n    return x * x",
    "reads the users": "open('/etc/passwd').read()\n" + RIGHT,
    "reads by descriptor": "import os\nos.read(os.open('/etc/passwd', os.O_RDONLY), 9)\n" + RIGHT,
    "lists a folder": "import os\nos.listdir('/')\n" + RIGHT,
    "reads its parent": "import os\nopen(f'/proc/{os.getppid()}/environ').read()\n" + RIGHT,
    "overwrites a file": "open('{canary}', 'w').write('x')\n" + RIGHT,
    "removes a file": "import os\nos.remove('{canary}')\n" + RIGHT,
    "renames a file": "import os\nos.rename('{canary}', 'here')\n" + RIGHT,
    "new file elsewhere": "open('{outside}/new', 'w')\n" + RIGHT,
    "link to a file": "import os\nos.symlink('{canary}', 'link')\n" + RIGHT,
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', 9))\n" + RIGHT,
    "listens": "import socket\nsocket.create_server(('127.0.0.1', 0))\n" + RIGHT,
    "starts a program": "import subprocess\nsubprocess.run(['/bin/echo'])\n" + RIGHT,
    "shell": "import os\nif os.system('true') != 0:\n    raise OSError\n" + RIGHT,
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + RIGHT,
    "kills the group of its parent": "import os\nos.killpg(os.getpgid(os.getppid()), 9)\n" + RIGHT,
    "traces": "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0\n" + RIGHT,
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n" + RIGHT,
    "thread": "import threading\nthreading.Thread(target=print).start()\n" + RIGHT,
    "endless": "while True:\n    pass",
    "endless, ignores the signal": "import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True:\n    pass",
    "catches all": "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
    "gigabytes of output": "while True:\n    print('x' * 10 ** 6)",
    "output, error caught": "try:\n    print('x' * 10 ** 7)\nexcept OSError:\n    pass\n" + RIGHT,
    "output below Python": "import os\nfor n in range(32):\n    try:\n        os.write(n, b'x' * 10 ** 5)\n"
    "    except OSError:\n        pass\n" + RIGHT,
    "memory": "held = [bytearray(10 ** 8) for _ in range(1000)]\n" + RIGHT,
    "memory in one piece": "held = 'x' * 10 ** 11\n" + RIGHT,
    "fills the disk": "for n in range(10 ** 4):\n    open(str(n), 'w').write('x' * 60000)\n" + RIGHT,
    "a large integer": "held = 10 ** 10 ** 9\n" + RIGHT,
    "recursion in C": "held = []\nfor _ in range(10 ** 6):\n    held = [held]\nrepr(held)\n" + RIGHT,
    # exit codes
    "os._exit(0)": "import os\nos._exit(0)",
    "os._exit(0) in the function": "import os\ndef square(x):\n    os._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "sys.exit(0) in the function": "import sys\ndef square(x):\n    sys.exit(0)",
    "raise SystemExit": "raise SystemExit(0)",
    "abort": "import os\nos.abort()",
    "KeyboardInterrupt": "def square(x):\n    raise KeyboardInterrupt",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\n" + NOTHING,
    # pretending to pass
    "prints passed": "print('passed')\n" + NOTHING,
    "writes passed to each pipe": "import os\nfor n in range(32):\n    try:\n        os.write(n, b'a\\0passed\\0\\0')\n"
    "    except OSError:\n        pass\nos._exit(0)",
    "writes to each pipe in the function": "import os\ndef square(x):\n    for n in range(32):\n        try:\n"
    "            os.write(n, b'seccomp\\0passed\\0\\0')\n        except OSError:\n            pass\n    os._exit(0)",
    "reads the token from each pipe": "import os\ngot = b''\nfor n in range(32):\n    try:\n        got += os.read(n, 99)\n"
    "    except OSError:\n        pass\nfor n in range(32):\n    try:\n        os.write(n, b'a\\0' + got + b'\\0\\0')\n"
    "    except OSError:\n        pass\n" + NOTHING,
    "own check": "def check(candidate):\n    pass\n" + NOTHING,
    "replaces check in the function": "def square(x):\n    globals()['check'] = print\n    return 0",
    "own AssertionError": "import builtins\nclass AssertionError(BaseException):\n    pass\n"
    "builtins.AssertionError = AssertionError\n" + NOTHING,
    "own all": "import builtins\nbuiltins.all = lambda _: True\ndef square(x):\n    return (x == 2) * 4 + (x == 3) * 9",
    "own range": "range = lambda _: []\n__builtins__['range'] = range\n"
    "def square(x):\n    return (x == 2) * 4 + (x == 3) * 9",
    "own exec": "import builtins\nbuiltins.exec = lambda *_: None\n" + NOTHING,
    "own isclose": "import math\nmath.isclose = lambda *_: True\ndef square(x):\n    return x + x if x < 3 else 0",
    "own isclose in the function": "import math\ndef square(x):\n    math.isclose = lambda *_: True\n    return x + x if x < 3 else 0",
    "own module math": "import sys\nclass Fake:\n    isclose = staticmethod(lambda *_: True)\nsys.modules['math'] = Fake\n"
    "def square(x):\n    return x + x if x < 3 else 0",
    "own import": "import builtins\nbuiltins.__import__ = lambda *_: None\n" + NOTHING,
    "equal to everything": EQUAL + "def square(x):\n    return Equal()",
    "equal number": "class Equal(int):\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n"
    "        return 9.0\ndef square(x):\n    return Equal(x) if x != 3 else 9",
    "equal class behind a metaclass": "class Kind(type):\n    def __hash__(cls):\n        return hash(int)\n"
    "    def __eq__(cls, other):\n        return True\n    def __getattribute__(cls, name):\n        return {}\n"
    "class Equal(metaclass=Kind):\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n"
    "        return 9.0\ndef square(x):\n    return Equal()",
    "frames": "import sys\ndef square(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        if 'n' in frame.f_locals:\n            return frame.f_locals['n'] ** 2\n        frame = frame.f_back",
    "frames of a traceback": "def square(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        frame = error.__traceback__.tb_frame\n    while frame:\n        if 'token' in frame.f_locals:\n"
    "            return 4\n        frame = frame.f_back\n    return 0",
    "frames of a generator": "def square(x):\n    made = (n for n in [1])\n    return made.gi_frame.f_back",
    "frames by the collector": "import gc\ndef square(x):\n    return [held for held in gc.get_objects()] and 0",
    "trace function": "import sys\nsys.settrace(lambda *_: None)\n" + RIGHT,
    "profile function": "import sys\nsys.setprofile(lambda *_: None)\n" + RIGHT,
    "audit hook": "import sys\nseen = []\nsys.addaudithook(lambda *event: seen.append(event))\n"
    "def square(x):\n    return seen[0] and x * x",
    "raw memory": "import ctypes\nctypes.string_at(id(0), 9)\n" + RIGHT,
    "globals of the stream": "import sys\nnames = type(sys.stdout).write.__globals__\nfor name in list(names):\n"
    "    names[name] = lambda *_: 'passed'\n" + NOTHING,
    "stream that returns fields": "import sys\ntype(sys.stdout).getvalue = lambda *_: 'a\\0passed\\0\\0'\n"
    + NOTHING,
    "own os.write": "import os\nos.write = lambda *_: 0\nos._exit = lambda *_: None\n" + NOTHING,
    "module of the tests": "import sys\nsys.modules['__main__'].check = print\n" + NOTHING,
    "says that it has passed": "raise AssertionError('passed')",
    "returns a generator": "def square(x):\n    yield x * x",
}


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_do_not_pass_and_change_nothing(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    os.chmod(tmp_path, 0o777)
    program = HOSTILE[name].replace("{canary}", str(canary)).replace("{outside}", str(tmp_path))
    tested = run_program_with_tests(sandbox, program, TESTS, ("square",))
    assert tested.outcome is not PASSED
    assert canary.read_text() == "untouched"
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]


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
    assert run(sandbox, HOSTILE["equal to everything"]) is ERROR
