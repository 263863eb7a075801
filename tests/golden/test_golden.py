"""The answers that are written down in recorded/ are those of today: see commands.txt.

Commands of an option of the runner stand beside its tests, in a folder golden/ of
tests/options/NAME/, and go with them. `GOLDEN=record pytest tests/golden` writes them down anew: a
difference is a defect, or is meant and has a reason in the commit that records it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from golden import TEXTS, TREE, Case, Place, differences, is_new_key, parse, pretty, referring

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
LISTS = (HERE / "commands.txt", *sorted((HERE.parent / "options").glob("**/golden/commands.txt")))
CASES = [case for commands in LISTS for case in parse(commands)]
SUM = {
    "question": "Tom has 5 eggs. Tom buys 6 more. How many eggs does Tom have?",
    "answer": "5+6=11\n#### 11",
}
CHOICE = {"question": "What is 2+2?", "choices": ["3", "4"], "answer": "B"}
STUDY = """
defaults: [config, _self_]
task: {limit: 4}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {model: stub, task.split: "test,hard5"}
    zip: [{seed: "1,2", task.shots: "0,2"}]
    exclude: [{seed: 1, task.split: hard5}]
"""
CARDS, APPLES = TEXTS["$Q5"], TEXTS["$Q3"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CARDS}]
INPUTS = {
    "prompts.txt": f"What is 2+2?\n{APPLES}\nBen has 9 toys.\n",
    "chats.jsonl": f"{json.dumps({'prompt': APPLES})}\n{json.dumps({'messages': MESSAGES})}\n",
    "branches.jsonl": f"{json.dumps({'prompt': APPLES, 'branches': ['Ann has 3+4=', '']})}\n{json.dumps({'prompt': '2+2?'})}\n",
    "questions.jsonl": f"{json.dumps(SUM)}\n" * 3,
    "choices.jsonl": f"{json.dumps(CHOICE)}\n" * 2,
    "study.yaml": STUDY,
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answers_are_as_recorded(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name, text in INPUTS.items():
        (folder / name).write_text(text)
    source = next(TREE.glob("runner*/**/embedded/model"))
    # called tiny, as the last folder says nothing
    model = shutil.copytree(source, tmp_path / "tiny" / "model")
    with ExitStack() as stack:
        place = Place(folder, model, INPUTS["prompts.txt"], stack)
        place.has_own_ids = any(re.match("serve|.*(task=|-cn )split", command) for command in case.commands)
        answers = {
            f"{number} {command}": place.run(command) for number, command in enumerate(case.commands, 1)
        }
        for name in INPUTS:
            (folder / name).unlink()
        left = place.left()
        now = json.loads(json.dumps(referring(answers, left["jobs"]) | left))
    if os.environ.get("GOLDEN") == "record":
        case.file.write_text(pretty(now) + "\n")
        pytest.skip("recorded")
    found = [one for one in differences(json.loads(case.file.read_text()), now) if not is_new_key(one)]
    assert not found, f"{len(found)} differences, such as:\n" + "\n".join(found[:30])


def test_every_record_has_its_case() -> None:
    recorded = {path for commands in LISTS for path in (commands.parent / "recorded").iterdir()}
    assert {case.file for case in CASES} == recorded


def test_differences_are_found() -> None:
    """The controls: each kind of difference is seen, and sums in another order are none."""
    assert is_new_key("one params rope.beyond_trained: is new: 'false'")
    assert not is_new_key("one params rope.beyond_trained: is new: 'true'"), "it changes what is read"
    assert is_new_key(" params price_kwh: is new: 'null'")
    assert not is_new_key(" params price_kwh: is new: '0.3'")
    assert not is_new_key("one params rope.factor: is new: '2.0'"), "it counts always"
    old = {"a": 1, "b": [1.0, "x"], "c": None}
    assert not [*differences(old, {"a": 1, "b": [1.0 + 1e-5, "x"], "c": None})]
    for new in (
        {"a": 2},
        {"b": [1.0]},
        {"b": [1.1, "x"]},
        {"b": [1.0, "y"]},
        {"a": True},
        {"c": 0},
        {"d": 1},
    ):
        assert [*differences(old, old | new)], new
    assert [*differences(old, {"a": 1, "b": [1.0, "x"]})]
