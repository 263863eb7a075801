"""Predicts the memory that a model needs, from config.json and the safetensors headers. Imports no
torch.

Weights are counted tensor by tensor, in their in-memory form (weight_sizes.py). How many of
them are resident follows from the engine's behaviour on a CPU: it memory-maps an unquantized
checkpoint, packs linear layers and releases their pages, and reads only those entries of a
mapped embedding whose tokens occur.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, auto
from math import ceil, exp, log2

from runner_base import BYTES, MIB, machine
from runner_engine.checkpoints.draft import compute_kept_draft_weight_fraction, resolve_draft_model
from runner_engine.checkpoints.gguf_file import compute_packing_overhead_nbytes
from runner_engine.checkpoints.kv_size import LANES, compute_kv_size
from runner_engine.checkpoints.linear_layers import classify_tensor
from runner_engine.checkpoints.merge_costs import MergeCosts, estimate_merge_costs
from runner_engine.checkpoints.mixture import MixtureSize, compute_expert_mixture_size
from runner_engine.checkpoints.pass_memory import (
    PassShape,
    compute_kv_bytes_per_token,
    compute_largest_prefill_pass_shape,
    compute_max_queued_distributions,
    compute_quantized_workspace_nbytes,
    compute_sampling_bytes_per_logit,
    count_cuda_graph_logit_vectors,
    estimate_activation_nbytes,
    read_layer_dimensions,
)
from runner_engine.checkpoints.resolved_model import ModelFiles, ResolvedModel
from runner_engine.checkpoints.weight_sizes import count_linear_weights
from runner_engine.plan.load_plan import SHARED_BYTES, LoadPlan, can_pack_weights, plan_model_load
from runner_engine.quantization.base import OwnLayers, QuantizationConfig
from runner_engine.settings.model import Attention
from runner_engine.spec import Workload

# Measured by task=memory after all imports, with the libraries' pages released, on CPUs with AVX512; a GPU's
# allocator counts nothing like this.
LIBRARY_MIB = 40.0  # pages of libraries, code and tables that come back in a pass: ± 5
LOAD_MIB = 18.0  # the part of it that the load takes and that is not a page of a file
# the same while the first pass begins: pages that the load has read are released only then
FIRST_PASS_LIBRARY_MIB = 48.0
KERNEL_MIB = (
    12.0  # what trials of packed layers and of LLM.int8 leave, oneDNN's kernels for each shape among it
)
# for each slot of a vocabulary's table: in the load, and later
TOKENIZER_LOAD_BYTES, TOKENIZER_BYTES = (512, 200)
TOKENIZER_FILLED = 7 / 8  # of the slots at most, and their number is a power of two
PASS_MIB = 2.0  # what freed blocks of other sizes take in a pass
FAULT_KIB = 256.0  # of a mapped embedding that are read with one token's row
VOCABULARY_SHARE = 0.5  # of the embedding's rows that prompts use in the long run
SCALED = "gemma"  # families with this in their name scale the rows of their embedding, and read them where they are


@dataclass(frozen=True)
class DraftPass:
    """The cost of a draft model's forward pass: its weights, parameters, and KV cache bytes per token."""

    quantization: QuantizationConfig
    alone: Footprint
    parameters: float  # that a token is multiplied by; the model's output matrix, where it has none
    place_bytes: int  # of keys and values of a token
    has_kernels: bool  # for its quantized layers: they need not be unpacked
    kept_share: float  # of its weights, if it keeps only its first layers


class Phase(StrEnum):
    """A phase of a job for which the peak memory is predicted separately."""

    load = auto()
    packing = auto()
    prefill = auto()
    decode = auto()


@dataclass(frozen=True)
class PeakParts:
    """The parts that add up to the predicted peak memory. For loading and packing, `other_mib` is
    the only part.
    """

    phase: Phase
    weight_mib: float
    kv_cache_mib: float
    activation_mib: float
    other_mib: float  # libraries and kernels, without what the process has before the load


