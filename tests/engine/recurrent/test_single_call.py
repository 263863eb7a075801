"""Hybrids in a single call: the model's logits, the same bits wherever a text is cut, and what is
wrong is noticed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forward_pass import OFF, all_logits, check_logits, check_that_it_shows, with_fast_kernels
from hybrids import SINGLE_CALL, save_hybrid
from opening import make_spec, open_engine
from streams import complete

from runner_base.dtypes import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes import TokenSpan
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import ChannelsMixer, FusedTokens, ParallelMixer
from runner_engine.kernels.state_structures import DeltaLayer, FusedMixer, HeadsLayer
from runner_engine.kv_cache import create_kv_store
from runner_engine.local.engine import LocalEngine
from runner_engine.recurrent import SequenceStates
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
    ),
]
CUTS = ((50,), (1, 6, 1, 25, 17), (40, 10))


@pytest.fixture
def engine_of(tiny_llama: Path, tmp_path: Path) -> Callable[..., LocalEngine]:
    def make(family: str, dtype: Dtype = Dtype.float32) -> LocalEngine:
        folder = save_hybrid(tmp_path / family, family, tiny_llama)
        return open_engine(make_spec(model=LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)))

    return make


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("family", SINGLE_CALL)
def test_its_logits_are_those_of_the_model(
    family: str, dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    """Rows of all kinds: entering, read in pieces, decoding, and behind a prefix."""
    check_logits(engine_of(family, dtype), dtype)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("family", SINGLE_CALL)
def test_bits_do_not_depend_on_how_a_text_is_cut(
    family: str, dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    """Nor on the row beside it."""
    loaded, heads, fused = with_fast_kernels(engine_of(family, dtype))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused, forward.short_span = fused, 1000
    ids = torch.randint(3, 250, (50,), generator=torch.Generator().manual_seed(0)).tolist()

    def read(counts: tuple[int, ...], ids: list[int]) -> torch.Tensor:
        own = create_kv_store(heads, forward.kernels, [64, 64])
        row, beside = (
            TokenSequence(Request(0, ()), ids, "", 9),
            TokenSequence(Request(1, ()), ids[::-1], "", 9),
        )
        others = [TokenSpan(beside, 1, beside.prompt)] if len(counts) > 1 else []
        first = 0
        for count in counts:
            piece = TokenSpan(row, 0, row.prompt[first : first + count], first)
            logits = forward.run_token_spans(own, [piece, *others])[0]
            first, others = first + count, []
        row.kv.places, row.tokens = len(ids), [7]
        return torch.stack((logits, forward.step(own, [row], forward.list_shared_prefixes([row]))[0]))

    whole = read(CUTS[0], ids)
    assert bool(whole.isfinite().all())
    for cut in CUTS[1:]:
        assert torch.equal(whole, read(cut, ids))
    assert not torch.equal(whole, read(CUTS[0], [ids[0] + 1, *ids[1:]]))


def _mixers(fused: FusedForward) -> list[FusedMixer]:
    return list(fused.weights.mixers._structures.values())


def _doubled(name: str) -> Callable[[FusedForward], None]:
    """Return a change: numbers of the layers with a state are twice as large."""

    def change(fused: FusedForward) -> None:
        for mixer in _mixers(fused):
            numbers = (ctypes.c_float * DeltaLayer.from_address(mixer.delta).heads).from_address(
                getattr(mixer, name)
            )
            numbers[:] = [2 * number for number in numbers]

    return change


def _one_state(fused: FusedForward) -> None:
    """Let two layers read and write the same state."""
    first, second, *_ = _mixers(fused)
    second.number = first.number


def _half_the_rate(fused: FusedForward) -> None:
    for mixer in _mixers(fused):
        mixer.rate_scale /= 2


def _faster_decay(fused: FusedForward) -> None:
    """Of Mamba-2."""
    for mixer in _mixers(fused):
        of = HeadsLayer.from_address(mixer.heads)
        numbers = (ctypes.c_float * of.heads).from_address(of.decay)
        numbers[:] = [2 * number for number in numbers]


def _other_channels(change: Callable[[ChannelsMixer], None]) -> Callable[[FusedForward], None]:
    """Return a change of each Mamba layer."""

    def change_all(fused: FusedForward) -> None:
        for mixer in _mixers(fused):
            change(ChannelsMixer.from_address(mixer.channels))

    return change_all


def _double_channel_decay(mixer: ChannelsMixer) -> None:
    numbers = (ctypes.c_float * (mixer.scan.size * mixer.scan.channels)).from_address(mixer.scan.decay)
    numbers[:] = [2 * number for number in numbers]


def _remove_norm(index: int) -> Callable[[ChannelsMixer], None]:
    def change(mixer: ChannelsMixer) -> None:
        mixer.norms[index].weight = None

    return change


def _in_another_order(fused: FusedForward) -> None:
    for mixer in _mixers(fused):
        mixer.by_key_heads = 0


def _alike(name: str) -> Callable[[FusedForward], None]:
    """Return a change: a mixer beside attention, or attention, is not multiplied by a number of its
    own."""

    def change(fused: FusedForward) -> None:
        for layer in fused.weights.layers:
            setattr(ParallelMixer.from_address(layer.beside), name, 1.0)

    return change


def _columns_alike(fused: FusedForward) -> None:
    for mixer in _mixers(fused):
        mixer.columns = None


def _not_rotated(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.rope = -1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("qwen3_5", _doubled("decay")),
        ("qwen3_5", _doubled("step_bias")),
        ("qwen3_5", _half_the_rate),
        ("qwen3_5", _not_rotated),
        ("lfm2", _not_rotated),
        ("qwen3_5", _one_state),
        ("qwen3_next", _doubled("decay")),
        ("qwen3_next", _in_another_order),
        ("granitemoehybrid", _faster_decay),
        ("nemotron_h", _faster_decay),
        ("nemotron_h", _one_state),
        ("mamba2 of one format", _faster_decay),
        ("jamba", _other_channels(_double_channel_decay)),
        *(("jamba", _other_channels(_remove_norm(index))) for index in range(3)),
        ("mamba of one format", _one_state),
        ("falcon_h1", _faster_decay),
        ("falcon_h1", _columns_alike),
        *(("falcon_h1", _alike(name)) for name in ("heads", "keys", "attention", "mixed", "gate", "mlp")),
    ],
)
def test_what_is_wrong_shows_in_the_logits(
    family: str, change: Callable[[FusedForward], None], engine_of: Callable[..., LocalEngine]
) -> None:
    check_that_it_shows(engine_of(family), change)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("state_slots", "the state slot of segment 0 does not exist"),
        ("segment_count", "the request has no tokens, or requests no logits"),
    ],
)
def test_segments_that_do_not_fit_are_refused(
    change: str, words: str, engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("lfm2"))
    assert fused is not None
    real = fused.weights.mixers.set_state_pointers

    def point(tokens: FusedTokens, own: SequenceStates | None) -> None:
        real(tokens, own)
        setattr(tokens, change, 0)

    monkeypatch.setattr(fused.weights.mixers, "set_state_pointers", point)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    with pytest.raises(IndexError, match=words):
        all_logits(forward, with_prefix=False)


@pytest.mark.thorough
def test_no_tokens_are_guessed(engine_of: Callable[..., LocalEngine]) -> None:
    """A wrong one could not be taken out of a state."""
    engine = engine_of("qwen3_5")
    again = "one two three four " * 12
    asked = [Request(0, again, ignore_eos=True, max_new_tokens=60)]
    assert len(complete(engine, asked)[0]) == 60
    assert engine.fused is not None
    assert engine.stats.draft_tokens == 0
    engine.close()


def test_what_c_does_not_know_of_a_layer_is_named(engine_of: Callable[..., LocalEngine]) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("recurrent_gemma"))
    assert fused is None
    kernels = native.load_kernels()
    assert kernels is not None
    with pytest.raises(NotFusable, match="do not support RecurrentGemmaRecurrentBlock$"):
        FusedForward(loaded.model, heads, 64, kernels, {})
