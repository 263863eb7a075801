"""KL over the weights: one point a row with its interval, also on the page; a KL of 0 has no place
on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from runner_compare.features.tokens.render.divergence_picture import create_divergence_pictures
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.render.output import save_comparison

KLS = {
    "none": None,
    "int8": (2.4e-5, 1.6e-5, 3.6e-5),
    "nf4": (1.1e-3, 6.9e-4, 1.7e-3),
    "twin": (0.0, 0.0, 0.0),
}
WEIGHTS = {"none": 6.07, "int8": 3.29, "nf4": 1.92, "twin": 6.07}


def table_of(*names: str, texts: str = "") -> Table:
    rows = []
    for name in names:
        metrics = {"n": 200.0, "weight_mib": WEIGHTS[name]}
        values = zip(("", "_low", "_high"), KLS[name] or (), strict=False)
        metrics |= {f"kl_nats_per_token{end}": value for end, value in values}
        config: dict[str, str | None] = {"quantization.name": name}
        run = Run(
            name + texts, f"likelihood-{name}", "likelihood", "4", "", {"quantization.name": name}, metrics
        )
        rows.append(TableRow(run, config, panel=(f"task.data={texts}",) if texts else ()))
    return Table("likelihood", ["quantization.name"], rows)


def pane_of(table: Table) -> Any:
    (picture,) = create_divergence_pictures(table)
    (pane,) = picture.make().axes
    return pane


def test_each_row_is_a_point_with_its_interval_over_its_weights() -> None:
    pane = pane_of(table_of("none", "int8", "nf4"))
    lines = [([*map(float, line.get_xdata())], [*map(float, line.get_ydata())]) for line in pane.lines]
    points = [(xs[0], ys[0]) for xs, ys in lines if len(xs) == 1]
    assert points == [(3.29, 2.4e-5), (1.92, 1.1e-3)]
    bars = [ys for xs, ys in lines if len(xs) == 2]
    assert bars == [[1.6e-5, 3.6e-5], [6.9e-4, 1.7e-3]]
    assert [text.get_text().strip() for text in pane.texts] == ["int8", "nf4"]
    assert pane.get_yscale() == "log"


def test_rows_without_a_divergence_are_named_or_there_is_no_picture() -> None:
    (picture,) = create_divergence_pictures(table_of("none", "nf4", "twin"))
    assert picture.title.endswith("not drawn, as the axis is logarithmic: twin (KL 0)")
    assert create_divergence_pictures(table_of("none")) == []
    assert create_divergence_pictures(table_of("none", "twin")) == []


@pytest.mark.thorough
def test_each_set_of_texts_has_a_pane() -> None:
    table = table_of("int8", "nf4", texts="a.jsonl")
    table.rows += table_of("nf4", texts="b.jsonl").rows
    (picture,) = create_divergence_pictures(table)
    panes = picture.make().axes
    assert [pane.get_title(loc="left") for pane in panes] == ["task.data=a.jsonl", "task.data=b.jsonl"]
    assert [len(pane.texts) for pane in panes] == [2, 1]


@pytest.mark.thorough
def test_the_picture_is_saved_and_on_the_page(tmp_path: Path) -> None:
    class NoFiles:
        def files(self, *_: object) -> Any:
            return iter(())

    names = save_comparison(Comparison([table_of("none", "int8", "nf4")]), tmp_path, cast(Any, NoFiles()), {})
    assert {"divergence.png", "divergence.svg", "comparison.html"} <= {*names}
    assert (tmp_path / "divergence.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 1
    assert "weights, MiB" in page.partition("<figure>")[2]


@pytest.mark.parametrize("kl", [(1e-3, None, None), (1e-3, 0.0, 2e-3)])
def test_an_interval_that_is_missing_or_reaches_0_is_drawn_as_far_as_there_is_one(kl: Any) -> None:
    table = table_of("nf4")
    for end, value in zip(("", "_low", "_high"), kl, strict=True):
        table.rows[0].run.metrics[f"kl_nats_per_token{end}"] = value
    if kl[1] is None:
        del (
            table.rows[0].run.metrics["kl_nats_per_token_low"],
            table.rows[0].run.metrics["kl_nats_per_token_high"],
        )
    bar = next(line for line in pane_of(table).lines if len(line.get_xdata()) == 2)
    low, high = map(float, bar.get_ydata())
    assert 0 < low <= 1e-3 <= high == (kl[2] or 1e-3)
