"""How unevenly experts are used: counted beside the passes, without changing an answer, and given
back at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete

from runner_base.dtypes import Dtype
from runner_engine.experts import ExpertUsageCounter, detect_expert_format, separate_all_experts
from runner_engine.experts.expert_usage import EVERY, MANY
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from tools import families


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    families.build("qwen3_moe", tmp_path)
    loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").eval()
    return loaded


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_counted_is_what_the_routers_chose(model: torch.nn.Module, apart: bool) -> None:
    if apart:
        separate_all_experts(model)
    told: list[str] = []
    ids = torch.arange(2 * MANY)[None] * 3 % 250
    with torch.inference_mode():
        expected = model(input_ids=ids, output_router_logits=True)
        use = ExpertUsageCounter(model, told.append)
        assert len(use.layers) == 2
        counted = model(input_ids=ids)
    assert torch.equal(counted.logits, expected.logits)
    for layer, logits in zip(use.layers, expected.router_logits, strict=True):
        chosen = logits.view(-1, 4).topk(2, dim=-1).indices
        assert layer.counts.tolist() == torch.bincount(chosen.flatten(), minlength=4).tolist()
    shares = [float(layer.counts.max()) * 4 / int(layer.counts.sum()) for layer in use.layers]
    assert told == [use.summarize()]
    # with two layers, the usual one is the worst one
    assert re.findall(r"\d\.\d", told[0])[:2] == [f"{max(shares):.1f}"] * 2


def test_short_passes_are_counted_once_in_a_while(model: torch.nn.Module) -> None:
    use = ExpertUsageCounter(model)
    with torch.inference_mode():
        for _ in range(2 * EVERY):
            model(input_ids=torch.tensor([[5]]))
    assert [int(layer.counts.sum()) for layer in use.layers] == [2 * 2, 2 * 2]
    assert use.summarize() == "", "too few"


def test_layers_get_their_own_functions_back(model: torch.nn.Module) -> None:
    experts = [module for module in model.modules() if detect_expert_format(module)]
    own = experts[0].forward
    experts[0].forward = lambda *given: own(*given)
    before = experts[0].forward
    use = ExpertUsageCounter(model)
    assert experts[0].forward is not before
    use.remove_counters()
    assert experts[0].forward is before
    assert "forward" not in vars(experts[1])


def test_a_job_says_how_unevenly_experts_were_used(tmp_path: Path) -> None:
    families.build("qwen3_moe", tmp_path)
    model = LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=4)))
    complete(engine, [Request(0, tuple(range(3, 90)))])
    assert re.match(r"the most used expert .* \d\.\d ", engine.stats.expert_use)
    experts = [module for module in engine.loaded.model.modules() if detect_expert_format(module)]
    engine.close()
    assert all("forward" not in vars(module) for module in experts)
