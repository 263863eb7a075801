"""The text of a server: its key is in nothing that is stored or shown, and its counts are
plausible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api, Trouble
from job_engines import open_engine
from listening import complete_with_deltas

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig, ApiExtensions, HybridConfig, StudentConfig, TeacherConfig
from runner.options.remote.server_text import ApiKeyRedactor, RedactedStream
from runner.render.engine_notes import render_engine_notes
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_engine.sessions.base import Completion, Message, Request
from runner_engine.sessions.contract import complete_requests

Make = Callable[..., RunnerConfig]
KEY = "sk-very-secret-0123456789"
HI = (Message("user", "Hi"),)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server that repeats our key wherever it can."""
    monkeypatch.setenv("API_KEY", KEY)
    with Api(lambda body: f"I got Bearer {KEY} from you", key=KEY) as api:
        api.reports = f"tiny of {KEY}"
        assert api.models is not None
        api.models[0]["root"] = KEY
        api.models[0]["max_model_len"] = f"Bearer {KEY}"
        yield api


def keys(api: Api, **more: Any) -> dict[str, Any]:
    return {"name": "tiny", "base_url": api.url, "backoff_s": 0.01, "retries": 1} | more


def ask(make: Make, api: Api, **more: Any) -> tuple[Completion, list[str], list[str]]:
    """Ask once; return the completion, its deltas, and the engine's notes."""
    engine = open_engine(make(model=ApiConfig(**keys(api, **more))))
    deltas: list[str] = []
    try:
        (one,) = complete_with_deltas(engine, [Request(0, HI)], lambda delta: deltas.append(delta.text))
        return one, deltas, render_engine_notes(engine.stats)
    finally:
        engine.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("cut", [1, 3, len(KEY) // 2, len(KEY) - 1])
def test_a_key_that_comes_in_pieces_is_in_no_text(make_config: Make, api: Api, cut: int) -> None:
    answer = f"a {KEY} b sk-very {KEY}{KEY}"
    pieces = tuple(answer[at : at + cut] for at in range(0, len(answer), cut))
    api.troubles.append(Trouble("says", pieces=pieces, usage={"prompt_tokens": 1, "completion_tokens": 9}))
    one, deltas, notes = ask(make_config, api)
    assert one.answer.text == "".join(deltas) == "a *** b sk-very ******"
    assert (one.by, one.answer.new_tokens) == ("tiny of ***", 9)
    assert any(
        note.startswith("the server's answers contained the API key. It was replaced with *** in ")
        for note in notes
    )


def test_text_that_only_begins_like_the_key_is_complete(make_config: Make, api: Api) -> None:
    api.troubles.append(Trouble("says", pieces=("sk-", "very-secr", "et sk-v"), usage=None))
    one, deltas, _ = ask(make_config, api)
    assert one.answer.text == "".join(deltas) == "sk-very-secret sk-v"


def test_a_short_key_is_a_word_that_answers_may_hold(make_config: Make, api: Api, monkeypatch: Any) -> None:
    monkeypatch.setenv("API_KEY", "EMPTY")
    api.key, api.answer = "EMPTY", lambda body: "Bearer EMPTY says that it is EMPTY"
    one, _, _ = ask(make_config, api)
    assert one.answer.text == "*** says that it is EMPTY"


def test_surrogates_are_joined_or_replaced() -> None:
    answer = RedactedStream(ApiKeyRedactor(""))
    pieces = [answer.append(piece) for piece in ("a\ud83d", "\ude00b", "\ude00", "\ud83d")]
    assert [*pieces, answer.flush()] == ["a", "😀b", "\ufffd", "", "\ufffd"]
    assert answer.text == "a😀b\ufffd\ufffd"


def test_a_message_is_cut_behind_the_key_and_not_within() -> None:
    assert KEY[:4] not in ApiKeyRedactor(KEY).redact_message("x" * 290 + KEY)
    assert "\\" not in ApiKeyRedactor('a"b\\c-long-key').redact_message(
        repr('a"b\\c-long-key') + json.dumps('a"b\\c-long-key')
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["gsm8k", "generate", "sweep", "hybrid"])
def test_the_key_is_in_no_file_of_a_job(
    make_config: Make, api: Api, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {
        "generate": GenerateConfig(prompt="Hi"),
        "sweep": SweepConfig(batch_sizes=[1], prompt_tokens=[4], new_tokens=[6], repeats=1, warmup=0),
    }
    model: Any = ApiConfig(**keys(api, extensions=ApiExtensions.vllm))
    if name == "hybrid":
        model = HybridConfig(student=StudentConfig(name="x", stub=True), teacher=TeacherConfig(**keys(api)))
    record = run(make_config(model=model, task=tasks.get(name, Gsm8kConfig(limit=2))))
    kept = json.dumps(dataclasses.asdict(record)) + "".join(capsys.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert KEY not in kept
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert record.result.facts["reported_model"] == "id tiny, root ***"


NONSENSE = [-1, -(10**24), "NaN", float("nan"), float("inf"), 1.5, True, 10**30, f"Bearer {KEY}", [], {}]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("value", NONSENSE, ids=str)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_impossible_counts_are_a_fault_of_the_server(
    make_config: Make, api: Api, name: str, value: Any
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2} | {name: value}
    api.always = Trouble("says", pieces=("four",), usage=usage)
    engine = open_engine(make_config(model=ApiConfig(**keys(api, price_in=1.0, price_out=1.0))))
    one, other = complete_requests(engine, [Request(0, HI), Request(1, HI)])
    engine.close()
    assert f"answered with usage.{name}=" in str(one.error)
    assert "is not a valid token count (2 attempts)" in str(one.error)
    assert KEY not in str(one.error)
    assert (one.prompt_tokens, one.answer.new_tokens, one.cost_usd, other.error) == (0, 0, 0.0, one.error)
    assert len(api.seen) == 4, "each is sent again, as after any other malformed answer"


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None, "completion_tokens": 3}, None, "many"], ids=str
)
def test_missing_counts_are_unknown(make_config: Make, api: Api, usage: Any) -> None:
    api.always = Trouble("says", pieces=("four",), usage=usage)
    one, _, notes = ask(make_config, api)
    assert (one.answer.text, one.error) == ("four", None)
    assert "1 answer recorded with 0 tokens, because the server reported no token count" in notes


def test_an_impossible_max_model_len_is_ignored(make_config: Make, api: Api) -> None:
    engine = open_engine(make_config(model=ApiConfig(**keys(api))))
    report = engine.load()
    engine.close()
    assert "max_positions" not in report.metrics
    assert "max_model_len='Bearer ***' is not a valid token count" in str(report.notes[1].values["text"])
