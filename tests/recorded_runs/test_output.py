"""--save and --log: the files, their content, that it is always the same, and where they are
written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from compared import KEYS, rows_of
from html_page import Page
from stores import NF4, NONE, Store, marks

from runner_compare.model.data import Table
from runner_compare.render.pictures import create_table_pictures
from runner_compare.statistics import SignFlipTest

pytestmark = [
    pytest.mark.slow,  # as a group: `make test-fast` leaves them out
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

BASELINE = "quantization=none"
NAMES = {"comparison.html", "comparison.md", "comparison.csv", "comparison.json", "samples.html"}
PICTURES = {"pareto.png", "pareto.svg", "accuracy.png", "accuracy.svg"}


@pytest.fixture(scope="session")
def saved(grid: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runner import compare

    folder = tmp_path_factory.mktemp("saved")
    arguments = ["--output-dir", str(grid.output_dir), "--experiment", "grid", "--baseline", BASELINE]
    assert compare.main([*arguments, "--save", str(folder)]) == 0
    return folder


@pytest.mark.thorough
def test_save_writes_all_files(saved: Path) -> None:
    assert {file.name for file in saved.iterdir()} == NAMES | PICTURES
    for file in saved.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
    for file in saved.glob("*.svg"):
        assert "</svg>" in file.read_text()


def test_the_page_is_whole_and_needs_nothing_else(saved: Path) -> None:
    text = (saved / "comparison.html").read_text()
    page = Page(text)
    # a link, nothing that is loaded
    assert {it for it in page.references if not it.startswith("#")} == {"samples.html"}
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("svg") == 2
    # the page's colours only
    assert not re.findall(r"#[0-9a-f]{6}", text[text.index("<svg") : text.rindex("</svg>")])


@pytest.mark.thorough
def test_the_picture_draws_the_margin(grid: Store, show: Any, tmp_path: Path) -> None:
    assert show("grid", "--baseline", BASELINE, "--margin", "5", "--save", str(tmp_path))[0] == 0
    text = (tmp_path / "comparison.html").read_text()
    assert "dashed: the margin, to the right of it a loss is acceptable" in Page(text).text
    assert "stroke-dasharray" in (tmp_path / "accuracy.svg").read_text()


def test_differences_of_likelihoods_are_drawn() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    table = Table("likelihood", KEYS, rows_of(likelihood, margins={"log_likelihood": 0.01}))
    (picture,) = create_table_pictures(table)
    assert picture.name == "differences"
    assert "difference to the baseline, nats/token" in picture.to_svg()
    assert create_table_pictures(Table("likelihood", KEYS, rows_of("not compared"))) == []


def squeezed(text: str) -> str:
    """Text without spaces: tags split the text at other places than lines do."""
    return "".join(text.split())


def test_the_page_says_what_the_terminal_says(saved: Path, grid: Store, show: Any) -> None:
    page = Page((saved / "comparison.html").read_text())
    _, out, _ = show("grid", "--baseline", BASELINE)
    sentences = [line.removeprefix("• ") for line in out.splitlines() if line.startswith("• ")]
    assert len(sentences) == 5
    assert sentences[-2].startswith("Dominated beyond noise (speed not counted): nf4 task.split=test by ")
    assert sentences[-1].startswith("The Pareto front ignores speed: ")
    assert page.text.index(out.splitlines()[1]) < page.text.index("wins/losses"), (
        "what may be concluded comes first"
    )
    for sentence in sentences:
        assert squeezed(sentence) in squeezed(page.text)
    for cell in (
        "90.0 % [85.1, 93.4]",
        "−15.0 [−24.0, −8.3]",
        "0/30/170",
        "experiment grid",
        "What all 6 runs share",
    ):
        assert cell in page.text
    assert (
        "Flips: nf4 vs none on task.split=test: 30 lost, 0 won, 150 solved by both, 20 solved by neither"
        in page.text
    )
    assert "nf4-test thinks about question 150 #### 7" in page.text


@pytest.mark.thorough
def test_csv_and_json_hold_what_stdout_has_and_stay_the_same(
    saved: Path, grid: Store, show: Any, tmp_path: Path
) -> None:
    for style in ("csv", "json"):
        _, out, _ = show("grid", "--baseline", BASELINE, "--format", style)
        assert (saved / f"comparison.{style}").read_text() == out
    _, out, _ = show("grid", "--baseline", BASELINE, "--format", "markdown")
    assert (saved / "comparison.md").read_text() == out
    show("grid", "--baseline", BASELINE, "--save", str(tmp_path))
    for name in NAMES | PICTURES:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes(), name
    with (saved / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert json.loads((saved / "comparison.json").read_text())["tables"][0]["pareto_axes"] == [
        "accuracy",
        "model_mib",
    ]


@pytest.mark.thorough
def test_texts_of_models_are_shown_and_not_run(store: Store, show: Any, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> & </pre><b>| [red]bold[/red] $\\frac$ \x1b]0;owned\x07"
    seen = nasty.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    store.job("nasty", "base", NONE, marks(3, 4), questions=nasty)
    store.job("nasty", "nf4", {**NF4, "task.instruction": nasty}, marks(2, 4), questions=nasty)
    arguments = ["--by", "quantization", "--baseline", BASELINE]
    code, _, err = show("nasty", *arguments, "--save", str(tmp_path))
    assert code == 0, err
    page = Page((tmp_path / "comparison.html").read_text())
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert f"nf4 thinks about {seen} 2" in page.text
    assert "\x1b" not in (tmp_path / "comparison.html").read_text() + (tmp_path / "comparison.md").read_text()
    assert "<script" not in (tmp_path / "comparison.md").read_text()
    assert "&lt;script>alert(1)&lt;/script>" in (tmp_path / "comparison.md").read_text()
    _, out, _ = show("nasty", "--flips", "base", "nf4")
    assert "[red]bold[/red]" in out
    assert "\x1b" not in out
    _, out, _ = show("nasty", "--by", "quantization,task.instruction")
    assert "[red]bold[/red]" in " ".join(out.split())
    assert "\x1b" not in out


def test_a_sheet_runs_no_cell_and_markdown_follows_no_link(store: Store, show: Any) -> None:
    formula, link = (
        '=HYPERLINK("http://evil.example";"open")',
        "[open](javascript:alert(1)) ![seen](http://evil.example)",
    )
    store.job("sheet", "base", {**NONE, "task.instruction": "-1"}, marks(3, 4), questions=link)
    store.job("sheet", "nf4", {**NF4, "task.instruction": formula}, marks(2, 4), questions=link)
    arguments = ("--by", "quantization,task.instruction", "--baseline", BASELINE)
    _, out, _ = show("sheet", *arguments, "--format", "csv")
    lines = [*csv.DictReader(out.splitlines())]
    assert {line["task.instruction"] for line in lines} == {"-1", f"'{formula}"}
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "@"))]
    assert all(float(line["accuracy"]) > 0 for line in lines), "numbers are numbers"
    _, out, _ = show("sheet", "--flips", "base", "nf4", "--format", "markdown")
    assert "[open]\\(javascript:alert(1)) ![seen]\\(http://evil.example)" in out
    assert "](" not in out


def test_tasks_without_verdicts_have_a_page_and_no_pictures(store: Store, show: Any, tmp_path: Path) -> None:
    for batch in ("1", "4"):
        store.job("plain", f"memory-{batch}", {"task.batch_size": batch}, tags={"task": "memory"})
    code, _, _ = show("plain", "--save", str(tmp_path))
    assert code == 0
    assert {file.name for file in tmp_path.iterdir()} == NAMES - {"samples.html"}
    assert "memory 2 runs" in Page((tmp_path / "comparison.html").read_text()).text


@pytest.mark.thorough
def test_log_puts_the_files_into_the_grids_run(store: Store, show: Any) -> None:
    grid = store.grid("logged", "l1", ["l-none", "l-nf4"])
    store.job("logged", "l-none", NONE, marks(80, 100), grid=grid)
    store.job("logged", "l-nf4", NF4, marks(60, 100), grid=grid)
    code, _, err = show("logged", "--baseline", BASELINE, "--log")
    assert code == 0
    assert err == f"logged to MLflow run {grid}: comparison/\n"
    assert store.artifacts(grid, "comparison") == NAMES | PICTURES
    assert store.artifacts(grid, "") == {"comparison", "plan.json"}
    show("logged", "--grid", "last", "--runs", "l-none", "--log")  # replaced, not added
    logged = store.client.download_artifacts(grid, "comparison/comparison.json")
    assert len(json.loads(Path(logged).read_text())["tables"][0]["rows"]) == 1


def test_nothing_is_written_unasked(
    grid: Store, show: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    show("grid", "--baseline", BASELINE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(grid: Store, show: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = show("grid", "--save", str(tmp_path / "file"))
    assert code == 2
    assert f"cannot write {tmp_path / 'file'}" in err
    assert "--save" in err
