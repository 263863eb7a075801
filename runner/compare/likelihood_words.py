"""A comparison of likelihoods as text; of anything else, what wording.py says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runner.compare import wording
from runner.compare.data import ABSENT, Finding, Row, Run, Shift, Table
from runner.compare.pairing import ALPHA
from runner.compare.wording import Column, naming, number, p_value, versus
from runner.core.metrics import ENDS, LOG_LIKELIHOODS, METRICS
from runner.core.ratios import CAUTION, FLIPS

# After the comparison, and how soon a narrow terminal goes without each; 0 stays.
MEASURED = {"kl_nats_per_token": 0, "top_1_agreement": 0, "acc": 0, "acc_norm": 5, "perplexity": 3, "bits_per_byte": 4,
            "weight_mib": 2, "model_mib": 0, "peak_rss_mib": 4, "prefill_tok_per_s": 0, "load_s": 1}  # fmt: skip
WITH_INTERVAL = ("kl_nats_per_token",)


def nats(value: float) -> str:
    """Return a difference in nats: −0.00128, +0.00004."""
    return f"{value:+.5f}".replace("-", "−")


def sentence(row: Row, keys: list[str]) -> str:
    """Return one row's finding in words; empty for a baseline."""
    it = row.shift
    if it is None:
        return wording.sentence(row, keys)
    ps = f"p={p_value(it.p)}, Holm {p_value(it.p_holm)}".replace("=<", "<")
    interval = f"95 % interval {nats(it.difference_low)}..{nats(it.difference_high)}"
    text = (
        f"{versus(row, keys)} (n={it.samples:,}, {it.size:,} {it.unit}s): {it.finding} "
        f"(Δ {nats(it.difference)} nats/{it.unit}, {interval}, {ps})"
    )
    if it.finding is Finding.open and it.detectable_difference is not None:
        least = it.detectable_difference
        text += f"; a true difference of ≥ {least:.2g} nats/{it.unit} would have been seen about 4 times in 5"
    return f"{text}; {it.remark}" if it.remark else text


def summary(table: Table) -> str:
    """Return the legend under a table with comparisons."""
    shifts = [row.shift for row in table.rows if row.shift is not None]
    if not shifts:
        return wording.summary(table)
    unit = shifts[0].unit
    return (
        f"Δ of the log-likelihood in nats a {unit}, over the same {unit}s: below 0, a row finds the texts less likely "
        f"than the baseline does. p: signs of the samples' differences are flipped, each summed over its {unit}s, so "
        f"that samples count (up to {FLIPS:,} flips, all there are of few samples; the share that reaches the sum, "
        f"times {CAUTION:g}, as differences may be skewed); Holm: adjusted for the "
        f"{len(shifts)} comparison{'s' * (len(shifts) != 1)} of this table, {ALPHA:g} decides. Intervals hold 95 % "
        "each (ratio of sums over samples, Student's t)."
    ) + (
        " KL is that of the reference to the row, from the tokens that the reference has kept, or from all with "
        "task.exact=true."
        if unit == "token"
        else ""
    )


def columns(table: Table) -> list[Column]:
    """Return the columns of a table for people."""
    if table.unit is None:
        return wording.columns(table)
    rows, found, key = table.rows, naming(table), LOG_LIKELIHOODS[table.unit]
    found.append(Column("n", [number(row.run.metrics.get("n")) for row in rows]))
    found.append(Column(f"log-likelihood\nnats/{table.unit}", [_with_interval(row.run, key, ".4f") for row in rows]))
    if table.baseline:
        found += [
            Column(f"Δ nats/{table.unit}", list(map(difference_of, rows))),
            Column("p", [_of(row.shift, "p") for row in rows], leaves=8),
            Column("Holm", [_of(row.shift, "p_holm") for row in rows]),
            Column(f"could see\nnats/{table.unit}", [_could_see(row.shift) for row in rows], leaves=6),
        ]
    for name, leaves in MEASURED.items():
        if any(name in row.run.metrics for row in rows):
            found.append(measured(name, [row.run for row in rows], leaves))
    return found


def measured(name: str, runs: Sequence[Run], leaves: int = 0) -> Column:
    """Return the column of a metric, with intervals where they tell noise from a finding."""
    write = partial(_with_interval, form=".2g") if name in WITH_INTERVAL else _plain
    return Column(METRICS[name].head, [write(run, name) for run in runs], leaves=leaves)


def _plain(run: Run, name: str) -> str:
    return METRICS[name].write(run.metrics[name]) if name in run.metrics else ABSENT


def _with_interval(run: Run, name: str, form: str) -> str:
    if name not in run.metrics:
        return ABSENT
    ends = [run.metrics[f"{name}{end}"] for end in ENDS[1:] if f"{name}{end}" in run.metrics]
    interval = f" [{', '.join(format(end, form) for end in ends)}]" if ends else ""
    return f"{run.metrics[name]:{form}}{interval}".replace("-", "−")


def difference_of(row: Row) -> str:
    """Return how far a row is from its baseline, in nats a unit."""
    it = row.shift
    if it is None:
        return "baseline" if row.is_baseline else f"{ABSENT} (see below)"
    return f"{nats(it.difference)} [{nats(it.difference_low)}, {nats(it.difference_high)}]"


def _of(it: Shift | None, name: str) -> str:
    return "" if it is None else p_value(getattr(it, name))


def _could_see(it: Shift | None) -> str:
    return "" if it is None or it.detectable_difference is None else f"≥{it.detectable_difference:.2g}"
