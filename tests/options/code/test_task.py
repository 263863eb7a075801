"""task=code from the prompt to the verdict, with answers of which the truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from interrupts import answers as recorded_answers
from interrupts import kill_when
from raising import raises
from scripted import Reply, Scripted
from stopping import POLICY, compose_gate_keys, find_stop, resume_killed_job
from tasking import work
from traced import traces_of

from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.options.code import task as code
from runner.options.code.judging import OUTCOME, PROGRAM, CodeJudge
from runner.options.code.keys import CodeConfig
from runner.options.code.problems import CodeProblem, read_code_problems
from runner.records.jobs import Job, Recorder
from runner.run import run
from runner.sandbox.sandbox import Sandbox
from runner.tasks import early_stop
from runner.tasks.base import TaskContext
from runner_base.errors import ConfigError, RunRecordError
from runner_base.result import FinishReason, Verdict
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
PROBLEMS = read_code_problems("embedded", None, "test", None)
WRONG = json.loads(Path(__file__).with_name("wrong_solutions.json").read_text())
STOP, LENGTH = FinishReason.stop, FinishReason.length


def write_answer(problem: CodeProblem, is_right: bool) -> str:
    program = problem.solution if is_right else problem.prompt + WRONG[problem.entry_point]
    return f"Here is the function:\n```python\n{program}```"


def answer_all(num_right: int) -> str:
    """Return one answer with the functions of all problems. Those of the first ones are right."""
    programs = [
        problem.solution if number < num_right else problem.prompt + WRONG[problem.entry_point]
        for number, problem in enumerate(PROBLEMS)
    ]
    return "```python\n{}\n```".format("\n\n".join(programs))


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("code-test", folder))
    yield opened
    opened.close()


def make_job(make_config: Make, temperature: float = 0.0, **keys: Any) -> RunnerConfig:
    generation = GenerationConfig(max_new_tokens=64, temperature=temperature)
    return make_config(generation=generation, task=CodeConfig(**keys))


def test_each_outcome_is_counted_and_recorded(make_config: Make, recorder: Recorder) -> None:
    bodies: list[Reply] = [
        (write_answer(PROBLEMS[0], True), STOP),
        (write_answer(PROBLEMS[1], False), STOP),
        ("```python\ndef is_leap_year(year):\n    return 1 / 0\n```", STOP),
        ("```python\ndef second_largest(numbers):\n    while True:\n        pass\n```", STOP),
        ("I do not know.", STOP),
        ("```python\ndef digit_sum(number):\n    return sum(", LENGTH),
        ("```python\ndef is_balanced(text):\n    return bytearray(10 ** 12)\n```", STOP),
        (
            "```python\nopen('/etc/passwd')\n```\n```python\nopen('/etc/passwd')\ndef merge_intervals(x):\n    pass\n```",
            STOP,
        ),
        ("```python\nprint('x' * 10 ** 7)\ndef to_roman(number):\n    pass\n```", STOP),
    ]
    config = make_job(make_config, limit=9, timeout_s=1)
    result = work(code, config, recorder, Scripted(dict(enumerate(bodies))))
    outcomes = {
        "passed": 1,
        "failed": 1,
        "error": 2,
        "timeout": 1,
        "no_program": 1,
        "out_of_memory": 1,
        "refused": 1,
        "too_much_output": 1,
    }
    assert {name: result.metrics[f"programs/{name}"] for name in outcomes} == outcomes
    assert result.metrics["accuracy"] == pytest.approx(1 / 9)
    assert [result.metrics[name] for name in ("correct", "wrong", "no_answer", "cut_off")] == [1, 6, 1, 1]
    assert {row["outcome"]: row["programs"] for row in result.tables["programs by outcome"]} == outcomes
    first = recorder.samples[0].answer.extracted
    assert first is not None
    assert str(first[PROGRAM]).strip() == PROBLEMS[0].solution.strip()
    assert recorder.samples[4].answer.extracted == {PROGRAM: None, OUTCOME: "no_program", "reason": None}
    assert "empty folder" in result.facts["sandbox"]


def test_pass_at_k_of_several_answers(make_config: Make, recorder: Recorder) -> None:
    """Of four answers, as many are right as the number of the problem: pass@2 is 0, 1/2, 5/6, 1, 1."""
    answers: dict[int, list[Reply]] = {
        number: [(write_answer(PROBLEMS[number], choice < number), STOP) for choice in range(4)]
        for number in range(5)
    }
    config = make_job(make_config, temperature=1.0, limit=5, samples=4)
    result = work(code, config, recorder, Scripted(answers))
    expected = {1: 0.5, 2: (1 / 2 + 5 / 6 + 2) / 5, 4: 0.8}
    assert {k: result.metrics[f"pass_at_k/{k}"] for k in expected} == pytest.approx(expected)
    assert result.metrics["accuracy"] == pytest.approx(0.5)
    assert result.metrics["programs/passed"] == 10
    assert all(row["low"] < row["pass@k"] < row["high"] for row in result.rows)


def test_a_next_start_keeps_answers_and_runs_no_program_again(make_config: Make, recorder: Recorder) -> None:
    answers: dict[int, Reply] = {n: (write_answer(PROBLEMS[n], n != 1), STOP) for n in range(3)}
    config = make_job(make_config, limit=3)
    first = work(code, config, recorder, Scripted(answers))
    engine: Any = Scripted({})
    judge = CodeJudge(dict(enumerate(PROBLEMS[:3])), 1, Sandbox())
    assert [judge.rejection_reason(sample) for sample in recorder.samples.values()] == [None] * 3
    assert judge._started == {}
    again = work(code, config, Recorder(recorder.job), engine)
    assert engine.asked == []
    assert again.metrics["accuracy"] == first.metrics["accuracy"] == pytest.approx(2 / 3)


def test_a_sample_with_another_program_is_refused(make_config: Make, recorder: Recorder) -> None:
    config = make_job(make_config, limit=1)
    work(code, config, recorder, Scripted({0: (write_answer(PROBLEMS[0], False), STOP)}))
    sample = recorder.samples[0]
    changed = replace(sample.answer, text=write_answer(PROBLEMS[0], True), verdict=Verdict.correct)
    recorder.path.write_text(replace(sample, answer=changed).to_json() + "\n")
    with pytest.raises(RunRecordError):
        work(code, config, Recorder(recorder.job), Scripted({}))


def test_bad_keys_are_named() -> None:
    with raises(ConfigError, "bad_value", "task.timeout_s"):
        CodeConfig(timeout_s=0)
    with raises(ConfigError, "bad_value", "task.memory_mib"):
        CodeConfig(memory_mib=1)


STUB = ["task=code", "model=stub", "tracking=none", "print=json", "generation.max_new_tokens=4000"]


def quote(text: str) -> str:
    """Return a text as a quoted value of the command line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@pytest.fixture
