"""Tables over several tasks: what accuracy and likelihood each say of the same model, and what each profile takes."""

from __future__ import annotations

from runner.compare.columns import Column, accuracy_of, measured
from runner.compare.data import ABSENT, Run, Table, TableRow, label
from runner.compare.effect_words import difference_of
from runner.compare.wording import number
from runner.config.profiles import NONE, PROFILES

OF_MODEL = ("model.", "quantization.", "lora.", "rope.")
BESIDE = ("kl_nats_per_token", "top_1_agreement", "model_mib", "decode_tok_per_s")
SPEEDS = ("decode_tok_per_s", "best_decode_tok_per_s", "output_tok_per_s", "best_output_tok_per_s")


def tables_across(tables: list[Table]) -> dict[str, list[Column]]:
    """Return the columns of each table over several tasks for which there is something to compare, by its title."""
    found = {"accuracy and likelihood": accuracy_and_likelihood(tables), "profiles": profiles(tables)}
    return {title: columns for title, columns in found.items() if columns}


def accuracy_and_likelihood(tables: list[Table]) -> list[Column]:
    """Return the columns of a table with a line for each pair of rows of one model; none where there is no pair."""
    scored = [row for table in tables if table.scored for row in table.rows]
    likely = [row for table in tables if table.unit == "token" for row in table.rows]
    pairs = [(one, other) for one in scored for other in likely if model_of(one) == model_of(other)]
    if len(pairs) < 2:
        return []
    keys = [key for table in tables if table.scored for key in table.keys]
    names = [[_word(one, key) for one, _ in pairs] for key in keys]
    return [
        *(Column(label(key), words, False) for key, words in zip(keys, names, strict=True)),
        Column("accuracy", [accuracy_of(one) for one, _ in pairs]),
        Column("Δ points", [difference_of(one) for one, _ in pairs]),
        Column("it says", [_finding(one) for one, _ in pairs], False),
        Column("Δ nats/token", [difference_of(other) for _, other in pairs]),
        Column("it says", [_finding(other) for _, other in pairs], False),
        *measured_columns(pairs),
    ]


def measured_columns(pairs: list[tuple[TableRow, TableRow]]) -> list[Column]:
    """Return what was measured of each pair: by its job of likelihoods, and speed by that which generates."""
    found = []
    for name in BESIDE:
        runs = [next((run for run in (one.run, other.run) if name in run.metrics), one.run) for one, other in pairs]
        if any(name in run.metrics for run in runs):
            found.append(measured(name, runs))
    return found


def model_of(row: TableRow) -> tuple[tuple[str, str], ...]:
    """Return the keys and values that say which model a run had."""
    return tuple(sorted((key, value) for key, value in row.run.params.items() if key.startswith(OF_MODEL)))


def _finding(row: TableRow) -> str:
    return row.effect.finding if row.effect else ""


def _word(row: TableRow, key: str) -> str:
    value = row.config.get(key)
    return ABSENT if value is None else value


def profiles(tables: list[Table]) -> list[Column]:
    """Return the columns of profile | memory | load time | speed | suits; none where there is nothing to compare."""
    order = [name for name in PROFILES if name != NONE]
    runs = [row.run for table in tables for row in table.rows if row.run.params.get("profile") in order]
    runs.sort(key=lambda run: (order.index(run.params["profile"]), run.params.get("model.name", ""), run.task))
    names = [run.params["profile"] for run in runs]
    if len(set(names)) < 2:
        return []
    found = [Column("profile", names, False)]
    if len(set(names)) < len(names):  # of several models, or by several tasks
        found.append(Column("job", [run.job_id for run in runs], False))
    found.append(Column("memory\nMiB", [_metric(run, "peak_rss_mib") for run in runs]))
    if any("cuda_peak_mib" in run.metrics for run in runs):
        found.append(Column("GPU\nMiB", [_metric(run, "cuda_peak_mib") for run in runs]))
    return [
        *found,
        Column("load\ns", [_metric(run, "load_s") for run in runs]),
        Column("speed\ntok/s", [_speed(run) for run in runs]),
        Column("suits", [PROFILES[name].suits for name in names], False),
    ]


def _metric(run: Run, name: str) -> str:
    return number(run.metrics.get(name)) if name in run.metrics else ABSENT


def _speed(run: Run) -> str:
    """Return how quick the answers come: tokens a second while decoding, or of whole answers of a server."""
    if name := next((name for name in SPEEDS if name in run.metrics), None):
        return number(run.metrics[name])
    tokens, seconds = run.metrics.get("new_tokens"), run.metrics.get("seconds")
    return f"{number(tokens / seconds)} answered" if tokens and seconds else ABSENT
