"""Real signals to real processes: the first one waits for what must be whole, the second one for
nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from runner_base import signals

signals.install_signal_handlers()
def send(number=signal.SIGINT): os.kill(os.getpid(), number)
printed = []
{}
print(*printed)
"""


def printed(tmp_path: Path, body: str, *before: str) -> str:
    """Return what a process prints that sends itself signals; `before` are shell commands that come
    first."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body))
    done = subprocess.run(
        ["bash", "-c", " ".join([*before, f"exec {sys.executable} {file}"])],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_each_is_an_interrupt(tmp_path: Path, name: str) -> None:
    body = f"try: send(signal.{name})\nexcept KeyboardInterrupt: printed.append('interrupted')"
    assert printed(tmp_path, body) == "interrupted"


def test_what_the_shell_ignores_stays_ignored_and_sigterm_still_works(tmp_path: Path) -> None:
    body = """
send(signal.SIGINT); send(signal.SIGHUP)
printed.append('going on')
try: send(signal.SIGTERM)
except KeyboardInterrupt: printed.append('interrupted')
"""
    assert printed(tmp_path, body, "trap '' INT HUP;") == "going on interrupted"


CLOSING = """
try:
    with signals.defer_signals():
        try:
            with signals.interruptible_block():
                {first}
                printed.append('work')
        except KeyboardInterrupt: printed.append('stopped')
        finally:
            send(); send(signal.SIGTERM)
            printed.append('closed')
except KeyboardInterrupt: printed.append('interrupted')
"""


@pytest.mark.parametrize(
    ("first", "words"),
    [("send()", "stopped closed interrupted"), ("pass", "work closed interrupted")],
    ids=["twice", "while-closing"],
)
def test_what_is_begun_is_closed_before_a_signal_acts(tmp_path: Path, first: str, words: str) -> None:
    assert printed(tmp_path, CLOSING.format(first=first)) == words


def test_one_that_comes_before_the_work_stops_it(tmp_path: Path) -> None:
    body = """
with signals.defer_signals():
    send()
    try:
        with signals.interruptible_block(): printed.append('work')
    except KeyboardInterrupt: printed.append('stopped')
with signals.redirect_signals(lambda: printed.append('redirected')): send()
"""
    assert printed(tmp_path, body) == "stopped redirected"


SLOWLY = """
signals.SAME_S = 0.0
try:
    with signals.defer_signals():
        try:
            with signals.interruptible_block():
                {work}
                printed.append('whole')
        except KeyboardInterrupt as stop:
            printed.append(type(stop).__name__)
            {cleanup}
            printed.append('closed')
except KeyboardInterrupt: printed.append('interrupted')
"""
STEP = "with signals.defer_signals_until_step_ends(): send(); printed.append('step')"
TWICE = "with signals.defer_signals_until_step_ends(): send(); time.sleep(0.01); send(signal.SIGTERM); printed.append('step')"


@pytest.mark.parametrize(
    ("work", "cleanup", "words"),
    [
        (STEP, "pass", "step BetweenSteps closed"),
        (TWICE, "pass", "Interrupted closed"),
        (STEP, "time.sleep(0.01); send(signal.SIGTERM)", "step BetweenSteps interrupted"),
        ("send()", "time.sleep(0.01); send()", "Interrupted interrupted"),
    ],
    ids=["a-step-is-finished", "twice-in-a-step", "twice-while-closing", "twice-elsewhere"],
)
def test_the_first_one_waits_for_the_step_and_the_second_acts_at_once(
    tmp_path: Path, work: str, cleanup: str, words: str
) -> None:
    assert printed(tmp_path, "import time\n" + SLOWLY.format(work=work, cleanup=cleanup)) == words


def test_one_wish_that_is_sent_twice_is_one(tmp_path: Path) -> None:
    words = printed(tmp_path, SLOWLY.replace("signals.SAME_S = 0.0", "").format(work=STEP, cleanup="send()"))
    assert words == "step BetweenSteps closed interrupted"


def test_a_step_that_lasts_is_left_where_it_asks(tmp_path: Path) -> None:
    work = "with signals.defer_signals_until_step_ends(): send(); signals.sleep_interruptibly(60)"
    assert printed(tmp_path, SLOWLY.format(work=work, cleanup="pass")) == "Interrupted closed"


def test_the_next_work_of_a_process_begins_with_a_first_signal(tmp_path: Path) -> None:
    body = SLOWLY.format(work=STEP, cleanup="pass")
    assert printed(tmp_path, f"import time\n{body}\ntime.sleep(0.01)\n{body}") == " ".join(
        2 * ["step BetweenSteps closed"]
    )


WHILE_A_CLASS_IS_MADE = """
from runner_base.entry import run_command
run_command("error", lambda: exec("send()", globals()), interrupt_message="try again")
"""


def test_an_interrupt_while_a_class_is_made_is_the_same_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(WHILE_A_CLASS_IS_MADE))
    command = [sys.executable, "-m", "program"]  # a file or -c sets aside what has passed
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted: what was done is kept, try again\n")


LOST = """
import gc, threading, time, weakref
start = threading.Thread.start
class Late:
    def __del__(self):
        {deleting}
