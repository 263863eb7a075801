"""The JSON output agrees with the schema that the package ships, and every key of it is described
there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compared import KEYS, rows_of
from json_schema import SCHEMA, faults
from stores import NF4, NONE, Store, marks

from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Table
from runner_compare.render.output import FORMATS
from runner_compare.statistics import SignFlipTest
from tools import compare_json

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


def disagreements(show: Any, experiment: str, *arguments: str) -> list[str]:
    _, out, err = show(experiment, "--format", "json", *arguments)
    assert out, err
    return list(faults(json.loads(out), SCHEMA))


@pytest.mark.thorough
def test_accuracies_with_all_options(grid: Store, show: Any) -> None:
    arguments = ["--baseline", "quantization=none", "--margin", "2"]
    assert disagreements(show, "grid") == []
    assert disagreements(show, "grid", *arguments, "--plan-questions", "margin=2") == []
    assert disagreements(show, "grid", *arguments, "--require", "margin=2 model_mib<4000") == []
    assert disagreements(show, "grid", "--flips", "none-test", "nf4-test") == []
    assert disagreements(show, "grid", *arguments, "--pool") == []
    assert disagreements(show, "grid", *arguments, "--metric", "characters") == []
    assert (
        disagreements(show, "grid", "--runs", "none-test", "nf4-train", "--baseline", "quantization=none")
        == []
    )


@pytest.mark.thorough
def test_repeats_and_rows_that_cannot_be_paired(store: Store, show: Any) -> None:
    for name, config, load_s in (("m-none", NONE, 1.0), ("m-nf4", NF4, 2.0)):
        repeats = [{"measure": "load_s", "repeat": it, "value": load_s + it / 100} for it in range(4)]
        tags = {"task": "memory"}
        store.job(
            "measured",
            name,
            {**config, "task.name": "memory", "task.repeats": "4"},
            tags=tags,
            repeats=repeats,
        )
    assert disagreements(show, "measured", "--baseline", "quantization=none") == []
    store.job("apart", "base", NONE, marks(50, 100))
    store.job("apart", "fewer", NF4, marks(50, 80))
    assert disagreements(show, "apart", "--baseline", "quantization=none", "--unpaired") == []


def test_likelihoods() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    out = io.StringIO()
    FORMATS["json"](
        Comparison([Table("likelihood", KEYS, rows_of(likelihood, margins={"log_likelihood": 0.01}))]), out
    )
    assert json.loads(out.getvalue())["tables"][0]["rows"][1]["shift"]["samples"] == 21
    assert list(faults(json.loads(out.getvalue()), SCHEMA)) == []


def test_a_disagreement_is_found() -> None:
    document = {"tables": [{"task": 3, "surprise": 1}], "requirements": []}
    found = list(faults(document, SCHEMA))
    assert "$.tables[0].task: 3 is no string" in found
    assert "$.tables[0].surprise is not described" in found
    assert "$.tables[0].rows is missing" in found
    assert list(faults({"finding": "fine"}, {"properties": {"finding": {"enum": ["better"]}}})) != []


def test_every_key_is_explained_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare_json.md").read_text(encoding="utf-8")

    def keys(schema: dict[str, Any]) -> Iterator[str]:
        for key, part in schema.get("properties", {}).items():
            yield key
            yield from keys(part)
        for name in ("items", "additionalProperties"):
            if name in schema:
                yield from keys(schema[name])

    assert [key for key in keys(SCHEMA) if f"`{key}`" not in page] == []


def test_the_page_is_that_of_the_schema() -> None:
    assert compare_json.PAGE.read_text(encoding="utf-8") == compare_json.page()
