"""Thinking over model=api and the stub: kept apart, streamed without tags, counted, priced, and
held to a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api, Trouble
from job_engines import open_engine
from listening import complete_with_deltas
from raising import raises

from runner.config.root import RunnerConfig
from runner.datasets.questions import load_questions
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, HybridConfig, StudentConfig, TeacherConfig
from runner.options.remote.thinking_budget import MARGIN, ThinkingBudget
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_base.model_text import Ending
from runner_engine.sessions.base import Completion, Delta, Message, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
Run = Callable[..., Any]
HI = (Message("user", "Hi"),)
GOLD = {item.question: item.gold for item in load_questions(Gsm8kConfig(limit=4))}
SERVER = (
    "model=api",
    "model.name=tiny",
    "model.backoff_s=0.01",
    "tracking=none",
    "print=json",
    "task.limit=4",
)
BUDGET = ("generation.thinking_tokens=8", "generation.max_new_tokens=5", "task.check_invariance=0")


def solve(body: dict[str, Any]) -> str:
    """Return the right answer to a word problem of the embedded set, in 3 words."""
    return f"so #### {GOLD[str(body['messages'][-1]['content']).split(chr(10) * 2)[0]]}"


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(solve) as api:
        api.thinking = "reasoning_content", lambda body: "hm " * 50
        api.counts_thinking = True
        yield api


def model_at(api: Api, **keys: Any) -> ApiConfig:
    quick: dict[str, Any] = {"name": "tiny", "base_url": api.url, "backoff_s": 0.01, "retries": 1}
    return ApiConfig(**quick | keys)


def lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def notes(folder: Path) -> list[str]:
    (file,) = folder.glob("outputs/jobs/*/result.json")
    found: list[str] = json.loads(file.read_text())["result"]["notes"]
    return [note for note in found if "budget" in note or "exceed" in note]


@pytest.mark.thorough
def test_a_budget_is_sent_and_what_the_server_did_is_counted(runner: Run, tmp_path: Path, api: Api) -> None:
    api.budget_of = lambda body: body["thinking_token_budget"]
    server = (*SERVER, *BUDGET, f"model.base_url={api.url}", "model.thinking_budget_dialect=vllm")
    done = runner(*server, "model.price_in=0", "model.price_out=1")
    assert done.code == 0, done.err
    assert {(body["thinking_token_budget"], body["max_tokens"]) for body in api.seen} == {(8, 8 + 5 + MARGIN)}
    for one in lines(tmp_path):
        assert one["thinking"].split() == ["hm"] * 8
        assert (one["thinking_tokens"], one["answer_tokens"], one["new_tokens"]) == (8, 3, 11)
        assert (one["ending"], one["verdict"], one["cost_usd"]) == ("budget_spent", "correct", 11e-6)
    assert notes(tmp_path) == []


@pytest.mark.thorough
def test_a_server_that_ignores_its_budget_is_noted(runner: Run, tmp_path: Path, api: Api) -> None:
    done = runner(*SERVER, *BUDGET, f"model.base_url={api.url}", "model.thinking_budget_dialect=qwen")
    assert done.code == 0, done.err
    assert {one["ending"] for one in lines(tmp_path)} == {"cut_off_thinking"}, "50 words do not fit in 45"
    assert notes(tmp_path) == [
        "the server ignored the thinking budget in 4 of 4 answers. Check model.thinking_budget_dialect"
    ]


@pytest.mark.thorough
def test_a_server_that_does_not_count_thinking_is_noted(runner: Run, tmp_path: Path, api: Api) -> None:
    api.counts_thinking, api.budget_of = False, lambda body: body["thinking_budget_tokens"]
    long = "generation.max_new_tokens=2"
    api.answer = lambda body: "and so on " * 50 if "thinking_budget_tokens" in body else ""
    done = runner(
        *SERVER, *BUDGET, long, f"model.base_url={api.url}", "model.thinking_budget_dialect=llama_cpp"
    )
    assert done.code == 0, done.err
    assert {
        (one.get("thinking_tokens"), one.get("answer_tokens"), one["new_tokens"]) for one in lines(tmp_path)
    } == {(None, None, 42)}
    assert notes(tmp_path) == [
        "4 of 4 answers may exceed the thinking budget. The server did not report their thinking tokens"
    ]


@pytest.mark.thorough
def test_an_answer_that_takes_what_the_thinking_left_is_noted(runner: Run, tmp_path: Path, api: Api) -> None:
    api.thinking, api.answer = ("reasoning", lambda body: "hm"), lambda body: "and so on " * 50
    wide = "generation.thinking_tokens=60"
    done = runner(*SERVER, *BUDGET, wide, f"model.base_url={api.url}", "model.thinking_budget_dialect=sglang")
    assert done.code == 0, done.err
    assert {one["answer_tokens"] for one in lines(tmp_path)} == {60 + 5 + MARGIN - 1}
    assert [note.partition(".")[0] for note in notes(tmp_path)] == [
        "4 of 4 answers exceed the limit of new tokens"
    ]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (),
            "generation.thinking_tokens=8: OpenAI's API does not support thinking budgets. Use generation.thinking_tokens=null, or set model.thinking_budget_dialect to the kind of server",
        ),
        (
            ("model.thinking_budget_dialect=vllm", "generation.thinking_end=stop"),
            "generation.thinking_end='stop': servers do not accept this parameter",
        ),
        (("model.thinking_budget_dialect=ollama",), "model.thinking_budget_dialect"),
    ],
)
def test_what_a_server_has_no_parameter_for_is_refused(
    runner: Run, api: Api, arguments: tuple[str, ...], words: str
) -> None:
    done = runner(*SERVER, *BUDGET, f"model.base_url={api.url}", *arguments)
    assert (done.code, api.seen) == (2, [])
    assert words in done.err
    assert all(choice in done.err for choice in ThinkingBudget) or "thinking_end" in words


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("choice", "body", "off"),
    [
        ("vllm", {"thinking_token_budget": 64}, {"thinking_token_budget": 0}),
        ("sglang", {"custom_params": {"thinking_budget": 64}}, {"custom_params": {"thinking_budget": 0}}),
        ("llama_cpp", {"thinking_budget_tokens": 64}, {"thinking_budget_tokens": 0}),
        ("openrouter", {"reasoning": {"max_tokens": 64}}, {"reasoning": {"enabled": False}}),
        (
            "anthropic",
            {"thinking": {"type": "enabled", "budget_tokens": 64}},
            {"thinking": {"type": "disabled"}},
        ),
        ("qwen", {"enable_thinking": True, "thinking_budget": 64}, {"enable_thinking": False}),
        (
            "gemini",
            {
                "extra_body": {
                    "google": {"thinking_config": {"thinking_budget": 64, "include_thoughts": True}}
                }
            },
            {"extra_body": {"google": {"thinking_config": {"thinking_budget": 0, "include_thoughts": True}}}},
        ),
    ],
)
def test_each_server_gets_its_own_parameter(
    make_config: Make, api: Api, choice: str, body: dict[str, Any], off: dict[str, Any]
) -> None:
    api.answer = lambda body: "Hi"
    config = make_config(
        model=model_at(api, thinking_budget_dialect=ThinkingBudget(choice)),
        generation=GenerationConfig(thinking_tokens=64),
    )
    assert isinstance(config.model, ApiConfig)
    engine = open_engine(config)
    complete_requests(engine, [Request(0, HI)])
    complete_requests(engine, [Request(0, HI, thinking_tokens=0)])
    engine.close()
    for expected, sent in zip((body, off), api.seen, strict=True):
        assert expected.items() <= sent.items()
    assert [sent["max_tokens"] for sent in api.seen] == [256 + 64 + MARGIN, 256 + MARGIN]
    plain = ApiEngine(make_config(), model_at(api), frozenset())
    with raises(ConfigError, "missing", "request.thinking_tokens"):
        plain.build_request_parameters(Request(0, HI, thinking_tokens=3))


PIECES = "<think>a '<think>' b\n</think>The <b> is `</think>`. #### 7"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_deltas_have_no_tags_and_thinking_is_marked(make_config: Make, api: Api, size: int) -> None:
    pieces = tuple(PIECES[at : at + size] for at in range(0, len(PIECES), size))
    api.always = Trouble("says", pieces=pieces, usage={"prompt_tokens": 1, "completion_tokens": 9})
    deltas = list[Delta]()
    engine = open_engine(make_config(model=model_at(api)))
    (done,) = complete_with_deltas(engine, [Request(0, HI)], deltas.append)
    engine.close()
    said = ["".join(delta.text for delta in deltas if delta.thinking is kind) for kind in (True, False)]
    assert said == ["a '<think>' b\n", "The <b> is `</think>`. #### 7"]
    assert [done.answer.thinking, done.answer.text] == said
    assert (done.answer.thinking_tokens, done.answer.answer_tokens) == (None, None), (
        "what is not counted is unknown"
    )


def test_thinking_that_is_sent_apart_comes_as_deltas_first(make_config: Make, api: Api) -> None:
    deltas = list[Delta]()
    api.thinking, api.answer = ("reasoning", lambda body: "hm so"), lambda body: "It is 7"
    engine = open_engine(make_config(model=model_at(api)))
    (done,) = complete_with_deltas(engine, [Request(0, HI)], deltas.append)
    engine.close()
    assert [(delta.text, delta.thinking) for delta in deltas] == [
        ("hm", True), (" so", True), ("It", False), (" is", False), (" 7", False),
    ]  # fmt: skip
    assert (done.answer.thinking, done.answer.text, done.answer.ending) == ("hm so", "It is 7", Ending.closed)


@pytest.mark.parametrize(
    ("usage", "new", "thinking", "shown"),
    [
        # OpenAI, DeepSeek, vLLM
        ({"completion_tokens_details": {"reasoning_tokens": 6}}, 10, 6, ""),
        ({"reasoning_tokens": 6}, 10, 6, ""),  # SGLang
        # xAI: not among them
        ({"completion_tokens_details": {"reasoning_tokens": 6}, "total_tokens": 19}, 16, 6, ""),
        ({"completion_tokens_details": {"reasoning_tokens": 60}}, 70, 60, ""),
        ({"completion_tokens_details": {"reasoning_tokens": 0}}, 10, None, None),
        ({"completion_tokens_details": None}, 10, None, None),
        ({}, 10, None, None),
    ],
)
def test_thinking_that_is_only_counted_is_counted(
    make_config: Make, api: Api, usage: dict[str, Any], new: int, thinking: int | None, shown: str | None
) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 10}
    api.always = Trouble("says", pieces=("It is 7",), usage=counts | usage)
    engine = open_engine(make_config(model=model_at(api, price_in=0.0, price_out=1.0)))
    (one,) = complete_requests(engine, [Request(0, HI)])
    engine.close()
    answer = one.answer
    assert (answer.text, answer.thinking, answer.new_tokens, answer.thinking_tokens) == (
        "It is 7",
        shown,
        new,
        thinking,
    )
    assert answer.answer_tokens == (None if thinking is None else new - thinking)
    assert one.cost_usd == pytest.approx(new / 1e6)


def test_a_server_without_a_parser_says_0_tokens_which_is_not_known(make_config: Make, api: Api) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 10, "reasoning_tokens": 0}
    api.always = Trouble("says", pieces=("<think>hm</think>It is 7",), usage=usage)
    engine = open_engine(make_config(model=model_at(api)))
    (one,) = complete_requests(engine, [Request(0, HI)])
    engine.close()
    assert (one.answer.thinking, one.answer.thinking_tokens, one.answer.ending) == ("hm", None, Ending.closed)


def test_own_tags_are_read(make_config: Make, api: Api) -> None:
    api.always = Trouble("says", pieces=("[[hm]", "]It is 7"), usage={})
    generation = GenerationConfig(thinking_tags=["[[", "]]"])
    engine = open_engine(make_config(model=model_at(api), generation=generation))
    (one,) = complete_requests(engine, [Request(0, HI)])
    engine.close()
    assert (one.answer.thinking, one.answer.text) == ("hm", "It is 7")


def test_of_several_choices_the_first_has_all_tokens(make_config: Make, api: Api) -> None:
    api.thinking, api.answer = ("reasoning", lambda body: "hm " * 50), lambda body: "It is 7"
    api.budget_of = lambda body: body["thinking_token_budget"]
    config = make_config(
        model=model_at(api, thinking_budget_dialect=ThinkingBudget.vllm),
        generation=GenerationConfig(thinking_tokens=40),
    )
    engine = open_engine(config)
    answers = [one.answer for one in complete_requests(engine, [Request(0, HI, n=3)])]
    engine.close()
    assert [(one.new_tokens, one.thinking_tokens, one.answer_tokens) for one in answers] == [
        (129, 120, 9), (0, 0, 0), (0, 0, 0),
    ]  # fmt: skip
    assert {one.ending for one in answers} == {Ending.closed}, "of which the budget was spent is unknown"
    assert engine.stats.notes == []


def test_both_models_of_a_hybrid_get_the_budget(make_config: Make, api: Api) -> None:
    api.answer = lambda body: '{"score": 0.1, "feedback": "no"}'
    api.budget_of = lambda body: body["thinking_token_budget"]
    generation = GenerationConfig(thinking_tokens=8, max_new_tokens=5)

    def ask(**keys: Any) -> Completion:
        teacher = TeacherConfig(name="tiny", base_url=api.url, **keys)
        model = HybridConfig(
            student=StudentConfig(name="x", stub=True), teacher=teacher, review_tokens=20, rounds=1
        )
        engine = open_engine(make_config(model=model, generation=generation))
        (one,) = complete_requests(engine, [Request(0, HI)])
        engine.close()
        return one

    with raises(ConfigError, "missing", "generation.thinking_tokens"):
        ask()
    answer = ask(thinking_budget_dialect=ThinkingBudget.vllm).answer
    assert [(sent["thinking_token_budget"], sent["max_tokens"]) for sent in api.seen] == [
        (8, 20 + 8 + MARGIN), (8, 5 + 8 + MARGIN),
    ]  # fmt: skip
    assert (answer.thinking_tokens, answer.ending) == (8, Ending.budget_spent)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ("closed", 12, 256)),
        (("generation.thinking_tokens=5",), ("budget_spent", 5, 256)),
        (("generation.thinking_tokens=0",), ("budget_spent", 0, 256)),
        (("generation.max_new_tokens=7",), ("cut_off_thinking", 7, 7)),
        (("generation.max_new_tokens=13",), ("cut_off_answer", 12, 13)),
        (("generation.thinking_tokens=5", "generation.max_new_tokens=1"), ("cut_off_answer", 5, 6)),
    ],
)
def test_the_stub_thinks(
    runner: Run, tmp_path: Path, arguments: tuple[str, ...], expected: tuple[str, int, int]
) -> None:
    done = runner(
        "model=stub", "model.thinking_words=12", "task.limit=2", "tracking=none", "print=json", *arguments
    )
    assert done.code == 0, done.err
    ending, thinking, most = expected
    for one in lines(tmp_path):
        assert (one["ending"], one["thinking_tokens"]) == (ending, thinking)
        assert len(one["token_ids"]) == thinking + one["answer_tokens"] <= most
        assert one["text"].startswith("[STUB_GENERATION]") == (ending != "cut_off_thinking")
