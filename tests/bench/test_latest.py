"""The tables of bench/README.md are those of bench/results/, and the page names each benchmark."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    import latest

    page = (BENCH / "README.md").read_text()
    assert latest.renewed(page, latest.read()) == page, "run `python bench/latest.py`"


def test_the_page_names_each_benchmark_and_each_result_is_of_one() -> None:
    import latest

    scripts = {path.stem for path in BENCH.glob("*.py") if f"python bench/{path.name}" in path.read_text()}
    named = set(
        re.findall(r"^### .*`python bench/(\w+)\.py`$", (BENCH / "README.md").read_text(), re.MULTILINE)
    )
    assert named == scripts - {"latest"}
    assert {it.benchmark for it in latest.read()} <= named


def test_what_a_benchmark_saves_is_in_the_table_in_place_of_older_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import latest

    monkeypatch.setattr(latest, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench/startup.py", "--rounds", "3", "--save"])
    for times in ([1.0, 2.0, 9.0], [1.0, 3.0, 1234.5]):
        latest.save(
            [latest.Figure.of("a job", "s", times, "here"), latest.Figure.of("a job", "s", [4.0], "there")]
        )
    (saved,) = latest.read(tmp_path)
    assert saved.command == "python bench/startup.py --rounds 3"
    page = latest.renewed("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n", [saved])
    assert f"| startup | a job | here 3.0 (1.0..1,234.5); there 4.0 s | {saved.date} |\n" in page
    assert f"**{latest.this_processor()}**" in page
    assert "old" not in page
    assert page.endswith("<!-- /results -->\nafter\n")


def test_a_page_without_a_place_for_the_tables_is_an_error() -> None:
    import latest

    with pytest.raises(SystemExit, match="0 places"):
        latest.renewed("no marks", [])
