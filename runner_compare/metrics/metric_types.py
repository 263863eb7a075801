"""Types that define a metric: unit, label, number format, better direction and pooling rule.

Names contain units (`peak_rss_mib`, `load_s`), so the unit follows from the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from runner_base import Sample

ENDS = ("", "_low", "_high")  # of a number and its 95 % interval
UNITS = {"_tok_per_s": "tok/s", "_mib_per_s": "MiB/s", "_gb_per_s": "GB/s", "_gflop_per_s": "GFLOP/s",
         "_requests_per_s": "requests/s", "_j_per_token": "J/token", "_j": "J", "_wh": "Wh", "_w": "W",
         "_mib": "MiB", "_s": "s", "_nats": "nats"}  # fmt: skip
SPREADS = ("_min", "_max")  # the lowest and the highest of several repeats


class BetterDirection(Enum):
    """Whether higher or lower values are better. The enum value is the sign of an improvement."""

    higher = 1
    lower = -1
    neither = 0


class PoolingRule(StrEnum):
    """How a metric's values from several runs are combined into one."""

    sum = "sum"
    mean = "mean"
    max = "max"
    per_token = "per_token"  # the speed over all tokens of all runs
    weighted = "weighted"  # the mean, where each run counts by its `tokens`
    dropped = "dropped"  # it follows from other metrics, or has no meaning over several runs


@dataclass(frozen=True)
class Metric:
    """Definition of a metric that tasks or plug-ins compute."""

    key: str
    label: str  # without the unit
    unit: str = ""
    form: str = ""  # Python's format specification; empty: as many digits as help
    better: BetterDirection = BetterDirection.neither
    pooling: PoolingRule = PoolingRule.mean
    # for pooling per token and weighted: the metric that counts the tokens, or what else it is of
    tokens: str = ""
    axis_words: str = ""  # the text on a picture's axis, if the label is too short
    head_words: str = ""  # the head of a narrow column, if the label does not fit
    # a plug-in's: from the answers that count
    of_samples: Callable[[Sequence[Sample]], float] | None = None

    @property
    def title(self) -> str:
        """Label with unit, for a column heading."""
        return f"{self.label} {self.unit}".strip()

    @property
    def head(self) -> str:
        """Label with the unit on a second line, for a narrow column heading."""
        return self.head_words or "\n".join(self.title.rsplit(" ", 1))

    @property
    def axis_label(self) -> str:
        return self.axis_words or ", ".join(filter(None, (self.label, self.unit)))

    def format_value(self, value: float) -> str:
        return format(value, self.form) if self.form else format_number(value)


Metric.__module__ = "runner_compare.metrics"  # as messages name it: others take it from the door


def format_number(value: float) -> str:
    """Format an integer exactly, and other numbers with about four significant digits."""
    if value % 1 == 0:  # false for infinity and NaN
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def define_metric(key: str, label: str = "", form: str = "", **special: Any) -> Metric:
    """Create a metric definition. Omitted properties are derived from the unit."""
    suffix = next((suffix for suffix in UNITS if key.endswith(suffix)), "")
    unit = UNITS.get(suffix, "")
    better = BetterDirection.neither
    if unit:
        better = BetterDirection.higher if unit.endswith("/s") else BetterDirection.lower
    plain: dict[str, Any] = {
        "unit": unit,
        "label": label or key.removesuffix(suffix).replace("_", " "),
        "better": better,
        "pooling": PoolingRule.max if unit == "MiB" else PoolingRule.mean,
    }
    return Metric(key=key, form=form, **(plain | special))


def define_metric_with_interval(
    key: str, label: str, number_format: str, better: BetterDirection, **overrides: Any
) -> list[Metric]:
    """Create definitions of a metric and the ends of its interval.

    These metrics are not pooled over runs.
    """
    about = {"form": number_format, "better": better, "pooling": PoolingRule.dropped, **overrides}
    ends = [
        define_metric(key + end, label and label + end.replace("_", " "), **about | {"head_words": ""})
        for end in ENDS[1:]
    ]
    return [define_metric(key, label, **about), *ends]


def define_counts(better: BetterDirection, *keys: str) -> list[Metric]:
    """Create definitions of counts, which are added up over runs."""
    return [define_metric(key, form=",.0f", better=better, pooling=PoolingRule.sum) for key in keys]
