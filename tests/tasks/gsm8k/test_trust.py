"""The trust report and its two checks: what they count, when they warn, and that they go on after a
kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from list_session import ListSession
from raising import raises
from scripted import Scripted
from tasking import work

from runner.config.extractors import Extractor
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.config.wording import PromptStyle
from runner.datasets.questions import load_questions
from runner.records.jobs import Job, Recorder, read_samples
from runner.run import run
from runner.scorers import extractors
from runner.scorers.extractors import Notation
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.judging import Judge, JudgedSample
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.reliability import TWINS, build_reliability_warnings, compute_reliability_metrics
from runner.tasks.gsm8k.repeated_questions import AGAIN
from runner.tasks.rendered_prompts import add_prompt_facts_to_report
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_base.result import Answer, FinishReason, Result, Sample, Verdict
from runner_engine.sessions.base import (
    Capability,
    Completion,
    EngineReport,
    Event,
    Message,
    Request,
    request_sha256,
)
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

MEASURED = {"peak_rss_mib": 0, "right_answer_s": 0}
Make = Callable[..., RunnerConfig]
BOS = 1
GOLD = {item.question: item.gold for item in load_questions(Gsm8kConfig(limit=40))}


class Knowing:
    """An engine that knows the questions of the embedded set by heart, and answers otherwise once
    it is alone."""

    capabilities = frozenset(Capability)

    def __init__(self, changing: Sequence[int] = ()) -> None:
        self.changing, self.asked, self.stats = changing, [], EngineStats()  # type: ignore[var-annotated]

    def load(self) -> EngineReport:
        return EngineReport(metrics={"load_s": 0.5})

    def encode(self, request: Request) -> tuple[str, list[int]]:
        return str(request.prompt), []

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(
            self.capabilities, lambda requests: ([self.said(it, batch_size)] for it in requests)
        )

    def said(self, request: Request, batch_size: int | None) -> Completion:
        self.asked.append((request.id, batch_size))
        question = request.prompt[-1].content.split("\n\n")[0]  # type: ignore[union-attr]
        text = f"#### {GOLD.get(question, 'unknown')}"
        if batch_size == 1 and request.id in self.changing:
            text = "well, 5" if request.id == self.changing[0] else f"so\n{text}"
        sha256 = request_sha256(self.encode(request)[0], request)
        return Completion(Answer(text, [1, 2], FinishReason.stop), sha256, 10, 0.2, request.id, 0.1)

    def close(self) -> None: ...


def started(tmp_path: Path, config: RunnerConfig, engine: Knowing) -> Result:
    (tmp_path / "job").mkdir(exist_ok=True)
    recorder = Recorder(Job("gsm8k-test", tmp_path / "job"))
    try:
        return work(gsm8k, config, recorder, engine)
    finally:
        recorder.close()


def judged(
    text: str, reason: FinishReason = FinishReason.stop, gold: str = "7", in_thinking: bool = False
) -> JudgedSample:
    task = Gsm8kConfig()
    item = replace(load_questions(Gsm8kConfig(limit=1))[0], gold=gold)
    return Judge(task, {0: item}).judge_sample(
        Sample(Answer(text, [1], reason, in_thinking=in_thinking), "sha", 3, 0.1, 0)
    )


def test_extractors_and_lengths_are_counted() -> None:
    samples = [judged("#### 7"), judged("it is 7"), judged("#### 8"), judged("it is", FinishReason.length)]
    report = compute_reliability_metrics(samples, {})
    assert report["accuracy/strict"] == 0.25
    assert report["accuracy/flexible"] == 0.5
    assert report["extractors_differ"] == 1
    assert report["stopped_by_length"] == 1
    assert "double_bos" not in report, "which tokens a prompt has is not known everywhere"
    assert build_reliability_warnings(report, {}) == []


def test_answers_with_thinking_are_counted_and_said() -> None:
    stop, length = FinishReason.stop, FinishReason.length
    texts = [
        ("<think> hm", length),
        ("<think> hm </think> so", length),
        ("hm", length),
        ("<think> #### 7", stop),
    ]
    samples = [judged(text, reason) for text, reason in texts]
    report = compute_reliability_metrics(samples, {})
    assert (report["cut_off_thinking"], report["thinking_removed"]) == (2, 1)
    assert build_reliability_warnings(report, {}) == [
        note("thinking_removed", "warning", answers=1),
        note("cut_off_thinking", "warning", answers=2),
    ]
    begun = [judged(text, reason, in_thinking=True) for text, reason in texts]
    assert compute_reliability_metrics(begun, {})["cut_off_thinking"] == 3
    assert [one.sample.answer.verdict for one in begun] == [Verdict.cut_off] * 4


class Encoding:
    """What the engine's encode gives: a text and token ids."""

    def __init__(self, seen: str, ids: list[int]) -> None:
        self.seen, self.ids = seen, ids

    def encode(self, _: Request) -> tuple[str, list[int]]:
        return self.seen, self.ids


