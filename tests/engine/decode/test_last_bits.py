"""Mixtures two of whose experts have nearly the same score: a trial allows either, and still
refuses what is wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import with_fast_kernels
from opening import adapt, load_base, make_spec, open_engine
from torch import nn

from runner_base.dtypes import Dtype
from runner_engine.decode import compat_probe, rounding_noise
from runner_engine.decode.cache_probe import IncompatibleModel
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.models.base_loading import LoadedModel
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec
from tools import families

Change = Callable[[Any], AbstractContextManager[None]]  # of a mixture, for a while
TILT = 0.05  # of a score: more than rounding changes it, and less than experts' scores usually differ by


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    families.build("mixtral", tmp_path / "model")
    return make_spec(model=LocalModelConfig(name=str(tmp_path / "model"), device="cpu", dtype=Dtype.bfloat16))


class Tie:
    """The least expert that a token chooses, and the next one, whose scores become the same."""

    @torch.inference_mode()
    def __init__(self, router: Any, run: Callable[[], object]) -> None:
        """Make one for the last token that `run` sends through the router."""
        rows = list[torch.Tensor]()
        with router.register_forward_pre_hook(lambda _, given: rows.append(given[0])):
            run()
        token = rows[-1].flatten(0, -2)[-1].float()
        scores = router.weight.float() @ token
        best = scores.argsort(descending=True)
        chosen, self.expert = best[router.top_k - 1 : router.top_k + 1].tolist()
        self.by_token = token / token.square().sum()
        router.weight.copy_(self.tilted(router.weight, float(scores[chosen] - scores[self.expert])))

    @torch.inference_mode()
    def tilted(self, weight: torch.Tensor, by: float) -> torch.Tensor:
        """Return a router's matrix that gives the second one so much more."""
        changed = weight.clone()
        changed[self.expert] += (by * self.by_token).to(weight.dtype)
        return changed


@contextmanager
def exchanged(block: Any) -> Iterator[None]:
    """Let two experts have each other's weights."""
    down = block.experts.down_proj.data
    down[[0, 1]] = down[[1, 0]]
    yield
    down[[0, 1]] = down[[1, 0]]


@contextmanager
def one_less(block: Any) -> Iterator[None]:
    """Let a token go through one expert less."""
    block.gate.top_k -= 1
    yield
    block.gate.top_k += 1


@contextmanager
def tilted(block: Any, tie: Tie, by: float) -> Iterator[None]:
    """Let a tied token be sure of its choice."""
    own = block.gate.weight.detach().clone()
    block.gate.weight.data.copy_(tie.tilted(own, by))
    yield
    block.gate.weight.data.copy_(own)


def takes_one_choice(*_: object) -> bool:
    """Stand for the trial without other last bits."""
    return False


def is_served(loaded: LoadedModel) -> bool:
    """Whether the stream's trial finds the logits right."""
    try:
        compat_probe.infer_and_test_kv_cache_spec(loaded)
    except IncompatibleModel as error:
        return error.reason.code != "logits_off"
    return True


def test_the_stream_allows_either_choice_and_nothing_else(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, own = adapt(load_base(spec), spec), compat_probe._compute_scheduler_test_logits
    block = loaded.model.model.layers[0].mlp
    tie = Tie(block.gate, lambda: compat_probe.infer_and_test_kv_cache_spec(loaded))

    def served_with(change: Change) -> bool:
        def changed(*given: Any) -> torch.Tensor:
            with change(block):
                return own(*given)

        monkeypatch.setattr(compat_probe, "_compute_scheduler_test_logits", changed)
        return is_served(loaded)

    choices = [partial(tilted, tie=tie, by=by) for by in (TILT, -TILT)]
    assert [served_with(choice) for choice in choices] == [True, True]
    assert [served_with(wrong) for wrong in (exchanged, one_less)] == [False, False]
    monkeypatch.setattr(compat_probe, "is_within_rounding_noise", takes_one_choice)
    assert sum(served_with(choice) for choice in choices) == 1, "the model itself makes one of the two"


@pytest.mark.skipif(native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C")
def test_the_single_call_allows_either_choice_and_nothing_else(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(spec)
    loaded, heads, _ = with_fast_kernels(engine)
    fast, router = engine._fast_layers, loaded.model.model.layers[0].mlp.gate
    assert isinstance(fast, FastLayers)

    def is_right(change: Callable[[FusedForward], object] = str) -> bool:
        def made(*given: Any) -> FusedForward:
            fused = FusedForward(*given)
            change(fused)
            return fused

        monkeypatch.setattr(compat_probe, "FusedForward", made)
        return (
            compat_probe.build_and_verify_fused_forward(
                loaded, heads, fast.packed_weights, fast.expert_layers
            )
            is not None
        )

    ids = torch.randint(
        0, families.VOCABULARY, (compat_probe.SUFFIX,), generator=torch.Generator().manual_seed(1)
    )
    tie = Tie(
        router,
        lambda: compat_probe._compute_logits_of_two_test_sequences(
            Forward(loaded.model, heads), ids.tolist()
        ),
    )
    of_choices = [tie.tilted(router.weight, by) for by in (TILT, -TILT)]

    def with_choice(fused: FusedForward, weight: torch.Tensor) -> None:
        fused.weights.mixtures.of_layer[0].router = weight.data_ptr()

    def with_one_less(fused: FusedForward) -> None:
        fused.weights.mixtures.of_layer[0].set.chosen -= 1

    def with_exchanged(fused: FusedForward) -> None:
        own = next(iter(fused.weights.mixtures.experts.values())).matrices
        others.append(type(own).from_buffer_copy(own))  # the layer's own module has the same ones
        others[-1][2].weight, others[-1][5].weight = own[5].weight, own[2].weight
        fused.weights.mixtures.of_layer[0].set.matrices = ctypes.addressof(others[-1])

    others: list[Any] = []
    choices = [partial(with_choice, weight=weight) for weight in of_choices]
    assert [is_right(choice) for choice in choices] == [True, True]
    with monkeypatch.context() as alone:
        alone.setattr(compat_probe, "is_within_rounding_noise", takes_one_choice)
        alone.setattr(compat_probe, "_is_logit_error_within_noise", takes_one_choice)
        assert sum(is_right(choice) for choice in choices) == 1, "the model itself makes one of the two"
    assert not is_right(with_one_less)
    assert not is_right(with_exchanged)


def test_a_model_without_experts_has_one_right_answer() -> None:
    """It is not asked again and again."""
    logits = torch.randn(2, 50)
    assert not rounding_noise.is_within_rounding_noise(nn.Linear(4, 4), logits, lambda: logits, 0.1)
