"""Experts of attention (JetMoE) go in the single call: logits of the model, tokens of generate, and what
is wrong shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import all_logits, with_fast_kernels
from opening import make_spec, open_engine
from streams import complete
from torch import nn
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.compat_probe import are_multi_token_logits_exact
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.layouts.mixtures import infer_expert_block_layout
from runner_engine.decode.passes.forward import Forward
from runner_engine.experts import UnsortedRouter, is_expert_block
from runner_engine.kernels import native
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul.grouped.grouped_experts import FORCED, PLAIN, GroupedExperts
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
# of the logits' spread: the farthest, and in 16 bits the mean of a typical row, since a last bit may choose an expert
OFF = {Dtype.float32: 5e-5, Dtype.bfloat16: 0.04}
CASES: dict[str, dict[str, Any]] = {
    "two experts": {"num_local_experts": 8, "kv_channels": 32},
    # widths that fill no panels: C reads the weights as torch has them
    "three experts": {
        "num_local_experts": 5, "num_experts_per_tok": 3, "num_key_value_heads": 1, "num_attention_heads": 3,
        "kv_channels": 16, "intermediate_size": 72,
    },
    "one expert": {"num_experts_per_tok": 1, "num_attention_heads": 2},
}  # fmt: skip
Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(case: str, dtype: Dtype = Dtype.float32, **settings: Any) -> LocalEngine:
        monkeypatch.setitem(families.OVERRIDES, "jetmoe", CASES[case])
        families.build("jetmoe", tmp_path / case)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / case, dtype="float32")
        torch.manual_seed(1)
        for path, numbers in model.named_parameters():
            if path.endswith("bias"):  # 0 until a model is trained
                nn.init.normal_(numbers, std=0.5)
        # a row of zeros, as that of padding is, has equal scores for all experts
        nn.init.normal_(model.get_parameter("model.embed_tokens.weight")[0].data, std=0.3)
        model.save_pretrained(tmp_path / case)
        of_engine = LocalModelConfig(name=str(tmp_path / case), device="cpu", dtype=dtype)
        return open_engine(make_spec(model=of_engine, **settings))

    return make


@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("case", list(CASES))
def test_logits_are_those_of_the_model(case: str, dtype: Dtype, engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(case, dtype))
    assert fused is not None
    assert not fused.has_separate_mlps
    assert fused.is_by_row
    assert all(layer.head_experts and layer.mixture for layer in fused.weights.layers)
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        off = (all_logits(forward, with_prefix) - expected).abs()
        found = off.max() if dtype == Dtype.float32 else off.mean(-1).median()
        assert found <= OFF[dtype] * expected.std()


@pytest.mark.parametrize("case", list(CASES))
def test_tokens_are_those_of_generate(case: str, engine_of: Make) -> None:
    engine = engine_of(case)
    engine.load()
    model = AutoModelForCausalLM.from_pretrained(engine.spec.model.name, dtype="float32").eval()
    expected = dict(enumerate(families.by_generate(model)))
    asked = [
        Request(number, ids, ignore_eos=True, max_new_tokens=count)
        for number, (ids, count) in enumerate(zip(families.PROMPTS, families.NEW_TOKENS, strict=True))
    ]
    assert complete(engine, asked) == expected
    assert engine.fused is not None
    engine.close()


@pytest.mark.parametrize("dtype", list(OFF))
def test_bits_of_a_token_do_not_depend_on_others(dtype: Dtype, engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("three experts", dtype))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert are_multi_token_logits_exact(forward, families.VOCABULARY)


def _exchange(matrix: int) -> Callable[[FusedForward], None]:
    """Return a change: the first two experts of each layer's attention have each other's matrix."""

    def change(fused: FusedForward) -> None:
        for mixture in fused.weights.mixtures.of_attention.values():
            matrices = (Matrix * 6).from_address(mixture.set.matrices)
            first, second = matrices[matrix], matrices[3 + matrix]
            first.weight, second.weight = second.weight, first.weight

    return change


def _leave_out_biases(fused: FusedForward) -> None:
    for mixture in fused.weights.mixtures.all_mixtures:
        for matrix in (Matrix * (3 * mixture.set.experts)).from_address(mixture.set.matrices):
            matrix.bias = None


def _leave_out_weights(fused: FusedForward) -> None:
    """Let each expert's weight be its share of all experts, and not of those that are chosen."""
    for mixture in fused.weights.mixtures.of_attention.values():
        mixture.normalizes = 0


