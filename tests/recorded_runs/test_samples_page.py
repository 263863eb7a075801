"""The page of all samples: its content, what it leaves out, and its filters in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, browser
from stores import NF4, NONE, Store, marks

from runner import compare
from runner_compare.render import samples_page

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


def saved_by(store: Store, experiment: str, folder: Path, *more: str) -> Path:
    arguments = [
        "--output-dir",
        str(store.output_dir),
        "--experiment",
        experiment,
        "--save",
        str(folder),
        *more,
    ]
    assert compare.main(arguments) == 0
    return folder / "samples.html"


def data_of(page: Path) -> list[dict[str, Any]]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert match is not None
    tables: list[dict[str, Any]] = json.loads(match[1])["tables"]
    return tables


@pytest.fixture(scope="module")
def page(grid: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    return saved_by(grid, "grid", folder, "--baseline", "quantization=none", "--where", "task.split=test")


def test_it_holds_every_question_and_what_each_run_answered(page: Path) -> None:
    (table,) = data_of(page)
    names = [run["name"] for run in table["runs"]]
    assert (table["task"], names[table["baseline"]], sorted(names)) == (
        "gsm8k",
        "none",
        ["int8", "nf4", "none"],
    )
    assert [run["accuracy"] for run in table["runs"]] == [
        {"none": 0.9, "int8": 0.89, "nf4": 0.75}[it] for it in names
    ]
    assert [(index, gold) for index, _, gold in table["questions"]] == [(index, "42") for index in range(200)]
    assert not table["left_out"]
    verdict, answer, text = table["answers"][150][names.index("nf4")]
    assert (verdict, answer) == ("wrong", "7")
    assert "nf4-test thinks about question 150" in text


@pytest.mark.thorough
def test_a_text_cannot_end_the_script_and_a_damaged_run_is_named(store: Store, tmp_path: Path) -> None:
    evil = "</script><script>document.title='owned'</script>\u2028 what is 40 + 2?"
    for name, quantization in (("s-none", NONE), ("s-nf4", NF4)):
        store.job("samples", name, quantization, marks(3, 4), questions=evil)
    gone = store.job("samples", "s-gone", {"quantization.name": "fp4"}, marks(2, 4))
    (gone / "samples.jsonl").unlink()
    for copy in (store.output_dir / "artifacts" / store.run_ids[-1]).rglob("samples.jsonl"):
        copy.unlink()
    page = saved_by(store, "samples", tmp_path)
    (table,) = data_of(page)
    assert page.read_text().count("</script>") == 2
    assert table["questions"][0][1] == f"{evil} 0"
    assert len(table["runs"]) == 2
    (left_out,) = table["left_out"]
    assert left_out.startswith("fp4: samples are missing, because samples.jsonl of job s-gone")


@pytest.mark.thorough
def test_runs_beyond_the_room_are_named_and_the_baseline_stays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, quantization in (("r-nf4", NF4), ("r-none", NONE)):
        store.job("room", name, quantization, marks(3, 4))
    monkeypatch.setattr(samples_page, "MAX_CHARACTERS", 200)  # one run's answers, not two runs'
    (table,) = data_of(saved_by(store, "room", tmp_path, "--baseline", "quantization=none"))
    assert [run["name"] for run in table["runs"]] == ["none"]
    assert table["left_out"] == [
        "nf4: the page is too small for its answers. Select fewer runs with --runs or --where"
    ]


@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page: apt-get install chromium")
def test_a_browser_filters_and_unfolds(page: Path, tmp_path: Path) -> None:
    """Flips first; then another outcome, a search, and a question with both answers."""
    with browser(tmp_path) as tab:
        tab.go(page.as_uri())
        tab.do("""globalThis.at = (id) => document.getElementById(id);
            globalThis.set = (id, value, event) => { at(id).value = value; at(id).dispatchEvent(new Event(event)); };
            globalThis.outcome = (start) => [...document.querySelectorAll("#kinds button")]
              .find((one) => one.textContent.startsWith(start));
            set("b", [...at("b").options].findIndex((one) => one.text.startsWith("nf4")), "change")""")
        assert tab.do("at('count').textContent") == "30 of 30 questions"
        assert tab.do("[outcome('lost').textContent, outcome('all').textContent]") == [
            "lost: only A right 30",
            "all 200",
        ]
        tab.do("outcome('right in both').click()")
        assert tab.do("at('count').textContent") == "100 of 150 questions"
        tab.do("set('text', 'question 15', 'input'); outcome('flips').click()")
        assert tab.do("at('count').textContent") == "10 of 10 questions"
        tab.do("document.querySelector('#list details').open = true")
        tab.until("document.querySelector('.side') !== null")
        both = "[...document.querySelectorAll('.side > span')].map((one) => one.textContent)"
        assert tab.do(both) == ["correct: 42", "wrong: 7"]
        assert tab.complaints() == []
        assert tab.requested() == [page.as_uri()]
