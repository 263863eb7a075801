"""The tables of divergences on terminals of several widths: no number and no word of a head is
broken."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import pytest

from runner_base.tables import WORD, Column
from runner_compare.features.tokens.render.tables import (
    BY_CATEGORY,
    TITLE,
    build_category_columns,
    build_token_divergence_columns,
)
from runner_compare.metrics import KL_SHARES
from runner_compare.model.comparison import Comparison, View
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.render.output import FORMATS

KINDS = ("sums", "stories", "news", "code")
FIGURES = {  # with their intervals, as a run on 200 texts has them
    "kl_nats_per_token": (2.44e-05, 1.62e-05, 3.63e-05),
    **{
        key: (0.000374 * number, 0.0002794 * number, 0.01203 * number)
        for number, key in enumerate(KL_SHARES, 1)
    },
    "kl_p99_nats": (0.0178, None, None),
    "kl_p999_nats": (0.2504, None, None),
    "kl_max_nats": (0.5873, None, None),
    "delta_p_mean": (-0.000689, -0.00122, -0.000187),
    "delta_p_rms": (0.01787, 0.01229, 0.02476),
    "delta_p_p01": (-0.01908, None, None),
    "ln_ppl_ratio": (0.0014, 0.0005, 0.0025),
    "ln_ppl_correlation": (0.9159, None, None),
    "top_1_agreement": (0.9987, 0.9939, 0.9996),
}


class Screen(io.StringIO):
    """A terminal; COLUMNS is its width."""

    def isatty(self) -> bool:
        return True


def run_of(name: str, figures: dict[str, float]) -> TableRow:
    params = {"quantization.name": name}
    run = Run(
        name,
        f"likelihood-{name}",
        "likelihood",
        "4",
        "",
        params,
        {"n": 200.0, "scored_tokens": 9e3} | figures,
    )
    return TableRow(run, {"quantization.name": name})


def figures_of(factor: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for of in ("", *(f"/{kind}" for kind in KINDS)):
        for key, ends in FIGURES.items():
            values = zip(("", "_low", "_high"), ends, strict=True)
            found |= {f"{key}{end}{of}": factor * value for end, value in values if value is not None}
    return found | {f"{key}/{kind}": 50.0 for kind in KINDS for key in ("n", "scored_tokens")}


@pytest.fixture
def table() -> Table:
    """Three quantizations, and the reference, which has no figures of tokens."""
    rows = [
        run_of(name, figures_of(factor)) for name, factor in (("int8", 0.713), ("nf4", 1.0), ("hqq", 0.937))
    ]
    return Table("likelihood", ["quantization.name"], [run_of("none", {}), *rows])


def shown_at(width: int, table: Table, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the two tables as a terminal of this width shows them."""
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Screen()
    FORMATS["table"](Comparison([table], View(all_columns=True)), screen)
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    text = re.split(r"\n(?:Next|Details):", text)[0].rstrip()
    title = r"\s+".join(map(re.escape, TITLE.split()))  # a narrow terminal breaks it
    of_all, _, by_kind = re.split(title, text, maxsplit=1)[1].partition(BY_CATEGORY)
    return of_all, by_kind


def broken(text: str, expected: Iterable[str]) -> list[str]:
    """Return which words have no line of their own."""
    return [word for word in expected if not any(word in line for line in text.splitlines())]


def words_of(column: Column) -> set[str]:
    return {*column.head.split("\n"), *(word for cell in column.cells for word in WORD.findall(cell))}


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_number_and_no_head_is_broken(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of_all, by_kind = shown_at(width, table, monkeypatch)
    assert max(map(len, [*of_all.splitlines(), *by_kind.splitlines()])) <= width
    for column in build_token_divergence_columns(table):
        assert not broken(of_all, words_of(column)), column.head
    left_out = by_kind.partition("hidden columns: ")[2].partition(" (")[0].split(", ")
    for column in build_category_columns(table):
        if column.head not in left_out:
            assert not broken(by_kind, words_of(column)), column.head
    needed = {"quantization", "category", "mean", "99 %", "same first"}
    assert not needed & {*left_out}


def test_the_reference_has_no_line_of_dashes(table: Table) -> None:
    (names, *statistics) = build_token_divergence_columns(table)
    assert names.cells == ["int8", "nf4", "hqq"]
    assert all(len(column.cells) == 3 for column in statistics)


def test_a_narrow_table_of_categories_leaves_out_what_few_need(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, left_out in (
        (80, "median, 99.9 %, documents, tokens, largest"),
        (100, "median, 99.9 %, documents, tokens"),
    ):
        by_kind = shown_at(width, table, monkeypatch)[1]
        assert f"hidden columns: {left_out} (" in by_kind
        assert len(by_kind.partition("─")[2].splitlines()) < 2 * 12 + 6, "two lines a row at most"
    assert "hidden columns" not in shown_at(200, table, monkeypatch)[1]