class Cycle: pass
def seen(_):
    {called_back}
{mode}
try:
    {trigger}
    time.sleep(30)
except KeyboardInterrupt: printed.append('interrupted')
"""


@pytest.mark.parametrize("within", ["__del__", "callback", "deferred", "busy"])
def test_a_signal_is_not_lost_where_python_ignores_exceptions(tmp_path: Path, within: str) -> None:
    """A library's `__del__` ran while a server's model was loaded: the signal was gone, and the
    server went on."""
    sends = "send(signal.SIGTERM); [None for _ in range(99)]"
    body = LOST.format(
        deleting=sends if within != "callback" else "pass",
        called_back=sends if within == "callback" else "pass",
        mode={
            "callback": "one = Cycle(); watched = weakref.ref(one, seen)",
            "busy": "threading.Thread.start = lambda one: (start(one), time.sleep(0.2))",  # it is sent again meanwhile
        }.get(within, ""),
        trigger={
            "__del__": "Late()",
            "busy": "Late()",
            "callback": "del one",
            "deferred": "\n    with signals.defer_signals(), signals.interruptible_block(): Late(); time.sleep(30)",
        }[within],
    )
    assert printed(tmp_path, body) == "interrupted"


CONVERTED = """
try: send()
except KeyboardInterrupt as stop: {library}
"""


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("raise ValueError('no usable tokenizer')", "Interrupted interrupted"),
        ("raise SystemError('half a module') from None", "Interrupted interrupted"),
        ("signals.mark_interrupt_handled()", "whole"),
    ],
    ids=["an error", "another error", "answered"],
)
def test_what_a_library_makes_of_an_interrupt_is_the_interrupt(
    tmp_path: Path, library: str, words: str
) -> None:
    work = f"\n{CONVERTED.format(library=library)}".replace("\n", "\n" + 16 * " ")
    cleanup = "signals.raise_if_interrupt_dropped(); raise"
    shown = printed(tmp_path, SLOWLY.replace("printed.append('closed')", "pass").format(work=work, cleanup=cleanup))  # fmt: skip
    assert shown == words


def test_an_interrupt_that_a_library_drops_acts_at_the_next_work(tmp_path: Path) -> None:
    body = """
try: send()
except BaseException: printed.append('dropped')
try:
    with signals.defer_signals(), signals.interruptible_block(): printed.append('work')
except KeyboardInterrupt: printed.append('interrupted')
with signals.defer_signals(), signals.interruptible_block(): printed.append('the next work')
"""
    assert printed(tmp_path, body) == "dropped interrupted the next work"


def test_an_error_that_was_an_interrupt_exits_as_one(tmp_path: Path) -> None:
    body = """
from runner_base.entry import run_command
from runner_base import ConfigError
def work():
    try: send()
    except BaseException: raise ConfigError('no usable tokenizer', code='bad_value') from None
run_command("error", work, interrupt_message="try again")
"""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted: what was done is kept, try again\n")


@pytest.mark.thorough
def test_the_user_is_told_that_a_step_is_waited_for(tmp_path: Path) -> None:
    body = """
import time
signals.install_signal_handlers(on_signal_waiting=lambda: printed.append('told'))
signals.WAITING_S = 0.05
try:
    with signals.defer_signals(), signals.interruptible_block():
        with signals.defer_signals_until_step_ends():
            send()
            for _ in range(30): time.sleep(0.01)
            printed.append('step')
except KeyboardInterrupt: printed.append('interrupted')
"""
    assert printed(tmp_path, body) == "told step interrupted"


def test_before_the_work_a_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(
        "import os, signal\nfrom runner_base import signals\nsignals.exit_on_signals()\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: print('a library')\n"
    )
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: nothing was begun\n"
