"""The contract: what an engine offers before anything is loaded, and how a listener steers a
session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_engines import open_engine
from raising import raises

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.engines import LazyEngine
from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_engine import require_capabilities
from runner_engine.sessions import base, contract
from runner_engine.sessions.base import Capability, Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

Make = Callable[..., RunnerConfig]


def test_capabilities_are_known_before_anything_is_loaded(make_config: Make, tiny_llama: Path) -> None:
    """Branches need rope_2d, and an attention that accepts a mask."""
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    without = open_engine(make_config(model=model))
    require_capabilities(without.capabilities, "task=chat", [Capability.chat, Capability.logprobs])
    with raises(ConfigError, "unsupported"):
        require_capabilities(without.capabilities, "task=generate", [Capability.branches, Capability.chat])
    require_capabilities(
        open_engine(make_config(model=model, rope=Rope2dConfig())).capabilities, "x", [Capability.branches]
    )
    flash = LocalModelConfig(name=str(tiny_llama), device="cpu", attention=Attention.flash_attention_2)
    assert Capability.branches not in open_engine(make_config(model=flash, rope=Rope2dConfig())).capabilities
    assert without.stats.load_s == 0


@pytest.mark.thorough
def test_capabilities_need_no_torch(tiny_llama: Path) -> None:
    program = f"""
import sys
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.quantization.base import QuantizationConfig
from runner.config.root import RunnerConfig, NoTrackingConfig
from runner_engine.settings.rope import RopeConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.config.resolved import resolve_job
from runner.engines import create_lazy_engine
config = RunnerConfig(model=LocalModelConfig(name={str(tiny_llama)!r}), quantization=QuantizationConfig(),
    lora=LoraConfig(), rope=RopeConfig(), generation=GenerationConfig(), task=Gsm8kConfig(),
    tracking=NoTrackingConfig())
print(len(create_lazy_engine(resolve_job(config)).capabilities), [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # without lora=several there is no adapter to choose, and one more needs a loaded model
    assert done.stdout.strip() == f"{len(Capability) - 2} []"


def test_an_engine_is_built_once_and_only_when_it_is_used() -> None:
    calls: list[str] = []

    class Built:
        stats = EngineStats(prefill_tokens=1)

        def load(self) -> str:
            calls.append("loaded")
            return "report"

        def close(self) -> None:
            calls.append("closed")

    def build() -> Any:
        calls.append("built")
        return Built()

    LazyEngine(build, frozenset()).close()
    engine: Any = LazyEngine(build, frozenset({Capability.chat}))
    assert (engine.stats.prefill_tokens, engine.capabilities, calls) == (0, {Capability.chat}, [])
    assert engine.load() == engine.load() == "report"
    assert engine.stats.prefill_tokens == 1
    engine.close()
    engine.close()
    assert calls == ["built", "loaded", "loaded", "closed"]


def test_a_listener_may_end_the_session(make_config: Make) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    steps: list[int] = []

    def listen(events: list[base.Event]) -> bool:
        steps.append(len(events))
        return False

    assert [
        one.id
        for one in contract.complete_requests(
            engine, [Request(number, "x") for number in range(5)], None, listen
        )
    ] == [0]
    assert steps == [1]


def test_a_listener_may_submit_more_and_cancel(make_config: Make) -> None:
    ended = {}
    with open_engine(make_config(model=StubConfig())).open() as session:

        def listen(events: list[base.Event]) -> None:
            for event in events:
                assert isinstance(event, base.Completion)
                ended[event.id] = event.answer.finish_reason
                if event.id == 0:
                    session.submit(Request("later", "x"))
                    session.cancel(1)

        contract.run_requests(session, [Request(number, "x") for number in range(3)], listen)
        assert session.is_idle
    assert set(ended) == {0, 1, 2, "later"}
    assert [name for name, reason in ended.items() if reason is FinishReason.cancelled] == [1]


def test_nothing_to_gather_takes_no_step(make_config: Make) -> None:
    assert (
        contract.complete_requests(
            open_engine(make_config(model=StubConfig())), [], None, lambda _: pytest.fail("a step")
        )
        == []
    )


def test_ahead_limits_the_requests_under_way(make_config: Make) -> None:
    requests = [Request(number, "x") for number in range(10)]
    left: list[int] = []
    with open_engine(make_config(model=StubConfig())).open() as session:
        contract.run_requests(
            session,
            requests,
            lambda _: left.append(session.num_active),
            max_active=lambda ended: 2 + ended // 3,
        )
    # the stub answers one in each step
    assert left == [min(2 + ended // 3, 10 - ended) - 1 for ended in range(10)]


def test_lazy_engine_loads_on_first_use(
    make_config: Callable[..., RunnerConfig], tiny_model: LocalModelConfig
) -> None:
    engine = open_engine(make_config(model=LocalModelConfig(name=tiny_model.name)))
    assert engine.stats.load_s == 0
    report = engine.load()
    assert report.facts["architecture"] == "LlamaForCausalLM"
    assert report.metrics["parameters"] > 10_000
    assert engine.stats.load_s > 0
    engine.close()
