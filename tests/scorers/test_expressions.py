"""task.extractor=math: labelled pairs of gold answers and texts, the hostile ones among them, and
the process behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grids import children, command
from raising import raises

from runner.scorers import expressions
from runner.scorers.expressions import LONGEST, PROCESS, ExpressionScorer, find_equal_expression
from runner.scorers.verdicts import judge_answer
from runner.scorers.votes import count_majority_votes
from runner_base import child_process
from runner_base.errors import ConfigError
from runner_base.model_text import Answer, FinishReason, Verdict

PAIRS = [json.loads(line) for line in Path("tests/data/math_pairs.jsonl").read_text().splitlines()]
# seconds that an answer may take at most: its limit is half a second of CPU time, and other
# processes have turns
MOST_S = 5.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
POWERS, STOP = r"\boxed{9^{9^{9^{9}}}}", FinishReason.stop


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    """End the process that compares: the tests of other files count processes and open files."""
    yield
    PROCESS.close()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    PROCESS.close()


def children_of(pid: int) -> set[int]:
    mine = {*children(pid)}
    return mine | {it for one in mine for it in children_of(one)}


def ended(pids: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(command, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(command, pids))


@pytest.mark.thorough
@pytest.mark.slow
def test_five_hundred_labelled_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PAIRS) == 500
    monkeypatch.chdir(tmp_path)
    scorer, before = ExpressionScorer(), children_of(os.getpid())
    PROCESS.compare("x", ("y",))  # starts the process
    false: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    slowest, reasons = 0.0, []
    for one in PAIRS:
        started = time.perf_counter()
        found = scorer.find(one["text"])
        gold = scorer.read_gold(one["gold"])
        is_equal = found is not None and scorer.is_right(found, gold)
        slowest = max(slowest, time.perf_counter() - started)
        if is_equal is not one["equal"]:
            false[is_equal].append(one)
        if found is not None and (why := scorer.explain_comparison_failure(found, gold)):
            reasons.append(why)
    scorer.close()
    assert false[True] == []
    assert len(false[False]) <= 0.02 * sum(one["equal"] for one in PAIRS), false[False]
    assert slowest <= MOST_S
    assert len(reasons) >= 10, reasons
    assert list(tmp_path.iterdir()) == []
    assert not [it for it in children_of(os.getpid()) - before if "expressions_child" in str(command(it))]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (POWERS, "took more than 0.5 s of CPU time"),
        (r"\boxed{" + "(" * 50 + "1" + ")" * 50 + "}", "is nested more than 20 levels deep"),
        (r"\boxed{" + "1" * 1_000_000 + "}", f"is longer than {LONGEST:,} characters"),
        (r"\boxed{" * 100_000 + "1", None),
        ("x^{" * 300_000, f"is longer than {LONGEST:,} characters"),
    ],
    ids=["powers", "brackets", "million", "boxes", "braces"],
)
def test_a_hostile_answer_is_no_match_and_says_why(text: str, reason: str | None) -> None:
    started = time.perf_counter()
    judged = judge_answer(Answer(text, [], STOP), "5", "math")
    assert judged.verdicts["math"] is (Verdict.no_answer if reason is None else Verdict.wrong)
    assert judged.why_not.startswith(reason or "")
    assert bool(judged.why_not) is (reason is not None)
    if reason is None or not reason.startswith("took"):  # needs no process
        assert time.perf_counter() - started < MOST_S
    assert (
        judge_answer(Answer(r"\boxed{\frac{10}{2}}", [], STOP), "5", "math").verdicts["math"]
        is Verdict.correct
    )


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import runner.scorers.expressions_child as child; child.MEMORY_MIB = 300; child.CPU_S = child.CLOCK_S = 20.0\n"
        "import runner.scorers.expression_equality as rules; rules.are_expressions_equal = lambda gold, answer: bytes(10**9) == gold\n"
        "rules.WARMING = (); child.main()"
    )
    start = child_process.start_python_child_process
    monkeypatch.setattr(
        child_process, "start_python_child_process", lambda *_, **popen: start("-c", code, **popen)
    )
    assert PROCESS.compare("1+x", ("5",)) == (None, "needed more than 1024 MiB of memory")


def test_what_the_parser_may_not_do() -> None:
    code = """
