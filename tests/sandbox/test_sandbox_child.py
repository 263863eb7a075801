"""What the child makes of `answer`, which modules the code gets, and that it learns nothing of
files."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.sandbox.sandbox import CodeOutcome, CodeStatus, Sandbox


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("70_000", "70000"),
        ("-5", "-5"),
        ("3.5", "3.5"),
        ("12.0", "12"),
        ("0.1 + 0.2", "0.3"),
        ("3 * 1.1", "3.3"),
        ("10 ** 20", "100000000000000000000"),
        ("2.0 ** 60", "1152921504606846976"),
        ("1e-7", "0.0000001"),
        ("__import__('fractions').Fraction(7, 2)", "3.5"),
        ("__import__('decimal').Decimal('18.50')", "18.5"),
        ("'$1,234.50'", "1234.5"),
        ("'42 apples'", "42"),
        ("' 42\\n'", "42"),
        ("10 ** 99", "1" + "0" * 99),
        ("1e20", "100000000000000000000"),
    ],
)
def test_a_number_comes_in_plain_form(value: str, answer: str, sandbox: Sandbox) -> None:
    assert sandbox.run_program(f"answer = {value}") == CodeOutcome(answer, CodeStatus.ok)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("total = 5", "it assigns nothing to `answer`"),
        ("answer = None", "`answer` is None, not a number"),
        ("answer = True", "`answer` is True, not a number"),
        ("answer = float('nan')", "`answer` is nan, not a number"),
        ("answer = float('inf')", "`answer` is inf, not a number"),
        ("answer = 'many'", "`answer` is 'many', not a number"),
        ("answer = ''", "`answer` is '', not a number"),
        ("answer = [42]", "`answer` is of type list, not a number"),
        ("answer = b'777'", "`answer` is of type bytes, not a number"),
        ("answer = 777 + 0j", "`answer` is of type complex, not a number"),
        (
            "class A:\n    def __float__(self):\n        return 777.0\nanswer = A()",
            "`answer` is of type A, not a number",
        ),
        ("answer = '5\\x00777'", "`answer` is a string with unprintable characters, not a number"),
        ("answer = 'x' * 999 + ' 1234'", "`answer` is a string of 1004 characters, not a number"),
        ("answer = 10 ** 100", "`answer` has more than 100 digits"),
        ("answer = 10 ** 4000", "`answer` has more than 100 digits"),
        ("answer = -1e300", "`answer` has more than 100 digits"),
        ("answer = 1e-300", "`answer` has more than 100 digits"),
        ("answer = '1e400'", "`answer` has more than 100 digits"),
        ("answer = '7' * 900", "`answer` has more than 100 digits"),
        ("from decimal import Decimal\nanswer = Decimal('1e400')", "`answer` has more than 100 digits"),
        ("from decimal import Decimal\nanswer = Decimal('-Infinity')", "`answer` is -inf, not a number"),
        ("answer = 1 / 0", "ZeroDivisionError: division by zero"),
        (
            "answer = int('9' * 5000)",
            "ValueError: Exceeds the limit (4300 digits) for integer string conversion",
        ),
        ("import numpy\nanswer = 1", "ModuleNotFoundError: No module named 'numpy'"),
        ("answer = = 3", "SyntaxError: invalid syntax (<code>, line 1)"),
        ("", "it assigns nothing to `answer`"),
        ("class E(Exception):\n    def __str__(self):\n        raise KeyError\nraise E", "E"),
        ("x" * 20_001, "the code is longer than 20000 characters"),
    ],
)
def test_what_is_no_answer_says_why(code: str, why: str, sandbox: Sandbox) -> None:
    outcome = sandbox.run_program(code)
    assert (outcome.answer, outcome.status) == (None, CodeStatus.code_failed)
    assert outcome.why.startswith(why)


PATHS = {
    "stat": "os.stat(path)",
    "lstat": "os.lstat(path)",
    "access": "None if os.access(path, os.F_OK) else 1 / 0",
    "exists": "None if os.path.exists(path) else 1 / 0",
    "open": "open(path)",
    "open as a path": "os.open(path, os.O_PATH)",
    "write": "open(path, 'a')",
    "list": "os.listdir(path)",
    "walk": "os.scandir(path)",
    "read a link": "os.readlink(path)",
    "room": "os.statvfs(path)",
    "remove": "os.unlink(path)",
    "rename": "os.rename(path, path + 'x')",
    "link": "os.link(path, 'mine')",
    "folder": "os.mkdir(path)",
    "go there": "os.chdir(path)",
    "rights": "os.chmod(path, 0o600)",
    "times": "os.utime(path)",
    "attributes": "os.getxattr(path, 'user.a')",
    "run": "os.execv(path, ['x'])",
    "size": "os.truncate(path, 5)",
    "pipe": "os.mkfifo(path)",
    "library": "ctypes.CDLL(path)",
    "by a descriptor": "os.stat(path, dir_fd=0)",
    "of the C library": "1 / ctypes.CDLL(None).access(path.encode(), 0)",
}


def test_which_files_exist_cannot_be_seen(tmp_path: Path, sandbox: Sandbox) -> None:
    """Each way to name a file ends in the same error, whether there is one or not."""
    if "seccomp" not in sandbox.detect_protections():
        pytest.skip("needs seccomp")
    (tmp_path / "canary").write_text("alive")
    there, absent = str(tmp_path / "canary"), str(tmp_path / "nothing")
    lines = [
        f"    try:\n        {call}\n        print({name!r})\n    except Exception as error:\n"
        f"        print({name!r}, type(error).__name__, getattr(error, 'errno', ''))"
        for name, call in PATHS.items()
    ]
    printed = {}
    for path in (there, absent, "/etc", "/etc/nothing"):
        body = "\n".join(lines)
        # the answer is what can be told apart: a list of errors would be longer than what is kept
        # of prints
        code = f"import ctypes, hashlib, io, os, sys\nout = sys.stdout\nsys.stdout = io.StringIO()\nfor path in [{path!r}]:\n{body}\n"
        code += "seen, sys.stdout = sys.stdout.getvalue(), out\nprint(seen.count('\\n'))\n"
        code += "answer = int(hashlib.sha256(seen.encode()).hexdigest()[:12], 16)"
        outcome = sandbox.run_program(code)
        assert outcome.printed == f"{len(PATHS)}\n", outcome.why
        printed[path] = outcome.answer
    assert len(set(printed.values())) == 1, printed


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("from collections import Counter\nanswer = Counter([1, 2, 2]).most_common(1)[0][0]", "2"),
        ("import statistics\nanswer = statistics.mode([1, 2, 2])", "2"),
        ("from datetime import datetime\nanswer = datetime.strptime('2020-03-04', '%Y-%m-%d').day", "4"),
        ("import time\nanswer = time.strptime('2020', '%Y').tm_year", "2020"),
        ("def solve():\n    import math\n    return math.comb(4, 2)\nanswer = solve()", "6"),
        ("import functools\n@functools.singledispatch\ndef f(x):\n    return 7\nanswer = f(2)", "7"),
        ("import importlib\nanswer = importlib.import_module('math').gcd(12, 18)", "6"),
        (
            "try:\n    import numpy as np\nexcept ImportError:\n    import random\n    answer = random.randint(3, 3)",
            "3",
        ),
        ("from concurrent import futures\nimport xml.etree, re\nanswer = len(re.findall('a', 'aaa'))", "3"),
    ],
)
def test_modules_are_there_though_no_file_can_be_read(code: str, answer: str, sandbox: Sandbox) -> None:
    assert sandbox.run_program(code) == CodeOutcome(answer, CodeStatus.ok)


def test_a_module_by_a_computed_name_comes_too_late(sandbox: Sandbox) -> None:
    if "seccomp" not in sandbox.detect_protections():
        pytest.skip("needs seccomp")
    why = sandbox.run_program("answer = __import__('stat' + 'istics').mean([1])").why
    assert why.startswith("ModuleNotFoundError: the sandbox allows only modules that the code imports")
    assert why.endswith("`import statistics`")
