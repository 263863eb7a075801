"""Tests whether the continuous-batching scheduler supports a model, by comparing logits with transformers."""

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

from runner_base import is_out_of_memory_error, to_one_line
from runner_base.notes import note, text_note
from runner_engine.attention import (
    Softmax,
    find_kv_page_size,
    register_attention,
    use_attention_function,
    wrap_with_layer_counter,
)
from runner_engine.attention.device_attention import should_try_sdpa
from runner_engine.decode.cache_probe import IncompatibleModel, find_layer_cache_token_limits
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes import Forward, TokenSpan
from runner_engine.decode.rounding_noise import (
    compute_max_logit_error,
    compute_mean_logit_error,
    is_within_rounding_noise,
)
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache import (
    MASK_PROBE,
    KvCacheSpec,
    Prefix,
    SequenceKv,
    UnknownWindow,
    Window,
    create_kv_store,
    map_layers_to_kv_store_layers,
    record_attention_masks,
)
from runner_engine.matmul import (
    ExpertLayer,
    LayerWeights,
    disable_activation_rounding,
    make_unstable_layers_note,
)
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.recurrent import UnsupportedMixer, create_recurrent_layer_mixers
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


def get_sliding_window_length(loaded: LoadedModel) -> float:
    """Return the size of the sliding window from the model's config, or infinity if the model has none."""
    settings = loaded.model.config.get_text_config()
    window: int | None = getattr(settings, "sliding_window", None)
    return math.inf if window is None or not getattr(settings, "use_sliding_window", True) else window


def get_max_length_with_fixed_rope(loaded: LoadedModel) -> float:
    """Return the longest sequence length for which the model's RoPE angles stay fixed.

    Only `generate` of transformers supports longer sequences.
    """
    settings = loaded.model.config.get_text_config()
    parameters = getattr(settings, "rope_parameters", None) or {}
    reaches = [math.inf]
    for one in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if key := ROPE_CHANGES_AT.get(one.get("rope_type", "")):
            places = (one.get(key), getattr(settings, key, None))
            reaches += [place for place in places if place is not None]
    return min(reaches)


def get_logits_tolerance(loaded: LoadedModel) -> float:
    """Return the maximum mean logit error, in standard deviations of the logits."""
    quantized = int(loaded.metrics.get("quantized_modules", 0))
    return COARSE if quantized else TOLERANCE.get(loaded.model.dtype, COARSE)


def infer_and_test_kv_cache_spec(loaded: LoadedModel) -> KvCacheSpec:
    """Inspect a model's attention, and test whether the continuous-batching scheduler can run the model.

    Raises IncompatibleModel if the scheduler's logits differ from the model's own.
    """
    model = loaded.model
    settings = model.config.get_text_config()
    if getattr(settings, "attn_temperature_tuning", None) and settings.model_type not in COUNT_BEFORE:
        raise IncompatibleModel(note("attention_counts_tokens"))
    if len({str(tensor.device) for tensor in model.parameters()} - {"meta"}) > 1:
        raise IncompatibleModel(note("several_devices"))
    register_attention()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(loaded.metrics["vocab_size"]), (PREFIX + SUFFIX + 1,), generator=generator)
    ids = ids.to(loaded.device)

    def compute_own_logits() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits
        return logits[0, -2:].float()

    try:
        with torch.inference_mode():
            with _make_gguf_layers_return_zeros(model):
                mixers = create_recurrent_layer_mixers(model)
                kept_tokens = find_layer_cache_token_limits(model, ids[None, :2], len(mixers))
                heads = _infer_kv_cache_spec(model, ids[None, :2], kept_tokens, bool(mixers))
                heads = replace(heads, states=tuple(mixer.states for mixer in mixers.values()))
            with disable_activation_rounding(model) as zeroed:
                expected, ours = (
                    compute_own_logits(),
                    _compute_scheduler_test_logits(model, heads, ids.tolist()),
                )
                off = compute_mean_logit_error(ours, expected)
                is_right = _logits_match(loaded, ours, expected, compute_own_logits)
    except IncompatibleModel:
        raise
    except UnsupportedMixer as error:
        raise IncompatibleModel(text_note(str(error))) from error
    except NotImplementedError as error:  # its message is a whole reason
        raise IncompatibleModel(text_note(to_one_line(error, limit=160))) from error
    except Exception as error:
        if is_out_of_memory_error(error):
            raise
        raise IncompatibleModel(
            text_note(f"{type(error).__name__}: {to_one_line(error, limit=160)}")
        ) from error
    if not is_right:
        raise IncompatibleModel(note("logits_off", off=off))
    log.debug("mean logit error of the scheduler: %.2g standard deviations, with the KV cache %s", off, heads)
    heads = replace(heads, note=make_unstable_layers_note(zeroed))
    return (
        _enable_sdpa_if_logits_match(loaded, heads, ids.tolist(), compute_own_logits)
        if should_try_sdpa(heads.device)
        else heads
    )


