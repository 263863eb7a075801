"""Base class of loading backends. The default implementation loads the checkpoint with transformers."""

from __future__ import annotations

from typing import Any

from runner_engine.checkpoints.resolved_model import build_from_pretrained_arguments
from runner_engine.models import load_checks
from runner_engine.models.load_target import LoadTarget
from runner_engine.settings.model import Attention

LoadingInfo = dict[str, Any]  # the names of tensors: `missing_keys`, and `unexpected_keys`


class LoadingBackend:
    """Base class for loading a model's weights. Callers use the methods in the order of their definition."""

    merged: Any = None  # the report on an adapter that is merged before the model is quantized

    def __init__(self, target: LoadTarget) -> None:
        self.target, self.plan, self.resolved = target, target.plan, target.plan.resolved
        self.folder = self.plan.files.path  # or a .gguf file
        self.trusts_code = self.plan.files.model.trust_remote_code
        self.device = target.device  # where the weights go at first

    def prepare_arguments(self) -> dict[str, Any]:
        """Return the quantization arguments for `from_pretrained`. Raises ConfigError before any weight
        is read.
        """
        return {}

    def load_model(self, arguments: dict[str, Any], rope_config: Any) -> tuple[Any, LoadingInfo]:
        """Load the model. Returns the model and a report that lists missing and unexpected tensor names.

        arguments: the result of `prepare_arguments`. rope_config: the model's config with another rope
        scaling; None keeps the model's own.
        """
        from transformers import AutoModelForCausalLM

        location, settings = build_from_pretrained_arguments(self.folder, self.trusts_code)
        settings |= {"dtype": self.target.dtype, **arguments}
        if self.target.places:
            settings["max_memory"] = self.target.places
        if self.plan.attention is not Attention.auto:
            settings["attn_implementation"] = self.plan.attention.value
        settings["device_map"] = self.resolved.files.model.device_map or {"": self.device}
        if rope_config is not None:
            settings.setdefault("config", rope_config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(location, **settings, output_loading_info=True)
        model, report = loaded
        return model, report

    def quantize_after_load(self, model: Any) -> Any:
        """Quantize the layers of a loaded model. Backends that quantize during the load return the model
        unchanged.
        """
        return model

    def load_model_config(self, rope_config: Any) -> Any:
        return rope_config or load_checks.load_transformers_config(self.folder, self.trusts_code)