@dataclass(frozen=True)
class Footprint:
    """Predicted memory of a model.

    Weights are listed by part: linear, scales, expert, embedding, head, other, lora.

    `unread_bytes` are weights in the mapped checkpoint that no pass reads. `copied_bytes` are
    copies, in another layout, of weights that stay in memory. `load_bytes` is the peak of the load
    without pages of files, which the system can drop. Memory that libraries take on import is not
    counted.
    """

    weights: dict[str, int]
    prefill_kv_bytes: int  # keys and values of the prompts of all rows
    decode_kv_bytes: int  # the same with every new token
    prefill_activation_bytes: int
    decode_activation_bytes: int
    unread_bytes: int = 0
    copied_bytes: int = 0
    runtime_bytes: int = 0  # libraries and kernels, beyond what importing takes
    load_bytes: int = 0
    first_pass_bytes: int = 0  # before pages of libraries are released, layers packed and products tried
    mixture: MixtureSize | None = None  # how many of its parameters each token uses; None: all
    draft: DraftPass | None = None  # the model that guesses its next tokens, counted in all above
    merging: MergeCosts | None = None  # of an adapter that the load merges into the weights

    @property
    def weight_mib(self) -> float:
        """MiB of all weights. Shared weights count once."""
        return sum(self.weights.values()) / MIB

    @property
    def resident_weight_mib(self) -> float:
        """MiB of weights that stay in memory while requests are processed."""
        return self.weight_mib + (self.copied_bytes - self.unread_bytes) / MIB

    @property
    def kv_cache_mib(self) -> float:
        """MiB of the keys and values of all sequences at the end of decoding."""
        return self.decode_kv_bytes / MIB

    @property
    def activation_mib(self) -> float:
        """Peak MiB of activations, in prefill or decoding."""
        return max(self.prefill_activation_bytes, self.decode_activation_bytes) / MIB

    @property
    def runtime_mib(self) -> float:
        """MiB that libraries and kernels allocate, in addition to what their import takes."""
        return self.runtime_bytes / MIB

    @property
    def load_mib(self) -> float:
        """MiB needed while the model is being loaded."""
        return self.load_bytes / MIB

    @property
    def first_pass_mib(self) -> float:
        """MiB needed while layers are packed, before the first forward pass."""
        return self.first_pass_bytes / MIB

    @property
    def prefill_mib(self) -> float:
        """MiB needed while the last prompts are prefilled."""
        others = self.prefill_kv_bytes + self.prefill_activation_bytes + self.runtime_bytes
        return self.resident_weight_mib + others / MIB

    @property
    def decode_mib(self) -> float:
        """MiB needed when the last new token is decoded."""
        others = self.decode_kv_bytes + self.decode_activation_bytes + self.runtime_bytes
        return self.resident_weight_mib + others / MIB

    @property
    def total_mib(self) -> float:
        """Peak MiB during load and decoding, excluding the Python interpreter and imported libraries."""
        return max(self._phase_mib().values())

    @property
    def peak_memory_breakdown(self) -> PeakParts:
        """The parts of the peak memory, in the phase in which the peak occurs."""
        phases = self._phase_mib()
        phase = max(phases, key=phases.__getitem__)
        if phase in (Phase.load, Phase.packing):
            return PeakParts(phase, 0.0, 0.0, 0.0, phases[phase])
        is_prefill = phase is Phase.prefill
        kv_bytes = self.prefill_kv_bytes if is_prefill else self.decode_kv_bytes
        activation_bytes = self.prefill_activation_bytes if is_prefill else self.decode_activation_bytes
        return PeakParts(
            phase, self.resident_weight_mib, kv_bytes / MIB, activation_bytes / MIB, self.runtime_mib
        )

    def _phase_mib(self) -> dict[Phase, float]:
        return {
            Phase.decode: self.decode_mib,
            Phase.prefill: self.prefill_mib,
            Phase.packing: self.first_pass_mib,
            Phase.load: self.load_mib,
        }

    def combine_with_second_model(self, second_model: Footprint, waiting_bytes: int) -> Footprint:
        """Combine the footprints of two loaded models, of which only one runs at a time."""
        parts = self.weights | second_model.weights
        weights = {part: self.weights.get(part, 0) + second_model.weights.get(part, 0) for part in parts}
        mine, its = (round(one.resident_weight_mib * MIB) for one in (self, second_model))
        pairs = ((self, its), (second_model, mine))
        packing = [one.first_pass_bytes and one.first_pass_bytes + resident for one, resident in pairs]
        return Footprint(
            weights,
            self.prefill_kv_bytes + second_model.prefill_kv_bytes,
            self.decode_kv_bytes + second_model.decode_kv_bytes,
            max(self.prefill_activation_bytes, second_model.prefill_activation_bytes) + waiting_bytes,
            max(self.decode_activation_bytes, second_model.decode_activation_bytes) + waiting_bytes,
            self.unread_bytes + second_model.unread_bytes,
            self.copied_bytes + second_model.copied_bytes,
            max(self.runtime_bytes, second_model.runtime_bytes),
            self.load_bytes + second_model.load_bytes,
            max(packing),
            merging=self.merging,
        )


