"""Predicts a model's memory from config.json and the safetensors headers alone; no torch.

Weights are counted tensor by tensor, as they will be held in memory (weight_sizes.py). Which of
them are resident, and how often, follows from what the engine does on a CPU: it maps an unquantized
checkpoint, packs linear layers and releases their pages, and reads only those rows of a mapped
embedding whose tokens occur.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, log2

from runner_base import BYTES, MIB, machine
from runner_engine.checkpoints.draft import draft_of, kept_share
from runner_engine.checkpoints.gguf_file import bytes_beyond_file
from runner_engine.checkpoints.kept_kv import LANES, kept_kv
from runner_engine.checkpoints.linear_layers import part_of
from runner_engine.checkpoints.merging import Merging, merging_of
from runner_engine.checkpoints.mixture import Mixture, mixture_of
from runner_engine.checkpoints.pass_memory import (
    PassShape,
    activation_bytes,
    place_bytes,
    quantized_workspace_bytes,
    recorded_rows,
    sampled_bytes,
    shape_of,
    streamed,
    waiting_places,
)
from runner_engine.checkpoints.resolve import ModelFiles, ResolvedModel
from runner_engine.checkpoints.weight_sizes import elements
from runner_engine.plan.load_plan import SHARED_BYTES, LoadPlan, may_pack, plan_load
from runner_engine.quantization.base import OwnLayers, QuantizationConfig
from runner_engine.settings.model import Attention
from runner_engine.spec import Workload

# Measured by task=memory after all imports, on CPUs with AVX512; a GPU's allocator counts nothing
# like this.
LIBRARY_MIB = 34.0  # pages of libraries, code and tables that the first load and the first pass touch: ± 5
LOAD_MIB = 18.0  # the part of it that the load takes and that is not a page of a file
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
    """What a pass of a draft model reads and computes."""

    quantization: QuantizationConfig
    alone: Footprint
    parameters: float  # that a token is multiplied by; the model's output matrix, where it has none
    place_bytes: int  # of keys and values of a token
    has_kernels: bool  # for its quantized layers: they need not be unpacked
    kept_share: float  # of its weights, if it keeps only its first layers


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes; weights by part (linear, scales, expert, embedding, head, other, lora).

    `unread_bytes` are weights in the mapped checkpoint that no pass reads. `copied_bytes` are
    copies, in another layout, of weights that stay in memory. `load_bytes` is the peak of the load
    without pages of files, which the system can drop. Nothing counts that libraries take when they
    are imported.
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
    first_pass_bytes: int = 0  # while layers are packed, and products are tried
    mixture: Mixture | None = None  # how many of its parameters each token uses; None: all
    draft: DraftPass | None = None  # the model that guesses its next tokens, counted in all above
    merging: Merging | None = None  # of an adapter that the load merges into the weights

    @property
    def weight_mib(self) -> float:
        """All weights, each counted once."""
        return sum(self.weights.values()) / MIB

    @property
    def resident_weight_mib(self) -> float:
        """The memory that weights take while requests are processed."""
        return self.weight_mib + (self.copied_bytes - self.unread_bytes) / MIB

    @property
    def kv_cache_mib(self) -> float:
        """Keys and values of every position of every row, at the end of decoding."""
        return self.decode_kv_bytes / MIB

    @property
    def activation_mib(self) -> float:
        """The larger of the two activation peaks."""
        return max(self.prefill_activation_bytes, self.decode_activation_bytes) / MIB

    @property
    def runtime_mib(self) -> float:
        """What libraries and kernels take beyond what importing takes."""
        return self.runtime_bytes / MIB

    @property
    def load_mib(self) -> float:
        """The memory needed while the model is loaded."""
        return self.load_bytes / MIB

    @property
    def first_pass_mib(self) -> float:
        """The memory needed while layers are packed, before the first pass."""
        return self.first_pass_bytes / MIB

    @property
    def prefill_mib(self) -> float:
        """The memory needed for the prefill of the last prompts."""
        others = self.prefill_kv_bytes + self.prefill_activation_bytes + self.runtime_bytes
        return self.resident_weight_mib + others / MIB

    @property
    def decode_mib(self) -> float:
        """The memory needed at the last new token."""
        others = self.decode_kv_bytes + self.decode_activation_bytes + self.runtime_bytes
        return self.resident_weight_mib + others / MIB

    @property
    def total_mib(self) -> float:
        """The peak over load and completions, without the interpreter and its libraries."""
        return max(self.load_mib, self.first_pass_mib, self.prefill_mib, self.decode_mib)

    def beside(self, other: Footprint, waiting_bytes: int) -> Footprint:
        """Return the footprint of both models; the other is loaded second, one runs at a time, and
        buffers wait."""
        parts = self.weights | other.weights
        weights = {part: self.weights.get(part, 0) + other.weights.get(part, 0) for part in parts}
        mine, its = (round(one.resident_weight_mib * MIB) for one in (self, other))
        pairs = ((self, its), (other, mine))
        packing = [one.first_pass_bytes and one.first_pass_bytes + resident for one, resident in pairs]
        return Footprint(
            weights,
            self.prefill_kv_bytes + other.prefill_kv_bytes,
            self.decode_kv_bytes + other.decode_kv_bytes,
            max(self.prefill_activation_bytes, other.prefill_activation_bytes) + waiting_bytes,
            max(self.decode_activation_bytes, other.decode_activation_bytes) + waiting_bytes,
            self.unread_bytes + other.unread_bytes,
            self.copied_bytes + other.copied_bytes,
            max(self.runtime_bytes, other.runtime_bytes),
            self.load_bytes + other.load_bytes,
            max(packing),
            merging=self.merging,
        )


def predict(resolved: ResolvedModel, work: Workload, free_mib: float | None = None) -> Footprint | None:
    """Predict the footprint of a model at work; None if a checkpoint has no safetensors files to
    read.

    `free_mib` of main memory decides what is packed; None: what is free here. A draft model counts
    with all its layers, as it is loaded, and so do its keys and values. A second model that
    is loaded beside it counts if both are on the same device, and so do the distributions that wait
    for those of the other model.
    """
    return predict_planned(plan_load(resolved), work, free_mib)


def predict_planned(plan: LoadPlan, work: Workload, free_mib: float | None = None) -> Footprint | None:
    """Predict the footprint of a model whose load is planned, as `predict` does."""
    resolved = plan.resolved
    footprint = _predict_one(plan, work, free_mib)
    draft = draft_of(resolved)
    if footprint is not None and draft is not None:
        of_draft = plan_load(draft)
        alone = _predict_one(of_draft, work, free_mib, guesses=True)
        if alone is None:
            footprint = None
        else:
            guessing = _draft_pass(of_draft, alone, footprint)
            footprint = replace(footprint.beside(alone, 0), draft=guessing)
    if footprint is None or resolved.second is None:
        return footprint
    second = plan_load(resolved.second)
    if second.device != plan.device:
        return footprint
    other = _predict_one(second, work, free_mib)
    vocabulary = shape_of(resolved.files.text_settings)["vocab"]
    waiting_bytes = BYTES["float32"] * vocabulary * waiting_places(vocabulary)
    return None if other is None else footprint.beside(other, waiting_bytes)


def _draft_pass(draft: LoadPlan, alone: Footprint, of_model: Footprint) -> DraftPass:
    """Return what a pass of a draft reads; the model's own head reads the model's output matrix."""
    files, is_head = draft.files, draft.spec.is_own_head
    tensors, settings = (draft.tensors, draft.settings) if is_head else (files.tensors, files.settings)
    parameters = float(sum(tensor.params for tensor in tensors))
    read = alone
    if is_head:
        shape = shape_of(files.text_settings)
        parameters += shape["vocab"] * shape["hidden"]
        shared = of_model.weights["head"] or of_model.weights["embedding"]
        read = replace(alone, weights=alone.weights | {"head": shared})
    return DraftPass(
        draft.mix.base,
        read,
        parameters,
        place_bytes(settings, files.dtype_bytes, draft.spec.generation.stored_kv),
        draft.mix.has_kernels(files.dtype_bytes),
        kept_share(draft.resolved, alone.weights),
    )


def _predict_one(
    plan: LoadPlan, work: Workload, free_mib: float | None, guesses: bool = False
) -> Footprint | None:
    """Predict the footprint of one model; guesses: it is a draft, and reads its own guesses."""
    rows, prompt_tokens, new_tokens = work
    spec, files, mix, device = plan.spec, plan.files, plan.mix, plan.device
    dtype_bytes, held, tensors, settings = files.dtype_bytes, mix.base, plan.tensors, plan.settings
    if not tensors:
        return None
    weights, shape = plan.weights, shape_of(settings)
    if new_tokens <= 1:  # nothing decodes: rows end in the pass that reads them
        rows = streamed(device, rows, prompt_tokens).rows
    eager = plan.attention is Attention.eager
    largest = max(elements(tensor, files.stored, mix) for tensor in tensors)
    context = prompt_tokens + new_tokens
    by_panels = plan.multiplies_packed
    width = max(shape["intermediate"], shape["hidden"])
    # with the kernels, keys before a window are freed, as in transformers' own cache
    keeps_windows = not plan.is_streamed or plan.uses_kernels
    lanes = LANES if plan.is_streamed and device == "cpu" else 1
    kept = kept_kv(settings, dtype_bytes, spec.generation.stored_kv, lanes)

    products = [choice.products(dtype_bytes) for choice in mix.choices]
    own_layers = {choice.own_layers for choice in mix.choices}
    in_blocks = held.own_layers is OwnLayers.blocks
    are_groups = held.own_layers is OwnLayers.groups or own_layers == {OwnLayers.made_groups}

    def activations(pass_shape: PassShape) -> int:
        positions = pass_shape.rows * pass_shape.tokens
        may_round_rows = held.products(dtype_bytes).may_round_rows
        if not may_round_rows and (in_blocks or (are_groups and by_panels)):
            most = 0  # what is unpacked at a time is on the threads' stacks
        elif by_panels:
            most = quantized_workspace_bytes(positions, width, machine.cores())
        else:
            most = positions * width * max(one.cpu_pass_bytes for one in products) * (device == "cpu")
        return most + activation_bytes(shape, dtype_bytes, pass_shape)

    # on a CPU, C draws
    drawing = sampled_bytes(spec.generation) if device != "cpu" and new_tokens else 0
    reading = (
        streamed(device, rows, prompt_tokens)
        if plan.is_streamed
        else PassShape(rows, prompt_tokens, prompt_tokens * eager)
    )
    reading = replace(reading, sampled_bytes=drawing)
    prefill = activations(reading)
    decode = activations(PassShape(rows, 1, context * eager, drawing))
    if device == "cuda" and plan.is_streamed and new_tokens > 1:
        by_length = dtype_bytes == BYTES["bfloat16"] and not spec.generation.stored_kv.in_bytes
        spans = () if by_length else (prompt_tokens, context)
        decode += recorded_rows(rows, *spans) * shape["vocab"] * dtype_bytes
    unpacked = 0 if by_panels else largest * max(one.unpacked_bytes for one in products)
    of_prompts = kept.prompt_bytes(rows, prompt_tokens, (reading.rows, reading.tokens), keeps_windows)
    of_all = kept.final_bytes(rows, prompt_tokens, new_tokens, keeps_windows)
    if (guesses or spec.generation.speculation.is_steady) and new_tokens > 1:
        of_all += rows * kept.state_bytes  # copies, which are given back after wrong guesses
    if spec.is_own_head:  # what the model's last norm gives for each token of a prompt waits for it
        of_prompts += rows * prompt_tokens * shape["hidden"] * dtype_bytes
    mixture = mixture_of(settings, tensors, files.stored)
    merging = merging_of(plan.resolved)
    plain = Footprint(
        weights, of_prompts, of_all, prefill + unpacked, decode + unpacked, mixture=mixture, merging=merging
    )
    if device != "cpu":
        return plain
    free_mib = machine.available_mib() if free_mib is None else free_mib
    unread, copied, packed_share = _resident(plan, rows * context, free_mib)
    if in_blocks and packed_share:
        is_tied = weights["head"] == 0  # then the embedding is packed as the head, too
        packed = (tensor for tensor in tensors if is_tied or part_of(tensor) != "embedding")
        copied += sum(bytes_beyond_file(tensor) for tensor in packed)
    slots = 0 if spec.is_own_head else _tokenizer_slots(files, shape["vocab"])
    library = int(LIBRARY_MIB * MIB) + TOKENIZER_BYTES * slots
    first = 0
    if copied or packed_share:
        first = (
            sum(weights.values())
            + copied
            - unread
            + library
            + int((KERNEL_MIB * packed_share + PASS_MIB) * MIB)
        )
    load_bytes = sum(weights.values()) - plan.mapped_bytes
    if merging is not None:
        others = sum(tensor.params for tensor in files.tensors) - merging.numbers
        plain_bytes = 0 if plan.is_mapped else others * dtype_bytes
        load_bytes = max(load_bytes, merging.peak_bytes(load_bytes, plain_bytes))
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
        + largest * max(choice.load_bytes_per_number for choice in mix.choices),
        first_pass_bytes=first,
    )


def _tokenizer_slots(files: ModelFiles, vocabulary: int) -> int:
    """Return the size of the table that holds a vocabulary; random weights come with the embedded
    model's small one."""
    has_own = not files.model.random_weights and vocabulary > 0
    return 1 << ceil(log2(vocabulary / TOKENIZER_FILLED)) if has_own else 0


