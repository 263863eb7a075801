"""Display names of adapters, plus how an adapter is merged if runs differ in that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from runner_base import short_model_name
from runner_compare.model.data import Run, TableRow

PLACE = FORMAT, PATH, REVISION = "lora.name", "lora.path", "lora.revision"
MERGING = MERGE, ORDER = "lora.merge", "lora.merge_order"
Place = tuple[str, str, str]  # format, path, revision


def replace_adapter_keys(keys: Sequence[str], table_rows: Sequence[TableRow]) -> list[str]:
    """Write adapter display names into the rows' configs, and return the table's keys with them.

    Paths stay where names do not distinguish adapters. How an adapter is merged becomes part of
    its name, and stays in the config for records.
    """
    if not {*PLACE, *MERGING} & {*keys}:
        return list(keys)
    runs = {place: row.run for row in table_rows if (place := _adapter_location(row.run)) is not None}
    if not runs:
        return list(keys)
    names = _unique_adapter_names(runs)
    replaced = PLACE if len({*names.values()}) == len(names) else (FORMAT,)
    says_merging = not {*MERGING}.isdisjoint(keys)
    for row in table_rows:
        for key in replaced:
            row.config.pop(key, None)
        place = _adapter_location(row.run)
        name = row.run.get_value(FORMAT) if place is None else names[place]
        merging = describe_adapter_merging(row.run) if says_merging else ""
        row.config[FORMAT] = f"{name} {merging}" if merging else name
    kept = [key for key in keys if key not in (*replaced, *MERGING)]
    at = next(number for number, key in enumerate(keys) if key in (*PLACE, *MERGING))
    return [*kept[:at], FORMAT, *kept[at:]]


def describe_adapter_merging(run: Run) -> str:
    """Return `unmerged`, or `merged` with `before quantizing` or `after quantizing`; "" if unknown."""
    if (merged := run.get_value(MERGE)) is None:
        return ""
    orders = {"merge_first": " before quantizing", "quantize_first": " after quantizing"}
    return f"merged{orders.get(run.get_value(ORDER) or '', '')}" if merged == "true" else "unmerged"


def adapter_name(run: Run) -> str | None:
    """Return the name of a run's adapter, which other adapters may share; None without an adapter."""
    place = _adapter_location(run)
    if place is None:
        return None
    _, path, revision = place
    return short_model_name(path).removesuffix(".pth") + ("" if revision == "null" else f"@{revision}")


def _adapter_location(run: Run) -> Place | None:
    """Return the format, path and revision of a run's adapter, or None."""
    path = run.get_value(PATH)
    return None if path is None else (run.get_value(FORMAT) or "", path, run.get_value(REVISION) or "null")


def _unique_adapter_names(runs: dict[Place, Run]) -> dict[Place, str]:
    """Return a unique name per adapter: format and rank are added if names would be equal."""
    same = defaultdict(list)
    for place, run in runs.items():
        same[adapter_name(run) or ""].append(place)
    names = {}
    for name, places in same.items():
        formats = {kind for kind, _, _ in places}
        ranks = {place: runs[place].metrics.get("lora_rank") for place in places}
        for place in places:
            more = [place[0]] if len(formats) > 1 else []
            more += (
                [f"rank {ranks[place]:.0f}"]
                if len({*ranks.values()}) > 1 and ranks[place] is not None
                else []
            )
            names[place] = f"{name} ({', '.join(more)})" if more else name
    return names
