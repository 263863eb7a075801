from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from raising import raises

from runner.sandbox import sandbox as sandboxes
from runner.sandbox import sandbox_child, syscalls
from runner.sandbox.render import describe_sandbox_protections
from runner.sandbox.sandbox import CodeStatus, Sandbox, SandboxLimits, extract_programs
from runner_base.errors import JobFailed

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

LIMITS = SandboxLimits(seconds=20, cpu_s=1, file_kib=64)
SHORT = SandboxLimits(seconds=1, cpu_s=20)
# on a busy machine a second of CPU time can take long
PATIENT = SandboxLimits(seconds=600, cpu_s=1)
# in which a process has started and done its first steps
STARTED = SandboxLimits(seconds=5, cpu_s=20)
SYSTEM_PYTHON = "/usr/bin/python3"
LINUX = sys.platform == "linux"

ATTACKS = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "ten gigabytes": "held = bytearray(10 * 1024 ** 3)\nanswer = 42",
    "exit": "import os\nanswer = 42\nos._exit(0)",
    "sys.exit": "import sys\nanswer = 42\nsys.exit(0)",
    "read a file": "text = open('/etc/passwd').read()\nanswer = 42",
    "read by another way": "import os\nos.read(os.open('/etc/passwd', os.O_RDONLY), 10)\nanswer = 42",
    "list a folder": "import os\nos.listdir('/etc')\nanswer = 42",
    "read its parent": "import os\nopen(f'/proc/{os.getppid()}/environ').read()\nanswer = 42",
    "write a file": "open('{canary}', 'w').write('x')\nanswer = 42",
    "new file": "open('{outside}/new', 'w').write('x')\nanswer = 42",
    "remove a file": "import os\nos.remove('{canary}')\nanswer = 42",
    "rename a file": "import os\nos.rename('{canary}', 'mine')\nanswer = 42",
    "link a file": "import os\nos.symlink('{canary}', 'link')\nopen('link', 'a').write('x')\nanswer = 42",
    "rights of a file": "import os\nos.chmod('{canary}', 0o777)\nanswer = 42",
    "folders in folders": "import os\nwhile True:\n    os.mkdir('a')\n    os.chdir('a')",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 9))\nanswer = 42",
    "a server": "import socket\nsocket.create_server(('127.0.0.1', 0))\nanswer = 42",
    "a program": "import subprocess\nsubprocess.run(['/bin/echo'])\nanswer = 42",
    "a shell": "import os\nif os.system('true') == 0:\n    answer = 42",
    "signal to the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nanswer = 42",
    "signal to its group": "import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGKILL)\nanswer = 42",
    "stdout flood": "answer = 42\nwhile True:\n    print('x' * 1000)",
    "stdout flood, errors caught": "try:\n    print('x' * 10 ** 6)\nexcept OSError:\n    pass\nanswer = 42",
    "flood below Python": "import os\nanswer = 42\nfor number in range(3, 32):\n    try:\n"
    "        for _ in range(1000):\n            os.write(number, b'x' * 10000)\n    except OSError:\n        pass",
    "fills the disk": "number = 0\nwhile True:\n    number += 1\n    open(str(number), 'w').write('x' * 60000)",
    "a large file": "with open('large', 'w') as file:\n    file.write('x' * 10 ** 6)\nanswer = 42",
    "a crash": "import ctypes\nctypes.string_at(0)\nanswer = 42",
    "endless recursion": "def f():\n    return f()\nanswer = f()",
    "reads what was never typed": "answer = int(input())",
}  # fmt: skip
CLOSES_ITS_PIPE = "import os\nfor number in range(3, 32):\n    try:\n        os.close(number)\n    except OSError:\n        pass\n"
WITHOUT = [
    frozenset[str](),
    frozenset({"landlock"}),
    frozenset({"seccomp"}),
    frozenset({"landlock", "seccomp"}),
]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that must stay as it is; all that a program leaves behind would lie in `scratch`
    beside it."""
    scratch, folder = tmp_path / "scratch", tmp_path / "outside"
    scratch.mkdir()
    folder.mkdir()
    (folder / "canary").write_text("alive")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield folder
    assert (folder / "canary").read_text() == "alive"
    assert (folder / "canary").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in folder.iterdir()] == ["canary"]
    assert list(scratch.iterdir()) == []
    wait_for(lambda: left_running(scratch) == [])  # what is killed ends a moment later


def left_running(scratch: Path) -> list[str]:
    """Processes whose working directory is, or was, a program's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            folder = os.readlink(process / "cwd")
        except OSError:
            continue  # it has just ended, or is not ours
        if folder.startswith(str(scratch)):
            found.append(f"{process.name} {folder}")
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("without", WITHOUT, ids=lambda names: "-".join(sorted(names)) or "all")
def test_attacks_fail_and_harm_nothing(without: frozenset[str], outside: Path) -> None:
    if not LINUX and without != WITHOUT[-1]:
        pytest.skip("Landlock and seccomp are Linux's")
    sandbox = Sandbox(LIMITS, without)
    verdicts = {}
    for name, attack in ATTACKS.items():
        code = attack.replace("{canary}", str(outside / "canary")).replace("{outside}", str(outside))
        verdicts[name] = sandbox.run_program(code)
    scored = {
        name: outcome for name, outcome in verdicts.items() if outcome.status is not CodeStatus.code_failed
    }
    assert scored == {}
    assert all(outcome.answer is None and outcome.why for outcome in verdicts.values())
    assert sandbox.run_program("answer = 6 * 7").answer == "42"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("code", "limits", "why"),
    [
        ("while True:\n    pass", PATIENT, "the program used more than 1 s of CPU time"),
        ("import time\nanswer = 42\ntime.sleep(1000)", SHORT, "the program was stopped after 1 s"),
        (
            "import signal\ntry:\n    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nexcept OSError:\n    pass\n"
            "while True:\n    pass",
            PATIENT,
            "the program used more than 1 s of CPU time",
        ),
        (
            CLOSES_ITS_PIPE + "import time\ntime.sleep(1000)",
            STARTED,
            "the program closed the answer pipe early, and was stopped after 5 s",
        ),
        (
            CLOSES_ITS_PIPE + "os._exit(3)",
            PATIENT,
            "the program ended with exit code 3 without returning an answer",
        ),
    ],
    ids=["loop", "sleep", "deaf", "closed-sleep", "closed-exit"],
)
def test_what_never_ends_is_ended(code: str, limits: SandboxLimits, why: str, outside: Path) -> None:
    outcome = Sandbox(limits).run_program(code)
    assert (outcome.status, outcome.why) == (CodeStatus.code_failed, why)


