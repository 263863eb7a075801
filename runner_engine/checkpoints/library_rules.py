"""Predicts from a tensor's name how transformers and quantization libraries load the tensor.

Imports no torch.

In a few families some tensors stay in float32, libraries leave some linear layers unquantized, or
there are linear layers outside the blocks. A plan follows the same rules;
`tests/engine/checkpoints/test_library_rules.py` compares their families with transformers' own.
Small tensors, such as the correction biases of routers, are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FLOAT32_BYTES = 4

# by family: names in checkpoints, old and new, of what stays in float32 if the rest is in 16 bits
IN_FLOAT32: Mapping[str, re.Pattern[str]] = {
    family: re.compile(names)
    for family, names in {
        "bailing_hybrid": r"A_log|conv1d|dt_bias",
        "beam": r"mlp\.gate\.weight",
        "deepseek_v4": r"hc_|_hc\.|sink|\.ape$|position_bias|norm",
        "ernie4_5_moe": r"gate\.weight|moe_statics",
        "flint": r"gate\.weight|sinks",
        "hy_v4": r"hc_|_hc\.|sink|k_norm|weights_proj|^lm_head",
        "inkling_text": r"sconv|global_scale",
        "inkling2_text": r"mlp\.gate\.weight|post_(attention|mlp)_convolution|[kv]_sconv|(attention|mlp|final)_input",
    }.items()
}

# by family: linear layers that libraries leave as they are
LEFT_PLAIN: Mapping[str, re.Pattern[str]] = {
    family: re.compile(names)
    for family, names in {
        "axk2": r"\.indexer\.weights_proj\.",
        "deepseek_v32": r"\.indexer\.weights_proj\.",
        "deepseek_v4": r"\.compressor\.|\.(wo_a|o_a_proj)\.",  # its o_a_proj is a class of its own
        "glm_moe_dsa": r"\.indexer\.weights_proj\.",
    }.items()
}

# linear layers in no block: Gemma 3n's and 4's inputs of all layers, OPT's and BLT's projections,
# Qwen 4's mixer
OUTSIDE_BLOCKS = re.compile(
    r"(^|\.)(per_layer_model_projection|project_(in|out)|\w+_embedding_projection"
    r"|hyper_connection_mixer\.input_mix_weight_(up|down))\.weight$"
)


def compute_unquantized_nbytes(tensor_name: str, num_elements: int, family: str, dtype_bytes: int) -> int:
    """Return the bytes that an unquantized tensor has after loading.

    Some model families keep certain tensors in float32.
    """
    kept = IN_FLOAT32.get(family)
    is_kept = kept is not None and kept.search(tensor_name) is not None
    return num_elements * (max(dtype_bytes, FLOAT32_BYTES) if is_kept else dtype_bytes)


def is_excluded_from_quantization(tensor_name: str, family: str) -> bool:
    """Whether quantization libraries always leave this linear layer unquantized."""
    left = LEFT_PLAIN.get(family)
    return left is not None and left.search(tensor_name) is not None
