"""The contract: what a request asks for, and engines that are asked before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.generation import GenerationConfig
from runner.config.model import Attention, LocalModelConfig, StubConfig
from runner.config.root import RunnerConfig
from runner.config.rope import Rope2dConfig
from runner.core.errors import ConfigError
from runner.engines import base, open_engine
from runner.engines.base import Capability, Message, Request, Sampling

Make = Callable[..., RunnerConfig]


def test_what_a_request_leaves_open_the_generation_group_says() -> None:
    generation = GenerationConfig("warm", temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1)
    assert Sampling().over(generation, 3) == Sampling(0.5, 0.9, 7, 1.1, 3)
    assert Sampling(temperature=0.0, top_k=0, seed=0).over(generation, 3) == Sampling(0.0, 0.9, 0, 1.1, 0)


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (Request(0, "x"), set()),
        (Request(0, (1, 2)), {Capability.token_ids}),
        (Request(0, (Message("user", "x"),)), {Capability.chat}),
        (Request(0, "x", branches=("a",)), {Capability.branches}),
        (Request(0, "x", n=2, deltas=True), {Capability.several, Capability.deltas}),
        (Request(0, "x", sampling=Sampling(seed=1)), {Capability.sampling}),
        (Request(0, "x", continuation=""), {Capability.logprobs}),
        (Request(0, "x", continuation="", hear=print), {Capability.logprobs, Capability.distributions}),
    ],
)
def test_what_a_request_needs(request_: Request, needs: set[Capability]) -> None:
    assert request_.needs == needs


def test_an_engine_is_asked_before_anything_is_loaded(make_config: Make, tiny_llama: Path) -> None:
    """Two coordinates make branches, and an attention that takes no mask unmakes them."""
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    without = open_engine(make_config(model=model))
    base.require(without, "task=chat", [Capability.chat, Capability.logprobs])
    with pytest.raises(ConfigError, match="task=generate needs branches, which this engine does not offer: it has "):
        base.require(without, "task=generate", [Capability.branches, Capability.chat])
    base.require(open_engine(make_config(model=model, rope=Rope2dConfig())), "x", [Capability.branches])
    flash = LocalModelConfig(name=str(tiny_llama), device="cpu", attention=Attention.flash_attention_2)
    assert Capability.branches not in open_engine(make_config(model=flash, rope=Rope2dConfig())).capabilities
    assert without.stats.load_s == 0


def test_capabilities_need_no_torch(tiny_llama: Path) -> None:
    program = f"""
import sys
from runner.config.generation import GenerationConfig
from runner.config.lora import LoraConfig
from runner.config.model import LocalModelConfig
from runner.quantization.base import QuantizationConfig
from runner.config.root import RunnerConfig, TrackingConfig
from runner.config.rope import RopeConfig
from runner.config.task import Gsm8kConfig
from runner.engines import open_engine
config = RunnerConfig(model=LocalModelConfig(name={str(tiny_llama)!r}), quantization=QuantizationConfig(),
    lora=LoraConfig(), rope=RopeConfig(), generation=GenerationConfig("greedy"), task=Gsm8kConfig(),
    tracking=TrackingConfig(name="none"))
print(len(open_engine(config).capabilities), [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{len(Capability) - 1} []"


def test_closing_the_iterator_ends_the_session(make_config: Make) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    steps = []
    going = base.complete(engine, [Request(number, "x") for number in range(5)], on_step=lambda: steps.append(1))
    assert next(going).id == 0
    going.close()  # type: ignore[attr-defined]  # an iterator by its type, a generator in fact
    assert len(steps) == 1
    assert list(going) == []


def test_no_more_requests_are_under_way_than_wanted(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    session = engine.open()
    monkeypatch.setattr(engine, "open", lambda _: session)
    requests = [Request(number, "x") for number in range(10)]
    left = [session.under_way for _ in base.complete(engine, requests, ahead=lambda ended: 2 + ended // 3)]
    assert left == [min(2 + ended // 3, 10 - ended) - 1 for ended in range(10)]  # the stub answers one at a step
