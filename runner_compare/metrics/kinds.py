"""What a metric is: unit, label, number format, which direction is better, how several runs are
pooled.

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


class Better(Enum):
    """Which direction of a metric is better, as the sign of an improvement."""

    higher = 1
    lower = -1
    neither = 0


class Pooling(StrEnum):
    """How the values of several runs become one."""

    sum = "sum"
    mean = "mean"
    max = "max"
    per_token = "per_token"  # the speed over all tokens of all runs
    weighted = "weighted"  # the mean, where each run counts by its `tokens`
    dropped = "dropped"  # it follows from other metrics, or has no meaning over several runs


@dataclass(frozen=True)
class Metric:
    """One number that tasks measure, or that a plug-in computes from a job's samples."""

    key: str
    label: str  # without the unit
    unit: str = ""
    form: str = ""  # Python's format specification; empty: as many digits as help
    better: Better = Better.neither
    pooling: Pooling = Pooling.mean
    # for pooling per token and weighted: the metric that counts the tokens, or what else it is of
    tokens: str = ""
    axis_words: str = ""  # the text on a picture's axis, if the label is too short
    head_words: str = ""  # the head of a narrow column, if the label does not fit
    # a plug-in's: from the answers that count
    of_samples: Callable[[Sequence[Sample]], float] | None = None

    @property
    def title(self) -> str:
        """The label with the unit, for the head of a column."""
        return f"{self.label} {self.unit}".strip()

    @property
    def head(self) -> str:
        """The label over the unit, for the head of a narrow column."""
        return self.head_words or "\n".join(self.title.rsplit(" ", 1))

    @property
    def axis(self) -> str:
        """The label for a picture's axis."""
        return self.axis_words or ", ".join(filter(None, (self.label, self.unit)))

    def write(self, value: float) -> str:
        """Return a value as text, without the unit."""
        return format(value, self.form) if self.form else number(value)


Metric.__module__ = "runner_compare.metrics"  # as messages name it: others take it from the door


def number(value: float) -> str:
    """Write a number with as many digits as help."""
    if value % 1 == 0:  # false for infinity and NaN
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def metric(key: str, label: str = "", form: str = "", **special: Any) -> Metric:
    """Describe a metric; what is not given follows from the unit."""
    suffix = next((suffix for suffix in UNITS if key.endswith(suffix)), "")
    unit = UNITS.get(suffix, "")
    better = Better.neither
    if unit:
        better = Better.higher if unit.endswith("/s") else Better.lower
    plain: dict[str, Any] = {
        "unit": unit,
        "label": label or key.removesuffix(suffix).replace("_", " "),
        "better": better,
        "pooling": Pooling.max if unit == "MiB" else Pooling.mean,
    }
    return Metric(key=key, form=form, **(plain | special))


def with_ends(key: str, label: str, form: str, better: Better, **special: Any) -> list[Metric]:
    """Describe a number and the ends of its interval, which belong to one run and are not
    pooled."""
    about = {"form": form, "better": better, "pooling": Pooling.dropped, **special}
    ends = [
        metric(key + end, label and label + end.replace("_", " "), **about | {"head_words": ""})
        for end in ENDS[1:]
    ]
    return [metric(key, label, **about), *ends]


def counts(better: Better, *keys: str) -> list[Metric]:
    """Describe counts that add up over runs."""
    return [metric(key, form=",.0f", better=better, pooling=Pooling.sum) for key in keys]