@pytest.mark.parametrize(
    ("style", "ids", "has_template", "bos", "warned"),
    [
        (PromptStyle.chat, [BOS, 5], True, "begins with BOS", []),
        (PromptStyle.chat, [BOS, BOS, 5], True, "begins with two BOS", ["two_bos"]),
        (PromptStyle.text, [5, 6], True, "without BOS", ["chat_template_unused"]),
        (PromptStyle.text, [5, 6], False, "without BOS", []),
        (PromptStyle.text, [], None, None, []),
    ],
)
def test_what_the_model_sees_is_described(
    style: PromptStyle, ids: list[int], has_template: bool | None, bos: str | None, warned: list[str]
) -> None:
    asked = Request(0, "x" if style is PromptStyle.text else (Message("user", "x"),))
    report = EngineReport(bos_token=None if has_template is None else BOS, has_chat_template=has_template)
    engine: Any = Encoding("<s>Question: QUESTION", ids)
    add_prompt_facts_to_report([style.value, "1 worked example"], asked, asked, engine, report)
    assert report.facts.get("bos") == bos
    assert report.facts["prompt"].startswith(f"{style.value} · 1 worked example · form ")
    metrics = compute_reliability_metrics([judged("#### 7")], report.facts)
    assert metrics.get("double_bos") == (None if bos is None else float(warned == ["two_bos"]))
    assert [warning.code for warning in build_reliability_warnings(metrics, report.facts)] == warned


@pytest.mark.thorough
def test_the_form_is_the_same_for_all_questions_and_another_for_another_prompt(
    make_config: Make, tiny_model: LocalModelConfig
) -> None:
    def form(**keys: Any) -> str:
        result = run(make_config(model=tiny_model, task=Gsm8kConfig(**keys))).result
        assert result.metrics["double_bos"] == 0
        return result.facts["prompt"]

    assert form(limit=2) == form(limit=1, split="hard") != form(limit=1, instruction="Go.")


# ------------------------------------------------------------------------------------------- checks


def test_answers_that_change_alone_are_counted_and_asked_once(make_config: Make, tmp_path: Path) -> None:
    config = make_config(task=Gsm8kConfig(limit=6, check_invariance=4))
    engine = Knowing(changing=[2, 3])
    result = started(tmp_path, config, engine)
    assert engine.asked[6:] == [(3, 1), (2, 1), (1, 1), (0, 1)], "alone, the last one first"
    counted = [result.metrics[key] for key in ("asked_again", "texts_changed", "answers_changed")]
    assert counted == [4, 2, 1]
    assert result.metrics["texts_changed_share"] == 0.5
    assert result.metrics["new_tokens"] == 12, "what is asked again is no part of the score"
    [note] = result.notes
    assert note.startswith("1 of 4 answers changed when the same questions were repeated alone")
    file = tmp_path / "job" / AGAIN
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:30])  # killed in the middle of a line
    engine.asked.clear()
    again = started(tmp_path, config, engine)
    assert engine.asked == [(2, 1), (1, 1), (0, 1)]
    assert again.metrics | MEASURED == result.metrics | MEASURED


