"""ctypes structures, sizes and enum values that C and Python share.

`shared_numbers.h` exports the same numbers. A library with any different number is not used.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.checkpoints.kv_size import INT4_GROUP, INT4_GROUP_BYTES, SCALE_BYTES
from runner_engine.checkpoints.pass_memory import THREAD_BUFFER_BYTES
from runner_engine.kernels import adapter_structures, expert_structures, state_structures, stream_structures
from runner_engine.kernels.ctypes_fields import build_same_type_fields
from runner_engine.kernels.kv_layers import KvCode, KvLayer
from runner_engine.kernels.matrix_structures import PRODUCT_PHASES, FusedNorm, Matrix
from runner_engine.kernels.state_structures import MIXER_MATRICES, ChannelsLayer
from runner_engine.settings.sampling import PARAMETERS

LANES = 16  # keys lie in blocks of this many places
CACHE_LINE = 64  # pieces of a workspace begin at multiples of it
MAX_GROUP = 16
MAX_DIM = 512
SHIFT = 128  # is added to quantized rows, so that they have no sign
REGISTER_ROWS = 6  # that are multiplied together
LAYER_PHASES = 4 * PRODUCT_PHASES + 8
ADAPTER_PHASES = 2 * 8  # of a layer with adapters beside its matrices
BESIDE_PHASES = 2 * PRODUCT_PHASES + 1  # of a mixer beside attention
# of a layer whose queries, keys and values come out of latents, beside those
LATENT_PHASES = 2 * PRODUCT_PHASES + 1
ROPE_TABLES = 2  # of a model at most
PHASE_BYTES = 128
OWN_PIECE = 1024  # own keys of a token that one thread goes through
NO_TILES = 2**62  # of `tile_rows`: any number of rows goes by vectors, in the order of tiles


class WeightFormat(IntEnum):
    """Weight layouts, with the enum values of the C code."""

    plain = 0
    four_bit = 1
    row_int8 = 2
    weight_int8 = 3
    int8_dynamic = 4
    blocks = 5
    groups = 6
    int8_stored = 7
    byte_blocks = 8  # blocks that are multiplied by rows in bytes
    byte_groups = 9
    four_bit_rows = 10  # of bitsandbytes, in the order in which it stores them
    plain_rows = 11  # plain ones, output by output, as torch holds them

    @property
    def has_int8_activations(self) -> bool:
        """Whether the matmul quantizes activations to int8."""
        return self.name in ("row_int8", "int8_dynamic", "int8_stored", "byte_blocks", "byte_groups")

    @property
    def needs_workspace(self) -> bool:
        """Whether a matmul needs a buffer, either for quantized activations or for unpacked weights."""
        return self.name not in ("plain", "plain_rows", "blocks", "groups", "four_bit_rows")


class CodeType(IntEnum):
    """Encoding of the quantization codes in a group-quantized matrix."""

    integers = 0
    table = 1  # of 16 values
    e4m3 = 2  # float8


class NormKind(IntEnum):
    """The variant of a norm (fused_rows.h)."""

    rms_in_steps = 0  # rounded before it is multiplied by the weight, as in Llama
    rms_at_once = 1
    layer_norm = 2


class RopePoints(IntEnum):
    """How rotary embeddings pair the elements of an attention head (fused_structs.h)."""

    points_in_halves = 0
    points_of_neighbours = 1
    neighbours_into_halves = 2


class Activation(IntEnum):
    """The activation function between the matmuls of an MLP."""

    silu_in_product = 0  # two matrices gate each other in the registers
    silu = 1
    gelu = 2
    tanh_gelu = 3
    relu = 4
    squared_relu = 5


class Refusal(IntEnum):
    """Reasons why a C kernel rejects a call before it reads or writes memory (checks.h)."""

    NO_TOKENS = 1
    WRONG_HEADS = 2
    WRONG_TOKEN_ID = 3
    WRONG_POSITION = 4
    WRONG_SLOT = 5
    WRONG_PLACE = 6
    WRONG_SEEN = 7
    WRONG_FIRST = 8
    WRONG_KEPT = 9
    WRONG_PART = 10
    WRONG_PART_TOKEN = 11
    WRONG_PART_ROW = 12
    WRONG_MATRIX = 13
    SMALL_WORKSPACE = 14
    NO_MEMORY = 15
    MISSING_UNIT = 16
    WRONG_STATE_SLOT = 17
    WRONG_SEGMENT = 18
    WRONG_EXPERT = 19
    WRONG_KV_LAYER = 20
    WRONG_ADAPTER = 21


class KvArenaEntry(ctypes.Structure):
    """C structure kv_arena in attention.h: the memory addresses and capacity of one sequence's KV cache."""

    _fields_ = build_same_type_fields(ctypes.c_int64, "keys", "values", "capacity", "first_plain")


