"""Rows of adapters are called by what tells them apart, in tables and in sentences: which adapter,
whether it is merged, and before or after quantizing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
ORDERS = ("merge_first", "quantize_first")


def adapter(name: str, merge: str = "false", order: str = "null") -> dict[str, str]:
    return {
        "lora.name": "peft",
        "lora.path": f"/adapters/{name}/final",
        "lora.merge": merge,
        "lora.merge_order": order,
    }


@pytest.fixture(scope="module")
def study(store: Store) -> Store:
    """Two adapters, each unmerged and merged, of weights in 16 bits and of quantized ones."""
    store.job("adapters", "plain", NONE, marks(80, 100))
    for name in ("polite", "rude"):
        for of_weights, merged in ((NONE, ["null"]), (NF4, ORDERS)):
            ways = [adapter(name), *(adapter(name, "true", order) for order in merged)]
            for number, way in enumerate(ways):
                job = f"{name}-{of_weights['quantization.name']}-{number}"
                store.job("adapters", job, of_weights | way, marks(80, 100, 10 * number))
    return store


def heads(out: str) -> list[str]:
    """Return the names in the sentences about rows."""
    lines = (line for line in out.splitlines() if line.startswith("• ") and " (n=" in line)
    return [line.removeprefix("• ").partition(" (n=")[0] for line in lines]


@pytest.mark.thorough
@pytest.mark.usefixtures("study")
def test_sentences_name_the_adapter_and_how_it_is_merged(show: Any) -> None:
    where = ["--where", "lora.path == '/adapters/polite/final' and quantization.name == 'nf4'"]
    code, out, _ = show("adapters", *where, "--baseline", "lora.merge=false,lora.merge_order=null")
    assert code == 0
    assert heads(out) == [
        "polite merged after quantizing vs polite unmerged",
        "polite merged before quantizing vs polite unmerged",
    ]
    _, _, below = out.partition("\n")  # the title has the baseline as the user wrote it
    for written in ("lora.merge", "null", "peft"):
        assert written not in below


@pytest.mark.usefixtures("study")
def test_each_row_of_a_table_has_its_name_and_stands_below_its_baseline(show: Any) -> None:
    where = ["--where", "quantization.name == 'nf4'"]
    code, out, _ = show(
        "adapters", "--format", "json", *where, "--baseline", "lora.merge=false,lora.merge_order=null"
    )
    assert code == 0
    (table,) = json.loads(out)["tables"]
    names = [row["config"]["lora.name"] for row in table["rows"]]
    assert names == [
        f"{name} {how}"
        for name in ("polite", "rude")
        for how in ("unmerged", "merged after quantizing", "merged before quantizing")
    ]
    assert len({*names}) == len(names)
    assert {row["config"]["lora.merge"] for row in table["rows"]} == {"true", "false"}


@pytest.mark.thorough
@pytest.mark.usefixtures("study")
def test_beside_a_model_without_an_adapter_all_rows_have_names_of_their_own(show: Any) -> None:
    code, out, _ = show("adapters", "--baseline", "lora=none,quantization=none")
    assert code == 0
    assert "quantization=nf4, lora=rude merged before quantizing vs quantization=none, lora=none" in out
    assert any("polite merged" in head and " vs none on " in head for head in heads(out))
    assert len({*heads(out)}) == len(heads(out))


@pytest.mark.thorough
def test_settings_that_are_pooled_over_tasks_have_the_same_names(store: Store, show: Any) -> None:
    for split in ("test", "hard"):
        of_split = NONE | {"task.split": split}
        for number, merge in enumerate(("false", "true")):
            config = of_split | adapter("polite", merge)
            store.job(
                "pooled adapters", f"{split}-{merge}", config, marks(80, 100, 6 * number),
                questions=split,
            )  # fmt: skip
    code, out, _ = show("pooled adapters", "--baseline", "lora.merge=false", "--pool")
    assert code == 0
    assert "• polite merged vs polite unmerged over 2 sets (n=" in out
