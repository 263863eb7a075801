from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raising import raises
from recalling import remembering, text_of
from scripted import Scripted
from tasking import work

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.wording import PromptStyle
from runner.engines import create_lazy_engine
from runner.engines.kinds import get_model_kind
from runner.records.jobs import Job, Recorder
from runner.tasks.base import TaskContext
from runner.tasks.recall import task as recall
from runner.tasks.recall.cases import ValueForm
from runner.tasks.recall.keys import NeedleValues, RecallConfig
from runner.tasks.recall.kinds import KINDS
from runner.tasks.recall.placement import render_cases_with_fitting_filler
from runner_base.errors import Code, ConfigError, RunRecordError
from runner_base.result import Sample, Verdict
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

Make = Callable[..., RunnerConfig]
SHORT = GenerationConfig(max_new_tokens=32)
ALL_NEEDLES = ["single", "several_asked_one", "several_asked_all", "multikey"]
RULERS_NEEDLES = [kind for kind in KINDS if kind.startswith("niah")]


@pytest.fixture
def job(make_config: Make) -> Callable[..., RunnerConfig]:
    """Return a function that makes a job of the embedded model."""

    def make(**keys: Any) -> RunnerConfig:
        model = LocalModelConfig(name="embedded", device="cpu")
        return make_config(model=model, generation=SHORT, task=RecallConfig(**({"cases": 2} | keys)))

    return make


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("recall-test", folder))
    yield opened
    opened.close()


def samples_of(recorder: Recorder) -> list[Sample]:
    return [recorder.samples[number] for number in sorted(recorder.samples)]


def test_a_model_that_finds_all_is_always_right(job: Make, recorder: Recorder) -> None:
    config = job(kinds=[*ALL_NEEDLES, *RULERS_NEEDLES])
    result = work(recall, config, recorder, Scripted(remembering()))
    samples = samples_of(recorder)
    assert {sample.answer.verdict for sample in samples} == {Verdict.correct}
    assert result.metrics["recall_accuracy"] == 1
    assert (
        result.metrics["n"] == config.task.expected_completions == len(samples) == 2 * 2 * (5 + 5 + 1 + 5 + 6)
    )
    assert Counter(sample.recall_kind for sample in samples)["several_asked_all"] == 4
    assert {sample.recall_length for sample in samples} == {512, 1024}
    assert {sample.recall_depth for sample in samples if sample.recall_kind == "several_asked_all"} == {None}
    assert {sample.recall_depth for sample in samples if sample.recall_kind == "single"} == {
        0,
        0.25,
        0.5,
        0.75,
        1,
    }


@pytest.mark.thorough
def test_a_model_that_forgets_is_right_where_it_remembers(job: Make, recorder: Recorder) -> None:
    result = work(recall, job(cases=4), recorder, Scripted(remembering(900)))
    right = {(sample.recall_length, sample.recall_depth): sample.solved for sample in samples_of(recorder)}
    short = [right[512, depth] for depth in (0, 0.25, 0.5, 0.75, 1)]
    long = [right[1024, depth] for depth in (0, 0.25, 0.5, 0.75, 1)]
    assert short.index(True) < long.index(True), "it forgets the beginning of the longer text sooner"
    assert short == sorted(short), "what is nearer to the end is remembered"
    assert long == sorted(long)
    assert result.metrics["recall_accuracy/length_512"] > result.metrics["recall_accuracy/length_1024"] > 0
    assert {s.answer.verdict for s in samples_of(recorder)} == {Verdict.correct, Verdict.no_answer}


@pytest.mark.thorough
@pytest.mark.parametrize("prompt", [PromptStyle.chat, PromptStyle.text])
def test_prompts_fill_their_lengths_and_never_more(job: Make, prompt: PromptStyle) -> None:
    config = job(kinds=[*KINDS], prompt=prompt, lengths=["1200", "1300"], values=NeedleValues.words)
    resolved = resolve_job(config)
    inputs = recall.prepare(config)
    placed = render_cases_with_fitting_filler(inputs.task, inputs.units, resolved)
    requests = recall.build_requests(inputs.task, placed)
    encoded = get_model_kind(config.model).encode_prompts(resolved, [request.prompt for request in requests])
    for case, (_, ids) in zip(placed.values(), encoded, strict=True):
        tokens = len(ids) + SHORT.max_new_tokens
        assert case.length - 100 < tokens <= case.length, (case.kind, tokens)
        assert (
            all(value in case.asked.context for value in case.asked.gold)
            or case.asked.form is ValueForm.total
        )
    assert len({text_of(request) for request in requests}) == len(requests)


def test_needles_stand_where_they_are_asked_to(job: Make) -> None:
    config = job(filler="prose", lengths=["1k"])
    inputs = recall.prepare(config)
    for case in render_cases_with_fitting_filler(inputs.task, inputs.units, resolve_job(config)).values():
        assert case.depth is not None
        before, _, _ = case.asked.context.partition("One of the special magic")
        assert len(before) / len(case.asked.context) == pytest.approx(case.depth, abs=0.12)
        assert case.asked.context.count(case.gold) == 1


@pytest.mark.thorough
def test_all_lengths_have_the_same_needles_and_another_seed_has_others(job: Make) -> None:
    def golds(**keys: object) -> dict[tuple[int, float | None, int], str]:
        config = job(**keys)
        inputs = recall.prepare(config)
        placed = render_cases_with_fitting_filler(inputs.task, inputs.units, resolve_job(config))
        return {(case.length, case.depth, case.number): case.gold for case in placed.values()}

    first = golds()
    assert all(first[512, depth, number] == gold for (_, depth, number), gold in first.items())
    assert golds() == first
    assert set(golds(cases_seed=1).values()).isdisjoint(first.values())


