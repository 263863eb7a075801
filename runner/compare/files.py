"""--save: the comparison as files: comparison.html, .md, .csv, .json, and its pictures."""

from __future__ import annotations

from pathlib import Path

from runner.compare import pictures
from runner.compare.data import Flips, Table
from runner.compare.evidence import Evidence
from runner.compare.flips import find_flips
from runner.compare.page import write_page
from runner.compare.records import write_csv, write_json
from runner.compare.show import write_markdown
from runner.core.errors import cannot_write
from runner.core.progress import Progress

FLIPS_A_PAIR, PAIRS = 50, 20  # lost ones and won ones that the page shows at most: more is no reading matter


def save(tables: list[Table], folder: Path, evidence: Evidence, asked: dict[str, str]) -> list[str]:
    """Write the files and return their names."""
    with Progress(None, "drawing"):
        drawn = [(table, pictures.draw(table)) for table in tables]
        flips = [table.flips or flips_of(table, evidence) for table in tables]
    names: list[str] = []

    def path(name: str) -> Path:
        names.append(name)
        return folder / name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path("comparison.html").open("w", encoding="utf-8") as out:
            write_page(
                [(table, figures, them) for (table, figures), them in zip(drawn, flips, strict=True)], asked, out
            )
        for name, write in (("md", write_markdown), ("csv", write_csv), ("json", write_json)):
            with path(f"comparison.{name}").open("w", encoding="utf-8", newline="") as out:
                write(tables, out)
        several = sum(bool(figures) for _, figures in drawn) > 1
        for table, figures in drawn:
            for figure in figures:
                stem = f"{figure.name}_{table.task}" if several else figure.name
                path(f"{stem}.png").write_bytes(figure.png())
                path(f"{stem}.svg").write_text(figure.svg(), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error, "--save") from error
    return names


def flips_of(table: Table, evidence: Evidence) -> list[Flips]:
    """Return the flips that a page shows under a table: of each paired comparison, as far as there is room."""
    found: list[Flips] = []
    for row in table.rows:
        it = row.comparison
        if it is not None and (it.wins or it.losses) and len(found) < PAIRS:
            run, base = table.runs[row.job_id], table.runs[it.baseline_job_id]
            found.append(find_flips(run, base, evidence, FLIPS_A_PAIR))
    return found