def test_without_seccomp_a_program_that_ignores_the_signal_is_ended() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"
    outcome = Sandbox(PATIENT, frozenset({"seccomp"})).run_program(code)
    assert outcome.why == "the program used more than 1 s of CPU time"


@pytest.mark.thorough
def test_processes_that_outlive_the_program_are_ended(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing refuses a second process, the whole session is killed."""
    bare = outside.parent / "bare.py"
    bare.write_text(
        "import os, sys, time\nsys.stdin.buffer.read()\nif os.fork() == 0:\n    time.sleep(1000)\n"
    )
    monkeypatch.setattr(sandbox_child, "__file__", str(bare))
    monkeypatch.setattr(sandboxes, "_PROBE_S", 1.0)
    with raises(JobFailed, "failed"):
        Sandbox(SHORT).run_program("answer = 1")


def as_user(tmp_path: Path, *options: str) -> str:
    """A Python that starts as another user."""
    if not LINUX or os.geteuid() != 0 or not shutil.which("setpriv") or not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip("needs root, setpriv and the system's Python")
    if (
        subprocess.run([SYSTEM_PYTHON, "-V"], capture_output=True, text=True, check=True).stdout.split()[1][
            :4
        ]
        != "3.11"
    ):
        pytest.skip("needs a system Python of 3.11")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {shutil.which("setpriv")} {" ".join(options)} {SYSTEM_PYTHON} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.thorough
@pytest.mark.parametrize("user", ["root who may become nobody", "an ordinary user"])
@pytest.mark.parametrize("without", [WITHOUT[0], WITHOUT[-1]], ids=["all", "limits-only"])
def test_as_other_users(
    user: str, without: frozenset[str], outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [] if "root" in user else ["--reuid=54321", "--regid=54321", "--clear-groups"]
    monkeypatch.setattr(
        sys, "executable", as_user(tmp_path, *options) if options else as_user(tmp_path, "--")
    )
    if options:
        if not all(os.stat(folder).st_mode & 0o001 for folder in Path(sandbox_child.__file__).parents):
            pytest.skip("the package lies where other users cannot read it")
        monkeypatch.setattr("tempfile.tempdir", "/tmp")  # pytest's folders are root's alone
    sandbox = Sandbox(LIMITS, without)
    assert ("nobody" in sandbox.detect_protections()) == (not options)
    assert sandbox.run_program("import os\nanswer = os.getuid()").answer == ("54321" if options else "65534")
    for name in ("fork bomb", "read its parent", "signal to the parent", "ten gigabytes", "stdout flood"):
        assert sandbox.run_program(ATTACKS[name]).status is CodeStatus.code_failed, name


@pytest.mark.thorough
def test_the_program_dies_with_the_run(tmp_path: Path) -> None:
    if not LINUX:
        pytest.skip("only Linux ends a process with its parent")
    program = (
        "import sys, tempfile\ntempfile.tempdir = sys.argv[1]\nfrom runner.sandbox.sandbox import SandboxLimits, Sandbox\n"
        "sandbox = Sandbox(SandboxLimits(seconds=600))\nsandbox.detect_protections()\nprint('ready', flush=True)\n"
        "sandbox.run_program('import time\\ntime.sleep(600)')"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        wait_for(lambda: len(left_running(tmp_path)) == 1)
        run.send_signal(signal.SIGKILL)
    wait_for(lambda: left_running(tmp_path) == [])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.thorough
def test_several_threads_at_once() -> None:
    sandbox = Sandbox()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda number: sandbox.run_program(f"answer = {number} ** 2"), range(40)))
    assert [outcome.answer for outcome in outcomes] == [str(number**2) for number in range(40)]


@pytest.mark.parametrize(
    "text",
    [
        "answer = 42",
        "```python\nanswer = 42\n```",
        "```\nanswer = 42\n```",
        "Here is the program:\n\n```python\nx = 40\nanswer = x + 2\n```\n\nIt gives 42.",
        "```python\nanswer = 42",  # cut off before the fence
        "First:\n```python\nx = 40\n```\nThen:\n```python\nanswer = x + 2\n```",
        "```python\nanswer = 41\n```\nNo, this is it:\n```python\nanswer = 42\n```",
        "```bash\nls\n```\n```py\nanswer = 42\n```\n```\nno code at all\n```",
        "The steps are:\nx = 40\nanswer = x + 2\nSo the answer is 42.",
        "def solve():\n    return 42\n\nif __name__ == '__main__':\n    answer = solve()",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\nanswer = A(42).n",
        "answer: int = 42",
        "print('working')\nimport math\nanswer = math.lcm(6, 21)",
    ],
)
def test_the_code_is_found_in_the_reply(text: str, sandbox: Sandbox) -> None:
    assert sandbox.run_program(text).answer == "42"


def test_what_the_program_is_given_and_prints(sandbox: Sandbox) -> None:
    code = "import os\nprint([name for name in os.environ if name != 'LC_CTYPE'])\nanswer = 1"
    assert sandbox.run_program(code).printed == "[]\n"
    assert len(sandbox.run_program("print('x' * 10000)\nanswer = 1").printed) == 500
    open_hand = Sandbox(disabled_protections=frozenset({"seccomp"}))
    assert open_hand.run_program("import os\nprint(os.listdir('.'))\nanswer = 1").printed == "[]\n"
    assert (
        open_hand.run_program("open('mine', 'w').write('12')\nanswer = int(open('mine').read())").answer
        == "12"
    )


@pytest.mark.parametrize("size", [6_000, 14_000, 56_000])
def test_what_is_written_around_the_child_is_bounded(size: int, sandbox: Sandbox) -> None:
    forged = (
        "import os\nfor number in range(3, 32):\n    try:\n"
        f"        os.write(number, b'\\0'.join([b'', {{}}]) + b'x' * {size})\n"
        "    except OSError:\n        pass\nos._exit(0)"
    )
    for fields in ("b'777', b'', b''", "b'', b'because', b''", "b'', b''"):
        outcome = sandbox.run_program(forged.format(fields))
        assert len(outcome.printed) <= 500
        assert len(outcome.why) <= 300
    assert len(sandbox.run_program("raise type('E' * 18_000, (Exception,), {})").why) == 100


def test_nothing_but_prose_is_tried_as_it_is() -> None:
    assert extract_programs("I cannot say.") == ("I cannot say.",)


def test_what_holds_is_said_in_words() -> None:
    everything = frozenset({"cpu", "as", "fsize", "nproc", "landlock", "seccomp", "paths"})
    held, missing = describe_sandbox_protections(everything, SandboxLimits())
    assert "all file access, including checks whether a file exists: blocked by the kernel" in held
    assert missing == ""
    held, missing = describe_sandbox_protections(everything - {"paths"}, SandboxLimits())
    assert "blocked by the kernel (landlock)" in held
    assert missing == "code can find out whether a file exists"
    few = frozenset({"cpu", "fsize", "nproc", "powerless", "nobody"})
    held, missing = describe_sandbox_protections(few, SandboxLimits(memory_mib=256))
    for part in (
        "no limit of 256 MiB of memory",
        "network",
        "files elsewhere: blocked only in Python",
        "the number of processes is not limited",
    ):
        assert part in missing
    assert "memory" not in held
    assert "as user nobody" in held


def test_protections_are_those_of_this_machine(sandbox: Sandbox) -> None:
    weak = Sandbox(disabled_protections=frozenset({"landlock", "seccomp"})).detect_protections()
    assert not weak & {"landlock", "seccomp", "paths"}
    if LINUX and "seccomp" in sandbox.detect_protections():
        assert "paths" in sandbox.detect_protections()


def test_a_filter_that_lets_too_little_pass_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if not LINUX:
        pytest.skip("seccomp is Linux's")
    monkeypatch.delitem(syscalls.BY_PATH, "openat")
    sandbox = Sandbox()
    assert "seccomp" not in sandbox.detect_protections()
    assert sandbox.run_program("answer = 42").answer == "42"


def test_a_machine_where_it_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with raises(JobFailed, "failed"):
        Sandbox().run_program("answer = 42")


@pytest.mark.thorough
def test_where_answers_are_letters_a_program_names_a_choice(sandbox: Sandbox) -> None:
    letters = Sandbox(expects_letter=True)
    found = {code: letters.run_program(f"answer = {code}") for code in ("'B'", "'b'", "'B. blue'", "'AB'[1]")}
    assert {outcome.answer for outcome in found.values()} == {"B"}
    for code, why in (
        ("4", "`answer` is '4', not a letter of a choice"),
        ("'blue'", "`answer` is 'blue', not a letter of a choice"),
        ("None", "`answer` is None, not a letter of a choice"),
        ("['B']", "`answer` is of type list, not a letter of a choice"),
    ):
        outcome = letters.run_program(f"answer = {code}")
        assert (outcome.answer, outcome.why) == (None, why)
    assert sandbox.run_program("answer = 'B'").why == "`answer` is 'B', not a number"
