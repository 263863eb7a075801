"""Whether the scheduler can serve a model: a trial of a few tokens is compared with the model's own
attention."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from runner_base import is_memory_error, one_line
from runner_base.notes import given, note
from runner_engine.attention import Softmax, in_call_order, page_of, register, running
from runner_engine.attention.device_attention import is_wanted
from runner_engine.decode.cache_probe import Incompatible, kept_by_cache
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.last_bits import distance, wavers_to, worst_distance
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes import Forward, TokenSpan
from runner_engine.decode.rows import Row
from runner_engine.kernels.shared_numbers import LANES
from runner_engine.kv_cache import (
    MASK_PROBE,
    Heads,
    Prefix,
    RowKv,
    Unknown,
    Window,
    own_kv,
    probing_masks,
    stores_of,
)
from runner_engine.matmul import ExpertLayer, LayerWeights, note_on, unrounded_rows
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.load import Loaded
from runner_engine.recurrent import UnsupportedMixer, mixers_of
from runner_engine.sessions import Request

log = logging.getLogger(__name__)

PREFIX, SUFFIX = 5, 12  # tokens of the trial; the second is longer than a short span
# of the logits' spread; a wrong mask or a missing key gives about 1
TOLERANCE = {torch.float32: 1e-3}
CHECKED = 4  # tokens that are read one by one, and then together
SAME = 1e-4  # of the logits' spread: the same sums in another order
COARSE = 0.15  # the same on average in 16 bits and with quantized layers
SHALLOW = 2  # layers in which last bits have not grown yet
# of a prefix that is longer by so many tokens; so many times its noise is near
SPLITS, NEAR = ((1, 2, 4), 2.0)
# families that count positions from the cache: forward.Before answers them
COUNT_BEFORE = {"llama4", "llama4_text"}
ROPE_CHANGES_AT = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}


def sliding_window(loaded: Loaded) -> float:
    """Return the longest row that fits into the sliding window, for a model whose layers' windows
    are unknown."""
    settings = loaded.model.config.get_text_config()
    window: int | None = getattr(settings, "sliding_window", None)
    return math.inf if window is None or not getattr(settings, "use_sliding_window", True) else window


def rope_stable_length(loaded: Loaded) -> float:
    """Return the longest row before the rotary embedding changes for all keys, which only
    `generate` handles."""
    settings = loaded.model.config.get_text_config()
    parameters = getattr(settings, "rope_parameters", None) or {}
    reaches = [math.inf]
    for one in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if key := ROPE_CHANGES_AT.get(one.get("rope_type", "")):
            places = (one.get(key), getattr(settings, key, None))
            reaches += [place for place in places if place is not None]
    return min(reaches)


def allowed_off(loaded: Loaded) -> float:
    """Return how far logits may be from the model's own, as a share of their spread."""
    quantized = int(loaded.metrics.get("quantized_modules", 0))
    return COARSE if quantized else TOLERANCE.get(loaded.model.dtype, COARSE)


def probe_heads(loaded: Loaded) -> Heads:
    """Return the shape of the model's attention; Incompatible if the scheduler would not give the
    model's answers."""
    model = loaded.model
    settings = model.config.get_text_config()
    if getattr(settings, "attn_temperature_tuning", None) and settings.model_type not in COUNT_BEFORE:
        raise Incompatible(note("attention_counts_tokens"))
    if len({str(tensor.device) for tensor in model.parameters()} - {"meta"}) > 1:
        raise Incompatible(note("several_devices"))
    register()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(loaded.metrics["vocab_size"]), (PREFIX + SUFFIX + 1,), generator=generator)
    ids = ids.to(loaded.device)

    def own_logits() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits
        return logits[0, -2:].float()

    try:
        with torch.inference_mode():
            with _without_unpacking(model):
                mixers = mixers_of(model)
                kept_tokens = kept_by_cache(model, ids[None, :2], len(mixers))
                heads = _inspect_attention(model, ids[None, :2], kept_tokens, bool(mixers))
                heads = replace(heads, states=tuple(mixer.states for mixer in mixers.values()))
            with unrounded_rows(model) as zeroed:
                expected, ours = own_logits(), _scheduled_logits(model, heads, ids.tolist())
                off = distance(ours, expected)
                is_right = _is_right(loaded, ours, expected, own_logits)
    except Incompatible:
        raise
    except UnsupportedMixer as error:
        raise Incompatible(given(str(error))) from error
    except NotImplementedError as error:  # its message is a whole reason
        raise Incompatible(given(one_line(error, limit=160))) from error
    except Exception as error:
        if is_memory_error(error):
            raise
        raise Incompatible(given(f"{type(error).__name__}: {one_line(error, limit=160)}")) from error
    if not is_right:
        raise Incompatible(note("logits_off", off=off))
    log.debug("scheduler: logits off by %.2g of their spread, %s", off, heads)
    heads = replace(heads, note=note_on(zeroed))
    return _by_sdpa_if_right(loaded, heads, ids.tolist(), own_logits) if is_wanted(heads.device) else heads


