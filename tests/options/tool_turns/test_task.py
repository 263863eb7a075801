"""task=tool_turns from the prompt to the metrics, with agents of which the truth is known."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playing import playing, write_answers
from raising import raises
from scripted import Scripted
from tasking import samples_of, work

from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.options.tool_turns import task as tool_turns
from runner.options.tool_turns.episode import ChatForm, Episode
from runner.options.tool_turns.judging import ScenarioJudge
from runner.options.tool_turns.keys import LEVELS, ClusterKey, ToolTurnsConfig
from runner.options.tool_turns.render.titles import TURNS_BY_LEVEL
from runner.records.jobs import Job, Recorder
from runner.tasks.tools.keys import OfferMethod
from runner.tasks.tools.offering import choose_tool_call_format
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_base.tool_outcomes import ToolOutcome
from runner_compare.model.outcomes import QuestionOutcome
from runner_engine import embedded
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.tool_calls import import_tool_call_format

Make = Callable[..., RunnerConfig]
JSON = import_tool_call_format("json")


@pytest.fixture
def job(make_config: Make) -> Make:
    def make(**keys: Any) -> RunnerConfig:
        task = ToolTurnsConfig(**({"limit": 40} | keys))
        return make_config(model=StubConfig(), generation=GenerationConfig(max_new_tokens=64), task=task)

    return make


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("tool-turns-test", folder))
    yield opened
    opened.close()


def test_an_agent_that_makes_the_reference_calls_reaches_all_goals(job: Make, recorder: Recorder) -> None:
    scenarios = tool_turns.prepare(job()).scenarios
    result = work(tool_turns, job(), recorder, Scripted(playing(scenarios, JSON)))
    calls = [sum(map(len, scenario.calls)) for scenario in scenarios]
    turns = [number + len(scenario.messages) for number, scenario in zip(calls, scenarios, strict=True)]
    assert (result.metrics["accuracy"], result.metrics["tool_accuracy"], result.metrics["n"]) == (1, 1, 40)
    assert result.metrics["calls_per_scenario"] == sum(calls) / 40
    assert result.metrics["turns_per_scenario"] == sum(turns) / 40
    assert result.metrics["failed_calls_per_scenario"] == 8 / 40  # of the level `error`
    assert {level: result.metrics[f"tool_accuracy/{level}"] for level in LEVELS} == dict.fromkeys(LEVELS, 1)
    assert [(row["level"], row["scenarios"]) for row in result.tables[TURNS_BY_LEVEL]] == [
        (it, 8) for it in LEVELS
    ]
    for sample, number in zip(samples_of(recorder), turns, strict=True):
        assert sample.calls is not None
        assert len(sample.calls) == number
        assert (sample.answer.new_tokens, sample.prompt_tokens) == (3 * number, 10 * number)
        assert QuestionOutcome.from_sample(sample).cluster == sample.tool_function


def test_an_agent_whose_last_call_is_damaged_reaches_none(job: Make, recorder: Recorder) -> None:
    scenarios = tool_turns.prepare(job()).scenarios
    result = work(tool_turns, job(), recorder, Scripted(playing(scenarios, JSON, is_damaged=True)))
    assert (result.metrics["accuracy"], result.metrics["correct"]) == (0, 0)
    outcomes = Counter(sample.tool_outcome for sample in samples_of(recorder))
    assert outcomes.keys() <= {"wrong_arguments", "changed_other_state", "gave_up"}
    assert "right" not in outcomes


def test_samples_are_judged_again_from_their_calls(job: Make, recorder: Recorder) -> None:
    scenarios = tool_turns.prepare(job()).scenarios
    right, wrong = playing(scenarios, JSON), playing(scenarios, JSON, is_damaged=True)

    def answer(request: Request) -> tuple[str, FinishReason]:
        return (wrong if int(str(request.id).partition("/")[0]) % 3 else right)(request)

    result = work(tool_turns, job(), recorder, Scripted(answer))
    assert result.metrics["correct"] == 14
    form = ChatForm(OfferMethod.template, JSON, 10)
    judge = ScenarioJudge(dict(enumerate(scenarios)), form, ClusterKey.template)
    for sample in samples_of(recorder):
        read = Sample.from_json(sample.to_json())
        assert read == sample
        assert judge.rejection_reason(read) is None
        unjudged = replace(
            read, cluster="x", tool_outcome=None, answer=replace(read.answer, verdict=None, extracted=None)
        )
        assert judge.adopt_sample(unjudged) == sample
    changed = replace(samples_of(recorder)[1], tool_outcome="right")
    assert getattr(judge.rejection_reason(changed), "code", "") == "judged_differently"
    other = replace(samples_of(recorder)[1], gold="f()")
    assert getattr(judge.rejection_reason(other), "code", "") == "other_question"
    assert judge.adopt_sample(other) is None
    shorter = ScenarioJudge(dict(enumerate(scenarios)), replace(form, max_turns=1), ClusterKey.scenario)
    assert [shorter(sample).answer.verdict for sample in samples_of(recorder)] == [Verdict.wrong] * 40


def test_a_failed_answer_fails_its_scenario_and_is_asked_again(job: Make, recorder: Recorder) -> None:
    scenarios = tool_turns.prepare(job()).scenarios
    right = playing(scenarios, JSON)

    def answer(request: Request) -> tuple[str, FinishReason]:
        return ("", FinishReason.error) if request.id == "1/1" else right(request)

    result = work(tool_turns, job(), recorder, Scripted(answer))
    assert len(result.problems) == 1
    assert [sample.index for sample in samples_of(recorder) if sample.failed] == [1]
    engine = Scripted(right)
    again = work(tool_turns, job(), recorder, engine)
    assert (again.metrics["accuracy"], again.problems) == (1, [])
    assert {str(number).partition("/")[0] for number in engine.asked} == {"1"}


def test_a_job_without_any_answer_fails(job: Make, recorder: Recorder) -> None:
    with pytest.raises(JobFailed):
        work(tool_turns, job(limit=2), recorder, Scripted(lambda _: ("", FinishReason.error)))


def test_follow_ups_have_random_numbers_of_their_own_and_keep_their_prefix(
    job: Make, recorder: Recorder
) -> None:
    seen: list[Request] = []
    config = job(limit=5, repeat_index=2)
    right = playing(tool_turns.prepare(config).scenarios, JSON)

    def answer(request: Request) -> tuple[str, FinishReason]:
        seen.append(request)
        return right(request)

    work(tool_turns, config, recorder, Scripted(answer))
    assert {request.random_id for request in seen} == {
        f"{str(request.id).replace('/', ', repeat 2/')}" for request in seen
    }
    assert all(request.recurring for request in seen)
    prompts = {request.id: request.prompt for request in seen}
    first, second = prompts["1/0"], prompts["1/1"]
    assert isinstance(first, tuple)
    assert second[: len(first)] == first


def test_other_clusters_and_limits_reuse_the_answers_and_other_turns_do_not(job: Make) -> None:
    base = tool_turns.prepare(job())
    assert tool_turns.prepare(job(cluster=ClusterKey.scenario)).hashes.items() > base.hashes.items()
    assert {"data", "clusters", "task.limit", "task.levels"} == base.ignored_for_reuse
    assert base.count == 40


def test_bad_keys_are_refused(job: Make, tmp_path: Path) -> None:
    with raises(ConfigError, "unknown_choice", "task.levels"):
        job(levels=["double"])
    with raises(ConfigError, "bad_value", "task.levels"):
        job(levels=[])
    with raises(ConfigError, "missing", "task.limit"):
        job(limit=None)
    with raises(ConfigError, "unknown_choice", "task.tool_call_format"):
        job(tool_call_format="xml")
    (tmp_path / "a.jsonl").write_text("")
    with raises(ConfigError, "empty", "task.data"):
        tool_turns.prepare(job(data=str(tmp_path / "a.jsonl")))
    record = {
        "environment": "files",
        "state": {"files": {"a": "b"}},
        "messages": ["Delete a."],
        "calls": [[{"name": "delete_file", "arguments": {"path": "a"}}]],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    inputs = tool_turns.prepare(job(data=str(tmp_path / "a.jsonl"), limit=None))
    assert [scenario.gold for scenario in inputs.scenarios] == ["delete_file(path='a')"]


# as Hermes, Qwen2.5 and others show tools, calls and results
HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call>…</tool_call><|im_end|>\n{% endif %}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}"
    "<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "{% if message.tool_call_id %} ({{ message.name }}){% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_chat_template_shows_calls_and_results_and_each_prompt_begins_as_the_one_before(
    make_config: Make, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.MODEL_DIR, model)
    (model / "chat_template.jinja").write_text(HERMES)
    config = make_config(model=LocalModelConfig(name=str(model)), task=ToolTurnsConfig(limit=5))
    scenario = tool_turns.prepare(config).scenarios[3]
    resolved = resolve_job(config)
    call_format = choose_tool_call_format(ToolTurnsConfig(), resolved)
    assert call_format.name == "hermes"
    episode = Episode(scenario, ChatForm(OfferMethod.template, call_format.form, 10))
    prompts, answers = [], write_answers(scenario.calls, call_format.form)
    for answer in answers:
        prompts.append(get_model_kind(config.model).render_prompt(resolved, episode.build_prompt()))
        episode.add_answer(Answer(answer, [], FinishReason.stop))
    assert episode.outcome is ToolOutcome.right
    assert '"name": "add_event"' in prompts[0]
    assert [prompt.count("<|im_start|>tool") for prompt in prompts] == [0, 1, 2]
    assert prompts[2].count("(add_event)<|im_end|>") == 2
    for before, answer, after in zip(prompts, answers, prompts[1:], strict=False):
        assert after.startswith(before)
        assert after[len(before) :].startswith(answer)
