"""Loads a checkpoint as it is, or lets a library quantize it meanwhile."""

from __future__ import annotations

from typing import Any

from runner_engine.models import capability
from runner_engine.models.loading.contract import WayOfLoading
from runner_engine.models.loading.unfit import left_plain
from runner_engine.quantization.base import QuantizationConfig


class Way(WayOfLoading):
    """transformers reads it. What a checkpoint stores quantized, its config.json tells
    transformers."""

    def prepare(self) -> dict[str, Any]:
        """Return the library's arguments, with the layers that it must leave plain."""
        if self.resolved.files.stored is not None:
            return {}
        quantization = self.resolved.mix.base
        arguments = quantization.load_arguments()
        if self._may_be_unfit():
            bare = capability.skeleton(
                capability.settings_of(self.folder, self.trusts_code), self.trusts_code
            )
            quantization.leave(arguments, left_plain(quantization, bare, self.target.device.type))
        return arguments

    def _may_be_unfit(self) -> bool:
        """Whether layers may have sizes that the choice cannot take: by the headers, or because
        there are none to read."""
        if type(self.plan.mix.base).unfit is QuantizationConfig.unfit:
            return False
        return self.plan.reach is None or bool(self.plan.reach.unfit)
