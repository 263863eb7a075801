"""task=tools from the prompt to the verdict, with models of which the truth is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calling import calling_rightly, calling_the_first, right_calls, saying
from raising import raises
from scripted import Scripted
from tasking import work

from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.records.jobs import Job, Recorder
from runner.tasks.tools import task as tools
from runner.tasks.tools.cases import read_installed_tool_cases
from runner.tasks.tools.distractors import create_distractors
from runner.tasks.tools.judging import Judge
from runner.tasks.tools.keys import OfferMethod, ToolsConfig
from runner.tasks.tools.offering import choose_tool_call_format
from runner_base.errors import Code, ConfigError
from runner_base.result import FinishReason, Sample, Verdict
from runner_base.tool_outcomes import ToolOutcome
from runner_compare.model.outcomes import QuestionOutcome
from runner_engine.sessions import OfferedTools
from runner_engine.sessions.base import Message
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.tool_calls import NAMES, import_tool_call_format

Make = Callable[..., RunnerConfig]


@pytest.fixture
def job(make_config: Make) -> Make:
    """Return a function that makes a job of the stub."""

    def make(**keys: Any) -> RunnerConfig:
        return make_config(
            model=StubConfig(),
            generation=GenerationConfig(max_new_tokens=64),
            task=ToolsConfig(**({"cases": 6} | keys)),
        )

    return make


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("tools-test", folder))
    yield opened
    opened.close()


def samples_of(recorder: Recorder) -> list[Sample]:
    return [recorder.samples[number] for number in sorted(recorder.samples)]


def outcomes_of(recorder: Recorder) -> Counter[str]:
    return Counter(str(sample.tool_outcome) for sample in samples_of(recorder))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_right_calls_are_right_in_each_form(job: Make, recorder: Recorder, name: str) -> None:
    config = job(tool_call_format=name, cases=None)
    inputs = tools.prepare(config)
    result = work(
        tools, config, recorder, Scripted(calling_rightly(inputs.cases, import_tool_call_format(name)))
    )
    assert result.metrics["tool_accuracy"] == result.metrics["accuracy"] == 1
    assert result.metrics["n"] == len(read_installed_tool_cases()) >= 300
    shares = ("well_formed_share", "right_tool_share", "right_arguments_share", "nothing_called_share")
    assert [result.metrics[share] for share in shares] == [1, 1, 1, 1]
    assert result.facts["calls"] == f"{name} (task.tool_call_format={name})"


@pytest.mark.thorough
def test_a_model_that_always_calls_the_first_function_calls_without_need(
    job: Make, recorder: Recorder
) -> None:
    result = work(
        tools, job(cases=None), recorder, Scripted(calling_the_first(import_tool_call_format("json")))
    )
    found = outcomes_of(recorder)
    assert found["called_without_need"] == 70
    assert found["nothing_called"] == found["not_called"] == 0
    assert found["wrong_arguments"] >= 90, "of one function the first is the right one, without its arguments"
    assert result.metrics["well_formed_share"] == 1
    assert result.metrics["nothing_called_share"] == result.metrics["tool_accuracy"] == 0
    assert 0.36 < result.metrics["right_tool_share"] < 0.55


@pytest.mark.thorough
def test_a_model_that_never_calls_is_right_where_nothing_should_be_called(
    job: Make, recorder: Recorder
) -> None:
    result = work(tools, job(cases=None), recorder, Scripted(saying("I would rather talk.")))
    assert outcomes_of(recorder) == {"not_called": 250, "nothing_called": 70}
    assert result.metrics["tool_accuracy/irrelevant"] == 1
    assert result.metrics["tool_accuracy/simple"] == result.metrics["well_formed_share"] == 0


OTHERS = [
    ("", FinishReason.stop, ToolOutcome.no_answer, ToolOutcome.nothing_called, Verdict.no_answer),
    ("", FinishReason.error, ToolOutcome.no_answer, ToolOutcome.no_answer, Verdict.no_answer),
    ('{"name": "f", "argu', FinishReason.stop, ToolOutcome.malformed, ToolOutcome.malformed, Verdict.wrong),
    ('{"name": "f", "argu', FinishReason.length, ToolOutcome.cut_off, ToolOutcome.cut_off, Verdict.cut_off),
    ('{"name": "f"}', FinishReason.stop, ToolOutcome.wrong_tool, ToolOutcome.called_without_need, Verdict.wrong),
    ("I will", FinishReason.length, ToolOutcome.cut_off, ToolOutcome.cut_off, Verdict.cut_off),
    ("I will call it, and then ask again. " * 9, FinishReason.length, ToolOutcome.not_called, ToolOutcome.nothing_called, Verdict.wrong),
    ("<think>Hm", FinishReason.length, ToolOutcome.cut_off, ToolOutcome.cut_off, Verdict.cut_off),
    ('<think>{"name": "f"}</think>No.', FinishReason.stop, ToolOutcome.not_called, ToolOutcome.nothing_called, Verdict.wrong),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason", "with_need", "without", "verdict"), OTHERS)
def test_each_way_to_fail_is_told_from_the_others(
    job: Make,
    recorder: Recorder,
    text: str,
    reason: FinishReason,
    with_need: str,
    without: str,
    verdict: Verdict,
) -> None:
    if reason is FinishReason.error:
        config = job(categories=["simple", "irrelevant"], cases=2)
        answers = {
            0: (text, reason),
            1: ("A", FinishReason.stop),
            2: (text, reason),
            3: ("A", FinishReason.stop),
        }
        work(tools, config, recorder, Scripted(answers))
    else:
        work(
            tools, job(categories=["simple", "irrelevant"], cases=2), recorder, Scripted(saying(text, reason))
        )
    samples = samples_of(recorder)
    assert (samples[0].tool_outcome, samples[2].tool_outcome) == (with_need, without)
    assert samples[0].answer.verdict is verdict


def test_a_call_too_few_and_one_of_another_function_are_told_apart(job: Make, recorder: Recorder) -> None:
    config = job(categories=["parallel"], cases=20)
    cases, form = tools.prepare(config).cases, import_tool_call_format("json")

    def without_the_last(request: Any) -> tuple[str, FinishReason]:
        return form.format_calls(right_calls(cases[request.id])[:-1]), FinishReason.stop

    work(tools, config, recorder, Scripted(without_the_last))
    of_one = {index for index, case in enumerate(cases) if len({name for name, _ in case.wanted}) == 1}
    assert 0 < len(of_one) < 20
    for sample in samples_of(recorder):
        assert sample.tool_outcome == ("wrong_count" if sample.index in of_one else "wrong_tool")


def test_distractors_are_offered_before_the_functions_of_a_question_and_are_never_right(
    job: Make, recorder: Recorder
) -> None:
    config = job(distractors=40)
    work(tools, config, recorder, Scripted(calling_the_first(import_tool_call_format("json"))))
    assert set(outcomes_of(recorder)) == {"wrong_tool", "called_without_need"}
    inputs = tools.prepare(config)
    requests = tools.build_requests(
        inputs.task,
        tools.assign_cases_to_context_lengths(inputs.task, inputs.cases, FORM, resolve_job(config)),
        FORM,
    )
    names = [[it["function"]["name"] for it in offered_in(request.prompt)] for request in requests]
    assert all(one[:40] == names[0][:40] for one in names), "a common beginning, which is read once"
    assert [one[40:] for one in names] == [[it["name"] for it in case.functions] for case in inputs.cases]


def test_distractors_have_nothing_of_the_questions() -> None:
    own = {
        word
        for case in read_installed_tool_cases()
        for it in case.functions
        for word in it["name"].replace(".", "_").split("_")
    }
    drawn = create_distractors(500, 0)
    assert len({it["name"] for it in drawn}) == 500
    assert not own & {word for it in drawn for word in (it["name"].split("_")[0], it["name"].split("_")[2])}
    assert create_distractors(20, 0) == drawn[:20] != create_distractors(20, 1)


FORM = choose_tool_call_format(ToolsConfig(tool_call_format="json"), None)  # type: ignore[arg-type] # the form is named: no model is looked at


def offered_in(prompt: Any) -> list[dict[str, Any]]:
    assert isinstance(prompt[0], OfferedTools)
    return prompt[0].tools


def test_contexts_are_filled_up_to_their_lengths_and_never_beyond(job: Make, recorder: Recorder) -> None:
    config = job(context_lengths=["2k", "1k"])
    inputs = tools.prepare(config)
    result = work(
        tools, config, recorder, Scripted(calling_rightly(inputs.cases, import_tool_call_format("json")))
    )
    placed = tools.assign_cases_to_context_lengths(inputs.task, inputs.cases, FORM, resolve_job(config))
    requests = tools.build_requests(inputs.task, placed, FORM)
    words: dict[int, list[int]] = {number: [] for number in (1024, 2048)}
    for request in requests:
        assert isinstance(request.prompt, tuple)
        texts = [part.content for part in request.prompt if isinstance(part, Message)]
        words[placed[int(request.id)].length].append(sum(len(text.split()) for text in texts))
    for length, counts in words.items():
        assert length - 150 < max(counts) + 64 <= length, "the stub's tokens are words"
    assert (
        result.metrics["further_functions/length_2048"]
        > 1.8 * result.metrics["further_functions/length_1024"]
        > 0
    )
    assert result.metrics["tool_accuracy/length_2048"] == 1
    samples = samples_of(recorder)
    assert {sample.tool_length for sample in samples} == {1024, 2048}
    functions = Counter(case.main_function_name for case in inputs.cases)
    assert Counter(sample.cluster for sample in samples) == {
        name: 2 * count for name, count in functions.items()
    }


def test_a_length_without_room_is_refused(job: Make, recorder: Recorder) -> None:
    with raises(ConfigError, "too_large", "task.context_lengths"):
        work(tools, job(context_lengths=["100"]), recorder, Scripted(saying("")))


def test_a_template_that_takes_no_tools_is_refused_before_the_load(
    make_config: Make, recorder: Recorder
) -> None:
    """The embedded model's template has no words for functions; in the system message they are
    seen."""
    model = LocalModelConfig(name="embedded", device="cpu")
    config = make_config(model=model, task=ToolsConfig(cases=1))
    with pytest.raises(
        ConfigError,
        match="the chat template of model.name=embedded does not support tools.*task.tool_placement=system",
    ):
        work(tools, config, recorder)  # without an engine: it must not be used
    task = ToolsConfig(
        cases=1, tool_placement=OfferMethod.system, tool_call_format="hermes", system="Be brief."
    )
    config = make_config(model=model, task=task)
    inputs, form = tools.prepare(config), choose_tool_call_format(task, resolve_job(config))
    request = tools.build_requests(
        task, tools.assign_cases_to_context_lengths(task, inputs.cases, form, resolve_job(config)), form
    )[0]
    assert isinstance(request.prompt, tuple)
    first = request.prompt[0]
    assert isinstance(first, Message)
    assert first.content.startswith("Be brief.\n\nYou may call functions.")
    assert json.dumps(inputs.cases[0].functions[0]) in first.content
    assert (
        '<tool_call>\n{"name": "function_name", "arguments": {"parameter": "value"}}\n</tool_call>'
        in first.content
    )


WRONG: list[tuple[dict[str, Any], Code, str]] = [
    ({"categories": ["simpel"]}, "unknown_choice", "task.categories"),
    ({"categories": ["simple", "simple"]}, "bad_value", "task.categories"),
    ({"categories": []}, "empty", "task.categories"),
    ({"tool_call_format": "herms"}, "unknown_choice", "task.tool_call_format"),
    ({"context_lengths": ["2x"]}, "bad_value", "task.context_lengths"),
    ({"context_lengths": ["2k"], "distractors": 3}, "conflict", "task.distractors"),
]


@pytest.mark.parametrize(("keys", "code", "key"), WRONG)
def test_a_wrong_value_names_its_key(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        ToolsConfig(**keys)


def test_a_missing_file_is_one_message(job: Make) -> None:
    with raises(ConfigError, "not_found", "task.data=nowhere.json"):
        tools.prepare(job(data="nowhere.json"))


def test_samples_are_read_again_and_another_form_judges_kept_answers(job: Make, recorder: Recorder) -> None:
    config = job()
    cases = tools.prepare(config).cases
    work(tools, config, recorder, Scripted(calling_rightly(cases, import_tool_call_format("hermes"))))
    kept = samples_of(recorder)
    assert {sample.tool_outcome for sample in kept} == {"not_called", "nothing_called"}, (
        "as JSON these are words"
    )
    assert [Sample.from_json(sample.to_json()) for sample in kept] == kept
    placed = tools.assign_cases_to_context_lengths(ToolsConfig(cases=6), cases, FORM, resolve_job(config))
    judge = Judge(placed, import_tool_call_format("hermes"))
    assert all(adopted is not None and adopted.solved for adopted in map(judge.adopt_sample, kept))
    assert Judge(placed, import_tool_call_format("harmony")).adopt_sample(kept[0]) is None


def test_questions_belong_to_the_family_of_their_function_unless_another_is_named(job: Make) -> None:
    inputs = tools.prepare(job(cases=None))
    placed = tools.assign_cases_to_context_lengths(
        inputs.task, inputs.cases, FORM, resolve_job(job(cases=None))
    )
    families = Counter(place.cluster for place in placed.values())
    assert len(families) == 26
    for place in placed.values():
        if place.case.wanted:
            assert place.cluster == place.case.wanted[0][0]
        else:
            assert place.cluster == place.case.functions[0]["name"]
    case = inputs.cases[0]
    assert (case.cluster("question"), case.cluster("category")) == ("simple_0", "simple")
    with raises(ConfigError, "unknown_choice", "task.cluster"):
        case.cluster("colour")
    with raises(ConfigError, "bad_value", "task.cluster"):
        case.cluster("calls")


def test_only_other_families_than_functions_count_in_the_identity(job: Make) -> None:
    """Jobs of earlier versions, which knew no families, keep their ids."""
    assert tools.prepare(job()).hashes.keys() == {"cases"}
    hashes = [tools.prepare(job(cluster=name)).hashes for name in ("category", "question")]
    assert all(own.keys() == {"cases", "clusters"} for own in hashes)
    assert hashes[0]["clusters"] != hashes[1]["clusters"]
    assert "task.cluster" not in dict(iterate_job_id_keys(job(cluster="category")))


def test_samples_of_earlier_versions_are_accepted(job: Make, recorder: Recorder) -> None:
    config = job()
    inputs = tools.prepare(config)
    work(tools, config, recorder, Scripted(calling_rightly(inputs.cases, import_tool_call_format("json"))))
    placed = tools.assign_cases_to_context_lengths(inputs.task, inputs.cases, FORM, resolve_job(config))
    judge = Judge(placed, import_tool_call_format("json"))
    for sample in samples_of(recorder):
        assert judge.rejection_reason(sample) is None
        older = replace(sample, cluster=None, tool_function=None)
        assert judge.rejection_reason(older) is None
        assert QuestionOutcome.from_sample(older).cluster is None
        assert QuestionOutcome.from_sample(sample).cluster == placed[sample.index].case.main_function_name
        assert judge.rejection_reason(replace(sample, cluster="other")) is not None
