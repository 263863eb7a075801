"""Multiplies activations by weights (matmul) with the fastest backend.

`choose_plain_backend`, `choose_bfloat16_backend` and `choose_int8_backend` select among several
backends with `select_backend`. Quantized layers are found by their class: `LAYER_KINDS` in
quantized_layers.py names a module for each, with the contract in layer_replacement.py.
"""

from runner_engine.matmul.activation_formats import get_activation_quantization_parameters
from runner_engine.matmul.autotune import (
    TIE,
    BackendBenchmark,
    BackendCandidate,
    find_fastest_backend,
    select_backend,
)
from runner_engine.matmul.backend_choice import (
    BackendChoice,
    BackendNaming,
    build_backend_choice_from_decision,
    build_tile_batch_size_note,
    read_forced_backend,
)
from runner_engine.matmul.backend_selection import (
    OWN,
    MatmulBackend,
    build_packed_matmul,
    choose_backend_for_unpacked_weights,
    choose_unquantized_backend,
    find_unquantized_layers,
    get_weight_matrix,
    is_transposed_linear,
    is_unquantized_linear,
    read_forced_matmul_backend,
)
from runner_engine.matmul.blocks import ROW_PARTS
from runner_engine.matmul.grouped import ExpertLayer, GroupedExperts
from runner_engine.matmul.int8_matmul import choose_int8_backend
from runner_engine.matmul.interleaved_timing import BackendTimings, time_backends_alternately
from runner_engine.matmul.layer_weights import LayerWeights
from runner_engine.matmul.onednn import MatmulFunction, build_onednn_matmul, find_onednn_problem
from runner_engine.matmul.plain_packing import PlainPackedWeights, can_pack_weight
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.matmul.timing_cache import load_or_measure_timings
from runner_engine.matmul.unrounded_trials import disable_activation_rounding, make_unstable_layers_note

__all__ = [  # noqa: RUF022 - by what they are for
    # layers
    "QuantizedLayers",  # replaces the `forward` of a model's quantized layers
    "ExpertLayer",  # a layer of experts as C reads them
    "GroupedExperts",  # replaces the `forward` of a model's experts
    "LayerWeights",  # a layer's weights as C reads them, whatever their format
    "PlainPackedWeights",  # plain weights in the layout of our own products
    "can_pack_weight",  # whether there are products for weights of this shape and format
    "ROW_PARTS",  # inputs of a row in bytes that share a scale, by type of blocks
    "get_activation_quantization_parameters",  # how rows are quantized before they are multiplied by a matrix
    "MatmulFunction",  # a function from rows to a layer's outputs
    "build_packed_matmul",  # the product with a plain weight by the way that was chosen
    "build_onednn_matmul",  # the product with weights in oneDNN's order
    "find_onednn_problem",  # why oneDNN cannot pack weights of a format
    "is_unquantized_linear",  # whether a layer is torch's own with a plain matrix
    "is_transposed_linear",  # whether its plain matrix lies the other way round, as in GPT-2
    "get_weight_matrix",  # the matrix [outputs, inputs] of either
    "find_unquantized_layers",  # such layers of a model
    "disable_activation_rounding",  # a context in which layers do not round their rows, for trials
    "make_unstable_layers_note",  # which layers round their rows, for a note
    # which way is used
    "MatmulBackend",  # how products are computed: tiles, panels, onednn, plain
    "OWN",  # those of the kernels
    "read_forced_matmul_backend",  # the way that RUNNER_PRODUCTS forces
    "choose_unquantized_backend",  # the way for plain weights
    "choose_backend_for_unpacked_weights",  # the way for weights that are unpacked to bfloat16 first
    "choose_int8_backend",  # the way for layers whose rows are bytes
    # choosing by measurements, of anything
    "select_backend",  # decides which of several ways is used
    "BackendCandidate",  # one of them, with its trial
    "BackendBenchmark",  # how the fastest is found
    "BackendChoice",  # the way that is used, with a fact and a note
    "build_backend_choice_from_decision",  # the choice that was decided on, with the fact and the note on it
    "BackendNaming",  # how facts and notes speak of the ways
    "build_tile_batch_size_note",  # from how many rows on tiles are used
    "read_forced_backend",  # the way that a variable forces
    "load_or_measure_timings",  # seconds that were measured once, or are measured now
    "time_backends_alternately",  # measures ways that take turns
    "find_fastest_backend",  # the fastest over some passes
    "BackendTimings",  # by way and number of rows
    "TIE",  # a way that is faster by less does not take the place of an earlier one
]