def answers() -> dict[str, str]:
    """Overrides for a stub that solves all problems, and for one that solves the first 5 of 20."""
    return {
        name: f"model.answer={quote(answer_all(num_right))}"
        for name, num_right in (("right", 20), ("worse", 5))
    }


@pytest.mark.slow
def test_jobs_are_judged_again_and_compared_and_gated(
    runner: Callable[..., Any], answers: dict[str, str]
) -> None:
    right = runner(*STUB, answers["right"]).json()
    assert right["metrics"]["accuracy"] == 1
    worse = runner(*STUB, answers["worse"]).json()
    assert worse["metrics"]["correct"] == 5
    judged = runner(*STUB, answers["worse"], "task.timeout_s=5").json()
    assert judged["job_id"] != worse["job_id"]
    assert judged["metrics"]["correct"] == 5
    notes = json.loads((Path(judged["output_dir"]) / "result.json").read_text())["result"]["notes"]
    assert any(worse["job_id"] in note for note in notes)  # no answer was generated
    baseline = f"job_id={right['job_id']}"
    compared = runner("--baseline", baseline, "--format", "json", module="runner_compare")
    assert compared.code == 0, compared.err
    assert '"worse"' in compared.out
    folders = [f"outputs/jobs/{job['job_id']}" for job in (right, worse)]
    assert runner("gate", *folders, "--margin", "5", module="runner_compare").code == 1
    assert runner("gate", *reversed(folders), "--margin", "5", module="runner_compare").code == 0


