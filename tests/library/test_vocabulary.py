"""Token ids from a tokenizer for which the model has no embedding, in every kind of request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import change_tokenizer
from job_engines import open_engine
from odd_tokenizers import EXTRA, FAR, save_beyond

from runner import Model, load
from runner.config.resolved import resolve_job
from runner.engines.kinds.local import KIND
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig

REFUSED = rf"^token id 896 .* token ids from 0 to 895, .* 898 tokens\..* '{EXTRA}'\."


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_beyond(tmp_path_factory.mktemp("beyond") / "model")


@pytest.fixture(scope="module", params=["auto", "sdpa"])
def model(beyond: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    """In a stream, and in static batches."""
    with load(beyond, device="cpu", attention=request.param) as loaded:
        yield loaded


@pytest.mark.sampled(1)
def test_a_prompt_with_a_token_that_has_no_embedding_is_refused_and_named(model: Model) -> None:
    tokens = f"{EXTRA} (896), {FAR} (500000000)"
    assert note("tokens_beyond_model", count=2, known=896, tokens=tokens) in model.report.notes
    requests: list[Callable[[str], object]] = [
        model.generate,
        lambda text: model.generate(text, format="raw"),
        lambda text: model.generate(["as usual", text]),
        lambda text: model.chat([{"role": "user", "content": text}]),
        lambda text: list(model.stream(text)),
        lambda text: model.logprobs(text, "No"),
        lambda text: model.logprobs("Yes or no?", text),
        lambda text: model.logprobs("Yes or no?", text, format="raw"),
    ]
    for ask in requests:
        with pytest.raises(ConfigError, match=REFUSED):
            ask(f"Tom has {EXTRA} pens")
        with pytest.raises(ConfigError, match=f"^token id 500000000 .*'{FAR}'"):
            ask(f"Tom has {FAR} pens")
    assert "8" in model.generate("Tom has 3 pens. Tom buys 5 more. How many pens does Tom have now?")


def test_prompts_are_refused_by_the_tokenizer_alone_and_before_any_pass(
    beyond: Path, make_config: Callable[..., Any]
) -> None:
    config = make_config(model=LocalModelConfig(name=str(beyond), device="cpu"))
    engine = open_engine(config)
    engine.load()
    with pytest.raises(ConfigError, match=REFUSED):
        KIND.encode_prompts(resolve_job(config), [f"Tom {EXTRA}"])
    with pytest.raises(ConfigError, match=REFUSED):
        engine.encode(Request(0, EXTRA))
    engine.close()


def test_a_tokenizer_none_of_whose_prompts_can_be_read_is_refused_before_the_weights(
    beyond: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(beyond, folder)
    begin = {"SpecialToken": {"id": EXTRA, "type_id": 0}}
    text: list[dict[str, Any]] = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
    known = {EXTRA: {"id": EXTRA, "ids": [896], "tokens": [EXTRA]}}
    template = {"type": "TemplateProcessing", "single": text, "pair": text, "special_tokens": known}
    change_tokenizer(folder, lambda it: it.update(post_processor=template))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])  # a load would fail here
    with pytest.raises(ConfigError, match=REFUSED):
        load(folder, device="cpu")


@pytest.mark.thorough
def test_padding_that_has_no_embedding_does_not_matter(beyond: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(beyond, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": EXTRA}))
    prompts = ["Tom has 3 pens. Tom buys 5 more. How many pens does Tom have now?", "Short"]
    with load(folder, device="cpu", attention="sdpa") as odd, load(device="cpu", attention="sdpa") as plain:
        assert odd.report.facts["decoding"] == plain.report.facts["decoding"] == "static batching"
        assert odd.generate(prompts) == plain.generate(prompts)