def test_longer_questions_leave_the_numbers_of_shorter_ones(job: Make) -> None:
    def prompts(*lengths: str) -> dict[object, str]:
        config = job(lengths=[*lengths])
        inputs = recall.prepare(config)
        placed = render_cases_with_fitting_filler(inputs.task, inputs.units, resolve_job(config))
        requests = recall.build_requests(inputs.task, placed)
        return {request.id: text_of(request) for request in requests}

    short = prompts("512")
    assert len(short) == 10
    assert prompts("768", "512").items() >= short.items()


@pytest.mark.thorough
def test_answers_on_disk_are_not_asked_for_again(job: Make, recorder: Recorder) -> None:
    first = work(recall, job(lengths=["512"]), recorder, Scripted(remembering()))
    recorder.close()
    again = Recorder(recorder.job)
    asks_nothing = Scripted({})
    second = work(recall, job(lengths=["512"]), again, asks_nothing)
    assert asks_nothing.asked == []
    assert second.metrics["recall_accuracy"] == first.metrics["recall_accuracy"] == 1
    again.close()


@pytest.mark.thorough
def test_a_longer_text_than_the_model_was_trained_on_is_read_where_it_is_asked_for(
    job: Make, recorder: Recorder
) -> None:
    config = replace(job(lengths=["1k", "2k"], cases=1), rope=RopeConfig(beyond_trained=True))
    result = work(recall, config, recorder, Scripted(remembering()))
    assert result.metrics["recall_accuracy/length_2048"] == 1


@pytest.mark.thorough
def test_a_sample_of_another_question_is_refused(job: Make, recorder: Recorder) -> None:
    work(recall, job(lengths=["512"]), recorder, Scripted(remembering()))
    recorder.close()
    again = Recorder(recorder.job)
    with raises(RunRecordError, "damaged"):
        work(recall, job(lengths=["512"], cases_seed=1), again, Scripted(remembering()))
    again.close()


@pytest.mark.parametrize("keys", [{"lengths": ["2k"]}, {"lengths": ["96"]}])
def test_what_cannot_fit_is_refused_before_the_load(
    job: Make, recorder: Recorder, keys: dict[str, list[str]]
) -> None:
    with raises(ConfigError, "too_large", "task.lengths"):
        work(recall, job(**keys), recorder)  # without an engine: none may be used


def test_the_least_length_that_is_named_fits(job: Make, recorder: Recorder) -> None:
    with raises(ConfigError, "too_large", "task.lengths") as refused:
        work(recall, job(lengths=["96"]), recorder)
    least = str(refused.value).rpartition(" ")[2]
    work(recall, job(lengths=[least]), recorder, Scripted(remembering()))
    with raises(ConfigError, "too_large", "task.lengths"):
        work(recall, job(lengths=[str(int(least) - 1)]), recorder)


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"depths": [0.5, 1.1]}, "bad_value", "task.depths"),
        ({"depths": []}, "empty", "task.depths"),
        ({"depths": [0.5, 0.5]}, "bad_value", "task.depths"),
        ({"lengths": ["1m"]}, "bad_value", "task.lengths"),
        ({"lengths": ["0"]}, "bad_value", "task.lengths"),
        ({"lengths": ["1k", "1024"]}, "bad_value", "task.lengths"),
        ({"kinds": ["singel"]}, "unknown_choice", "task.kinds"),
        ({"prompt": PromptStyle.lm_eval_5shot}, "unknown_choice", "task.prompt"),
        ({"prompt": PromptStyle.text, "system": "x"}, "conflict", "task.system"),
    ],
)
def test_wrong_keys(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        RecallConfig(**keys)


@pytest.mark.parametrize(("name", "code"), [("nois", "unknown_choice"),
                                               ("empty.txt", "empty")])  # fmt: skip
def test_wrong_fillers(
    job: Make, tmp_path: Path, name: str, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    with raises(ConfigError, code, "task.filler"):
        recall.prepare(job(filler=name))


def test_a_tokenizer_that_loses_a_value_is_refused(
    job: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(values=NeedleValues.uuids)
    kind = get_model_kind(config.model)
    decoder = kind.create_decoder(resolve_job(config))
    monkeypatch.setattr(type(kind), "create_decoder", lambda *_: lambda ids: decoder(ids).replace("4", ""))
    with raises(ConfigError, "unsupported", "task.values"):
        work(recall, config, recorder)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["single", "several_asked_one", "several_asked_all", "niah_single_1"])
def test_a_plan_knows_how_many_tokens_are_computed(job: Make, recorder: Recorder, kind: str) -> None:
    config = job(kinds=[kind], lengths=["512", "900"], cases=3)
    resolved = resolve_job(config)
    engine = create_lazy_engine(resolved, None, recorder.folder)
    result = recall.run(recall.prepare(config), TaskContext(recorder, resolved, engine))
    engine.close()
    amounts = config.task.list_requested_completions(config.generation)
    assert (
        sum(amount.completions for amount in amounts)
        == result.metrics["n"]
        == config.task.expected_completions
    )
    computed = sum(amount.completions * amount.prompt_tokens for amount in amounts)
    assert computed == pytest.approx(result.metrics["computed_prompt_tokens"], rel=0.15)
    assert result.metrics["shared_prompt_tokens"] > 0
