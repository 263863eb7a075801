"""Words for effects: each method has its entry, and its effects have the fields that the entry uses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runner.compare.columns import ratio_columns
from runner.compare.data import Run, Table, TableRow
from runner.compare.effect_words import (
    METHODS,
    REPEATS,
    MethodWords,
    Quantity,
    detectable,
    legend,
    pairs_of,
    quantity,
    records,
    sentence,
    value_of,
)
from runner.core.effects import (
    Effect,
    Method,
    judge,
    paired_accuracies,
    paired_likelihoods,
    paired_means,
    paired_numbers,
    ratio_of_medians,
    sequential_accuracies,
    unpaired_accuracies,
)
from runner.core.metrics import Better

EFFECTS = [
    paired_accuracies(3, 1, 100, 50),
    paired_means([0.5, 0.0, -0.25, 1.0] * 2, [1, 1, 2, 3, 4, 5, 6, 7], "template", 4, 5),
    unpaired_accuracies(40, 80, 50, 100),
    sequential_accuracies([(True, True), (True, False)]),
    paired_likelihoods([0.1, -0.3, 0.2], [3.0, 5.0, 2.0], "token"),
    paired_numbers("f1", [0.1, -0.3, 0.2], [1.0, 1.0, 1.0], Better.higher, (0.5, 0.5)),
    ratio_of_medians("load_s", [2.0, 3.0], [1.0, 1.5]),
]


def row(effect: Effect) -> TableRow:
    base = TableRow(Run("base", "base", "any", "1", "", {}, {}), {})
    return TableRow(Run("run", "run", "any", "1", "", {}, {}), {}, baseline=base, effects=[effect])


def test_every_method_has_words_and_an_effect_here() -> None:
    assert set(METHODS) == set(Method) == {it.method for it in EFFECTS}


def test_only_repeats_are_said_to_be_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ratio_of_medians("load_s", [2.0, 3.0], [1.0, 1.5])
    assert "2 repeats a side cannot show a difference" in sentence(row(few), [])
    counted = Quantity(record_key=REPEATS.record_key, keys=REPEATS.keys, write=REPEATS.write, counted="words")
    monkeypatch.setitem(METHODS, Method.fisher, MethodWords(counted, sample="{n}/{baseline_n}"))
    other = replace(few, method=Method.fisher, measure="words")
    assert sentence(row(other), []) == ""
    heads = {
        len(rows): ratio_columns(Table("any", [], rows))[3].head for rows in ([row(other)], [row(few), row(other)])
    }
    assert heads == {1: "words", 2: "repeats/words"}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda it: it.method)
def test_what_is_written_and_recorded_of_an_effect(effect: Effect) -> None:
    judge([effect])
    record_by_key = records(row(effect))
    record = record_by_key["ratios"][0] if effect.is_ratio else record_by_key[quantity(effect).record_key]
    assert list(record) == quantity(effect).keys.split()
    assert json.loads(json.dumps(record))["finding"] == "no difference shown"
    assert " [" in value_of(effect)
    assert METHODS[effect.method].quantity.legend[0].split("{")[0] in legend([effect])
    text = sentence(row(effect), [])
    assert text.startswith("run vs base") or (effect.is_ratio and text == "")
    assert "{" not in text + pairs_of(effect) + detectable(effect) + legend([effect])
