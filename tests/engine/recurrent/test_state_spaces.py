"""Layers of state spaces beside the families' own: Mamba-2, Mamba, RG-LRU and lightning
attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from mixers_alone import TOLERANCE, check, fresh, mixer_results, off, rows_of, spread_weights
from torch import Tensor
from transformers import DynamicCache

from runner_engine.kernels import native
from runner_engine.recurrent import Mixer, Segments, compiled_layers, create_mixer

pytestmark = pytest.mark.slow
MAMBA2: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2}
OTHERS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
JAMBA: dict[str, Any] = {"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": True}
# the family: the layer's class and what its config is made of, beside a width of 32
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba2": (
        "Mamba2Mixer",
        {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 2, "num_hidden_layers": 1, "use_bias": True},
    ),
    "bamba": ("BambaMixer", MAMBA2 | OTHERS | {"attn_layer_indices": [1]}),
    "granitemoehybrid": ("GraniteMoeHybridMambaLayer", MAMBA2 | OTHERS | {"layer_types": ["mamba", "attention"]}),
    "nemotron_h": (
        "NemotronHMamba2Mixer",
        {
            "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2,
            "layers_block_type": ["mamba", "attention"], "time_step_min": 0.7,
        },
    ),
    "falcon_h1": (
        "FalconH1Mixer",
        MAMBA2
        | OTHERS
        | {"mamba_d_ssm": 64, "mamba_rms_norm": True, "mamba_norm_before_gate": True, "ssm_in_multiplier": 0.7},
    ),
    "falcon_h1 without a norm": ("FalconH1Mixer", MAMBA2 | OTHERS | {"mamba_d_ssm": 64, "mamba_rms_norm": False}),
    "zamba2": (
        "Zamba2MambaMixer",
        {
            "mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 2, "num_hidden_layers": 2,
            "layers_block_type": ["mamba", "hybrid"], "num_attention_heads": 4, "time_step_min": 0.7,
        },
    ),
    "mamba": ("MambaMixer", {"state_size": 8, "time_step_rank": 4, "num_hidden_layers": 1, "use_bias": True}),
    "falcon_mamba": ("FalconMambaMixer", {"state_size": 8, "time_step_rank": 4, "num_hidden_layers": 1}),
    "jamba": ("JambaMambaMixer", JAMBA | OTHERS | {"attn_layer_offset": 1, "attn_layer_period": 2}),
    "zamba": (
        "ZambaMambaMixer",
        JAMBA | {"n_mamba_heads": 2, "layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2},
    ),
}  # fmt: skip


def layer_of(family: str) -> tuple[Any, Any]:
    """Return a layer of random weights, and its config."""
    name, numbers = LAYERS[family]
    of = family.split()[0]
    config: Any = transformers.AutoConfig.for_model(of, hidden_size=32, vocab_size=64, **numbers)
    module = __import__(f"transformers.models.{of}.modeling_{of}", fromlist=[name])
    more = {"initialize_mixer_weights": False} if of == "falcon_mamba" else {}
    layer = getattr(module, name)(config, layer_idx=0, **more).eval()
    spread_weights(layer)
    if of == "falcon_h1":
        layer.mup_vector = module.compute_mup_vector(config) * 0.9
    return layer, config


def with_other_decay(layer: Any) -> Any:
    """Return a copy of a layer with a wrong decay."""
    other = copy.deepcopy(layer)
    other.A_log.data += 0.2
    return other


@pytest.fixture(params=["C", "torch"], autouse=True)
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute by the kernels and by operations of torch."""
    if request.param == "torch":
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    elif native.load_kernels() is None:
        pytest.skip("no C compiler is here")
    return str(request.param)


def is_compiled(mixer: Any) -> bool:
    """Whether a mixer computes in C."""
    return getattr(mixer, "compiled", None) is not None or getattr(mixer, "recurrence", None) is not None


@pytest.mark.sampled(8)
@pytest.mark.parametrize("family", list(LAYERS))
def test_a_layer_gives_the_family_s_numbers(family: str, by: str) -> None:
    layer, config = layer_of(family)
    mixer = create_mixer(layer)
    assert mixer is not None
    assert is_compiled(mixer) == (by == "C")
    named = {"cache_params": DynamicCache}
    assert check(layer, config, mixer, named) < TOLERANCE
    wrong = create_mixer(with_other_decay(layer))
    assert wrong is not None
    assert check(layer, config, wrong, named) > 1e-3
    for spoil in (
        lambda states: states[0].fill_(0.1),
        lambda states: states[1].fill_(0.1),
    ):  # not those of the row
        assert check(layer, config, mixer, named, spoil) > 1e-3


@pytest.mark.parametrize("family", ["bamba", "jamba"])
def test_a_state_that_is_lost_between_pieces_is_seen(family: str) -> None:
    layer, config = layer_of(family)
    mixer = create_mixer(layer)
    assert mixer is not None
    rows = rows_of(config.hidden_size)
    with torch.inference_mode():
        whole = mixer_results(mixer, rows, [])
        states, pieces = fresh(mixer, 1), []
        for piece in rows[0][:-3].split(7):
            pieces.append(mixer.forward(piece, states, Segments.from_token_counts([0], [len(piece)])))
            states[1].zero_()
    assert off([torch.cat(pieces)], [whole[0][:-3]]) > 1e-3


