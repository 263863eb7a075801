"""Clients choose an adapter by the model's name: the official client against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from adapters import save_adapter, with_adapter
from openai import AsyncOpenAI, OpenAI
from serving import FLOAT32, Serving, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_engine.embedded import LORA_PEFT_DIRS, MODEL_DIR

NAMES = ("embedded", "made", "recall/v1")
PROMPTS = [f"Tom has {number} pens. Tom buys 5 more. How many pens does Tom have now?\n" for number in (3, 8)]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapter") / "made"
    return save_adapter(place, MODEL_DIR, target_modules=["q_proj", "down_proj"], lora_alpha=128)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Iterator[Serving]:
    adapters = f"lora.adapters={{made: {made}, recall/v1: embedded_recall}}"
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, *FLOAT32, "lora=several", adapters, "tracking=none") as server:
        yield server


@pytest.fixture(scope="module")
def models(made: Path) -> dict[str, Any]:
    return {
        "embedded": AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype="float32").eval(),
        "made": with_adapter(MODEL_DIR, made),
        "recall/v1": with_adapter(MODEL_DIR, LORA_PEFT_DIRS["embedded_recall"]),
    }


@pytest.mark.slow
def test_each_name_answers_with_its_adapter_among_the_others(server: Serving, models: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    asked = [(name, prompt) for prompt in PROMPTS for name in NAMES]

    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model=name, prompt=prompt, temperature=0, max_tokens=NEW_TOKENS, logprobs=1
                    )
                    for name, prompt in asked
                )
            )

    answers = asyncio.run(ask())
    texts = set()
    for (name, prompt), answer in zip(asked, answers, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            whole = models[name].generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False)
            logits = models[name](whole).logits[0].log_softmax(-1)
        new = whole[0, ids.shape[1] :]
        assert answer.model == name
        assert answer.choices[0].text == tokenizer.decode(new, skip_special_tokens=True)
        texts.add((prompt, answer.choices[0].text))
        right = logits[ids.shape[1] - 1 : -1].gather(1, new[:, None])[:, 0]
        scored = torch.tensor(answer.choices[0].logprobs.token_logprobs)
        torch.testing.assert_close(scored, right[: len(scored)], atol=1e-4, rtol=0)
    assert len(texts) == len(asked), "no two adapters answer alike, else this shows nothing"


@pytest.mark.slow
def test_the_list_has_the_base_and_its_adapters(server: Serving) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        listed = client.models.list().data
        assert [model.id for model in listed] == [*NAMES]
        assert [getattr(model, "parent", None) for model in listed] == [None, *["embedded"] * 2]
        assert client.models.retrieve("recall/v1").id == "recall/v1"
        with pytest.raises(
            openai.NotFoundError, match="model 'math' not found. This server has 'embedded', 'made'"
        ):
            client.completions.create(model="math", prompt="x")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["task=serve", "lora=several", "lora.adapters={embedded: embedded}"], "lora.adapters=embedded: clients select the base model by embedded"),
        (["task=gsm8k", "lora=several", "lora.adapters={hard: embedded}"], "no request of task=gsm8k selects an adapter"),
        (["task=serve", "lora=several", "lora.adapters={hard: nowhere/at/all}"], "lora.adapters.hard=nowhere/at/all"),
        (["task=serve", "lora=several"], "lora.adapters={}: must map each adapter's name to a PEFT folder"),
        (
            ["task=serve", "lora=several", "lora.adapters={hard: embedded}", "model.attention=sdpa"],
            "requests with different adapters need continuous batching, but model.attention=sdpa was requested",
        ),
    ],
    ids=["the base's name", "another task", "no folder", "none", "attention"],
)  # fmt: skip
def test_what_cannot_be_served_is_said_first(
    runner: Callable[..., Any], command: list[str], reason: str
) -> None:
    finished = runner(*command, "task.port=0") if "task=serve" in command else runner(*command)
    assert finished.code == 2
    assert reason in finished.err