def _choose_others(fused: FusedForward) -> None:
    for mixture in fused.weights.mixtures.of_attention.values():
        mixture.router += mixture.set.hidden * 4
        mixture.set.experts -= 1


def _route_like_the_mlp(fused: FusedForward) -> None:
    mixtures = fused.weights.mixtures
    for number, mixture in mixtures.of_attention.items():
        mixture.router = mixtures.of_layer[number].router


def _turn_nothing(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.rope = -1


@pytest.mark.parametrize(
    "change",
    [
        _exchange(1), _exchange(2), _leave_out_biases, _leave_out_weights, _choose_others, _route_like_the_mlp, _turn_nothing,
    ],
)  # fmt: skip
def test_what_is_wrong_shows_in_the_logits(change: Callable[[FusedForward], None], engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("two experts"))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    right = all_logits(forward, with_prefix=True)
    change(fused)
    wrong = (all_logits(forward, with_prefix=True) - right).abs().max()
    assert wrong > 50 * OFF[Dtype.float32] * right.std()


@pytest.mark.parametrize(
    ("name", "value"), [("chosen", 1), ("inner", 32), ("experts", 0), ("hidden", 32), ("has_gate", 1)]
)
def test_experts_that_do_not_fit_the_heads_are_refused(name: str, value: int, engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("two experts"))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    first = fused.weights.mixtures.of_attention[0]
    before = getattr(first.set, name)
    setattr(first.set, name, value)
    with pytest.raises((IndexError, ValueError, MemoryError)):
        all_logits(forward, with_prefix=False)
    setattr(first.set, name, before)
    all_logits(forward, with_prefix=False)


@pytest.mark.thorough
def test_keys_in_bytes_are_in_the_call(engine_of: Make) -> None:
    generation = GenerationConfig(kv_cache=KvCache.int8)
    loaded, heads, fused = with_fast_kernels(engine_of("two experts", generation=generation))
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().mean() <= 1e-3 * expected.std()


def test_without_c_experts_the_models_own_code_runs(engine_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCED, PLAIN)
    _, _, fused = with_fast_kernels(engine_of("two experts"))
    assert fused is None


def _block(attention: bool) -> Any:
    torch.manual_seed(0)
    layer = AutoModelForCausalLM.from_config(families.tiny_config("jetmoe")).model.layers[0]
    return layer.self_attention.experts if attention else layer.mlp


@pytest.mark.parametrize("attention", [True, False])
def test_an_unsorted_router_has_the_choice_of_each_token(attention: bool) -> None:
    block = _block(attention)
    assert is_expert_block(block)
    rows = torch.randn(7, 64)
    logits, weights, index = UnsortedRouter(block)(rows)
    top = block.router.layer(rows).topk(2)
    assert torch.equal(logits, block.router.layer(rows))
    assert torch.equal(index, top.indices)
    assert torch.equal(weights, top.values.softmax(-1))


@pytest.mark.parametrize("case", ["two experts", "three experts"])
def test_blocks_get_their_weights_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while C has packed them, their own code gives the same."""
    kernels = native.load_kernels()
    assert kernels is not None
    # narrower panels are filled by the matrices of attention, and not by those of the MLP
    packed = 8 if case == "two experts" else 0 if kernels.panel_width > 16 else 4
    monkeypatch.setitem(families.OVERRIDES, "jetmoe", CASES[case])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families.tiny_config("jetmoe")).eval()
    before = {path: numbers.clone() for path, numbers in model.state_dict().items()}
    ids = torch.randint(3, 60, (1, 9))
    with torch.no_grad():
        expected = model(ids).logits
        found = GroupedExperts.replace_expert_layers(model, kernels, {}, {})
        assert (len(found.layers), len(found.packed), len(found.replaced)) == (4, packed, packed)
        assert not found.notes
        off = (model(ids).logits - expected).abs().max()
        found.restore()
    assert off <= OFF[Dtype.float32] * expected.std()
    assert all(torch.equal(numbers, before[path]) for path, numbers in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_weights_that_do_not_sum_to_1_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a bias cannot be added to what each expert gives."""
    block = _block(attention=True)
    own = type(block.router).forward

    def of_all(self: Any, rows: torch.Tensor) -> tuple[Any, ...]:
        order, tokens, _, counts, logits = own(self, rows)
        weights = logits.softmax(-1).topk(self.top_k).values.flatten()[order]
        return order, tokens, weights, counts, logits

    monkeypatch.setattr(type(block.router), "forward", of_all)
    with pytest.raises(NotFusable, match="do not sum to 1"):
        infer_expert_block_layout(block)
