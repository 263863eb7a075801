"""What a table calls an adapter: by its own name, and not by the format that all adapters of a
study may have; where rows differ in how it is merged, also by that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from runner_base import short_name
from runner_compare.model.data import Run, TableRow

PLACE = FORMAT, PATH, REVISION = "lora.name", "lora.path", "lora.revision"
MERGING = MERGE, ORDER = "lora.merge", "lora.merge_order"
Place = tuple[str, str, str]  # format, path, revision


def name_adapters(keys: Sequence[str], rows: Sequence[TableRow]) -> list[str]:
    """Name the rows' adapters in their configs, and return the keys of the table.

    Where names do not tell the adapters apart, their paths stay beside them. How one is merged is a
    part of its name, and stays in the config for records.
    """
    if not {*PLACE, *MERGING} & {*keys}:
        return list(keys)
    runs = {place: row.run for row in rows if (place := _place_of(row.run)) is not None}
    if not runs:
        return list(keys)
    names = _names_of(runs)
    replaced = PLACE if len({*names.values()}) == len(names) else (FORMAT,)
    says_merging = not {*MERGING}.isdisjoint(keys)
    for row in rows:
        for key in replaced:
            row.config.pop(key, None)
        place = _place_of(row.run)
        name = row.run.value(FORMAT) if place is None else names[place]
        merging = merging_of(row.run) if says_merging else ""
        row.config[FORMAT] = f"{name} {merging}" if merging else name
    kept = [key for key in keys if key not in (*replaced, *MERGING)]
    at = next(number for number, key in enumerate(keys) if key in (*PLACE, *MERGING))
    return [*kept[:at], FORMAT, *kept[at:]]


def merging_of(run: Run) -> str:
    """Return whether a run's adapter was merged into the weights, and when, if these were
    quantized; empty where nothing says so."""
    if (merged := run.value(MERGE)) is None:
        return ""
    orders = {"merge_first": " before quantizing", "quantize_first": " after quantizing"}
    return f"merged{orders.get(run.value(ORDER) or '', '')}" if merged == "true" else "unmerged"


def own_name(run: Run) -> str | None:
    """Return the name of a run's adapter, which another one may have, too; None if it has none."""
    place = _place_of(run)
    if place is None:
        return None
    _, path, revision = place
    return short_name(path).removesuffix(".pth") + ("" if revision == "null" else f"@{revision}")


def _place_of(run: Run) -> Place | None:
    """Return where a run's adapter is; None if it has none."""
    path = run.value(PATH)
    return None if path is None else (run.value(FORMAT) or "", path, run.value(REVISION) or "null")


def _names_of(runs: dict[Place, Run]) -> dict[Place, str]:
    """Return a name for each adapter, with format and rank where its own name is another's, too."""
    same = defaultdict(list)
    for place, run in runs.items():
        same[own_name(run) or ""].append(place)
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
