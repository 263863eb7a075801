"""What the formats of compressed-tensors have in common: groups of layers, each with settings of
weights and rows."""

from __future__ import annotations

from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.grouped import GroupedConfig

BEYOND = ("kv_cache_scheme", "transform_config")


class CompressedConfig(GroupedConfig):
    """A checkpoint of compressed-tensors, all of whose groups of layers are in one format."""

    method: ClassVar[str] = "compressed-tensors"
    form: ClassVar[str] = ""  # `format` in config.json

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Whether each group of layers is in this format."""
        return stored.get("quant_method") == cls.method and forms_of(stored) == {cls.form}

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Return what the runner does not read: of the whole checkpoint, of a group, or of several
        together."""
        if problem := beyond_weights(stored):
            return problem
        groups = list(stored["config_groups"].values())
        for group in groups:
            weights = group.get("weights") if isinstance(group, dict) else None
            if not isinstance(weights, dict):
                return note("group_without_weights")
            if group.get("output_activations"):
                return note("outputs_quantized")
            if problem := cls.problem_of(weights):
                return problem
            if (rows := group.get("input_activations")) and not isinstance(rows, dict):
                return note("rows_no_object", rows=rows)
            if rows and (problem := cls.problem_of_rows(rows)):
                return problem
        return cls.problem_of_several(groups)

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return why the weights of a group cannot be read; None if they can."""
        return None

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return why the rows of a group cannot be rounded as it wants; None if they can."""
        return None

    @classmethod
    def problem_of_several(cls, groups: list[dict[str, Any]]) -> Note | None:
        """Return why these groups cannot be read together; None if they can."""
        if len({rows_of(group) for group in groups}) > 1:
            return note("rows_of_groups_differ")
        return None


def forms_of(stored: dict[str, Any]) -> set[str]:
    """Return the formats of the groups of layers; empty if there are none."""
    groups = stored.get("config_groups")
    listed = list(groups.values()) if isinstance(groups, dict) else []
    return {
        str((one.get("format") if isinstance(one, dict) else None) or stored.get("format")) for one in listed
    }


def rows_of(group: dict[str, Any]) -> str:
    """Return how a group's rows are quantized: dynamic, local, static, or not at all (empty)."""
    rows = group.get("input_activations")
    if not rows:
        return ""
    dynamic = rows.get("dynamic")
    return "dynamic" if dynamic is True else "local" if dynamic == "local" else "static"


def keys_of(settings: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return some keys of the settings of weights or rows."""
    return {key: settings.get(key, default) for key, default in defaults.items()}


def unread(what: str, found: dict[str, Any], reads: Note) -> Note:
    """Return that weights or rows of this kind are not read, and which are."""
    return note("kind_not_read", what=what, found=found, reads=reads)


def beyond_weights(stored: dict[str, Any]) -> Note | None:
    """Return what compressed-tensors would do besides reading quantized layers; None if nothing."""
    for key in BEYOND:
        if stored.get(key):
            return note("has_unread_key", key=key)
    sparsity = stored.get("sparsity_config")
    is_dense = not sparsity or (isinstance(sparsity, dict) and sparsity.get("format") == "dense")
    return None if is_dense else note("has_unread_key", key="sparsity_config")
