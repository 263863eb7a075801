"""task=multiple_choice as a job: it resumes, is judged again without decoding, is compared and gated."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from interrupts import answers
from raising import raises
from stopping import POLICY, compose_gate_keys, find_jobs, find_stop

from runner.config.resolved import resolve_job
from runner.engines import create_lazy_engine
from runner.library.load import build_load_config
from runner.options.multiple_choice.choice_engine import build_choice_requests
from runner.options.multiple_choice.keys import ClusterKey, MultipleChoiceConfig
from runner.options.multiple_choice.questions import load_choice_questions
from runner_base import ConfigError
from runner_base.result import Sample
from runner_engine.sessions.contract import complete_requests

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
EMBEDDED = ("task=multiple_choice", "task.limit=16", "model.dtype=float32", "tracking=none")
SAID_A, SAID_B, ALIKE = "Answer: A", "Answer: B", "A."


def samples_of(done: Any) -> list[Sample]:
    lines = Path(done.json()["output_dir"], "samples.jsonl").read_text().splitlines()
    return sorted(map(Sample.from_json, lines), key=lambda sample: sample.index)


def test_likelihoods_are_those_of_single_requests(runner: Run) -> None:
    """The control scores each choice alone, without a shared prompt."""
    done = runner(*EMBEDDED, "print=json")
    questions = load_choice_questions(MultipleChoiceConfig(limit=16)).questions
    groups = {"quantization": None, "lora": None, "rope": None, "generation": None}
    config = build_load_config("embedded", groups, {"dtype": "float32"})
    engine = create_lazy_engine(resolve_job(config))
    for sample, question in zip(samples_of(done), questions, strict=True):
        for request, scored in zip(
            build_choice_requests(question, 0), sample.choice_likelihoods or [], strict=True
        ):
            (alone,) = complete_requests(engine, [request])
            assert scored.nats == pytest.approx(math.fsum(alone.logprobs or ()), abs=1e-3)
            assert scored.tokens == len(alone.answer.token_ids)
    engine.close()
    assert done.json()["metrics"]["chance"] == 0.25
    solved = [(sample.category, sample.solved) for sample in samples_of(done)]
    assert solved.count(("worked answer", True)) >= 7 > 5 > solved.count(("result only", True))


def test_a_long_prompt_is_computed_once_for_all_choices(runner: Run) -> None:
    metrics = runner(*EMBEDDED, "task.shots=4", "print=json").json()["metrics"]
    assert metrics["shared_prompt_tokens"] > 0
    # without sharing, each of the four choices would read the whole prompt
    assert metrics["computed_prompt_tokens"] < 1.2 * metrics["prompt_tokens"]


def test_another_limit_and_metric_are_judged_without_scoring_again(runner: Run) -> None:
    first = samples_of(runner(*EMBEDDED, "print=json"))
    again = samples_of(runner(*EMBEDDED, "task.limit=20", "task.metric=acc_norm", "print=json"))
    assert {sample.reused_from is not None for sample in again[:16]} == {True}
    assert {sample.reused_from for sample in again[16:]} == {None}
    assert [sample.choice_likelihoods for sample in again[:16]] == [
        sample.choice_likelihoods for sample in first
    ]


def run_three_answers(runner: Run, limit: int) -> None:
    chosen = f"model.answer='{SAID_A}','{SAID_B}','{ALIKE}'"
    words = ("model=stub", "task=multiple_choice", "task.scoring=generation", f"task.limit={limit}")
    assert runner("-m", *words, chosen, "print=none", "tracking=none").code == 0


def test_answers_are_paired_by_question(runner: Run) -> None:
    questions = load_choice_questions(MultipleChoiceConfig(limit=80)).questions
    right = [question.gold_letters for question in questions]
    won, lost = right.count("B"), right.count("A")
    run_three_answers(runner, 80)
    done = runner("--baseline", f"model.answer='{SAID_A}'", "--format", "json", module="runner_compare")
    rows = [row for row in json.loads(done.out)["tables"][0]["rows"] if row["comparison"]]
    found = {row["config"]["model.answer"]: row["comparison"] for row in rows}
    assert (found[SAID_B]["wins"], found[SAID_B]["losses"]) == (won, lost)
    assert found[SAID_B]["difference"] == pytest.approx((won - lost) / 80)
    alike = found[ALIKE]
    assert (alike["wins"], alike["losses"], alike["finding"]) == (0, 0, "no difference shown")


def read_record(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.thorough
def test_scored_choices_stop_where_the_verdicts_decide(runner: Run, tmp_path: Path) -> None:
    """The embedded model: quantization changes little, so that a large margin is decided soon."""
    words: tuple[str, ...] = ("task=multiple_choice", "task.limit=60", "print=json", "tracking=none")
    whole = {name: runner(f"quantization={name}", *words) for name in ("none", "int8")}
    own, base = ([sample.solved for sample in samples_of(whole[name])] for name in ("int8", "none"))
    stop = find_stop(zip(own, base, strict=True), margin=0.4)
    words = (*words, "generation.batch_size=1", "output_dir=again")  # so that answers are not reused
    gate = ("gate.baseline=quantization=none", "gate.margin=40")
    done = runner("-m", "quantization=none,int8", *words, *gate)
    assert (done.code, done.json()["candidates"][0]["verdict"]) == (0, "GO"), done.err
    jobs = tmp_path.glob("again/jobs/*/result.json")
    found = {job["params"]["quantization.name"]: job["result"] for job in map(read_record, jobs)}
    metrics = found["int8"]["metrics"]
    assert metrics["questions_asked"] == metrics["n"] == stop < found["none"]["metrics"]["n"] == 60


def test_questions_in_blocks_of_subjects_need_a_shuffle(runner: Run, tmp_path: Path) -> None:
    """A job would stop after the first subjects. It can, where subjects are mixed."""
    rows = [{"question": f"{number}?", "choices": ["x", "y"], "answer": 0, "subject": f"s{number // 20}"}
            for number in range(60)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words: tuple[str, ...] = (
        "model=stub",
        "task=multiple_choice",
        "task.scoring=generation",
        f"task.data={tmp_path}/a.jsonl",
    )
    words += ("task.format=mmlu", f"model.answer='{SAID_A}','{SAID_B}'", f"gate.baseline=\"model.answer='{SAID_A}'\"", "gate.margin=5",
              "print=json", "tracking=none")  # fmt: skip
    refused = runner("-m", *words)
    assert refused.code == 2
    assert ": task.shuffle_seed=null: " in refused.err
    assert not (tmp_path / "outputs" / "jobs").exists()
    done = runner("-m", *words, "task.shuffle_seed=0")
    assert done.code == 1, done.err
    metrics = find_jobs(tmp_path, "model.answer")[SAID_B]["metrics"]
    stop = find_stop([(False, True)] * 60, margin=0.05)
    assert (metrics["n"], metrics["correct"], metrics["questions_left"]) == (stop, 0, 60 - stop)


@pytest.mark.parametrize(
    ("words", "is_on"),
    [
        ((), True),
        ((POLICY,), False),
        (("task.cluster=subject",), False),
        (("task.scoring=generation",), True),
    ],
)
def test_the_gate_stops_jobs_with_independent_questions(words: tuple[str, ...], is_on: bool) -> None:
    assert compose_gate_keys("task=multiple_choice", *words) == (("lora=none", 5) if is_on else (None, None))


def test_keys_that_do_not_fit_early_stopping_are_rejected() -> None:
    with raises(ConfigError, "conflict", "task.cluster"):
        MultipleChoiceConfig(early_stop_vs="lora=none", cluster=ClusterKey.subject)
    with raises(ConfigError, "conflict", "task.repeat_index"):
        MultipleChoiceConfig(early_stop_vs="lora=none", repeat_index=1)


@pytest.mark.thorough
def test_the_gate_passes_equal_verdicts_alone(runner: Run) -> None:
    named = f"model.answer='{SAID_A}'"
    run_three_answers(runner, 240)
    assert runner("pack", named, "-o", "base.runner.gz", module="runner_compare").code == 0
    gate = runner("gate", "base.runner.gz", "outputs", "--json", "--margin", "5", module="runner_compare")
    verdicts = {candidate["name"]: candidate["verdict"] for candidate in json.loads(gate.out)["candidates"]}
    assert verdicts[f"model.answer={ALIKE}"] == "GO"
    assert verdicts[f"model.answer={SAID_B}"] != "GO"


def test_a_prompt_beyond_the_context_is_one_error(runner: Run, tmp_path: Path) -> None:
    rows = [{"question": text, "choices": ["1", "2"], "answer": 0} for text in ("1+0?", "7 " * 5000, "3-2?")]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = runner("task=multiple_choice", "task.data=a.jsonl", "tracking=none", "print=json")
    assert done.code == 1
    samples = samples_of(done)
    assert [(sample.failed, sample.permanent) for sample in samples] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert "Traceback" not in done.err


def test_a_plan_names_questions_and_chance(runner: Run) -> None:
    done = runner("task=multiple_choice", "task.limit=300", "task.show_prompt=1", "plan=true")
    assert done.code == 0
    assert "300 questions of 2 subjects" in done.out + done.err
    assert "Question: Yusuf" in done.out + done.err


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("task.data=arc_eazy", "arc_easy"),
        ("task.data=a.jsonl", "a.jsonl, line 1"),
        ("task.shots=200", "task.shots"),
        ("task.metric=acc2", "acc_norm"),
    ],
)
def test_a_mistake_ends_with_exit_code_2(runner: Run, tmp_path: Path, override: str, named: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "?", "choices": ["x"], "answer": 0}\n')
    done = runner("task=multiple_choice", override)
    assert done.code == 2
    assert named in done.err
    assert "Traceback" not in done.err


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 12, 30])
def test_a_killed_job_resumes_with_the_same_samples(runner: Run, tmp_path: Path, count: int) -> None:
    words = [*EMBEDDED, "task.limit=40", "generation.batch_size=4"]
    whole = samples_of(runner(*words, "print=json", f"output_dir={tmp_path}/whole"))
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words, f"output_dir={tmp_path}/killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(answers(tmp_path / "killed")) >= count)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    assert count <= len(answers(tmp_path / "killed")) < 40
    resumed = samples_of(runner(*words, "print=json", f"output_dir={tmp_path}/killed"))
    assert [(sample.answer, sample.choice_likelihoods) for sample in resumed] == [
        (sample.answer, sample.choice_likelihoods) for sample in whole
    ]
