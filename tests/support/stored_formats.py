"""All formats of stored weights that are read without their libraries: how they are saved, and what
holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import coded_checkpoints
import grouped_checkpoints
import int8_checkpoints

from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig


@dataclass(frozen=True)
class Format:
    """One of them."""

    save: Callable[..., None]  # a folder, the name, keys of the model's config
    name: str  # in the file that saves it
    quantization: QuantizationConfig  # what the runner finds it to be
    layers: str = "GroupedLinear"  # what reports call its layers


ROUND_ROWS = {  # the layers of those whose rows are rounded
    **dict.fromkeys(("float_quantized", "float_quantized_tensor", "float_quantized_blocks"), "Float8Linear"),
    **dict.fromkeys(("bitnet", "bitnet_multiplied"), "TernaryLinear"),
    "nvfp4_pack_quantized_rows": "Nvfp4Linear",
}
CODED = {
    name: Format(coded_checkpoints.save, name, CHOICES[choice](), ROUND_ROWS.get(name, "GroupedLinear"))
    for name, choice in coded_checkpoints.CHOICE_OF.items()
}
INT8 = {
    f"int8_{name}": Format(
        int8_checkpoints.save,
        name,
        CHOICES["int_quantized"](),
        "GroupedLinear" if name == "weights_only" else "Int8Linear",
    )
    for name in int8_checkpoints.STORED
}
GROUPED = {
    name: Format(grouped_checkpoints.save, name, CHOICES[choice]())
    for name, choice in grouped_checkpoints.CHOICE_OF.items()
}
FORMATS = CODED | INT8 | GROUPED