def predict_footprint(
    resolved: ResolvedModel, workload: Workload, free_mib: float | None = None
) -> Footprint | None:
    """Predict the memory that a model needs for a workload. None if no weight file has a readable header.

    `free_mib` of main memory decides what is packed; None: what is free here. A draft model counts
    with all its layers, as it is loaded, and so do its keys and values. A second model that is
    loaded with it counts if both are on the same device, and so do the distributions that wait for
    those of the other model.
    """
    return predict_planned_footprint(plan_model_load(resolved), workload, free_mib)


def predict_planned_footprint(
    plan: LoadPlan, workload: Workload, free_mib: float | None = None
) -> Footprint | None:
    """Predict the memory that a planned load needs for a workload. None if no weight file has a
    readable header.
    """
    resolved = plan.resolved
    footprint = _predict_single_model_footprint(plan, workload, free_mib)
    draft = resolve_draft_model(resolved)
    if footprint is not None and draft is not None:
        of_draft = plan_model_load(draft)
        alone = _predict_single_model_footprint(of_draft, workload, free_mib, is_draft=True)
        if alone is None:
            footprint = None
        else:
            guessing = _estimate_draft_pass_cost(of_draft, alone, footprint)
            footprint = replace(footprint.combine_with_second_model(alone, 0), draft=guessing)
    if footprint is None or resolved.second is None:
        return footprint
    second = plan_model_load(resolved.second)
    if second.device != plan.device:
        return footprint
    other = _predict_single_model_footprint(second, workload, free_mib)
    vocabulary = read_layer_dimensions(resolved.files.text_settings)["vocab"]
    waiting_bytes = BYTES["float32"] * vocabulary * compute_max_queued_distributions(vocabulary)
    return None if other is None else footprint.combine_with_second_model(other, waiting_bytes)


def _estimate_draft_pass_cost(
    draft: LoadPlan, draft_footprint: Footprint, model_footprint: Footprint
) -> DraftPass:
    """Estimate the cost of a draft model's forward pass. An MTP head also reads the main model's lm_head."""
    files, is_head = draft.files, draft.spec.is_mtp_head
    tensors, settings = (draft.tensors, draft.settings) if is_head else (files.tensors, files.settings)
    parameters = float(sum(tensor.num_elements for tensor in tensors))
    read = draft_footprint
    if is_head:
        shape = read_layer_dimensions(files.text_settings)
        parameters += shape["vocab"] * shape["hidden"]
        shared = model_footprint.weights["head"] or model_footprint.weights["embedding"]
        read = replace(draft_footprint, weights=draft_footprint.weights | {"head": shared})
    return DraftPass(
        draft.quantization_mix.base,
        read,
        parameters,
        compute_kv_bytes_per_token(settings, files.dtype_bytes, draft.spec.generation.kv_cache_config),
        draft.quantization_mix.has_kernels(files.dtype_bytes),
        compute_kept_draft_weight_fraction(draft.resolved, draft_footprint.weights),
    )


