"""Finds the module paths of quantized experts that a checkpoint stores as separate tensors.

Separate experts have names such as `experts.3.gate_proj` or `experts.3.w1`, which transformers
joins to one parameter. Here they stay separate, so that each layer holds its codes as stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runner_engine.experts import SeparateExperts, build_separate_experts

EXPERT = re.compile(r"(.+)\.(\d+)\.(gate_proj|up_proj|down_proj)$")
MATRIX = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), "down_proj": ("down_proj",)}


class ModelPaths:
    """Maps layer names of a checkpoint to module paths of a model. Replaces fused experts by
    separate ones if needed.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known = {path for path, _ in model.named_modules()}
        self._renamings = _list_transformers_weight_renamings(model)

    def find_layer_module_path(self, stored_layer_name: str) -> str | None:
        prefix = f"{self._model.base_model_prefix}."
        renamed = self._apply_renamings(stored_layer_name)
        for name in dict.fromkeys((stored_layer_name, renamed)):
            for path in (name, prefix + name, name.removeprefix(prefix)):
                if path in self._known or self._separate_experts_at_path(path):
                    return path
        return None

    def _apply_renamings(self, stored_layer_name: str) -> str:
        from transformers.core_model_loading import apply_renamings

        return apply_renamings(f"{stored_layer_name}.weight", self._renamings).removesuffix(".weight")

    def _separate_experts_at_path(self, path: str) -> bool:
        """Replace fused experts by separate ones if `path` names an expert. Returns False for any
        other path.
        """
        match = EXPERT.match(path)
        if match is None or match[1] not in self._known:
            return False
        made = build_separate_experts(self._model.get_submodule(match[1]))
        if made is None:
            return False
        self._model.set_submodule(match[1], made)
        self._known |= {f"{match[1]}.{inner}" for inner, _ in made.named_modules() if inner}
        return path in self._known


def add_separate_expert_name_conversions(conversions: Iterable[Any], experts_pattern: str) -> list[Any]:
    """Add name conversions that make transformers load separate experts under their own module paths.

    A converter that joins `experts.*.w1` and `.w3` into `gate_up_proj` tells which of them is
    `gate_proj`. It still joins experts that are not separate. experts_pattern: a regular expression for
    the paths of experts.
    """
    from transformers.core_model_loading import MergeModulelist, WeightConverter, WeightRenaming

    result = list(conversions)
    for conversion in conversions:
        if not isinstance(conversion, WeightConverter) or not isinstance(
            conversion.operations[0], MergeModulelist
        ):
            continue
        names = MATRIX.get(conversion._original_target_patterns[0].rpartition(".")[2], ())
        stored = [
            source.removesuffix(".weight").rpartition(".")[2]
            for source in conversion._original_source_patterns
        ]
        if len(names) == len(stored):
            result += [
                WeightRenaming(rf"({experts_pattern}\.\d+)\.{old}(?=\.)", rf"\1.{name}")
                for old, name in zip(stored, names, strict=True)
                if old != name
            ]
    return result


def adapt_conversions_to_separate_experts(model: Any, conversions: Iterable[Any]) -> list[Any]:
    """Adapt transformers' name conversions to a model in which some experts are separate modules."""
    prefix = f"{model.base_model_prefix}."
    separate = [path for path, module in model.named_modules() if isinstance(module, SeparateExperts)]
    if not separate:
        return list(conversions)
    return add_separate_expert_name_conversions(
        conversions, f"(?:{'|'.join(re.escape(path.removeprefix(prefix)) for path in separate)})"
    )


def _list_transformers_weight_renamings(model: Any) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    conversions = add_separate_expert_name_conversions(get_model_conversion_mapping(model), r"\.experts")
    return [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
