"""--card: the recovery of each candidate per set and pooled, in JSON, HTML and PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_schema import SCHEMA, faults
from stores import INT8, NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
BASELINE = ("--baseline", "quantization=none", "--margin", "2")
ALL = ("--all", *BASELINE)
EXPERIMENTS = str(Path(__file__).parents[2] / "experiments")
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def two_sets(store: Store) -> Store:
    """nf4 loses 12 of 80 and 30 of 60 right answers; int8 answers as the baseline does."""
    for split, right, n, lost in (("test", 80, 100, 12), ("hard", 60, 300, 30)):
        for quantization, answers in (
            (NONE, marks(right, n)),
            (NF4, marks(right, n, lost)),
            (INT8, marks(right, n)),
        ):
            name = f"{quantization['quantization.name']}-{split}"
            config = {**quantization, "task.split": split, "task.limit": str(n)}
            store.job("recovery", name, config, answers, questions=split)
    return store


def test_the_card_has_the_numbers_of_the_json(two_sets: Store, show: Any, tmp_path: Path) -> None:
    page, picture = tmp_path / "card.html", tmp_path / "card.png"
    code, out, _ = show("recovery", *ALL, "--format", "json", "--card", str(page), "--card", str(picture))
    assert code == 0
    whole = json.loads(out)
    assert list(faults(whole, SCHEMA)) == []
    found = whole["recovery"]
    assert {it["name"].split()[0]: it["questions"] for it in found["sets"]} == {"test": 100, "hard": 300}
    test, hard = sorted((it["name"] for it in found["sets"]), reverse=True)
    assert (test.split()[0], hard.split()[0]) == ("test", "hard")
    int8, nf4 = found["candidates"]
    assert (int8["config"], nf4["config"]) == ({"quantization.name": "int8"}, {"quantization.name": "nf4"})
    assert nf4["recoveries"][hard]["recovery"] == pytest.approx(30 / 60)
    assert nf4["recoveries"][test]["recovery"] == pytest.approx(68 / 80)
    assert nf4["pooled"]["recovery"] == pytest.approx((0.1 + 0.68) / (0.2 + 0.8))
    assert nf4["pooled"]["verdict"] == "worse by more"
    assert nf4["pooled"]["recovery_high"] < 1
    assert sorted(nf4["jobs"]["job_ids"]) == ["nf4-hard", "nf4-test"]
    assert int8["pooled"]["recovery_low"] < 1 < int8["pooled"]["recovery_high"]
    assert int8["pooled"]["recovery"] == 1

    html = page.read_text()
    assert not re.search(r"<script|<link|src=|https?://|url\((?!#)", html)
    cells = [it for one in (int8, nf4) for it in (*one["recoveries"].values(), one["pooled"])]
    for cell in cells:
        low, value, high = (100 * cell[f"recovery{end}"] for end in ("_low", "", "_high"))
        # in the table and in the picture
        assert html.count(f"{value:.1f} % [{low:.1f}, {high:.1f}]") >= 2
    for facts in found["sets"]:
        assert facts["sha256"] in html
    assert {"nf4-hard", "nf4-test", "none-hard"} <= set(re.findall(r"\w+-(?:hard|test)", html))
    assert picture.read_bytes().startswith(PNG)


def test_questions_weigh_the_same_with_pool_questions(two_sets: Store, show: Any, tmp_path: Path) -> None:
    card = ("--card", str(tmp_path / "card.html"))
    _, out, _ = show("recovery", *ALL, "--pool", "questions", "--format", "json", *card)
    found = json.loads(out)["recovery"]
    assert found["weights"] == "questions"
    assert found["candidates"][1]["pooled"]["recovery"] == pytest.approx(98 / 140)


def test_one_set_has_no_pooled_recovery(two_sets: Store, show: Any, tmp_path: Path) -> None:
    card = ("--card", str(tmp_path / "card.png"))
    _, out, _ = show("recovery", *ALL, "--where", "task.split=test", "--format", "json", *card)
    found = json.loads(out)["recovery"]
    assert [it["pooled"] for it in found["candidates"]] == [None, None]
    assert len(found["sets"]) == 1


@pytest.mark.parametrize("arguments", [("--card", "card.pdf", *BASELINE), ("--card", "card.html")])
def test_mistakes_end_with_2_and_write_nothing(
    two_sets: Store, show: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = show("recovery", *arguments)
    assert (code, out) == (2, "")
    assert "--card" in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.thorough
def test_the_study_from_end_to_end(runner: Callable[..., Any], tmp_path: Path) -> None:
    ended = runner("-cd", EXPERIMENTS, "-cn", "recovery", "task.limit=40", "print=none")
    assert ended.code == 0, ended.err
    card = str(tmp_path / "card.html")
    arguments = ("--grid", "last", *BASELINE, "--format", "json", "--card", card)
    shown = runner(*arguments, module="runner_compare")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)["recovery"]
    assert [it["config"]["quantization.name"] for it in found["candidates"]] == ["fp4", "int8", "nf4"]
    accuracies = {
        (row["config"]["quantization.name"], row["config"]["task.split"]): row["metrics"]["accuracy"]
        for row in json.loads(shown.out)["tables"][0]["rows"]
    }
    for candidate in found["candidates"]:
        name = candidate["config"]["quantization.name"]
        of_name, of_base = (sum(accuracies[it, split] for split in ("test", "hard")) for it in (name, "none"))
        assert candidate["pooled"]["recovery"] == pytest.approx(of_name / of_base)
        assert candidate["jobs"]["weight_bytes"] < found["baseline_jobs"]["weight_bytes"]
        assert candidate["jobs"]["model_sha256"] == found["baseline_jobs"]["model_sha256"] is not None
    assert {it["questions"] for it in found["sets"]} == {40}
    assert "transformers" in Path(card).read_text()
    packed = str(tmp_path / "base.runner.gz")
    assert (
        runner("pack", "quantization=none,task.split=test", "-o", packed, module="runner_compare").code == 0
    )
    gate = runner(
        "gate",
        packed,
        "outputs",
        "--margin",
        "2",
        "--card",
        str(tmp_path / "gate.png"),
        module="runner_compare",
    )
    assert gate.code in (0, 1, 3), gate.err
    assert (tmp_path / "gate.png").read_bytes().startswith(PNG)
