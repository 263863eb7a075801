"""The pictures of recall in a comparison: curves over lengths, and heat maps of length and depth."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import Picture
from runner_compare.data import TableRow
from runner_compare.recall import RecallFindings
from runner_compare.recall_picture import DrawnRecall, draw_curves, draw_maps
from runner_compare.wording import short_names

MAX_LETTERS = 36  # of a value in a name
CURVES = "recall_curve"
MAPS = "recall_map"


def recall_pictures(rows: Sequence[tuple[TableRow, RecallFindings]], keys: Sequence[str]) -> list[Picture]:
    """Return the pictures of some rows; none where one length was asked."""
    names = short_names([row for row, _ in rows], keys, MAX_LETTERS) if keys else [""] * len(rows)
    drawn = [drawn_of(findings, name, row.is_baseline) for (row, findings), name in zip(rows, names, strict=True)]
    return pictures_of(drawn)


def pictures_of(drawn: Sequence[DrawnRecall], of_what: str = "") -> list[Picture]:
    """Return the pictures of some settings."""
    of = f": {of_what}" if of_what else ""
    pictures = []
    if any(len(setting.lengths) > 1 for setting in drawn):
        title = f"recall over lengths{of}; bars: 95 % intervals; wide line: as far as it is shown to be kept"
        pictures.append(Picture(CURVES, title, lambda: draw_curves(drawn)))
    if any(len(setting.depths) > 1 for setting in drawn):
        title = f"recall by length and depth{of}, %; line: shown to be kept up to there; dashed: shown to be lost there"
        pictures.append(Picture(MAPS, title, lambda: draw_maps(drawn)))
    return pictures


def drawn_of(findings: RecallFindings, name: str, is_baseline: bool = False) -> DrawnRecall:
    """Return what is drawn of one setting."""
    lengths = findings.lengths
    cells = [[findings.cell(length.length, depth) for length in lengths] for depth in findings.depths]
    found = findings.effective
    return DrawnRecall(
        name=name,
        lengths=[length.length for length in lengths],
        recall=[(100 * length.share, 100 * length.low, 100 * length.high) for length in lengths],
        depths=findings.depths,
        cells=[[None if cell is None else 100 * cell.share for cell in of_depth] for of_depth in cells],
        effective=None if found is None else (found.at_least, found.below),
        is_baseline=is_baseline,
    )
