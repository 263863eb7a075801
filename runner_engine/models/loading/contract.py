"""The contract of a way of loading, which is what most of them do: transformers reads a
checkpoint."""

from __future__ import annotations

from typing import Any

from runner_engine.checkpoints.resolve import for_transformers
from runner_engine.models import capability
from runner_engine.models.target import Target
from runner_engine.settings.model import Attention

Report = dict[str, Any]  # the names of tensors: `missing_keys`, and `unexpected_keys`


class WayOfLoading:
    """How the weights of a model come in. Each step is called once, in this order."""

    merged: Any = None  # the report on an adapter that is merged before the model is quantized

    def __init__(self, target: Target) -> None:
        self.target, self.plan, self.resolved = target, target.plan, target.plan.resolved
        self.folder = self.plan.files.path  # or a .gguf file
        self.trusts_code = self.plan.files.model.trust_remote_code
        self.device = target.device  # where the weights go at first

    def prepare(self) -> dict[str, Any]:
        """Return what `from_pretrained` is told of the quantization; ConfigError before any weight
        is read."""
        return {}

    def read(self, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
        """Return the model, and which of its tensors the files lack or have besides.

        arguments: those of `prepare`. scaled: the config with another scaling of rope; None: the
        model's own.
        """
        from transformers import AutoModelForCausalLM

        location, settings = for_transformers(self.folder, self.trusts_code)
        settings |= {"dtype": self.target.dtype, **arguments}
        if self.target.places:
            settings["max_memory"] = self.target.places
        if self.plan.attention is not Attention.auto:
            settings["attn_implementation"] = self.plan.attention.value
        settings["device_map"] = self.resolved.files.model.device_map or {"": self.device}
        if scaled is not None:
            settings.setdefault("config", scaled)
        loaded: Any = AutoModelForCausalLM.from_pretrained(location, **settings, output_loading_info=True)
        model, report = loaded
        return model, report

    def finish(self, model: Any) -> Any:
        """Return the model as it runs, where its layers are quantized after the load."""
        return model

    def own_settings(self, scaled: Any) -> Any:
        """Return the model's config, or the one with another scaling of rope."""
        return scaled or capability.settings_of(self.folder, self.trusts_code)
