"""The table of accuracy beside likelihood: what each says of the same model, where both were measured."""

from __future__ import annotations

from runner.compare.data import ABSENT, Row, Table, label
from runner.compare.likelihood_words import difference_of, measured
from runner.compare.wording import Column, accuracy_of, points_of

OF_MODEL = ("model.", "quantization.", "lora.", "rope.")
COLUMNS = ("kl_nats_per_token", "top_1_agreement", "model_mib", "decode_tok_per_s")


def columns(tables: list[Table]) -> list[Column]:
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
        Column("Δ points", [points_of(one) for one, _ in pairs]),
        Column("it says", [one.comparison.finding if one.comparison else "" for one, _ in pairs], False),
        Column("Δ nats/token", [difference_of(other) for _, other in pairs]),
        Column("it says", [other.shift.finding if other.shift else "" for _, other in pairs], False),
        *measured_columns(pairs),
    ]


def measured_columns(pairs: list[tuple[Row, Row]]) -> list[Column]:
    """Return what was measured of each pair: by its job of likelihoods, and speed by that which generates."""
    found = []
    for name in COLUMNS:
        runs = [next((run for run in (one.run, other.run) if name in run.metrics), one.run) for one, other in pairs]
        if any(name in run.metrics for run in runs):
            found.append(measured(name, runs))
    return found


def model_of(row: Row) -> tuple[tuple[str, str], ...]:
    """Return the keys and values that say which model a run had."""
    return tuple(sorted((key, value) for key, value in row.run.params.items() if key.startswith(OF_MODEL)))


def _word(row: Row, key: str) -> str:
    value = row.config.get(key)
    return ABSENT if value is None else value