@pytest.mark.parametrize("family", ["bamba", "jamba"])
def test_slots_without_a_segment_stay_as_they_are(family: str) -> None:
    layer, _ = layer_of(family)
    mixer = create_mixer(layer)
    assert mixer is not None
    for segments in (Segments.from_token_counts([3, 1], [70, 2]), Segments.from_token_counts([3, 1], [1, 1])):
        states = [torch.ones(5, *shape.shape, dtype=shape.dtype) for shape in mixer.states]
        with torch.inference_mode():
            mixer.forward(torch.randn(sum(segments.counts), 32), states, segments)
        for state in states:
            assert all(bool((state[slot] == 1).all()) for slot in (0, 2, 4))
            assert not any(bool((state[slot] == 1).all()) for slot in (1, 3))


def test_bits_depend_neither_on_other_rows_nor_on_how_a_prompt_is_divided(by: str) -> None:
    if by == "torch":
        pytest.skip("its matmuls of chunks round otherwise than single tokens")
    layer, _ = layer_of("bamba")
    heads = compiled_layers.CompiledMamba2.create_if_supported(layer)
    mixer = create_mixer(layer)
    assert heads is not None
    assert mixer is not None
    projected = torch.randn(300, layer.in_proj.out_features)

    def read(states: list[Tensor], slots: list[int], counts: list[int], first: int) -> Tensor:
        return heads(
            projected[first : first + sum(counts)],
            states[0],
            states[1],
            Segments.from_token_counts(slots, counts),
        )

    alone, beside, divided = (fresh(mixer, 3) for _ in range(3))
    whole = read(alone, [1], [200], 0)
    assert torch.equal(read(beside, [1, 0], [200, 100], 0)[:200], whole)
    pieces = [read(divided, [1], [count], first) for first, count in ((0, 1), (1, 130), (131, 69))]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(divided[1][1], alone[1][1])


def test_a_call_beyond_the_slots_or_the_tokens_is_refused(by: str) -> None:
    if by == "torch":
        pytest.skip("torch checks its own indices")
    layer, _ = layer_of("bamba")
    heads, mixer = compiled_layers.CompiledMamba2.create_if_supported(layer), create_mixer(layer)
    assert heads is not None
    assert mixer is not None
    projected, states = torch.randn(3, layer.in_proj.out_features), fresh(mixer, 2)
    with pytest.raises(IndexError, match="the state slot of segment 1 does not exist"):
        heads(projected, states[0], states[1], Segments.from_token_counts([0, 2], [1, 2]))
    with pytest.raises(IndexError, match="segment 1 is not among the tokens of the forward pass"):
        heads(projected, states[0], states[1], Segments.from_token_counts([0, 1], [1, 3]))
    assert all(bool((state == 0).all()) for state in states)


def _block(heads: int = 4) -> tuple[Any, Any]:
    config: Any = transformers.RecurrentGemmaConfig(
        hidden_size=32, lru_width=32, num_attention_heads=heads, num_hidden_layers=1, vocab_size=64
    )
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    block = RecurrentGemmaRecurrentBlock(config, 0).eval()
    spread_weights(block)
    return block, config


def _results_of_block(block: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return the family's own results: the prompt, then tokens one by one (it carries no state from
    piece to piece)."""
    results = []
    for row in rows:
        block.conv1d_state, outputs, start = None, [], len(row) - 3
        for first, piece in (
            (0, row[:start]),
            *((start + at, row[start + at : start + at + 1]) for at in range(3)),
        ):
            positions = torch.arange(first, first + len(piece))[None]
            outputs.append(block(piece[None], positions, None, use_cache=True)[0][0])
        results.append(torch.cat(outputs))
    return results


def test_the_block_of_recurrent_gemma_gives_the_family_s_numbers() -> None:
    block, config = _block()
    rows = rows_of(config.hidden_size)
    other = copy.deepcopy(block)
    other.rg_lru.recurrent_param.data += 0.3
    right, wrong = create_mixer(block), create_mixer(other)
    assert right is not None
    assert wrong is not None
    with torch.inference_mode():
        expected = _results_of_block(block, rows)
        for cuts in ([], [1], [5, 6, 40]):
            assert off(mixer_results(right, rows, cuts), expected) < TOLERANCE
            assert off(mixer_results(wrong, rows, cuts), expected) > 1e-3
            for state in range(3):
                states = fresh(right, len(rows) + 1)
                states[state] += 0.1
                assert off(mixer_results(right, rows, cuts, states), expected) > 1e-3


def test_lightning_attention_gives_the_family_s_numbers() -> None:
    config: Any = transformers.MiniMaxConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=4,
        block_size=16,
    )
    from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

    layer: Any = MiniMaxLightningAttention(config, 1).eval()
    spread_weights(layer)
    rows = rows_of(config.hidden_size)
    expected = []
    with torch.inference_mode():
        for row in rows:
            cache, start = MiniMaxCache(), len(row) - 3
            pieces = [row[:start], *row[start:].split(1)]
            expected.append(
                torch.cat([layer(piece[None], None, None, past_key_values=cache)[0][0] for piece in pieces])
            )
        mixer = create_mixer(layer)
        assert isinstance(mixer, Mixer)
        for cuts in ([], [1], [5, 6, 40]):
            assert off(mixer_results(mixer, rows, cuts), expected) < TOLERANCE
            states = [state + 0.1 for state in fresh(mixer, len(rows) + 1)]
            assert off(mixer_results(mixer, rows, cuts, states), expected) > 1e-3
        other = copy.deepcopy(layer)
        other.slope_rate *= 1.1
        wrong = create_mixer(other)
        assert isinstance(wrong, Mixer)
        assert off(mixer_results(wrong, rows, []), expected) > 1e-3
