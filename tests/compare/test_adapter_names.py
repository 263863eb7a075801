"""Tables and sentences call an adapter by its own name; where names are equal, they say more."""

from __future__ import annotations

from runner_compare.adapter_names import name_adapters
from runner_compare.data import Run, TableRow
from runner_compare.key_rules import KeyRules
from runner_compare.selection import matches

KEYS = ["lora.name", "lora.path"]


def run(number: int, rank: float = 8, **params: str) -> Run:
    own = {f"lora.{key}": value for key, value in params.items()}
    return Run(f"r{number}", f"j{number}", "gsm8k", "1", "", own, {"lora_rank": rank})


def named(*runs: Run) -> tuple[list[str], list[str | None]]:
    rows = [TableRow(one, {key: one.value(key) for key in KEYS}) for one in runs]
    keys = name_adapters(KEYS, rows)
    return keys, [row.config["lora.name"] for row in rows]


def test_an_adapter_is_called_by_its_name() -> None:
    runs = (
        run(0, name="none"),
        run(1, name="peft", path="embedded"),
        run(2, name="peft", path="/runs/polite/final"),
    )
    assert named(*runs) == (["lora.name"], ["none", "embedded", "polite"])
    assert matches(runs[2], {"lora.name": "polite"})
    assert matches(runs[2], {"lora.name": "peft"})
    assert not matches(runs[1], {"lora.name": "polite"})
    assert not matches(runs[0], {"lora.name": "polite"})


def test_format_rank_and_revision_tell_equal_names_apart() -> None:
    runs = run(1, name="peft", path="embedded"), run(2, name="pth", path="embedded")
    assert named(*runs) == (["lora.name"], ["embedded (peft)", "embedded (pth)"])
    runs = run(1, name="peft", path="/a/polite"), run(2, 16, name="peft", path="/b/polite")
    assert named(*runs) == (["lora.name"], ["polite (rank 8)", "polite (rank 16)"])
    runs = (
        run(1, name="peft", path="org/polite"),
        run(2, name="peft", path="org/polite", revision="v2"),
    )
    assert named(*runs) == (["lora.name"], ["org/polite", "org/polite@v2"])


def test_where_nothing_tells_them_apart_the_paths_stay() -> None:
    runs = run(1, name="peft", path="/a/polite"), run(2, name="peft", path="/b/polite")
    assert named(*runs) == (KEYS, ["polite", "polite"])


def test_jobs_of_before_the_keys_of_merging_differ_in_none_of_them() -> None:
    old = {"lora.name": "peft", "lora.path": "a", "lora.merge": "true"}
    new = old | {"lora.merge_order": "null", "lora.merge_dtype": "auto", "lora.revision": "null"}
    assert KeyRules().differing_keys([old, new]) == []
    assert KeyRules().differing_keys([old, new | {"lora.merge_dtype": "float32"}]) == [
        "lora.merge_dtype"
    ]
