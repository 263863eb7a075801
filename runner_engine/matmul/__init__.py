"""Products with weights. These names are what the engine needs of this folder.

Which of several ways is used is decided by `choose_plain`, `choose_unpacked` and `choose_bytes`, by
`decide`. Layers that are quantized are found by their class: `LAYER_KINDS` in quantized_layers.py
names a module for each, with the contract in replacing.py.
"""

from runner_engine.matmul.autotune import TIE, Candidate, Contest, decide, fastest_way
from runner_engine.matmul.blocks import ROW_PARTS
from runner_engine.matmul.byte_products import choose_bytes
from runner_engine.matmul.choice import Choice, Naming, choice_of, describe_tiles, requested_way
from runner_engine.matmul.grouped import ExpertLayer, GroupedExperts
from runner_engine.matmul.kept_seconds import kept
from runner_engine.matmul.matrices import LayerWeights
from runner_engine.matmul.measured import Seconds, by_turns
from runner_engine.matmul.onednn import Product, by_onednn, packing_problem
from runner_engine.matmul.panels import Panels, fits_panels
from runner_engine.matmul.products import (
    OWN,
    Way,
    choose_plain,
    choose_unpacked,
    is_plain,
    is_transposed,
    matrix_of,
    plain_layers,
    product_of,
    requested,
)
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.matmul.rounding import note_on, unrounded_rows
from runner_engine.matmul.row_formats import row_format

__all__ = [  # noqa: RUF022 - by what they are for
    # layers
    "QuantizedLayers",  # replaces the `forward` of a model's quantized layers
    "ExpertLayer",  # a layer of experts as C reads them
    "GroupedExperts",  # replaces the `forward` of a model's experts
    "LayerWeights",  # a layer's weights as C reads them, whatever their format
    "Panels",  # plain weights in the layout of our own products
    "fits_panels",  # whether there are products for weights of this shape and format
    "ROW_PARTS",  # inputs of a row in bytes that share a scale, by type of blocks
    "row_format",  # how rows are quantized before they are multiplied by a matrix
    "Product",  # a function from rows to a layer's outputs
    "product_of",  # the product with a plain weight by the way that was chosen
    "by_onednn",  # the product with weights in oneDNN's order
    "packing_problem",  # why oneDNN cannot pack weights of a format
    "is_plain",  # whether a layer is torch's own with a plain matrix
    "is_transposed",  # whether its plain matrix lies the other way round, as in GPT-2
    "matrix_of",  # the matrix [outputs, inputs] of either
    "plain_layers",  # such layers of a model
    "unrounded_rows",  # a context in which layers do not round their rows, for trials
    "note_on",  # which layers round their rows, for a note
    # which way is used
    "Way",  # how products are computed: tiles, panels, onednn, plain
    "OWN",  # those of the kernels
    "requested",  # the way that RUNNER_PRODUCTS forces
    "choose_plain",  # the way for plain weights
    "choose_unpacked",  # the way for weights that are unpacked to bfloat16 first
    "choose_bytes",  # the way for layers whose rows are bytes
    # choosing by measurements, of anything
    "decide",  # decides which of several ways is used
    "Candidate",  # one of them, with its trial
    "Contest",  # how the fastest is found
    "Choice",  # the way that is used, with a fact and a note
    "choice_of",  # the choice that was decided on, with the fact and the note on it
    "Naming",  # how facts and notes speak of the ways
    "describe_tiles",  # from how many rows on tiles are used
    "requested_way",  # the way that a variable forces
    "kept",  # seconds that were measured once, or are measured now
    "by_turns",  # measures ways that take turns
    "fastest_way",  # the fastest over some passes
    "Seconds",  # by way and number of rows
    "TIE",  # a way that is faster by less does not take the place of an earlier one
]
