"""BFCL's files as a user has them: questions, and right calls beside them in possible_answer/."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calling import calling_rightly, saying
from raising import raises
from scripted import Scripted
from tasking import work

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.records.jobs import Job, Recorder
from runner.tasks.tools import task as tools
from runner.tasks.tools.bfcl import parse_bfcl_category, read_bfcl_cases, to_json_schema
from runner.tasks.tools.keys import ToolsConfig
from runner_base.errors import ConfigError, DataError
from runner_engine.tool_calls import import_tool_call_format

AREA = {
    "name": "shapes.area",
    "description": "Calculates an area.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "float", "description": "b"},
            "size": {"type": "tuple", "items": {"type": "integer"}},
            "more": {"type": "dict", "properties": {"unit": {"type": "any"}}},
        },
        "required": ["base"],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as BFCL's, with files that are read and one that is not."""
    data = tmp_path / "data"
    (data / "possible_answer").mkdir(parents=True)
    for name, calls in {
        "BFCL_v4_simple_python": [{"shapes.area": {"base": [3], "size": ["", [1, 2]], "more": [""]}}],
        "BFCL_v4_live_parallel_multiple": [{"shapes.area": {"base": [it]}} for it in (1, 2.5)],
        "BFCL_v4_irrelevance": None,
        "BFCL_v4_simple_java": [],
    }.items():
        asked = {
            "id": f"{name}_0",
            "question": [[{"role": "user", "content": "An area?"}]],
            "function": [AREA],
        }
        (data / f"{name}.json").write_text(json.dumps(asked) + "\n")
        if calls is not None:
            right = {"id": f"{name}_0", "ground_truth": calls}
            (data / "possible_answer" / f"{name}.json").write_text(json.dumps(right) + "\n")
    return data


def test_a_folder_is_read_by_the_names_of_its_files(folder: Path) -> None:
    cases = {case.id: case for case in read_bfcl_cases(folder, "task.data")}
    assert {name: case.category for name, case in cases.items()} == {
        "BFCL_v4_simple_python_0": "simple",
        "BFCL_v4_live_parallel_multiple_0": "parallel",
        "BFCL_v4_irrelevance_0": "irrelevant",
    }
    assert cases["BFCL_v4_irrelevance_0"].wanted == ()
    assert cases["BFCL_v4_live_parallel_multiple_0"].gold == "shapes.area(base=1); shapes.area(base=2.5)"
    [case] = read_bfcl_cases(folder / "BFCL_v4_simple_python.json", "task.data")
    assert case.turns == (("user", "An area?"),)


def test_a_model_gets_types_as_json_schema_names_them() -> None:
    parameters = to_json_schema(AREA)["parameters"]
    assert parameters["type"] == "object"
    kinds = {name: it["type"] for name, it in parameters["properties"].items()}
    assert kinds == {"base": "number", "size": "array", "more": "object"}
    assert parameters["properties"]["more"]["properties"]["unit"]["type"] == "string"


def test_names_of_published_files() -> None:
    assert parse_bfcl_category(Path("BFCL_v3_multiple.json")) == "multiple"
    assert parse_bfcl_category(Path("gorilla_openfunctions_v1_test_parallel_multiple.json")) is None
    assert parse_bfcl_category(Path("BFCL_v4_multi_turn_base.json")) is None
    assert parse_bfcl_category(Path("BFCL_v4_live_relevance.json")) is None


def test_what_is_missing_or_unread_is_said(folder: Path, tmp_path: Path) -> None:
    with raises(ConfigError, "unsupported", "task.data=x"):
        read_bfcl_cases(folder / "BFCL_v4_simple_java.json", "task.data=x")
    (folder / "possible_answer" / "BFCL_v4_simple_python.json").unlink()
    with raises(DataError, "not_found", str(folder / "BFCL_v4_simple_python.json")):
        read_bfcl_cases(folder / "BFCL_v4_simple_python.json", "task.data=x")
    strange = json.loads((folder / "BFCL_v4_irrelevance.json").read_text())
    strange["function"][0]["parameters"]["properties"]["base"]["type"] = "HashMap"
    (folder / "BFCL_v4_irrelevance.json").write_text(json.dumps(strange))
    with raises(DataError, "damaged", f"{folder / 'BFCL_v4_irrelevance.json'}, line 1"):
        read_bfcl_cases(folder / "BFCL_v4_irrelevance.json", "task.data=x")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("text", "nothing_called"), [('{"name": "shapes.a', True), ("No.", True), ("[]", True)]
)
def test_what_is_no_call_counts_as_none_where_none_should_be(
    make_config: Callable[..., RunnerConfig], folder: Path, tmp_path: Path, text: str, nothing_called: bool
) -> None:
    """As BFCL counts it; in the questions that ship half a call is malformed."""

    def outcomes(**keys: Any) -> list[str | None]:
        place = tmp_path / str(len([*tmp_path.iterdir()]))
        place.mkdir()
        recorder = Recorder(Job("tools", place))
        config = make_config(model=StubConfig(), task=ToolsConfig(categories=["irrelevant"], **keys))
        work(tools, config, recorder, Scripted(saying(text)))
        recorder.close()
        return [sample.tool_outcome for sample in recorder.samples.values()]

    assert outcomes(data=str(folder)) == ["nothing_called"]
    assert (outcomes(cases=1) == ["nothing_called"]) is (not text.startswith("{"))


def test_right_calls_are_right(
    make_config: Callable[..., RunnerConfig], folder: Path, tmp_path: Path
) -> None:
    recorder = Recorder(Job("tools", tmp_path))
    config = make_config(model=StubConfig(), task=ToolsConfig(data=str(folder)))
    answers = calling_rightly(tools.prepare(config).cases, import_tool_call_format("json"))
    assert work(tools, config, recorder, Scripted(answers)).metrics["tool_accuracy"] == 1
    recorder.close()
