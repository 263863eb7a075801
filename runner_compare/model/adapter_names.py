"""Creates display names of adapters, including how an adapter is merged if the runs differ in that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from runner_base import short_model_name
from runner_compare.model.data import Run, TableRow

PLACE = FORMAT, PATH, REVISION = "lora.name", "lora.path", "lora.revision"
MERGING = MERGE, ORDER = "lora.merge", "lora.merge_order"
AdapterLocation = tuple[str, str, str]  # format, path, revision


def replace_adapter_keys_by_names(keys: Sequence[str], table_rows: Sequence[TableRow]) -> list[str]:
    """Replace the adapter keys in the configs of the table rows by display names.

    Returns the table's new keys. Paths stay if names do not distinguish adapters. How an adapter
    is merged becomes part of its name, and stays in the config for records.
    """
    if not {*PLACE, *MERGING} & {*keys}:
        return list(keys)
    runs = {place: row.run for row in table_rows if (place := _get_adapter_location(row.run)) is not None}
    if not runs:
        return list(keys)
    names = _create_unique_adapter_names(runs)
    replaced = PLACE if len({*names.values()}) == len(names) else (FORMAT,)
    says_merging = not {*MERGING}.isdisjoint(keys)
    for row in table_rows:
        for key in replaced:
            row.config.pop(key, None)
        place = _get_adapter_location(row.run)
        name = row.run.get_value(FORMAT) if place is None else names[place]
        merging = describe_adapter_merging(row.run) if says_merging else ""
        row.config[FORMAT] = f"{name} {merging}" if merging else name
    kept = [key for key in keys if key not in (*replaced, *MERGING)]
    at = next(number for number, key in enumerate(keys) if key in (*PLACE, *MERGING))
    return [*kept[:at], FORMAT, *kept[at:]]


def describe_adapter_merging(run: Run) -> str:
    """Describe whether and when a run merged its adapter: `unmerged`, `merged before quantizing` or
    `merged after quantizing`.

    Empty if unknown.
    """
    if (merged := run.get_value(MERGE)) is None:
        return ""
    orders = {"merge_first": " before quantizing", "quantize_first": " after quantizing"}
    return f"merged{orders.get(run.get_value(ORDER) or '', '')}" if merged == "true" else "unmerged"


def get_adapter_name(run: Run) -> str | None:
    """Return the display name of a run's adapter. Different adapters may have the same display name."""
    place = _get_adapter_location(run)
    if place is None:
        return None
    _, path, revision = place
    return short_model_name(path).removesuffix(".pth") + ("" if revision == "null" else f"@{revision}")


def _get_adapter_location(run: Run) -> AdapterLocation | None:
    path = run.get_value(PATH)
    return None if path is None else (run.get_value(FORMAT) or "", path, run.get_value(REVISION) or "null")


def _create_unique_adapter_names(runs: dict[AdapterLocation, Run]) -> dict[AdapterLocation, str]:
    same = defaultdict(list)
    for place, run in runs.items():
        same[get_adapter_name(run) or ""].append(place)
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