def _resident(plan: LoadPlan, tokens: int, free_mib: float) -> tuple[int, int, float]:
    """Return, for a CPU, bytes of weights left unread in the file, of those copied, and the share
    of packed shapes.

    The mapped pages of packed layers are released. A head that is tied to the embedding is packed
    as a copy.
    """
    held, weights, mapped = plan.mix.base, plan.weights, plan.mapped_bytes
    in_blocks = held.own_layers is OwnLayers.blocks
    linear, share, is_own_head = weights["linear"], 1.0, weights["head"] > 0
    if held.is_mixed:
        plain = plan.plain_layers
        linear, share = plain.nbytes, plain.share_of_shapes
        is_own_head |= plain.has_quantized_head  # whose bytes are not under the head
    elif held.packed and not in_blocks:
        linear = 0
    head = weights["head"] if is_own_head else weights["embedding"]
    is_packed = plan.is_streamed and (in_blocks or may_pack(linear + head, free_mib))
    in_memory = linear + weights["head"] if mapped == 0 else linear * plan.spec.lora.merges
    copied = (in_memory + head * (not is_own_head)) * is_packed
    unread = 0
    is_large = weights["embedding"] >= SHARED_BYTES and SCALED not in str(
        plan.files.settings.get("model_type")
    )
    if is_packed and not is_own_head and (in_blocks or (mapped and is_large)):
        unread = weights["embedding"]  # its rows are taken from the head's panels
    elif mapped and (is_packed or is_own_head):  # else the tied head reads all of the embedding
        used = VOCABULARY_SHARE * weights["embedding"]
        unread = weights["embedding"] - int(used * (1 - exp(-tokens * FAULT_KIB * 1024 / max(used, 1))))
    return unread, copied, share if is_packed and (linear or held.mixes_rows) else 0.0