def _predict_single_model_footprint(
    plan: LoadPlan, workload: Workload, free_mib: float | None, is_draft: bool = False
) -> Footprint | None:
    """Predict the footprint of one model.

    is_draft: the model must undo rejected draft tokens.
    """
    rows, prompt_tokens, new_tokens = workload
    spec, files, mix, device = plan.spec, plan.files, plan.quantization_mix, plan.device
    dtype_bytes, held, tensors, settings = files.dtype_bytes, mix.base, plan.tensors, plan.settings
    if not tensors:
        return None
    weights, shape = plan.weight_bytes_by_part, read_layer_dimensions(settings)
    if new_tokens <= 1:  # nothing decodes: rows end in the pass that reads them
        rows = compute_largest_prefill_pass_shape(device, rows, prompt_tokens).rows
    eager = plan.attention is Attention.eager
    largest = max(count_linear_weights(tensor, files.stored_format, mix) for tensor in tensors)
    context = prompt_tokens + new_tokens
    by_panels = plan.uses_quantized_kernels
    width = max(shape["intermediate"], shape["hidden"])
    # with the kernels, keys before a window are freed, as in transformers' own cache
    keeps_windows = not plan.uses_scheduler or plan.uses_kernels
    lanes = LANES if plan.uses_scheduler and device == "cpu" else 1
    kept = compute_kv_size(settings, dtype_bytes, spec.generation.kv_cache_config, lanes)

    products = [choice.describe_matmul_costs(dtype_bytes) for choice in mix.quantizing_configs]
    own_layers = {choice.own_layers for choice in mix.quantizing_configs}
    in_blocks = held.own_layers is OwnLayers.blocks
    are_groups = held.own_layers is OwnLayers.groups or own_layers == {OwnLayers.made_groups}

    def estimate_forward_pass_nbytes(pass_shape: PassShape) -> int:
        positions = pass_shape.rows * pass_shape.tokens
        may_round_rows = held.describe_matmul_costs(dtype_bytes).may_round_rows
        if not may_round_rows and (in_blocks or (are_groups and by_panels)):
            most = 0  # what is unpacked at a time is on the threads' stacks
        elif by_panels:
            most = compute_quantized_workspace_nbytes(positions, width, machine.count_available_cpu_cores())
        else:
            most = positions * width * max(one.cpu_pass_bytes for one in products) * (device == "cpu")
        return most + estimate_activation_nbytes(shape, dtype_bytes, pass_shape)

    # on a CPU, C draws
    drawing = compute_sampling_bytes_per_logit(spec.generation) if device != "cpu" and new_tokens else 0
    reading = (
        compute_largest_prefill_pass_shape(device, rows, prompt_tokens)
        if plan.uses_scheduler
        else PassShape(rows, prompt_tokens, prompt_tokens * eager)
    )
    reading = replace(reading, sampled_bytes=drawing)
    prefill = estimate_forward_pass_nbytes(reading)
    decode = estimate_forward_pass_nbytes(PassShape(rows, 1, context * eager, drawing))
    if device == "cuda" and plan.uses_scheduler and new_tokens > 1:
        by_length = dtype_bytes == BYTES["bfloat16"] and not spec.generation.kv_cache_config.is_quantized
        spans = () if by_length else (prompt_tokens, context)
        decode += count_cuda_graph_logit_vectors(rows, *spans) * shape["vocab"] * dtype_bytes
    unpacked = 0 if by_panels else largest * max(one.unpacked_bytes for one in products)
    of_prompts = kept.compute_prompt_kv_nbytes(
        rows, prompt_tokens, (reading.rows, reading.tokens), keeps_windows
    )
    of_all = kept.compute_final_kv_nbytes(rows, prompt_tokens, new_tokens, keeps_windows)
    if (is_draft or spec.generation.speculation.drafts_every_step) and new_tokens > 1:
        of_all += rows * kept.state_bytes  # copies, which are given back after wrong guesses
    if spec.is_mtp_head:  # what the model's last norm gives for each token of a prompt waits for it
        of_prompts += rows * prompt_tokens * shape["hidden"] * dtype_bytes
    mixture = compute_expert_mixture_size(settings, tensors, files.stored_format)
    merging = estimate_merge_costs(plan.resolved)
    plain = Footprint(
        weights, of_prompts, of_all, prefill + unpacked, decode + unpacked, mixture=mixture, merging=merging
    )
    if device != "cpu":
        return plain
    free_mib = machine.available_memory_mib() if free_mib is None else free_mib
    unread, copied, packed_share = _estimate_weight_bytes_after_packing(plan, rows * context, free_mib)
    if in_blocks and packed_share:
        is_tied = weights["head"] == 0  # then the embedding is packed as the head, too
        packed = (tensor for tensor in tensors if is_tied or classify_tensor(tensor) != "embedding")
        copied += sum(compute_packing_overhead_nbytes(tensor) for tensor in packed)
    slots = 0 if spec.is_mtp_head else _compute_vocabulary_capacity(files, shape["vocab"])
    library = int(LIBRARY_MIB * MIB) + TOKENIZER_BYTES * slots
    held_bytes = sum(weights.values()) + copied - unread
    first = 0
    if copied or packed_share:
        first = held_bytes + int((FIRST_PASS_LIBRARY_MIB + KERNEL_MIB * packed_share) * MIB)
    load_bytes = sum(weights.values()) - plan.memory_mapped_weight_nbytes
    if merging is not None:
        others = sum(tensor.num_elements for tensor in files.tensors) - merging.numbers
        plain_bytes = 0 if plan.is_mapped else others * dtype_bytes
        load_bytes = max(load_bytes, merging.estimate_merge_peak_nbytes(load_bytes, plain_bytes))
    return replace(
        plain,
        prefill_activation_bytes=prefill + int(PASS_MIB * MIB),
        decode_activation_bytes=decode,
        unread_bytes=unread,
        copied_bytes=copied,
        runtime_bytes=library + int(KERNEL_MIB * MIB * packed_share),
        load_bytes=load_bytes
        + int(LOAD_MIB * MIB)
        + TOKENIZER_LOAD_BYTES * slots
        + largest * max(choice.load_bytes_per_number for choice in mix.quantizing_configs),
        first_pass_bytes=first,
    )