def _is_right(
    loaded: Loaded, ours: torch.Tensor, expected: torch.Tensor, own: Callable[[], torch.Tensor]
) -> bool:
    allowed = allowed_off(loaded)
    return distance(ours, expected) <= allowed or (
        allowed == COARSE and wavers_to(loaded.model, ours, own, allowed)
    )


@contextmanager
def _without_unpacking(model: Any) -> Iterator[None]:
    """Let layers that unpack their weights return zeros, for passes of which only shapes and masks
    count."""
    layers = [module for module in model.modules() if isinstance(module, GgufLinear)]

    def zeros(layer: GgufLinear, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_zeros(*rows.shape[:-1], layer.out_features)

    for layer in layers:
        layer.forward = partial(zeros, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _by_sdpa_if_right(loaded: Loaded, heads: Heads, ids: list[int], own: Callable[[], torch.Tensor]) -> Heads:
    """Return heads whose attention is computed by SDPA, if that gives the model's logits here; else
    the same heads."""
    by_sdpa = replace(heads, by_sdpa=True)
    in_pages = replace(by_sdpa, page=0 if heads.states else page_of(by_sdpa))
    for one in (in_pages, by_sdpa) if in_pages.page else (by_sdpa,):
        try:
            with torch.inference_mode(), unrounded_rows(loaded.model):
                ours, expected = _scheduled_logits(loaded.model, one, ids), own()
                if _is_right(loaded, ours, expected, own):
                    return one
            why = f"by SDPA its logits would be off by {distance(ours, expected):.2g} of their spread"
        except (RuntimeError, NotImplementedError) as error:  # this GPU or this torch has no such function
            if is_memory_error(error):
                raise
            why = one_line(error, limit=160)
        how = "without pages" if one.page else "operation by operation"
        log.info("attention is computed %s, which is slower: %s", how, why)
    return heads


@dataclass(frozen=True)
class _Shape:
    """What one layer hands to its attention."""

    kv_heads: int
    heads: int
    width: int  # of keys or values, whichever is larger
    dtype: torch.dtype
    device: torch.device


def _inspect_attention(
    model: Any, ids: torch.Tensor, kept_tokens: list[int | None], has_mixers: bool
) -> Heads:
    """Return the shape that fits the heads of all layers, with their windows if all of them are
    known.

    kept_tokens: how many tokens the cache of each layer keeps. If these are fewer than its mask
    shows, `generate` has another window from the second token on. has_mixers: not all layers
    attend, perhaps none; they are numbered by their calls.
    """
    shapes: dict[int, _Shape] = {}
    windows: dict[int, Window | None] = {}
    softmaxes: set[bool] = set()
    tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # keys and values of each layer

    def record(
        layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: float, softmax: Softmax
    ) -> torch.Tensor:
        """Return zeros: only shapes and masks matter here."""
        width = max(key.shape[2], value.shape[2])
        tensors[layer] = key, value
        shapes[layer] = _Shape(key.shape[0], query.shape[0], width, key.dtype, key.device)
        softmaxes.add(softmax.cap == 0 and softmax.sinks is None)
        with suppress(Unknown):
            windows[layer] = masks.window(softmax.mask)
        return query.new_zeros(query.shape[1], query.shape[0], value.shape[2])

    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    attend = in_call_order(record) if has_mixers else record
    with probing_masks() as masks, running(model, attend, MASK_PROBE):
        model(input_ids=ids, position_ids=positions, use_cache=False)
    layers, all_shapes = len(shapes), list(shapes.values())
    if not layers and has_mixers:
        return Heads(0, 1, 1, LANES, model.dtype, ids.device)
    stores = stores_of([tensors[layer] for layer in sorted(tensors)])
    if not layers:
        raise Incompatible(note("attention_elsewhere"))
    alike = {(shape.heads, shape.dtype, shape.device) for shape in all_shapes}
    kv_heads, width = (
        max((getattr(shape, what) for shape in all_shapes), default=0) for what in ("kv_heads", "width")
    )
    if (
        set(shapes) != set(range(layers))
        or len(alike) != 1
        or any(kv_heads % shape.kv_heads for shape in all_shapes)
    ):
        raise Incompatible(note("shapes_differ", layers=layers, shapes=len(set(all_shapes))))
    [(query_heads, dtype, device)] = alike
    if device.type == "cpu":  # the kernels need whole vectors
        width = -(-width // LANES) * LANES
    known = tuple(windows[layer] for layer in range(layers)) if len(windows) == layers else ()
    pairs = (
        zip(kept_tokens, known, strict=True)
        if len(kept_tokens) == len(known)
        else [(kept_token, None) for kept_token in kept_tokens]
    )
    if any(most is not None and (window is None or window.size > most) for most, window in pairs):
        known = ()
    settings = model.config.get_text_config()
    if not known and "chunked_attention" in (getattr(settings, "layer_types", None) or ()):
        raise Incompatible(note("attention_in_chunks"))
    stored = layers if not stores else max(stores) + 1
    return Heads(
        stored, kv_heads, query_heads // kv_heads, width, dtype, device, known, stores, all(softmaxes)
    )


def _scheduled_logits(model: Any, heads: Heads, ids: list[int]) -> torch.Tensor:
    """Return the last two logits: prefix, span and a single token, each in a pass of its own."""
    forward = Forward(model, heads)
    forward.short_span = 1  # so that this short prompt is read as a span, like a long one
    prefix = Prefix(ids[:PREFIX])
    row = Row(Request(0, ()), ids[:-1], "", 1, kv=RowKv(prefix))
    forward.read_prefix(prefix, PREFIX)
    own = own_kv(heads, forward.kernels, [PREFIX + SUFFIX + 1], [prefix])
    read = forward.read_prompts(own, [TokenSpan(row, 0, row.pending)])
    row.kv.places, row.tokens = SUFFIX, ids[-1:]
    return torch.cat((read, forward.step(own, [row], forward.uses_of([row])))).float()


def probe_fused_forward(
    loaded: Loaded,
    heads: Heads,
    packed: Mapping[nn.Module, LayerWeights],
    experts: Mapping[nn.Module, ExpertLayer],
    is_right: bool = False,
) -> FusedForward | None:
    """Return the forward pass in a single call; None where C does not know a part, or the logits
    differ.

    packed, experts: the layers whose weights C already has; the model's own pass multiplies by the
    same weights. is_right: whether an earlier trial has found that the logits do not differ.
    """
    forward = Forward(loaded.model, heads)
    if forward.kernels is None:
        return None
    room = int(min(loaded.metrics["max_positions"], rope_stable_length(loaded)))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, int(loaded.metrics["vocab_size"]), (SUFFIX,), generator=generator).tolist()
    try:
        with torch.inference_mode():
            fused = FusedForward(loaded.model, heads, room, forward.kernels, packed, experts)
            if is_right:
                return fused
            expected = _trial_logits(forward, ids)
            forward.fused = fused
            is_exact = heads.dtype is torch.float32 and not fused.is_quantized and not heads.in_bytes
            # elsewhere a number may be rounded to the other side, and then the farthest of 49,152
            # logits is 0.2 off: noise that a token's mean does not have, and in which each real
            # difference shows
            of_tokens, allowed = (torch.amax, SAME) if is_exact else (torch.mean, COARSE)
            off = worst_distance(_trial_logits(forward, ids), expected, of_tokens)
            if not off <= allowed and (is_exact or not _is_noise(forward, ids, fused)):
                raise NotFusable(f"its logits would be off by {off:.2g} of their spread")
    except NotFusable as reason:
        log.debug("passes run operation by operation: %s", reason)
        return None
    log.debug("passes run in a single call: logits off by %.2g of their spread", off)
    return fused


def _is_noise(forward: Forward, ids: list[int], fused: FusedForward) -> bool:
    """Whether a single call is off by no more than the operations themselves are with other last
    bits."""

    def own_logits() -> torch.Tensor:
        forward.fused = None
        return _trial_logits(forward, ids)

    forward.fused = fused
    is_near = wavers_to(forward.model, _trial_logits(forward, ids), own_logits, COARSE)
    return is_near or _is_as_near_as_its_noise(forward, ids, fused)


def _is_as_near_as_its_noise(forward: Forward, ids: list[int], fused: FusedForward) -> bool:
    """Whether a single call gives the first layers' logits, and all layers' as nearly as the
    operations themselves do.

    A last bit grows from layer to layer in a trained model. So in few layers the logits must be the
    same, and in all of them no further off than those of the same operations are where a prompt is
    split elsewhere.
    """

    def logits(by: FusedForward | None, prefix: int = PREFIX) -> torch.Tensor:
        forward.fused = by
        return _trial_logits(forward, ids, prefix)

    with fused.shallow(forward.model, SHALLOW):
        shallow = worst_distance(logits(fused), logits(None))
    expected = logits(None)
    noise = max(worst_distance(logits(None, PREFIX + more), expected[more:]) for more in SPLITS)
    off = worst_distance(logits(fused), expected)
    log.debug("in a single call: off by %.2g in few layers, by %.2g in all (noise %.2g)", shallow, off, noise)
    return shallow <= COARSE and off <= NEAR * noise


def _trial_logits(forward: Forward, ids: list[int], prefix_length: int = PREFIX) -> torch.Tensor:
    """Return all logits of two rows: of their prompts, read together, and of one more token each.

    The first row has a prefix, and the second prompt is read as a span. Where rows choose among
    adapters, one has the first, and the other the last one.
    """
    names = forward.adapters.names if forward.adapters else (None,)
    prefix = Prefix(ids[:prefix_length], adapter=names[0])
    forward.read_prefix(prefix, prefix_length)
    rows = [
        Row(Request(0, (), adapter=names[0]), ids[:-1], "", 1, kv=RowKv(prefix)),
        Row(Request(1, (), adapter=names[-1]), ids[3:-1], "", 1),
    ]
    forward.short_span = len(rows[1].pending)
    own = own_kv(forward.heads, forward.kernels, [len(ids)] * len(rows), [row.kv.prefix for row in rows])
    pieces = [TokenSpan(row, slot, row.pending, targets=row.pending) for slot, row in enumerate(rows)]
    read = forward.read_prompts(own, pieces)
    for row in rows:
        row.kv.places, row.tokens = len(row.pending), ids[-1:]
    return torch.cat((read, forward.step(own, rows, forward.uses_of(rows))))


def gives_same_logits_together(forward: Forward, vocab_size: int) -> bool:
    """Whether tokens of a row that are read in one pass give bit for bit the logits that each gives
    alone."""
    trial = Forward(forward.model, forward.heads)  # so that the job does not count these passes
    trial.fused = forward.fused
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, vocab_size, (SUFFIX + CHECKED,), generator=generator).tolist()
    row = Row(Request(0, ()), ids[:SUFFIX], "", CHECKED, kv=RowKv(Prefix(ids[:PREFIX])))
    assert row.kv.prefix is not None
    trial.read_prefix(row.kv.prefix, PREFIX)
    own = own_kv(trial.heads, trial.kernels, [len(ids)], [row.kv.prefix])
    trial.read_prompts(own, [TokenSpan(row, 0, row.pending)])
    first = row.kv.places = len(row.pending)
    alone = []
    for token in ids[SUFFIX:]:
        row.tokens.append(token)
        alone.append(trial.step(own, [row], trial.uses_of([row])))
        row.kv.places += 1
    together = trial.read_prompts(own, [TokenSpan(row, 0, row.tokens, first, targets=row.tokens)])
    return torch.equal(torch.cat(alone), together)
