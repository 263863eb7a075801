"""Student and teacher: who answers when, and what is recorded; over real HTTP, with a real student
if needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from api_standin import Api, Trouble
from job_engines import open_engine
from listening import complete_with_deltas
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiExtensions, HybridConfig, StudentConfig, TeacherConfig
from runner.options.remote.reviews import parse_review
from runner.records.jobs import read_samples
from runner.render.engine_notes import render_engine_notes
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import FinishReason
from runner_engine.sessions.base import Completion, Message, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
Ask = Callable[..., Any]
ASKED = (Message("user", "What is 2+2?"),)
DRAFT = "[STUB_GENERATION]\nWhat is 2+2?..."


class Teacher(Api):
    """Answers `four`, and reviews with the given texts, one after another."""

    def __init__(self, *reviews: str) -> None:
        super().__init__(self.teach)
        self.reviews = list(reviews)

    def teach(self, body: dict[str, Any]) -> str:
        if self.is_review(body):
            return self.reviews.pop(0) if len(self.reviews) > 1 else self.reviews[0]
        return "four"

    def is_review(self, body: dict[str, Any]) -> bool:
        return "You are a teacher" in str(body.get("messages", [{}])[0].get("content"))


def good(score: float = 0.9) -> str:
    return f'{{"score": {score}, "feedback": "Well done."}}'


def bad(feedback: str = "Count again.") -> str:
    return f'{{"score": 0.2, "feedback": "{feedback}"}}'


def hybrid(url: str, student: StudentConfig | None = None, **keys: Any) -> HybridConfig:
    teacher = TeacherConfig(name="tiny", base_url=url, backoff_s=0.01, retries=1, price_in=1.0, price_out=1.0)
    return HybridConfig(student=student or StudentConfig(name="x", stub=True), teacher=teacher, **keys)


@pytest.fixture
def ask(make_config: Make) -> Ask:
    """Return a function that asks one question and returns the completion and the engine's
    notes."""

    def ask(teacher: Teacher, request: Request | None = None, **keys: Any) -> tuple[Completion, list[str]]:
        engine = open_engine(make_config(model=hybrid(teacher.url, **keys)))
        try:
            (one,) = complete_requests(engine, [request or Request(0, ASKED)])
            return one, render_engine_notes(engine.stats)
        finally:
            engine.close()

    return ask


def calls(one: Completion) -> list[tuple[str, str | None]]:
    return [(call.who, call.what) for call in one.calls or []]


def test_a_good_draft_is_the_answer(ask: Ask) -> None:
    with Teacher(good()) as teacher:
        one, notes = ask(teacher)
    assert (one.answer.text, one.by, one.error) == (DRAFT, "student", None)
    assert calls(one) == [("student", "draft"), ("teacher", "review")]
    assert one.answer.new_tokens == sum(call.answer.num_tokens for call in one.calls)
    assert one.prompt_tokens == sum(call.prompt_tokens for call in one.calls)
    review = one.calls[1]
    assert one.cost_usd == pytest.approx((review.prompt_tokens + review.answer.num_tokens) / 1e6)
    assert notes == []
    (sent,) = teacher.seen
    assert "What is 2+2?" in sent["messages"][1]["content"]
    assert DRAFT in sent["messages"][1]["content"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.0, 256)


def test_a_bad_draft_is_revised_once_and_reviewed_again(ask: Ask) -> None:
    with Teacher(bad(), good()) as teacher:
        one, _ = ask(teacher)
    assert one.by == "student"
    assert calls(one) == [
        ("student", "draft"),
        ("teacher", "review"),
        ("student", "revision"),
        ("teacher", "review"),
    ]
    assert one.answer.text.startswith("[STUB_GENERATION]\nWhat is 2+2? [STUB_GENERATION]"), (
        "the revision sees the draft"
    )


@pytest.mark.thorough
def test_after_the_last_round_the_teacher_answers(ask: Ask) -> None:
    with Teacher(bad()) as teacher:
        one, _ = ask(teacher)
        two, _ = ask(teacher, rounds=1)
    assert (one.answer.text, one.by) == ("four", "teacher")
    assert [who for who, _ in calls(one)] == ["student", "teacher", "student", "teacher", "teacher"]
    assert calls(two) == [("student", "draft"), ("teacher", "review"), ("teacher", "answer")]


@pytest.mark.thorough
def test_the_threshold_decides(ask: Ask) -> None:
    with Teacher(good(0.5)) as teacher:
        assert ask(teacher, threshold=0.5)[0].by == "student"
        assert ask(teacher, threshold=0.51)[0].by == "teacher"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "review",
    ["", "Well done, 9 of 10!", "{", '{"score": }', '{"score": true}', '{"score": "high"}', '{"score": 85}', "[1, 2]",
     '{"score": NaN}', "{" * 5000, '{"a":' * 100_000, "null"],
    ids=lambda review: review[:12] or "nothing",
)  # fmt: skip
def test_reviews_that_are_not_json_count_as_bad(ask: Ask, review: str) -> None:
    assert parse_review(review).score is None
    if len(review) > 100:
        return
    with Teacher(review) as teacher:
        one, notes = ask(teacher)
    assert (one.answer.text, one.by) == ("four", "teacher")
    assert notes == [
        'a review was not valid JSON with "score" and "feedback", so the draft was treated as insufficient: 2 times'
    ]


def test_a_verdict_is_found_within_other_text() -> None:
    review = (
        'Let me see {thinking}.\n```json\n{"score": 0.25, "feedback": "Mind {the} carry."}\n```\nThat is all.'
    )
    verdict = parse_review(review)
    assert (verdict.score, verdict.feedback) == (0.25, "Mind {the} carry.")
    assert parse_review('{"score": 1, "feedback": ["a"]}').feedback == ""


def test_raw_prompts_are_revised_as_text(ask: Ask) -> None:
    with Teacher(bad(), good()) as teacher:
        one, _ = ask(teacher, Request(0, "Two and two is"))
    assert one.by == "student"
    assert one.answer.text.startswith("[STUB_GENERATION]\nTwo and two is[STUB_GENERATION]")


def test_the_teacher_answers_if_the_student_fails(ask: Ask, tiny_llama: Any) -> None:
    student = StudentConfig(name=str(tiny_llama), device="cpu")
    with Teacher(good()) as teacher:
        one, notes = ask(teacher, Request(0, (Message("user", "long " * 200),)), student=student)
    assert (one.answer.text, one.by) == ("four", "teacher")
    assert calls(one) == [("student", "draft"), ("teacher", "answer")]
    assert one.calls is not None
    assert "the model has room for 512" in str(one.calls[0].error)
    assert "the draft model failed or returned no text: 1 times" in notes


def test_the_teacher_continues_if_the_student_breaks_down(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tiny_llama: Any
) -> None:
    from runner_engine.local.engine import LocalSession

    def fail(*_: Any) -> None:
        raise RuntimeError("out of everything")

    with Teacher(good()) as teacher:
        student = StudentConfig(name=str(tiny_llama), device="cpu")
        engine = open_engine(make_config(model=hybrid(teacher.url, student)))
        engine.load()
        monkeypatch.setattr(LocalSession, "_run_step", fail)
        done = list(complete_requests(engine, [Request(number, ASKED) for number in range(3)]))
        notes = render_engine_notes(engine.stats)
        engine.close()
    assert [(one.answer.text, one.by) for one in done] == [("four", "teacher")] * 3
    assert (
        "the draft model failed (out of everything), and only the fallback model continued: 1 times" in notes
    )


def test_a_teacher_that_does_not_answer_is_an_error_of_the_question(ask: Ask) -> None:
    with Teacher(bad()) as teacher:
        teacher.always = Trouble("status", 400, message="no")
        one, _ = ask(teacher)
    assert one.answer.finish_reason is FinishReason.error
    assert "answered 400: no" in str(one.error)


def test_cancelling_ends_a_question_wherever_it_is(make_config: Make) -> None:
    with Teacher(good()) as teacher:
        teacher.delay_s = 0.3
        engine = open_engine(make_config(model=hybrid(teacher.url)))
        with engine.open() as session:
            session.submit(Request(0, ASKED))
            session.step()
            session.cancel(0)
            events = session.step()
            assert session.is_idle
        engine.close()
    (one,) = events
    assert isinstance(one, Completion)
    assert (one.answer.finish_reason, one.by) == (FinishReason.cancelled, None)


def test_text_is_returned_when_it_is_clear_whose_answer_counts(make_config: Make) -> None:
    with Teacher(bad()) as teacher:
        engine = open_engine(make_config(model=hybrid(teacher.url)))
        deltas: list[str] = []
        complete_with_deltas(engine, [Request(0, ASKED)], lambda delta: deltas.append(delta.text))
        engine.close()
    assert deltas == ["four"]


# --------------------------------------------------------------------------------------- whole jobs


@pytest.mark.thorough
def test_a_job_records_who_answered(make_config: Make, tmp_path: Any) -> None:
    with Teacher(good(), bad(), bad(), "no json", good(), bad()) as teacher:
        config = make_config(model=hybrid(teacher.url), task=Gsm8kConfig(limit=6))
        record = run(config)
        again = run(config)
    assert again.from_ledger
    metrics = record.result.metrics
    assert metrics["student_answers"] + metrics["teacher_answers"] == metrics["n"] == 6
    assert metrics["teacher_calls"] == len(teacher.seen)
    samples = read_samples(tmp_path / "outputs" / "jobs" / record.job_id / "samples.jsonl").values()
    calls = [call for sample in samples for call in sample.calls or []]
    assert metrics["student_calls"] == sum(call.who == "student" for call in calls)
    assert metrics["new_tokens"] == metrics["student_new_tokens"] + metrics["teacher_new_tokens"]
    assert metrics["prompt_tokens"] == metrics["student_prompt_tokens"] + metrics["teacher_prompt_tokens"]
    assert {sample.by for sample in samples} == {"student", "teacher"}
    assert set(record.result.facts["answered_by"].split()) >= {"student", "teacher"}
    assert metrics["cost_usd"] > 0


@pytest.mark.parametrize("name", ["./nowhere", "some/model"])
def test_without_a_student_the_teacher_answers_alone(make_config: Make, name: str) -> None:
    with Teacher(good()) as teacher:
        model = hybrid(teacher.url, StudentConfig(name=name))
        record = run(make_config(model=model, task=GenerateConfig(prompt="What is 2+2?")))
    assert record.result.text == "four"
    assert record.result.metrics["teacher_answers"] == 1
    assert record.result.facts["student"].startswith("none: model.")
    assert any(
        note.startswith("the draft model cannot be loaded, so only the fallback model answers")
        for note in record.result.notes
    )


@pytest.mark.thorough
def test_the_students_own_answers_are_those_of_the_student_alone(make_config: Make) -> None:
    short = GenerationConfig(max_new_tokens=48)
    with Teacher(good()) as teacher:
        both = run(make_config(model=hybrid(teacher.url, StudentConfig(name="embedded")), generation=short))
    alone = run(make_config(model=StudentConfig(name="embedded"), generation=short))
    assert both.result.metrics["student_answers"] == 4
    assert both.result.metrics["accuracy"] == alone.result.metrics["accuracy"]
    assert both.job_id != alone.job_id
    assert both.result.facts["architecture"] == "LlamaForCausalLM"


def test_what_the_teachers_api_cannot_express_is_refused(make_config: Make) -> None:
    warm = GenerationConfig(temperature=1, top_k=5)
    model = hybrid("http://127.0.0.1:1/v1")
    model.teacher.extensions = ApiExtensions.openai
    with raises(ConfigError, "unsupported", "generation.top_k"):
        make_config(model=model, generation=warm)
    with raises(JobFailed, "unreachable"):
        run(make_config(model=hybrid("http://127.0.0.1:1/v1")))
    with raises(ConfigError, "bad_value", "model.threshold"):
        hybrid("http://127.0.0.1:1/v1", threshold=2)
