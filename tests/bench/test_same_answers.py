"""Two checkouts are compared by what their commands say, and a difference in an answer does not get past."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
  job                  seed   status     accuracy [95 %]   n   decode tok/s   weight MiB   peak RSS MiB   seconds
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
  gsm8k-5e9693b933a2   1      finished   {accuracy:>15}   4         {speed:>6}         0.00            221       0.4
"""


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])


def compare(after: Path, only: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    pythons = ["--python-before", sys.executable, "--python-after", sys.executable]
    command = [sys.executable, str(ROOT / "bench/same_answers.py"), str(ROOT), str(after), *pythons, "--only", only]
    return subprocess.run([*command, "--scratch", str(scratch)], capture_output=True, text=True)


def test_a_checkout_says_what_it_says(tmp_path: Path) -> None:
    done = compare(ROOT, "^stub/(plan|prompts)", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 cases: 2 equal, 0 different" in done.stdout
    assert list((tmp_path / "before").iterdir()) == []


def test_another_answer_is_found(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("runner", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tree / folder)
    shutil.copy(ROOT / "pyproject.toml", tree)
    stub = tree / "runner/engines/kinds/stub.py"
    changed = stub.read_text().replace("[STUB_GENERATION]", "[STUB_GENERATIOM]")
    assert changed != stub.read_text()
    stub.write_text(changed)
    done = compare(tree, "^stub/prompts", tmp_path / "scratch")
    assert done.returncode == 1
    assert "1 cases: 0 equal, 1 different" in done.stdout
    assert "STUB_GENERATIOM" in done.stdout
    found = (tmp_path / "scratch/differences.txt").read_text()
    assert "samples.jsonl [0] text" in found
    assert "completions.jsonl [0] text" in found


def test_an_unknown_case_is_refused(tmp_path: Path) -> None:
    done = compare(ROOT, "nothing is called this", tmp_path)
    assert done.returncode == 2
    assert "no case is called like" in done.stderr


def test_what_was_measured_is_masked_and_nothing_else(tmp_path: Path) -> None:
    from said import Masks, differences, printed

    def said(accuracy: str, speed: str) -> object:
        return printed(TABLE.format(accuracy=accuracy, speed=speed), Masks({}), measures=False)

    assert list(differences(said("0.0 [0.0, 49.0]", "81,660"), said("0.0 [0.0, 49.0]", "660"), "")) == []
    assert len(list(differences(said("0.0 [0.0, 49.0]", "81,660"), said("1.0 [0.0, 49.0]", "81,660"), ""))) == 1


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("accuracy", 0.5, True),
        ("shared_prompt_tokens", 7, True),
        ("weight_mib", 6.5, True),
        ("predicted_weight_mib", 6.5, True),
        ("base_loads", 2, True),
        ("seconds", 2.5, False),
        ("load_s", 2.5, False),
        ("decode_tok_per_s", 3.0, False),
        ("draft_tokens", 3, False),
        ("load_peak_rss_mib", 3.0, False),
    ],
)
def test_metrics(tmp_path: Path, name: str, value: float, seen: bool) -> None:
    from said import Masks, content, differences

    contents: list[object] = []
    for number in (1.0, value):
        path = tmp_path / "result.json"
        path.write_text(json.dumps({"task": "gsm8k", "result": {"metrics": {name: number}}}))
        contents.append(content(path, Masks({})))
    old, new = contents
    assert len(list(differences(old, new, ""))) == seen
