"""Draw what recorded work costs as it grows: `python bench/recorded_jobs_curves.py bench/README.md PICTURE.png`.

It reads the tables that recorded_jobs.py has printed, wherever they stand in a text, and draws one plot for each store.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core.drawing import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = re.compile(r"^python bench/recorded_jobs\.py(.*)\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| ([\d,]+) \| (.+?) \| ([\d.]+)(?: \(.*?\))? \| [\d,]+ \|$", re.MULTILINE)
Lines = dict[str, list[tuple[int, float]]]  # command: recorded jobs and seconds


def read(text: str) -> dict[str, Lines]:
    """Return the lines of each table, by the name of its store."""
    stores: dict[str, Lines] = {}
    for options, table in TABLE.findall(text):
        lines = stores.setdefault("PostgreSQL" if "--uri 'postgresql" in options else "sqlite", {})
        for count, command, seconds in ROW.findall(table):
            lines.setdefault(command, []).append((int(count.replace(",", "")), float(seconds)))
    return stores


def draw(stores: dict[str, Lines]) -> Figure:
    """Return one plot for each store; a command has the same colour in both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    plots: Any = figure.subplots(1, len(stores), sharey=True, squeeze=False)[0]
    commands = [*dict.fromkeys(command for lines in stores.values() for command in lines)]
    shown: dict[str, Any] = {}
    for plot, (store, lines) in zip(plots, stores.items(), strict=True):
        for command, points in lines.items():
            (shown[command],) = plot.loglog(*zip(*points, strict=True), "o-", color=f"C{commands.index(command)}")
        plot.set_title(store)
        plot.set_xlabel("recorded jobs")
        plot.grid(visible=True, which="major", alpha=0.4)
    plots[0].set_ylabel("seconds")
    figure.legend(
        [shown[command] for command in commands], commands, loc="outside lower center", ncols=2, frameon=False
    )
    return figure


def main() -> None:
    """Read, draw, write."""
    text, picture = (Path(name) for name in sys.argv[1:])
    stores = read(text.read_text(encoding="utf-8"))
    if not stores:
        raise SystemExit(f"{text}: there is no table of recorded_jobs.py in it")
    picture.write_bytes(Picture("recorded_jobs", "what recorded work costs", lambda: draw(stores)).png())


if __name__ == "__main__":
    main()
