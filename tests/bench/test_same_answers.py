"""Two checkouts are compared by what their commands say, and a difference in an answer does not get past."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
  job                  seed   status     accuracy [95 %]   n   decode tok/s   weight MiB   peak RSS MiB   seconds
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
  gsm8k-5e9693b933a2   1      finished   {accuracy:>15}   4         {speed:>6}         0.00            221       0.4
"""


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])


def compare(after: Path, only: str, scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    pythons = ["--python-before", sys.executable, "--python-after", sys.executable]
    command = [sys.executable, str(ROOT / "bench/same_answers.py"), str(ROOT), str(after), *pythons, "--only", only]
    return subprocess.run([*command, "--scratch", str(scratch), *options], capture_output=True, text=True)


def test_a_checkout_says_what_it_says(tmp_path: Path) -> None:
    done = compare(ROOT, "^stub/(plan|prompts)", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 cases, 2 commands: 2 equal, 0 different; 0 allowed differences" in done.stdout
    assert not (tmp_path / "differences.txt").exists()


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
    assert "1 cases, 1 commands: 0 equal, 1 different" in done.stdout
    assert "STUB_GENERATIOM" in done.stdout
    found = (tmp_path / "scratch/differences.txt").read_text()
    assert "samples.jsonl [0] text" in found
    assert "completions.jsonl [0] text" in found


def test_what_lies_in_the_folder_is_compared_again(tmp_path: Path) -> None:
    assert compare(ROOT, "^stub/prompts", tmp_path).returncode == 0
    assert compare(ROOT, "^stub/prompts", tmp_path, "--ran", "both").returncode == 0
    (samples,) = tmp_path.glob("after_/stub_prompts/outputs/jobs/*/samples.jsonl")
    samples.write_text(samples.read_text().replace('"prompt_tokens": ', '"prompt_tokens": 1', 1))
    assert compare(ROOT, "^stub/prompts", tmp_path, "--ran", "both").returncode == 1
    assert "samples.jsonl [0] prompt_tokens" in (tmp_path / "differences.txt").read_text()


def test_nothing_is_compared_again_without_a_folder() -> None:
    command = [sys.executable, str(ROOT / "bench/same_answers.py"), str(ROOT), str(ROOT), "--ran", "both"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--scratch" in done.stderr


@pytest.mark.thorough
def test_commands_say_the_same_from_a_warm_process(tmp_path: Path) -> None:
    assert compare(ROOT, "^readme/prompts from", tmp_path).returncode == 0
    shutil.copytree(tmp_path / "before", tmp_path / "cold")
    assert compare(ROOT, "^readme/prompts from", tmp_path, "--warm").returncode == 0
    shutil.rmtree(tmp_path / "before")
    (tmp_path / "cold").rename(tmp_path / "before")
    done = compare(ROOT, "^readme/prompts from", tmp_path, "--ran", "both")
    assert done.returncode == 0, done.stdout


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


def test_a_line_that_is_new_hides_no_other_and_shifts_none() -> None:
    from said import differences

    old, new = ["job", "accuracy 94.0%", "kept in"], ["note: new", "job", "accuracy 93.0%", "kept in"]
    assert [how for _, how in differences(old, new, "")] == [
        "'note: new' is new",
        "'accuracy 94.0%' became 'accuracy 93.0%'",
    ]


def test_jobs_that_are_named_together_may_be_sorted_by_their_ids() -> None:
    from said import Masks

    texts = []
    for first, second in (("gsm8k-aaaaaaaaaaaa", "gsm8k-bbbbbbbbbbbb"), ("gsm8k-dddddddddddd", "gsm8k-cccccccccccc")):
        masks = Masks({})
        masks.number([first, second])
        texts.append(masks.names("+".join(sorted([first, second]))))
    assert texts == ["<gsm8k 1>+<gsm8k 2>"] * 2


def test_old_words_are_compared_as_the_new_ones() -> None:
    from meant_differences import REWORDED
    from said import Masks, differences, printed

    words = [pair for one in REWORDED for pair in one.words.items()]
    old = "nf4 vs none: a true difference of ≥ {} points would have been seen at least 4 times in 5"
    new = "nf4 vs none: ≥ 80 % power to detect {} points"

    def said(text: str, masks: Masks) -> object:
        return printed(text, masks, measures=False)

    masks = Masks({}, words)
    assert list(differences(said(old.format(6.6), masks), said(new.format(6.6), Masks({})), "")) == []
    assert sum(masks.used.values()) == 1
    assert len(list(differences(said(old.format(6.6), masks), said(new.format(6.7), Masks({})), ""))) == 1


@pytest.mark.parametrize(
    ("where", "how", "meant"),
    [
        ("file outputs/jobs/<gsm8k 1>/result.json params task.subset", "is new", True),
        ("file outputs/jobs/<gsm8k 1>/result.json params task.subset", "is gone", False),
        ("file outputs/jobs/<gsm8k 1>/result.json params task.limit", "is new", False),
        ("file outputs/jobs/<gsm8k 1>/result.json result metrics accuracy", "'0.9' became '0.8'", False),
        ("file outputs/jobs/<gsm8k 1>/samples.jsonl [0] text", "'4' became '5'", False),
        ("command 1, `run`, stderr [0]", "'lora  none' is gone", True),
        ("command 1, `run`, stderr [0]", "'lora  none' became 'lora  embedded'", False),
        ("command 1, `run`, stdout [0]", "'lora  none' is gone", False),
        ("command 1, `run`, exit code", "'0' became '1'", False),
    ],
)
def test_what_is_meant_to_differ_is_no_more_than_what_is_listed(where: str, how: str, meant: bool) -> None:
    from meant_differences import reason_for

    assert bool(reason_for("readme/default", where, how)) is meant


def test_a_checkout_gets_commands_in_its_own_words(tmp_path: Path) -> None:
    from same_answers import Side

    side = Side("before", tmp_path, Path(sys.executable), own=True)
    command = "run task=generate model=parts model.name=parts model.stages=2"
    assert side.in_its_words(command) == command
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "conf/task/pipeline.yaml").touch()
    assert side.in_its_words(command) == "run task=pipeline task.parts=parts task.processes=2"
