"""Experts of a mixture that a checkpoint holds as codes, each by itself: where they are in the
model.

Stored by themselves, they have names such as `experts.3.gate_proj` or `experts.3.w1`, which
transformers joins to one parameter: here they stay apart, so that a layer of ours holds each as it
lies in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runner_engine.experts import SeparateExperts, separated

EXPERT = re.compile(r"(.+)\.(\d+)\.(gate_proj|up_proj|down_proj)$")
MATRIX = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), "down_proj": ("down_proj",)}


class ModelPaths:
    """Where the layers of a checkpoint are in a model; experts are taken apart where each is named
    by itself."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known = {path for path, _ in model.named_modules()}
        self._renamings = _renamings(model)

    def path_of(self, stored: str) -> str | None:
        """Return the path of a layer, or None. A checkpoint may be of the model within, or of one
        around."""
        prefix = f"{self._model.base_model_prefix}."
        renamed = self._renamed(stored)
        for name in dict.fromkeys((stored, renamed)):
            for path in (name, prefix + name, name.removeprefix(prefix)):
                if path in self._known or self._takes_apart(path):
                    return path
        return None

    def _renamed(self, stored: str) -> str:
        from transformers.core_model_loading import apply_renamings

        return apply_renamings(f"{stored}.weight", self._renamings).removesuffix(".weight")

    def _takes_apart(self, path: str) -> bool:
        """Take the experts apart that a path is one of; whether it is one."""
        match = EXPERT.match(path)
        if match is None or match[1] not in self._known:
            return False
        made = separated(self._model.get_submodule(match[1]))
        if made is None:
            return False
        self._model.set_submodule(match[1], made)
        self._known |= {f"{match[1]}.{inner}" for inner, _ in made.named_modules() if inner}
        return path in self._known


def with_separate_names(conversions: Iterable[Any], of_experts: str) -> list[Any]:
    """Return a model's conversions of names, such that separate experts come under the names that
    they have here.

    A converter that joins `experts.*.w1` and `.w3` into `gate_up_proj` says which of them is
    `gate_proj`. It still joins those that are not separate. of_experts: a pattern of the paths of
    experts.
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
                WeightRenaming(rf"({of_experts}\.\d+)\.{old}(?=\.)", rf"\1.{name}")
                for old, name in zip(stored, names, strict=True)
                if old != name
            ]
    return result


def names_for(model: Any, conversions: Iterable[Any]) -> list[Any]:
    """Return the conversions for a model some of whose experts are separate."""
    prefix = f"{model.base_model_prefix}."
    separate = [path for path, module in model.named_modules() if isinstance(module, SeparateExperts)]
    if not separate:
        return list(conversions)
    return with_separate_names(
        conversions, f"(?:{'|'.join(re.escape(path.removeprefix(prefix)) for path in separate)})"
    )


def _renamings(model: Any) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    conversions = with_separate_names(get_model_conversion_mapping(model), r"\.experts")
    return [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
