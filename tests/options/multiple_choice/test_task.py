"""task=multiple_choice from the question to the metrics, with scores of which the truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from list_session import ListSession
from raising import raises
from scripted import Scripted
from tasking import samples_of, work

from runner.config.root import RunnerConfig
from runner.options.multiple_choice import task as multiple_choice
from runner.options.multiple_choice.extraction import LetterRule, extract_letter
from runner.options.multiple_choice.judging import LikelihoodChoiceJudge
from runner.options.multiple_choice.keys import ChoiceMetric, ClusterKey, MultipleChoiceConfig, Scoring
from runner.options.multiple_choice.questions import load_choice_questions
from runner.options.multiple_choice.render.titles import BY_SUBJECT
from runner.records.jobs import Job, Recorder
from runner_base import ConfigError, DataError
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_engine.sessions.base import Completion, Event, Message, Request, request_sha256
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
Nats = Callable[[str], list[float] | None]


class ScoringEngine(Scripted):
    """Scores continuations by a function; a continuation without scores ends in an error."""

    def __init__(self, nats: Nats) -> None:
        super().__init__({})
        self.nats = nats
        self.prompts: list[str] = []

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(self.capabilities, self.score)

    def score(self, requests: list[Request]) -> Iterator[list[Event]]:
        for request in reversed(requests):
            assert isinstance(request.prompt, str)
            assert isinstance(request.continuation, str)
            self.prompts.append(request.prompt)
            logprobs = self.nats(request.continuation)
            reason = FinishReason.error if logprobs is None else FinishReason.stop
            yield [
                Completion(
                    Answer("", [*range(len(logprobs or ()))], reason), request_sha256(request.prompt, request), 7,
                    0.2, request.id, 0.1, logprobs=logprobs, greedy=[True] * len(logprobs or ()),
                    error="boom" if logprobs is None else None,
                )
            ]  # fmt: skip


@pytest.fixture
def job(make_config: Make, tmp_path: Path) -> Make:
    def make(rows: list[dict[str, Any]] | None = None, **keys: Any) -> RunnerConfig:
        if rows is not None:
            (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            keys["data"] = str(tmp_path / "a.jsonl")
        task = MultipleChoiceConfig(**({"limit": 30} | keys))
        return make_config(generation=GenerationConfig(max_new_tokens=64), task=task)

    return make


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("multiple_choice-test", folder))
    yield opened
    opened.close()


ROWS = [
    {"question": "1?", "choices": ["aa", "bbbbbb", "ccc"], "answer": 0},
    {"question": "2?", "choices": ["aa", "bbbbbb", "é"], "answer": "B"},
    {"question": "3?", "choices": ["é", "no"], "answer": "no"},
]
NATS = {" aa": [-1.0, -1.0], " bbbbbb": [-2.5], " ccc": [-3.5], " é": [-3.0], " no": [-3.5]}


def test_the_most_probable_choice_by_each_metric(job: Make, recorder: Recorder) -> None:
    config = job(ROWS, metric=ChoiceMetric.acc_norm)
    engine = ScoringEngine(lambda text: NATS[text])
    result = work(multiple_choice, config, recorder, engine)
    extracted = [sample.answer.extracted for sample in samples_of(recorder)]
    # per character: -1, -0.42, -1.17 | -1, -0.42, -3 | -3, -1.75; per byte, é has two
    assert extracted == [
        {"acc": "A", "acc_norm": "B", "acc_bytes": "B"},
        {"acc": "A", "acc_norm": "B", "acc_bytes": "B"},
        {"acc": "A", "acc_norm": "B", "acc_bytes": "A"},
    ]
    assert [sample.gold for sample in samples_of(recorder)] == ["A", "B", "B"]
    verdicts = [sample.answer.verdict for sample in samples_of(recorder)]
    assert verdicts == [Verdict.wrong, Verdict.correct, Verdict.correct]
    metrics = result.metrics
    assert (metrics["accuracy"], metrics["acc_norm"]) == (2 / 3, 2 / 3)
    assert (metrics["acc"], metrics["acc_bytes"]) == (1 / 3, 1 / 3)
    assert metrics["chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    first = math.exp(-2) / (math.exp(-2) + math.exp(-2.5) + math.exp(-3.5))
    second = math.exp(-2.5) / (math.exp(-2) + math.exp(-2.5) + math.exp(-3.0))
    third = math.exp(-3.5) / (math.exp(-3.0) + math.exp(-3.5))
    assert metrics["gold_probability"] == pytest.approx((first + second + third) / 3)
    assert (metrics["new_tokens"], metrics["n"]) == (0, 3)
    assert {prompt.splitlines()[0] for prompt in engine.prompts} == {f"Question: {n}?" for n in (1, 2, 3)}


def test_an_error_leaves_one_question_open_and_the_others_go_on(job: Make, recorder: Recorder) -> None:
    engine = ScoringEngine(lambda text: None if text == " é" else NATS[text])
    result = work(multiple_choice, job(ROWS), recorder, engine)
    assert [sample.failed for sample in samples_of(recorder)] == [False, True, True]
    assert (result.metrics["errors"], result.metrics["accuracy"]) == (2, 1 / 3)
    assert len(result.problems) == 1


def test_several_right_choices_and_the_probability_of_all_of_them(job: Make, recorder: Recorder) -> None:
    choices, labels = ["aa", "bbbbbb", "ccc"], [0, 1, 1]
    row = {"question": "?", "mc2_targets": {"choices": choices, "labels": labels}}
    result = work(
        multiple_choice, job([row], format="truthfulqa_mc2"), recorder, ScoringEngine(lambda text: NATS[text])
    )
    (sample,) = samples_of(recorder)
    assert (sample.gold, sample.answer.verdict) == ("B, C", Verdict.wrong)
    weights = [math.exp(-2), math.exp(-2.5), math.exp(-3.5)]
    assert result.metrics["gold_probability"] == pytest.approx(sum(weights[1:]) / sum(weights))
    assert result.metrics["chance"] == pytest.approx(2 / 3)


def test_samples_are_read_again_and_other_answers_are_refused(job: Make, recorder: Recorder) -> None:
    config = job(ROWS)
    work(multiple_choice, config, recorder, ScoringEngine(lambda text: NATS[text]))
    questions = multiple_choice.prepare(config).questions
    judge = LikelihoodChoiceJudge(questions, ClusterKey.question, ChoiceMetric.acc)
    kept = samples_of(recorder)
    for sample in kept:
        read = Sample.from_json(sample.to_json())
        assert read == sample
        assert judge.rejection_reason(read) is None
    changed = replace(kept[0], answer=replace(kept[0].answer, verdict=Verdict.wrong))
    assert getattr(judge.rejection_reason(changed), "code", "") == "judged_differently"
    scores = [*(kept[0].choice_likelihoods or [])]
    other = replace(kept[0], choice_likelihoods=[replace(scores[0], characters=9), *scores[1:]])
    assert getattr(judge.rejection_reason(other), "code", "") == "other_question"
    assert judge.adopt_sample(replace(kept[0], gold="C")) is None
    by_characters = LikelihoodChoiceJudge(questions, ClusterKey.question, ChoiceMetric.acc_norm)
    adopted = by_characters.adopt_sample(kept[0])
    assert adopted is not None
    assert (kept[0].answer.verdict, adopted.answer.verdict) == (Verdict.correct, Verdict.wrong)


def test_subjects_are_a_table_and_clusters(job: Make, recorder: Recorder) -> None:
    rows = [
        {"question": "?", "subject": subject, "choices": ["1", "2", "3", "4"], "answer": answer}
        for subject, answer in (("law", 0), ("law", 1), ("art", 1))
    ]
    config = job(rows, format="mmlu", cluster=ClusterKey.subject)
    engine = ScoringEngine(lambda text: [-1.0 if text == " B" else -2.0])
    result = work(multiple_choice, config, recorder, engine)
    table = result.tables[BY_SUBJECT]
    assert [(row["subject"], row["n"], row["accuracy_percent"]) for row in table] == [
        ("law", 2, 50),
        ("art", 1, 100),
    ]
    assert all(row["low_percent"] < row["accuracy_percent"] <= row["high_percent"] for row in table)
    assert [sample.cluster for sample in samples_of(recorder)] == ["law", "law", "art"]
    assert {len(prompt.splitlines()) for prompt in engine.prompts} == {8}  # with the description


LETTERS_FOUND = [
    ("B", "B", LetterRule.whole),
    ("(b)", "B", LetterRule.whole),
    ("C. green", "C", LetterRule.whole),
    ("Answer: B", "B", LetterRule.stated),
    ("A is wrong. The answer is **C**.", "C", LetterRule.stated),
    ("First I thought of answer A. Answer: B", "B", LetterRule.stated),
    ("I would take B here", "B", LetterRule.only_letter),
    ("It is green.", "C", LetterRule.choice_text),
    ("Either A or B", None, None),
    ("Answer: E", None, None),
    ("A bird is blue or green", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "letter", "rule"), LETTERS_FOUND)
def test_letters_in_answers(text: str, letter: str | None, rule: LetterRule | None) -> None:
    found = extract_letter(text, ["red", "blue", "green", "dark green-ish"])
    assert (found.letter if found else None, found.rule if found else None) == (letter, rule)


def test_generated_answers_name_a_letter(job: Make, recorder: Recorder) -> None:
    config = job(ROWS, scoring=Scoring.generation, system="Be brief.")
    said = {
        0: ("Answer: A", FinishReason.stop),
        1: ("hm", FinishReason.stop),
        2: ("Well", FinishReason.length),
    }
    result = work(multiple_choice, config, recorder, Scripted(said))
    samples = samples_of(recorder)
    assert [sample.answer.verdict for sample in samples] == [
        Verdict.correct,
        Verdict.no_answer,
        Verdict.cut_off,
    ]
    assert samples[0].answer.extracted == {"letter": "A", "rule": "stated"}
    assert [result.metrics[f"letters/{rule}"] for rule in LetterRule] == [0, 1, 0, 0]
    assert "acc" not in result.metrics
    inputs = multiple_choice.prepare(config)
    system, user = cast(
        "tuple[Message, ...]", multiple_choice.build_requests(inputs.task, inputs.questions)[0].prompt
    )
    assert (system.content, user.content.splitlines()[:4]) == (
        "Be brief.",
        ["1?", "A. aa", "B. bbbbbb", "C. ccc"],
    )


BAD = [
    ({"question": "?", "choices": ["a"], "answer": 0}, "damaged"),
    ({"question": "?", "choices": "ab", "answer": 0}, "damaged"),
    ({"question": "?", "choices": ["a", ""], "answer": 0}, "damaged"),
    ({"question": "?", "choices": ["a", "b"], "answer": 2}, "damaged"),
    ({"question": "?", "choices": ["a", "b"], "answer": -1}, "damaged"),
    ({"question": "?", "choices": ["a", "b"], "answer": "C"}, "damaged"),
    ({"question": "?", "choices": ["a", "b"], "answer": None}, "damaged"),
    ({"question": "?", "choices": ["a", "b"]}, "damaged"),
    ({"choices": ["a", "b"], "answer": 0}, "damaged"),
]


@pytest.mark.parametrize(("row", "code"), BAD)
def test_a_malformed_record_is_named_by_file_and_line(job: Make, row: dict[str, Any], code: Any) -> None:
    config = job([ROWS[0], row])
    path = load_path(config)
    with raises(DataError, code, f"{path}, line 2"):
        multiple_choice.prepare(config)


def load_path(config: RunnerConfig) -> str:
    assert isinstance(config.task, MultipleChoiceConfig)
    return config.task.data


def test_a_csv_file_and_a_description_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('ask,A,B,right\n"Which, of two?",x,"y\ny",B\n')
    (tmp_path / "mine.yaml").write_text(
        "data: ./a.csv\nquestion: '{{ask}}'\nprompt: 'Q: {{ask}} A:'\nchoices: '[A, B]'\ngold: right\n"
    )
    (question,) = load_choice_questions(MultipleChoiceConfig(data=str(tmp_path / "mine.yaml"))).questions
    assert (question.choices, question.gold) == (("x", "y\ny"), (1,))
    assert {*question.contexts} == {"Q: Which, of two? A:"}
    (tmp_path / "a.csv").write_text("ask,A,B,right\nx,y\n")
    with raises(DataError, "damaged", f"{tmp_path / 'a.csv'}, line 2"):
        load_choice_questions(MultipleChoiceConfig(data=str(tmp_path / "mine.yaml")))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("question: x\nprompt: x\nchoices: c\n", "missing"),
        ("question: x\nprompt: x\nchoices: c\ngold: g\n", "missing"),  # no data
        ("question: x\nprompt: x\nchoices: c\ngold: g\nprompts: x\n", "unknown_choice"),
        ("question: x\nprompt: x\nchoices: c\ngold: g\nmetric: accuracy\n", "unknown_choice"),
        ("question: '{{x'\nprompt: x\nchoices: c\ngold: g\ndata: ./a.jsonl\n", "bad_value"),
        ("- x\n", "damaged"),
    ],
)
def test_a_wrong_description_is_an_error(tmp_path: Path, text: str, code: Any) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_choice_questions(MultipleChoiceConfig(data=str(tmp_path / "mine.yaml")))
    assert caught.value.code == code