class Busy(Knowing):
    """Decodes four rows at once, so that questions wait; some answers change when they are asked a
    second time."""

    rows_are_independent = True

    def open(self, batch_size: int | None = None) -> ListSession:
        self.left = 0
        self.stats.rows_are_independent = self.rows_are_independent

        def answered(requests: list[Request]) -> Iterator[list[Event]]:
            self.left += len(requests)
            for request in requests:
                self.left -= 1
                self.stats.rows_waiting = max(0, self.left - 3)
                yield [self.said(request, batch_size)]

        return ListSession(self.capabilities, answered)

    def said(self, request: Request, batch_size: int | None) -> Completion:
        completion = super().said(request, batch_size)
        if request.id == f"again {self.changing[0]}":
            completion.answer = replace(completion.answer, text="well, 5")
        return completion


def test_a_few_are_asked_again_beside_the_others(make_config: Make, tmp_path: Path) -> None:
    config = make_config(task=Gsm8kConfig(limit=500))
    engine = Busy(changing=[2])
    result = started(tmp_path, config, engine)
    asked = [number for number, _ in engine.asked]
    assert asked[:500] == list(range(500))
    assert asked[500:] == [f"again {number}" for number in range(5)], (
        "after their first answers, in one session"
    )
    assert {size for _, size in engine.asked} == {None}
    assert [result.metrics[key] for key in ("asked_again", "texts_changed", "answers_changed")] == [5, 1, 1]
    assert result.metrics["n"] == 500
    assert result.metrics["new_tokens"] == 1000, "what is asked again is no part of the score"
    [note] = result.notes
    assert note.startswith(
        "1 of 5 answers changed when the same questions were repeated together with other questions"
    )
    samples, again = tmp_path / "job" / "samples.jsonl", tmp_path / "job" / AGAIN
    for file, kept in ((samples, 200), (again, 2)):  # as after a kill
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
    engine.asked.clear()
    resumed = started(tmp_path, config, engine)
    asked = [number for number, _ in engine.asked]
    assert asked == [*range(200, 500), "again 2", "again 3", "again 4"]
    assert resumed.metrics | MEASURED == result.metrics | MEASURED


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("task", "generation", "waits"),
    [
        ({"limit": 499}, {}, True),
        ({"limit": 500, "check_invariance": 0}, {}, True),
        ({"limit": 500}, {"batch_size": 1}, True),
        ({"limit": 500}, {}, False),
    ],
    ids=["few questions", "switched off", "one row at a time", "nothing waits for a place"],
)
def test_nothing_is_asked_again_where_it_shows_nothing_or_takes_long(
    make_config: Make, tmp_path: Path, task: dict[str, Any], generation: dict[str, Any], waits: bool
) -> None:
    config = make_config(task=Gsm8kConfig(**task), generation=GenerationConfig(**generation))
    engine = Busy(changing=[2]) if waits else Knowing()
    result = started(tmp_path, config, engine)
    assert len(engine.asked) == task["limit"]
    assert "asked_again" not in result.metrics
    assert not (tmp_path / "job" / AGAIN).exists()


@pytest.mark.thorough
def test_nothing_is_asked_again_where_it_would_change_the_answers_beside_it(
    make_config: Make, tmp_path: Path
) -> None:
    engine = Busy(changing=[2])
    engine.rows_are_independent = False
    result = started(tmp_path, make_config(task=Gsm8kConfig(limit=500)), engine)
    assert [number for number, _ in engine.asked] == list(range(500))
    assert "asked_again" not in result.metrics
    [note] = result.notes
    assert note.startswith("task.check_invariance=auto did nothing")


def test_auto_is_the_same_job_as_without_the_check() -> None:
    counting = [dict(iterate_job_id_keys(Gsm8kConfig(check_invariance=it))) for it in ("auto", 0, 5)]
    assert counting[0] == counting[1] != counting[2]
    assert counting[0]["check_invariance"] == 0


