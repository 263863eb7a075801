"""Tables and sentences call an adapter by its own name; where names are equal, they say more."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.adapter_names import replace_adapter_keys_by_names
from runner_compare.model.data import Run, TableRow
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.selection import has_values

KEYS = ["lora.name", "lora.path"]
MERGING = ["lora.merge", "lora.merge_order"]


def run(number: int, rank: float = 8, **params: str) -> Run:
    own = {f"lora.{key}": value for key, value in params.items()}
    return Run(f"r{number}", f"j{number}", "gsm8k", "1", "", own, {"lora_rank": rank})


def named(*runs: Run, by: Sequence[str] = KEYS) -> tuple[list[str], list[str | None]]:
    rows = [TableRow(one, {key: one.get_value(key) for key in by}) for one in runs]
    keys = replace_adapter_keys_by_names(by, rows)
    return keys, [row.config["lora.name"] for row in rows]


def test_an_adapter_is_called_by_its_name() -> None:
    runs = (
        run(0, name="none"),
        run(1, name="peft", path="embedded"),
        run(2, name="peft", path="/runs/polite/final"),
    )
    assert named(*runs) == (["lora.name"], ["none", "embedded", "polite"])
    assert has_values(runs[2], {"lora.name": "polite"})
    assert has_values(runs[2], {"lora.name": "peft"})
    assert not has_values(runs[1], {"lora.name": "polite"})
    assert not has_values(runs[0], {"lora.name": "polite"})


def test_format_rank_and_revision_tell_equal_names_apart() -> None:
    runs = run(1, name="peft", path="embedded"), run(2, name="pth", path="embedded")
    assert named(*runs) == (["lora.name"], ["embedded (peft)", "embedded (pth)"])
    runs = run(1, name="peft", path="/a/polite"), run(2, 16, name="peft", path="/b/polite")
    assert named(*runs) == (["lora.name"], ["polite (rank 8)", "polite (rank 16)"])
    runs = (run(1, name="peft", path="org/polite"), run(2, name="peft", path="org/polite", revision="v2"))
    assert named(*runs) == (["lora.name"], ["org/polite", "org/polite@v2"])


def test_where_nothing_tells_them_apart_the_paths_stay() -> None:
    runs = run(1, name="peft", path="/a/polite"), run(2, name="peft", path="/b/polite")
    assert named(*runs) == (KEYS, ["polite", "polite"])


def adapter(number: int, merge: str, order: str = "null", path: str = "/a/polite") -> Run:
    return run(number, name="peft", path=path, merge=merge, merge_order=order)


def test_how_an_adapter_is_merged_is_a_part_of_its_name_where_rows_differ_in_it() -> None:
    runs = (
        adapter(0, "false"),
        adapter(1, "true"),
        adapter(2, "true", "merge_first"),
        adapter(3, "true", "quantize_first"),
        run(4, name="none"),
    )
    assert named(*runs, by=["quantization.name", *KEYS, *MERGING, "seed"]) == (
        ["quantization.name", "lora.name", "seed"],
        [
            "polite unmerged",
            "polite merged",
            "polite merged before quantizing",
            "polite merged after quantizing",
            "none",
        ],
    )
    same = named(*runs[2:4], by=["lora.merge_order"])
    assert same == (["lora.name"], ["polite merged before quantizing", "polite merged after quantizing"]), (
        "one adapter in all rows: it is named nevertheless"
    )
    two = (adapter(0, "true"), adapter(1, "true", path="/a/rude"))
    assert named(*two) == (["lora.name"], ["polite", "rude"]), "all are merged: no need to say so"


def test_how_an_adapter_is_merged_stays_in_the_records() -> None:
    row = TableRow(merged := adapter(0, "true"), {key: merged.get_value(key) for key in MERGING})
    replace_adapter_keys_by_names(MERGING, [row])
    assert row.config["lora.merge"] == "true"


def test_jobs_of_before_the_keys_of_merging_differ_in_none_of_them() -> None:
    old = {"lora.name": "peft", "lora.path": "a", "lora.merge": "true"}
    new = old | {"lora.merge_order": "null", "lora.merge_dtype": "auto", "lora.revision": "null"}
    assert KeyRules().find_differing_keys([old, new]) == []
    assert KeyRules().find_differing_keys([old, new | {"lora.merge_dtype": "float32"}]) == [
        "lora.merge_dtype"
    ]
