"""Common code for compressed-tensors formats, whose configs define groups of layers with equal settings."""

from __future__ import annotations

from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.grouped import GroupedConfig

BEYOND = ("kv_cache_scheme", "transform_config")


class CompressedTensorsConfig(GroupedConfig):
    """A compressed-tensors checkpoint whose layer groups all have the same format."""

    method: ClassVar[str] = "compressed-tensors"
    form: ClassVar[str] = ""  # `format` in config.json

    @classmethod
    def matches_config(cls, stored_config: dict[str, Any]) -> bool:
        """Whether every layer group in a quantization_config has this format."""
        return stored_config.get("quant_method") == cls.method and list_layer_group_formats(
            stored_config
        ) == {cls.form}

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return a note if a feature, a layer group or the combination of groups is unsupported.
        None otherwise.
        """
        if problem := find_unsupported_feature(stored_config):
            return problem
        groups = list(stored_config["config_groups"].values())
        for group in groups:
            weights = group.get("weights") if isinstance(group, dict) else None
            if not isinstance(weights, dict):
                return note("group_without_weights")
            if group.get("output_activations"):
                return note("outputs_quantized")
            if problem := cls.find_weight_problem(weights):
                return problem
            if (rows := group.get("input_activations")) and not isinstance(rows, dict):
                return note("rows_no_object", rows=rows)
            if rows and (problem := cls.find_activation_problem(rows)):
                return problem
        return cls.find_combination_problem(groups)

    @classmethod
    def find_weight_problem(cls, weight_settings: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return the reason why the weight settings of a layer group are unsupported, or None."""
        return None

    @classmethod
    def find_activation_problem(cls, activation_settings: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return the reason why the activation settings of a layer group are unsupported, or None."""
        return None

    @classmethod
    def find_combination_problem(cls, layer_groups: list[dict[str, Any]]) -> Note | None:
        """Return the reason why the combination of layer groups is unsupported, or None."""
        if len({read_activation_quantization_mode(group) for group in layer_groups}) > 1:
            return note("rows_of_groups_differ")
        return None


def list_layer_group_formats(stored_config: dict[str, Any]) -> set[str]:
    """Return the set of formats that the layer groups of a quantization_config have."""
    groups = stored_config.get("config_groups")
    listed = list(groups.values()) if isinstance(groups, dict) else []
    return {
        str((one.get("format") if isinstance(one, dict) else None) or stored_config.get("format"))
        for one in listed
    }


def read_activation_quantization_mode(layer_group: dict[str, Any]) -> str:
    rows = layer_group.get("input_activations")
    if not rows:
        return ""
    dynamic = rows.get("dynamic")
    return "dynamic" if dynamic is True else "local" if dynamic == "local" else "static"


def select_settings(settings: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Select some settings by name, and fill missing ones with the given defaults."""
    return {key: settings.get(key, default) for key, default in defaults.items()}


def build_unsupported_settings_note(subject: str, settings: dict[str, Any], supported: Note) -> Note:
    return note("kind_not_read", what=subject, found=settings, reads=supported)


def find_unsupported_feature(stored_config: dict[str, Any]) -> Note | None:
    """Return a note if the checkpoint uses an unsupported feature, such as sparsity. None otherwise."""
    for key in BEYOND:
        if stored_config.get(key):
            return note("has_unread_key", key=key)
    sparsity = stored_config.get("sparsity_config")
    is_dense = not sparsity or (isinstance(sparsity, dict) and sparsity.get("format") == "dense")
    return None if is_dense else note("has_unread_key", key="sparsity_config")