def _logits_match(
    loaded: LoadedModel,
    logits: torch.Tensor,
    expected: torch.Tensor,
    compute_original_logits: Callable[[], torch.Tensor],
) -> bool:
    allowed = get_logits_tolerance(loaded)
    return compute_mean_logit_error(logits, expected) <= allowed or (
        allowed == COARSE and is_within_rounding_noise(loaded.model, logits, compute_original_logits, allowed)
    )


@contextmanager
def _make_gguf_layers_return_zeros(model: Any) -> Iterator[None]:
    """Context manager in which GGUF layers return zeros, for passes that only record shapes and masks."""
    layers = [module for module in model.modules() if isinstance(module, GgufLinear)]

    def zeros(layer: GgufLinear, activations: torch.Tensor) -> torch.Tensor:
        return activations.new_zeros(*activations.shape[:-1], layer.out_features)

    for layer in layers:
        layer.forward = partial(zeros, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _enable_sdpa_if_logits_match(
    loaded: LoadedModel,
    kv_spec: KvCacheSpec,
    token_ids: list[int],
    compute_original_logits: Callable[[], torch.Tensor],
) -> KvCacheSpec:
    """Enable SDPA attention if its logits match those of the model's original attention."""
    by_sdpa = replace(kv_spec, by_sdpa=True)
    in_pages = replace(by_sdpa, page=0 if kv_spec.states else find_kv_page_size(by_sdpa))
    for one in (in_pages, by_sdpa) if in_pages.page else (by_sdpa,):
        try:
            with torch.inference_mode(), disable_activation_rounding(loaded.model):
                ours, expected = (
                    _compute_scheduler_test_logits(loaded.model, one, token_ids),
                    compute_original_logits(),
                )
                if _logits_match(loaded, ours, expected, compute_original_logits):
                    return one
            why = f"SDPA has a mean logit error of {compute_mean_logit_error(ours, expected):.2g} standard deviations"
        except (RuntimeError, NotImplementedError) as error:  # this GPU or this torch has no such function
            if is_out_of_memory_error(error):
                raise
            why = to_one_line(error, limit=160)
        how = "without pages" if one.page else "with separate torch operations"
        log.info("attention runs %s, which is slower: %s", how, why)
    return kv_spec


@dataclass(frozen=True)
class _LayerShape:
    """Head counts, head size, dtype and device of one attention layer."""

    kv_heads: int
    heads: int
    width: int  # of keys or values, whichever is larger
    dtype: torch.dtype
    device: torch.device


def _infer_kv_cache_spec(
    model: Any, token_ids: torch.Tensor, cached_tokens: list[int | None], has_mixers: bool
) -> KvCacheSpec:
    """Return the KV cache spec of a model, including sliding windows if every layer's window is known.

    cached_tokens: how many tokens each layer's cache keeps. If these are fewer than the
    layer's mask shows, `generate` has another window from the second token on. has_mixers:
    some or all layers do not attend, so layers are numbered in call order.
    """
    shapes: dict[int, _LayerShape] = {}
    windows: dict[int, Window | None] = {}
    softmaxes: set[bool] = set()
    tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # keys and values of each layer

    def record_attention_layer_shape(
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _scale: float,
        softmax: Softmax,
    ) -> torch.Tensor:
        width = max(key.shape[2], value.shape[2])
        tensors[layer] = key, value
        shapes[layer] = _LayerShape(key.shape[0], query.shape[0], width, key.dtype, key.device)
        softmaxes.add(softmax.cap == 0 and softmax.sinks is None)
        with suppress(UnknownWindow):
            windows[layer] = masks.find_sliding_window_of_mask(softmax.mask)
        return query.new_zeros(query.shape[1], query.shape[0], value.shape[2])

    positions = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
    attend = (
        wrap_with_layer_counter(record_attention_layer_shape) if has_mixers else record_attention_layer_shape
    )
    with record_attention_masks() as masks, use_attention_function(model, attend, MASK_PROBE):
        model(input_ids=token_ids, position_ids=positions, use_cache=False)
    layers, all_shapes = len(shapes), list(shapes.values())
    if not layers and has_mixers:
        return KvCacheSpec(0, 1, 1, LANES, model.dtype, token_ids.device)
    stores = map_layers_to_kv_store_layers([tensors[layer] for layer in sorted(tensors)])
    if not layers:
        raise IncompatibleModel(note("attention_elsewhere"))
    alike = {(shape.heads, shape.dtype, shape.device) for shape in all_shapes}
    kv_heads, width = (
        max((getattr(shape, what) for shape in all_shapes), default=0) for what in ("kv_heads", "width")
    )
    if (
        set(shapes) != set(range(layers))
        or len(alike) != 1
        or any(kv_heads % shape.kv_heads for shape in all_shapes)
    ):
        raise IncompatibleModel(note("shapes_differ", layers=layers, shapes=len(set(all_shapes))))
    [(query_heads, dtype, device)] = alike
    if device.type == "cpu":  # the kernels need whole vectors
        width = -(-width // LANES) * LANES
    known = tuple(windows[layer] for layer in range(layers)) if len(windows) == layers else ()
    pairs = (
        zip(cached_tokens, known, strict=True)
        if len(cached_tokens) == len(known)
        else [(kept_token, None) for kept_token in cached_tokens]
    )
    if any(most is not None and (window is None or window.size > most) for most, window in pairs):
        known = ()
    settings = model.config.get_text_config()
    if not known and "chunked_attention" in (getattr(settings, "layer_types", None) or ()):
        raise IncompatibleModel(note("attention_in_chunks"))
    stored = layers if not stores else max(stores) + 1
    return KvCacheSpec(
        stored, kv_heads, query_heads // kv_heads, width, dtype, device, known, stores, all(softmaxes)
    )


def _compute_scheduler_test_logits(model: Any, kv_spec: KvCacheSpec, token_ids: list[int]) -> torch.Tensor:
    """Run the scheduler on a test prompt and return the logits of the last two tokens.

    The prefix, a token span and a single token run in separate forward passes.
    """
    forward = Forward(model, kv_spec)
    forward.short_span = 1  # so that this short prompt is read as a span, like a long one
    prefix = Prefix(token_ids[:PREFIX])
    row = TokenSequence(Request(0, ()), token_ids[:-1], "", 1, kv=SequenceKv(prefix))
    forward.prefill_prefix(prefix, PREFIX)
    own = create_kv_store(kv_spec, forward.kernels, [PREFIX + SUFFIX + 1], [prefix])
    read = forward.run_token_spans(own, [TokenSpan(row, 0, row.pending_tokens)])
    row.kv.places, row.tokens = SUFFIX, token_ids[-1:]
    return torch.cat((read, forward.step(own, [row], forward.list_shared_prefixes([row])))).float()


def build_and_verify_fused_forward(
    loaded: LoadedModel,
    kv_spec: KvCacheSpec,
    packed_layers: Mapping[nn.Module, LayerWeights],
    expert_layers: Mapping[nn.Module, ExpertLayer],
    is_verified: bool = False,
) -> FusedForward | None:
    """Create the fused forward pass in C, and compare its logits with those of the PyTorch modules.

    Returns None if the model has unsupported parts or the logits differ.

    packed_layers, expert_layers: layers whose weights are already packed for C. is_verified:
    an earlier trial has shown that the logits match.
    """
    forward = Forward(loaded.model, kv_spec)
    if forward.kernels is None:
        return None
    room = int(min(loaded.metrics["max_positions"], get_max_length_with_fixed_rope(loaded)))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, int(loaded.metrics["vocab_size"]), (SUFFIX,), generator=generator).tolist()
    try:
        with torch.inference_mode():
            fused = FusedForward(loaded.model, kv_spec, room, forward.kernels, packed_layers, expert_layers)
            if is_verified:
                return fused
            expected = _compute_logits_of_two_test_sequences(forward, ids)
            forward.fused = fused
            is_exact = kv_spec.dtype is torch.float32 and not fused.is_quantized and not kv_spec.is_quantized
            # elsewhere a number may be rounded to the other side, and then the farthest of 49,152
            # logits is 0.2 off: noise that a token's mean does not have, and in which each real
            # difference shows
            of_tokens, allowed = (torch.amax, SAME) if is_exact else (torch.mean, COARSE)
            off = compute_max_logit_error(
                _compute_logits_of_two_test_sequences(forward, ids), expected, of_tokens
            )
            if not off <= allowed and (
                is_exact or not _is_fused_error_within_rounding_noise(forward, ids, fused)
            ):
                raise NotFusable(f"the fused forward pass has a logit error of {off:.2g} standard deviations")
    except NotFusable as reason:
        log.debug("passes run operation by operation: %s", reason)
        return None
    log.debug("using the fused forward pass, which has a logit error of %.2g standard deviations", off)
    return fused


def _is_fused_error_within_rounding_noise(
    forward: Forward, token_ids: list[int], fused_forward: FusedForward
) -> bool:
    """Whether rounding explains the logit error of the fused forward pass.

    The error must not exceed the effect of random changes in the last bits of layer outputs.
    """

    def compute_own_logits() -> torch.Tensor:
        forward.fused = None
        return _compute_logits_of_two_test_sequences(forward, token_ids)

    forward.fused = fused_forward
    is_near = is_within_rounding_noise(
        forward.model, _compute_logits_of_two_test_sequences(forward, token_ids), compute_own_logits, COARSE
    )
    return is_near or _is_logit_error_within_noise(forward, token_ids, fused_forward)


def _is_logit_error_within_noise(forward: Forward, token_ids: list[int], fused_forward: FusedForward) -> bool:
    """Whether the fused pass's logit error is as small as the error from splitting the prompt differently.

    In a trained model, a changed last bit grows from layer to layer. So the logits of few
    layers must match. In all layers the error may not exceed the one that splitting the
    prompt elsewhere causes.
    """

    def trial_logits(fused_forward_or_none: FusedForward | None, prefix: int = PREFIX) -> torch.Tensor:
        forward.fused = fused_forward_or_none
        return _compute_logits_of_two_test_sequences(forward, token_ids, prefix)

    with fused_forward.limit_forward_to_first_layers(forward.model, SHALLOW):
        shallow = compute_max_logit_error(trial_logits(fused_forward), trial_logits(None))
    expected = trial_logits(None)
    noise = max(
        compute_max_logit_error(trial_logits(None, PREFIX + more), expected[more:]) for more in SPLITS
    )
    off = compute_max_logit_error(trial_logits(fused_forward), expected)
    log.debug(
        "logit error of the fused forward pass: %.2g in the first layers, %.2g in all layers (noise: %.2g)",
        shallow,
        off,
        noise,
    )
    return shallow <= COARSE and off <= NEAR * noise


def _compute_logits_of_two_test_sequences(
    forward: Forward, token_ids: list[int], prefix_length: int = PREFIX
) -> torch.Tensor:
    """Return all logits of two test sequences.

    One forward pass computes both prompts, and another computes one more token of each.

    The first sequence has a prefix, and the second prompt is read as a span. Where sequences
    choose among adapters, one uses the first adapter and the other the last.
    """
    names = forward.adapters.names if forward.adapters else (None,)
    prefix = Prefix(token_ids[:prefix_length], adapter=names[0])
    forward.prefill_prefix(prefix, prefix_length)
    rows = [
        TokenSequence(Request(0, (), adapter=names[0]), token_ids[:-1], "", 1, kv=SequenceKv(prefix)),
        TokenSequence(Request(1, (), adapter=names[-1]), token_ids[3:-1], "", 1),
    ]
    forward.short_span = len(rows[1].pending_tokens)
    own = create_kv_store(
        forward.heads, forward.kernels, [len(token_ids)] * len(rows), [row.kv.prefix for row in rows]
    )
    pieces = [
        TokenSpan(row, slot, row.pending_tokens, targets=row.pending_tokens) for slot, row in enumerate(rows)
    ]
    read = forward.run_token_spans(own, pieces)
    for row in rows:
        row.kv.places, row.tokens = len(row.pending_tokens), token_ids[-1:]
    return torch.cat((read, forward.step(own, rows, forward.list_shared_prefixes(rows))))


def are_multi_token_logits_exact(forward: Forward, vocab_size: int) -> bool:
    """Whether a forward pass over several tokens returns exactly the same logits as single-token passes."""
    trial = Forward(forward.model, forward.heads)  # so that the job does not count these passes
    trial.fused = forward.fused
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, vocab_size, (SUFFIX + CHECKED,), generator=generator).tolist()
    row = TokenSequence(Request(0, ()), ids[:SUFFIX], "", CHECKED, kv=SequenceKv(Prefix(ids[:PREFIX])))
    assert row.kv.prefix is not None
    trial.prefill_prefix(row.kv.prefix, PREFIX)
    own = create_kv_store(trial.heads, trial.kernels, [len(ids)], [row.kv.prefix])
    trial.run_token_spans(own, [TokenSpan(row, 0, row.pending_tokens)])
    first = row.kv.places = len(row.pending_tokens)
    alone = []
    for token in ids[SUFFIX:]:
        row.tokens.append(token)
        alone.append(trial.step(own, [row], trial.list_shared_prefixes([row])))
        row.kv.places += 1
    together = trial.run_token_spans(own, [TokenSpan(row, 0, row.tokens, first, targets=row.tokens)])
    return torch.equal(torch.cat(alone), together)