class FusedModel(ctypes.Structure):
    """C structure fused_model in fused_structs.h."""

    _fields_ = (
        *build_same_type_fields(
            ctypes.c_int64,
            "layers",
            "hidden",
            "inner",
            "kv_heads",
            "group",
            "dim",
            "is_quantized",
            "has_kv_bytes",
        ),
        *build_same_type_fields(ctypes.c_int64, "embedding_rows", "positions", "attention_tile_rows"),
        ("rotated", ctypes.c_int64 * ROPE_TABLES),
        *build_same_type_fields(
            ctypes.c_int64, "points", "rotates_in_float32", "gates", "has_halves", "has_query_gates"
        ),
        *build_same_type_fields(ctypes.c_int64, "has_heads_together", "mixers"),
        *build_same_type_fields(
            ctypes.c_float, "embedding_scale", "residual_scale", "logit_scale", "logit_cap"
        ),
        ("embedding_in_panels", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_void_p, "embedding", "position_embedding"),
        *build_same_type_fields(ctypes.c_void_p * ROPE_TABLES, "cos", "sin"),
        *build_same_type_fields(ctypes.c_void_p, "query_scales", "inputs", "streams"),
        ("norm", FusedNorm),
        ("head", Matrix),
    )


class FusedLayer(ctypes.Structure):
    """C structure fused_layer in fused_structs.h."""

    _fields_ = (
        *build_same_type_fields(
            FusedNorm, "norm_in", "norm_mid", "after_attention", "after_mlp", "norm_q", "norm_k"
        ),
        ("sinks", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_float, "scale", "cap", "output_scale", "cutoff"),
        *build_same_type_fields(
            ctypes.c_int64,
            "rope",
            "window",
            "norms_all_heads",
            "is_parallel",
            "norms_rotated",
            "scales_queries",
        ),
        *build_same_type_fields(ctypes.c_int64, "qkv_count", "gated_count", "inner", "activation"),
        *build_same_type_fields(ctypes.c_int64, "has_gate", "has_cutoff", "mlp_apart", "has_no_mlp"),
        *build_same_type_fields(
            ctypes.c_void_p, "mixture", "latent", "shape", "input", "streams", "head_experts"
        ),
        ("kv", KvLayer),
        *build_same_type_fields(ctypes.c_void_p, "mixer", "beside"),
        ("qkv", Matrix * MIXER_MATRICES),
        ("out", Matrix),
        ("gated", Matrix * 2),
        ("down", Matrix),
    )


class ParallelMixer(ctypes.Structure):
    """C structure of a recurrent mixer that runs parallel to attention.

    The structure is called mixer_beside in mixer_structs.h.
    """

    _fields_ = (
        ("mixer", ctypes.c_void_p),
        *build_same_type_fields(Matrix, "into", "out"),
        *build_same_type_fields(ctypes.c_float, "heads", "keys", "attention", "mixed", "gate", "mlp"),
    )


class Latent(ctypes.Structure):
    """C structure latent in latent_structs.h."""

    _fields_ = (
        *build_same_type_fields(FusedNorm, "norm_queries", "norm_pairs"),
        *build_same_type_fields(ctypes.c_int64, "query_width", "pair_width", "unrotated", "rotated", "value"),
        *build_same_type_fields(ctypes.c_void_p, "to_queries", "to_pairs"),
    )


class ChannelsMixer(ctypes.Structure):
    """C structure channels_mixer in mixer_structs.h: the products and norms within a Mamba layer."""

    _fields_ = (
        ("scan", ChannelsLayer),
        ("norms", FusedNorm * 3),
        *build_same_type_fields(Matrix, "to_parts", "to_steps"),
        ("rank", ctypes.c_int64),
    )


class SharedPart(ctypes.Structure):
    """C structure shared_part in fused_structs.h."""

    _fields_ = (
        ("arena", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_int64, "sees", "causal"),
        ("chosen", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_int64, "first", "tokens"),
        *build_same_type_fields(ctypes.c_void_p, "row_of", "from"),
    )