@pytest.mark.thorough
def test_a_repeat_asks_in_another_order_with_other_random_numbers(make_config: Make, tmp_path: Path) -> None:
    orders, results = [], []
    for repeat in (0, 1, 2):
        folder = tmp_path / str(repeat)
        folder.mkdir()
        engine = Knowing()
        config = make_config(task=Gsm8kConfig(limit=12, repeat_index=repeat))
        results.append(started(folder, config, engine).metrics["accuracy"])
        orders.append([number for number, _ in engine.asked])
        requests = gsm8k.build_question_requests(gsm8k.prepare(config), {0: gsm8k.NO_QUESTION})
        assert requests[0].effective_random_id == (f"0, repeat {repeat}" if repeat else 0)
    assert orders[0] == list(range(12))
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[1]) == orders[0]
    assert results == [1.0, 1.0, 1.0]


@pytest.mark.thorough
def test_a_repeat_is_a_job_of_its_own_that_reuses_nothing(make_config: Make) -> None:
    first = run(make_config(task=Gsm8kConfig(limit=3)))
    again = run(make_config(task=Gsm8kConfig(limit=3, repeat_index=1)))
    assert first.job_id != again.job_id
    assert not any("are reused from job" in note for note in again.result.notes)


def test_twins_that_are_not_solved_are_a_hint(make_config: Make, tmp_path: Path) -> None:
    config = make_config(task=Gsm8kConfig(limit=10, check_contamination=8))
    result = started(tmp_path, config, Knowing())
    names = ("twins", "originals_correct", "twins_correct", "only_original_correct", "only_twin_correct")
    assert [result.metrics[name] for name in names] == [8, 8, 0, 8, 0]
    assert result.metrics["twins_p"] == pytest.approx(2 / 2**8)
    [note] = result.notes
    assert note.startswith("possible contamination: 8 questions were solved only with the original numbers")
    twins = read_samples(tmp_path / "job" / TWINS)
    mine = read_samples(tmp_path / "job" / "samples.jsonl")
    assert all(twins[index].gold != mine[index].gold for index in range(8))
    assert {twin.answer.verdict for twin in twins.values()} == {Verdict.no_answer}
    assert result.metrics["n"] == 10
    assert result.metrics["accuracy"] == 1


def test_no_twins_at_all_are_told_before_a_load(make_config: Make, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "He has 48 dogs.", "answer": "#### 48"}\n' * 3)
    with raises(ConfigError, "unsupported", "task.check_contamination"):
        gsm8k.prepare(make_config(task=Gsm8kConfig(data=str(file), check_contamination=2)))


def test_a_check_takes_the_answers_of_the_job_without_it(make_config: Make) -> None:
    plain = run(make_config(task=Gsm8kConfig(limit=4)))
    checked = run(make_config(task=Gsm8kConfig(limit=4, check_invariance=2, check_contamination=3)))
    assert checked.job_id != plain.job_id
    assert f"4 of 4 samples are reused from job {plain.job_id}" in checked.result.notes[0]
    assert (checked.result.metrics["asked_again"], checked.result.metrics["twins"]) == (2, 3)
    assert checked.result.metrics["texts_changed"] == 0


@pytest.mark.thorough
@pytest.mark.parametrize("samples", [1, 4])
def test_each_answer_is_read_once_from_its_completion_to_the_report_and_once_at_resume(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """Verdict, votes, early stop, number of answers and trust report read what was found first."""
    read: list[str] = []

    def extract_all(text: str, notation: Notation) -> dict[Extractor, str | None]:
        read.append(text)
        return extractors.extract_by_all_extractors(text, notation)

    monkeypatch.setattr("runner.scorers.answer_reading.extract_by_all_extractors", extract_all)
    config = make_config(
        task=Gsm8kConfig(limit=3, samples=samples), generation=GenerationConfig(temperature=1.0)
    )
    answers = {
        number: [(f"#### {choice}", FinishReason.stop) for choice in range(samples)] for number in range(3)
    }
    for _ in range(2):
        (tmp_path / "job").mkdir(exist_ok=True)
        with closing(Recorder(Job("gsm8k-test", tmp_path / "job"))) as recorder:
            assert work(gsm8k, config, recorder, Scripted(answers)).metrics["n"] == 3
        assert len(read) == 3 * samples
        read.clear()