def write_problems(path: Path, tests: list[str]) -> str:
    """Write a problem for each test, and return the override that names the file."""
    row = {"entry_point": "f", "canonical_solution": "    return x * x\n"}
    rows = [
        row | {"task_id": str(number), "prompt": f'def f(x):\n    """Problem {number}."""\n', "test": test}
        for number, test in enumerate(tests)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return f"task.data={path}"


def answer_with(body: str) -> str:
    text = quote(f"```python\ndef f(x):\n    return {body}\n```")
    return f"model.answer={text}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_pass_at_k_is_compared_bounded_by_the_gate_and_logged(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    tests = [f"def check(candidate):\n    assert candidate(3) == {found}\n" for found in [9] * 45 + [6] * 15]
    data = write_problems(tmp_path / "data.jsonl", tests)
    words = ["task=code", "model=stub", "print=json", "generation=sampling", "task.samples=2", data]
    right = runner(*words, answer_with("x * x"), "tracking=none")
    worse = runner(*words, answer_with("x + x"), "tracking.traces=true")
    metrics = worse.json()["metrics"]
    assert (
        0.1 < metrics["pass_at_k_low/2"] < metrics["pass_at_k/2"] == 0.25 < metrics["pass_at_k_high/2"] < 0.4
    )
    baseline = f"job_id={right.json()['job_id']}"
    compared = runner(
        "--baseline", baseline, "--metric", "pass@2", "--format", "json", module="runner_compare"
    )
    (found,) = (row["number"] for row in json.loads(compared.out)["tables"][0]["rows"] if "number" in row)
    assert (found["measure"], found["difference"], found["finding"]) == ("number:pass@2", -0.5, "worse")
    folders = [f"outputs/jobs/{done.json()['job_id']}" for done in (right, worse)]
    for limit, exit_code in (("--max=pass_at_k/2=0.5", 0), ("--min=pass_at_k/2=0.5", 1)):
        gate = runner("gate", *folders, limit, module="runner_compare")
        assert gate.code == exit_code, (limit, gate.out, gate.err)
    correct = [
        it.value
        for trace in traces_of(tmp_path, worse)
        for it in trace.info.assessments
        if it.name == "correct"
    ]
    assert correct == [0] * 45 + [1] * 15


SQUARE_TESTS = "def check(candidate):\n    assert candidate(3) == 9\n"


def test_a_job_stops_by_the_order_of_the_problems_and_not_of_the_programs(
    make_config: Make, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers the last of twelve problems first, and the first programs end last."""
    monkeypatch.setattr(early_stop, "MIN_AHEAD", 12)
    sleep = "import time\ntime.sleep(0.3)\n"
    tests = [sleep * (number < 2) + SQUARE_TESTS for number in range(30)]
    data = write_problems(tmp_path / "data.jsonl", tests).partition("=")[2]
    right, wrong = (f"```python\ndef f(x):\n    return {body}\n```" for body in ("x * x", "x + x"))
    limited = {"generation": GenerationConfig(max_new_tokens=64)}
    base = run(make_config(model=StubConfig(answer=right), task=CodeConfig(data=data), **limited))
    assert base.result.metrics["accuracy"] == 1
    solved = [number in (1, 3, 4) for number in range(30)]
    config = make_config(task=CodeConfig(data=data, early_stop_vs=base.job_id), **limited)
    engine: Any = Scripted({number: (right if it else wrong, STOP) for number, it in enumerate(solved)})
    inputs = code.prepare(config)
    result = code.run(inputs, TaskContext(recorder, resolve_job(config), engine))
    stop = find_stop((it, True) for it in solved)
    assert result.metrics["questions_asked"] == result.metrics["n"] == stop == 11
    assert result.metrics["correct"] == 3
    assert result.metrics["questions_left"] == 19
    assert len(engine.asked) < 30, "answers that wait for their programs count as unfinished"
    assert result.metrics["early_stop_decision"] == -1
    # the control: the same answers as the baseline's are no reason to stop
    same = run(make_config(model=StubConfig(answer=right), task=CodeConfig(data=data, early_stop_vs=base.job_id), seed=1,
                           **limited))  # fmt: skip
    assert (same.result.metrics["n"], same.result.metrics["early_stop_p"]) == (30, 1)
    assert same.result.metrics["early_stop_decision"] == 0
    with raises(ConfigError, "mismatch", "task.early_stop_vs"):  # the programs had other limits
        run(make_config(model=StubConfig(answer=wrong), task=CodeConfig(data=data, timeout_s=5, early_stop_vs=base.job_id),
                        **limited))  # fmt: skip


@pytest.mark.parametrize(
    ("words", "is_on"),
    [
        ((), True),
        ((POLICY,), False),
        (("task.samples=2", "generation=sampling"), False),
        (("task.repeat_index=1",), False),
    ],
)
def test_the_gate_stops_jobs_with_independent_questions(words: tuple[str, ...], is_on: bool) -> None:
    assert compose_gate_keys("task=code", *words) == (("lora=none", 5) if is_on else (None, None))


def test_keys_that_do_not_fit_early_stopping_are_rejected() -> None:
    with raises(ConfigError, "conflict", "task.samples"):
        CodeConfig(early_stop_vs="lora=none", samples=2)
    with raises(ConfigError, "conflict", "task.repeat_index"):
        CodeConfig(early_stop_vs="lora=none", repeat_index=1)
    with raises(ConfigError, "no_effect", "task.early_stop_margin"):
        CodeConfig(early_stop_margin=2)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_job_stops_at_the_same_problem(runner: Callable[..., Any], tmp_path: Path) -> None:
    """All verdicts are losses. The first eight decide, whenever the job is killed."""
    words = [*STUB, write_problems(tmp_path / "data.jsonl", [SQUARE_TESTS] * 12)]
    base = runner(*words, answer_with("x * x")).json()
    words += [answer_with("x + x"), f"task.early_stop_vs={base['job_id']}"]
    resumed = resume_killed_job(runner, [*words, "model.delay_s=0.3"], base, 3)
    names = ("n", "early_stop_losses", "questions_asked", "questions_left")
    assert [resumed["metrics"][name] for name in names] == [8, 8, 8, 4]


SLOW_TESTS = "import time\n\ndef check(candidate):\n    time.sleep(0.4)\n    assert candidate(2) == 4\n"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["load", "middle", "programs", "result"])
def test_a_killed_job_resumes_with_the_same_result(
    tmp_path: Path, runner: Callable[..., Any], moment: str
) -> None:
    """It is killed before the first answer, between two answers, while programs run, or before the result."""
    data = write_problems(tmp_path / "data.jsonl", [SLOW_TESTS] * 12)
    words = [*STUB, answer_with("x * x"), data, "generation.batch_size=2"]
    whole = runner(*words, f"output_dir={tmp_path}/whole").json()
    killed = tmp_path / "killed"
    delay = {"load": "5", "middle": "1"}.get(moment, "0")
    counts = {"load": 0, "middle": 4, "programs": 2, "result": 12}

    def is_reached() -> bool:
        return bool([*killed.glob("jobs/*/config.yaml")]) and len(recorded_answers(killed)) >= counts[moment]

    kill_when(is_reached, killed, [*words, f"model.delay_s={delay}"])
    assert counts[moment] <= len(recorded_answers(killed)) <= (12 if moment == "result" else 11)
    resumed = runner(*words, f"output_dir={killed}").json()
    assert recorded_answers(killed) == recorded_answers(tmp_path / "whole")
    assert resumed["metrics"]["programs/passed"] == 12
    names = [name for name in whole["metrics"] if "programs" in name or "accuracy" in name]
    assert {name: resumed["metrics"][name] for name in names} == {
        name: whole["metrics"][name] for name in names
    }