class FusedTokens(ctypes.Structure):
    """C structure fused_tokens in fused_structs.h."""

    _fields_ = (
        ("arenas", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_int64, "slots", "tokens"),
        *build_same_type_fields(ctypes.c_void_p, "ids", "positions", "slot", "place", "seen"),
        *build_same_type_fields(ctypes.c_int64, "is_step", "kept"),
        ("keep", ctypes.c_void_p),
        ("parts", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_void_p, "part", "workspace", "logits"),
        *build_same_type_fields(ctypes.c_int64, "workspace_bytes", "windows"),
        ("own_from", ctypes.c_void_p),
        ("first_layer", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_void_p, "mlp_in", "mlp_out", "segments"),
        *build_same_type_fields(ctypes.c_int64, "segment_count", "state_slots"),
        *build_same_type_fields(ctypes.c_void_p, "states", "adapted", "hidden", "input_rows"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "kv_arena": KvArenaEntry,
    "kv_layer": KvLayer,
    "matrix": Matrix,
    "fused_norm": FusedNorm,
    "fused_model": FusedModel,
    "fused_layer": FusedLayer,
    "mixer_beside": ParallelMixer,
    "channels_mixer": ChannelsMixer,
    "latent": Latent,
    "shared_part": SharedPart,
    "fused_tokens": FusedTokens,
    **adapter_structures.STRUCTURES,
    **expert_structures.STRUCTURES,
    **state_structures.STRUCTURES,
    **stream_structures.STRUCTURES,
}
# C has them only where it multiplies bytes
FOR_QUANTIZED = {"THREAD_BUFFER_BYTES": THREAD_BUFFER_BYTES, "SHIFT": SHIFT}


class _SharedNumber(ctypes.Structure):
    """C structure shared_number in shared_numbers.h."""

    _fields_ = (("name", ctypes.c_char_p), ("number", ctypes.c_int64))


def list_c_constants_in_python() -> dict[str, int]:
    """Return Python's values of the constants that C and Python share, by C name."""
    sizes = {
        "LANES": LANES,
        "CACHE_LINE": CACHE_LINE,
        "MAX_GROUP": MAX_GROUP,
        "MAX_DIM": MAX_DIM,
        "SCALE_BYTES": SCALE_BYTES,
        "INT4_GROUP": INT4_GROUP,
        "INT4_GROUP_BYTES": INT4_GROUP_BYTES,
        "ROPE_TABLES": ROPE_TABLES,
        "OWN_PIECE": OWN_PIECE,
        "REGISTER_ROWS": REGISTER_ROWS,
    }
    phases = {
        "PRODUCT_PHASES": PRODUCT_PHASES,
        "LAYER_PHASES": LAYER_PHASES,
        "LATENT_PHASES": LATENT_PHASES,
        **stream_structures.NUMBERS,
        "ADAPTER_PHASES": ADAPTER_PHASES,
    }
    phases |= {"sizeof phase": PHASE_BYTES}
    phases["BESIDE_PHASES"] = BESIDE_PHASES
    kinds: tuple[type[IntEnum], ...] = (
        WeightFormat,
        KvCode,
        CodeType,
        NormKind,
        RopePoints,
        Activation,
        Refusal,
    )
    enums = {one.name.upper(): int(one) for kind in kinds for one in kind}
    parameters = {name.upper(): place for place, name in enumerate(PARAMETERS)}
    numbers = (
        sizes
        | phases
        | enums
        | parameters
        | FOR_QUANTIZED
        | expert_structures.list_c_constants_for_experts()
        | state_structures.NUMBERS
    )
    for name, structure in STRUCTURES.items():
        numbers[f"sizeof {name}"] = ctypes.sizeof(structure)
        for field, *_ in structure._fields_:
            numbers[f"{name}.{field}"] = getattr(structure, field).offset
    return numbers


def read_kernel_library_constants(library: ctypes.CDLL) -> dict[str, int]:
    """Read the constants that a compiled library exports.

    Raises AttributeError if the library exports none.
    """
    try:
        first = _SharedNumber.in_dll(library, "shared_numbers")
    except ValueError as error:
        raise AttributeError(str(error)) from error
    table = ctypes.cast(ctypes.byref(first), ctypes.POINTER(_SharedNumber))
    numbers: dict[str, int] = {}
    while (name := table[len(numbers)].name) is not None:
        numbers[name.decode()] = int(table[len(numbers)].number)
    return numbers


def find_differing_c_constants(library: ctypes.CDLL) -> list[str]:
    """List the constants whose values differ between a library and Python.

    The library must not be called if the list is not empty.
    """
    ours, theirs = list_c_constants_in_python(), read_kernel_library_constants(library)
    optional = FOR_QUANTIZED.keys() - theirs.keys()
    return [
        f"the constant {name} is {theirs.get(name, 'unknown')} in C and {ours.get(name, 'unknown')} in Python"
        for name in sorted((ours.keys() | theirs.keys()) - optional)
        if ours.get(name) != theirs.get(name)
    ]
