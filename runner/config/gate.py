"""Config keys of the release gate that decides after a grid (runner/grid/grid_gate.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from runner_base import ValueConstraint, check_config_values, check_value, config_field, not_blank

MARGIN = ValueConstraint(
    lambda text: re.fullmatch(r"(?=.*[1-9])\d*\.?\d+(nats|%)?", text) is not None,
    "give points of accuracy (2), nats per token (0.01nats) or percent of speed and memory (5%)",
)


def resolve_early_stop_key(key: str, *, _parent_: Any, _root_: Any) -> Any:
    """Resolve `${early_stop_from_gate:KEY}` to a key of the gate.

    The value is null if the gate has a policy, because the tests of a policy need fixed numbers of questions,
    or if the questions are not independent. Then jobs answer all questions.
    """
    from omegaconf import OmegaConf  # jobs of other processes need no composition

    schema: Any = OmegaConf.get_type(_parent_)
    is_possible = _root_.gate.policy is None and all(
        _has_value(_parent_, name, value) for name, value in schema.early_stop_needs.items()
    )
    return _root_.gate[key] if is_possible else None


def _has_value(task: Any, name: str, value: Any) -> bool:
    """Whether a key has this value. A key that its data set sets fits early stopping, so it always counts as equal."""
    return bool(task._get_node(name)._is_interpolation() or task[name] == value)


@dataclass
class GateConfig:
    """Config of the gate: a null baseline means no gate.

    `conf/task/` copies the baseline and the margin to the keys of early stopping.
    """

    baseline: str | None = config_field(
        None, constraint=not_blank("name the baseline, e.g. quantization=none")
    )
    margin: str | None = config_field(None, constraint=MARGIN)  # as --margin of runner-compare gate
    policy: Any = None  # a file or its content, as --policy
    each: bool = False

    def __post_init__(self) -> None:
        check_config_values("gate", self)
        need = "no baseline is set. Set gate.baseline, e.g. quantization=none, or omit this key"
        for key, value in (("margin", self.margin), ("policy", self.policy), ("each", self.each or None)):
            check_value(
                value is None or self.baseline is not None, f"gate.{key}", value, need, code="no_effect"
            )
        need = "give a file, or rules with the keys must and should"
        is_valid = self.policy is None or isinstance(self.policy, str | dict)
        check_value(is_valid, "gate.policy", self.policy, need, code="bad_value")
        need = "the policy file sets the margins. Omit this key"
        is_valid = not isinstance(self.policy, str) or self.margin is None
        check_value(is_valid, "gate.margin", self.margin, need, code="conflict")
        need = "no margin is set. Add the accepted loss, e.g. gate.margin=2 for 2 points of accuracy"
        check_value(
            self.baseline is None or self.margin is not None or self.policy is not None,
            "gate.baseline",
            self.baseline,
            need,
            code="missing",
        )