def _compute_vocabulary_capacity(files: ModelFiles, vocab_size: int) -> int:
    has_own = not files.model.random_weights and vocab_size > 0
    return 1 << ceil(log2(vocab_size / TOKENIZER_FILLED)) if has_own else 0


def _estimate_weight_bytes_after_packing(
    plan: LoadPlan, num_tokens: int, free_mib: float
) -> tuple[int, int, float]:
    """Estimate the CPU memory that weights take after packing.

    Returns the bytes of unread weights, the bytes of copied weights, and the share of packed
    layer shapes.

    The mapped pages of packed layers are released. A head that is tied to the embedding is packed as a
    copy.
    """
    held, weights, mapped = (
        plan.quantization_mix.base,
        plan.weight_bytes_by_part,
        plan.memory_mapped_weight_nbytes,
    )
    in_blocks = held.own_layers is OwnLayers.blocks
    linear, share, is_own_head = weights["linear"], 1.0, weights["head"] > 0
    if held.is_mixed:
        plain = plan.plain_layers
        linear, share = plain.nbytes, plain.share_of_shapes
        is_own_head |= plain.has_quantized_head  # whose bytes are not under the head
    elif held.packed and not in_blocks:
        linear = 0
    head = weights["head"] if is_own_head else weights["embedding"]
    is_packed = plan.uses_scheduler and (in_blocks or can_pack_weights(linear + head, free_mib))
    in_memory = linear + weights["head"] if mapped == 0 else linear * plan.spec.lora.merges_adapter
    copied = (in_memory + head * (not is_own_head)) * is_packed
    unread = 0
    is_large = weights["embedding"] >= SHARED_BYTES and SCALED not in str(
        plan.files.settings.get("model_type")
    )
    if is_packed and not is_own_head and (in_blocks or (mapped and is_large)):
        unread = weights["embedding"]  # its rows are taken from the head's panels
    elif mapped and (is_packed or is_own_head):  # else the tied head reads all of the embedding
        used = VOCABULARY_SHARE * weights["embedding"]
        unread = weights["embedding"] - int(used * (1 - exp(-num_tokens * FAULT_KIB * 1024 / max(used, 1))))
    return unread, copied, share if is_packed and (linear or held.depends_on_batch) else 0.0