import os, socket, subprocess, sys
from runner.scorers.expressions_child import apply_sandbox_limits
apply_sandbox_limits()
def refused(act):
    try:
        act()
    except (PermissionError, OSError):
        return True
print(*map(refused, [
    lambda: os.system("true"), lambda: subprocess.run(["true"]), lambda: open("x", "w"), lambda: os.mkdir("x"),
    lambda: eval("1 + 1"), lambda: exec("import os"), lambda: socket.socket(), lambda: os.remove("/dev/null"),
    lambda: os.kill(os.getpid(), 0), lambda: compile("Integer (5 ).__class__", "<string>", "eval"),
]))
compile(b"Integer (5 )", "<string>", "eval")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == {"True"}


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_is_left_running_when_the_parent_ends(kill: signal.Signals | None) -> None:
    code = (
        "import sys, threading, time\nfrom runner.scorers.expressions import PROCESS\n"
        "PROCESS.compare('x', ('y',))\n"
        "threading.Thread(target=PROCESS.compare, args=('9^{9^{9^{9}}}', ('5',)), daemon=True).start()\n"
        "print('asked', flush=True)\nif sys.argv[1] == 'wait': time.sleep(60)"
    )
    waiting = "wait" if kill else "end"
    with child_process.start_python_child_process("-c", code, waiting, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"asked\n"
        below = children_of(parent.pid)
        assert len(below) == 2 or kill is None
        if kill is not None:
            parent.send_signal(kill)
        parent.wait(10)
    assert ended(below, 30.0)


@pytest.mark.thorough
def test_a_process_that_was_killed_is_started_again() -> None:
    assert PROCESS.compare("x+1", ("1+x",)) == (0, "")
    for pid in children_of(os.getpid()):
        if b"expressions_child" in command(pid):
            os.kill(pid, signal.SIGKILL)
    assert PROCESS.compare("x+2", ("2+x",)) == (0, "")


def test_numbers_need_no_process() -> None:
    assert find_equal_expression("0007", ("1", "7.0")) == (1, "")
    assert find_equal_expression(r"\frac{14}{2}", ("8",)) == (None, "")
    assert PROCESS._process is None


def test_only_a_box_counts_in_a_text_that_was_cut_off() -> None:
    def verdict(text: str, reason: FinishReason) -> Verdict:
        return judge_answer(Answer(text, [], reason), r"\frac{1}{2}", "math").verdicts["math"]

    assert verdict("so $0.5$", STOP) is Verdict.correct
    assert verdict("so $0.5$", FinishReason.length) is Verdict.cut_off
    assert verdict(r"\boxed{0.5} To check", FinishReason.length) is Verdict.correct
    assert verdict(r"\boxed{2} To check", FinishReason.length) is Verdict.wrong
    assert verdict(r"so \boxed{0.5", STOP) is Verdict.no_answer
    assert verdict(r"<think>\boxed{0.5}</think>\boxed{2}", STOP) is Verdict.wrong
    assert verdict(r"<think>\boxed{0.5}", STOP) is Verdict.cut_off


@pytest.mark.thorough
def test_equal_expressions_vote_together() -> None:
    texts = [
        r"\boxed{x+1}",
        r"\boxed{\sqrt{12}}",
        r"\boxed{1+x}",
        r"\boxed{2\sqrt{3}}",
        r"\boxed{\frac{6}{\sqrt 3}}",
    ]
    judged = [judge_answer(Answer(text, [], STOP), r"2\sqrt{3}", "math") for text in texts]
    vote = count_majority_votes(judged, "math", ExpressionScorer().find_equal_answer)
    assert (vote.answer, vote.verdict) == (r"\sqrt{12}", Verdict.correct)
    assert (vote.right, vote.wrong, vote.tied) == ((3,), (2,), False)
    assert (
        count_majority_votes(
            judged[:1] + judged[2:3] + judged[1:2], "math", ExpressionScorer().find_equal_answer
        ).answer
        == "x+1"
    )


def test_without_the_package_one_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "find_spec", lambda _: None)
    with raises(ConfigError, "needs_package"):
        expressions.require_math_verify_package()
