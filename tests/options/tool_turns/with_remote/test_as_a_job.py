"""task=tool_turns as a job: a server that plays rightly or wrongly, the embedded model, a killed job, a gate."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import warm_process
from api_standin import Api
from grids import wait_for
from interrupts import answers
from playing import serving
from raising import raises
from stopping import POLICY, compose_gate_keys, find_jobs, find_stop

from runner.datasets.questions import load_questions
from runner.options.tool_turns.generated_scenarios import generate_scenarios
from runner.options.tool_turns.keys import LEVELS, ClusterKey, ToolTurnsConfig
from runner.options.tool_turns.scenarios import Scenario, scenario_to_record
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import ConfigError
from runner_base.result import Sample
from runner_engine import embedded
from runner_engine.tool_calls import import_tool_call_format

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
JSON = import_tool_call_format("json")
# with different messages, by which the server knows them
SCENARIOS = [*{scenario.messages[0]: scenario for scenario in generate_scenarios(64, LEVELS, 0)}.values()]
TASK = ("task=tool_turns", "task.limit=null", "task.tool_placement=system")


def samples_of(done: Any) -> list[Sample]:
    lines = Path(done.json()["output_dir"], "samples.jsonl").read_text().splitlines()
    return sorted(map(Sample.from_json, lines), key=lambda sample: sample.index)


def serve(is_damaged: bool) -> Api:
    """Return a server that makes the reference calls."""
    api = Api(serving(SCENARIOS, JSON, is_damaged))
    api.models = [{"id": "tiny", "object": "model", "root": "/models/tiny-v1", "max_model_len": 8192}]
    return api


def write_file(path: Path, scenarios: Sequence[Scenario]) -> str:
    """Write a file of scenarios, and return its key."""
    path.write_text("".join(json.dumps(scenario_to_record(scenario)) + "\n" for scenario in scenarios))
    return f"task.data={path}"


@pytest.fixture
def both(runner: Run, tmp_path: Path) -> str:
    """Run a job with a server that calls rightly and one that damages the last call. Returns the first one's key."""
    assert len(SCENARIOS) > 55
    data = write_file(tmp_path / "scenarios.jsonl", SCENARIOS)
    with serve(False) as right, serve(True) as wrong:
        urls = f"model.base_url={right.url},{wrong.url}"
        keys = ("model=api", "model.name=tiny", urls, *TASK, data, "tracking=none", "print=none")
        assert runner("-m", *keys).code == 0
    # results are messages of the user where tools are in the system message
    roles = {message["role"] for body in right.seen for message in body["messages"]}
    assert roles == {"system", "user", "assistant"}
    return f"model.base_url={right.url}"


def test_a_server_that_calls_rightly_reaches_all_goals_and_a_damaged_one_none(
    both: str, tmp_path: Path
) -> None:
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/jobs/*/result.json")]
    found = {record["params"]["model.base_url"]: record["result"]["metrics"] for record in records}
    right = found.pop(both.partition("=")[2])
    (wrong,) = found.values()
    assert (right["correct"], right["accuracy"]) == (len(SCENARIOS), 1)
    assert (wrong["correct"], wrong["n"]) == (0, len(SCENARIOS))


def test_a_damaged_server_stops_after_the_first_scenarios(runner: Run, tmp_path: Path) -> None:
    """All verdicts are losses, of which eight decide. The baseline's twin is the control."""
    data = write_file(tmp_path / "scenarios.jsonl", SCENARIOS[:40])
    with serve(False) as right, serve(True) as wrong, serve(False) as twin:
        urls = f"model.base_url={right.url},{wrong.url},{twin.url}"
        keys = ("model=api", "model.name=tiny", urls, *TASK, data, "tracking=none", "task.cluster=scenario")
        gate = (f"gate.baseline=model.base_url={right.url}", "gate.margin=20", "print=json")
        done = runner("-m", *keys, *gate)
        found = find_jobs(tmp_path, "model.base_url")
        verdicts = {each["name"].rpartition("=")[2]: each["verdict"] for each in done.json()["candidates"]}
    assert (done.code, verdicts) == (1, {wrong.url: "NO-GO", twin.url: "GO"}), done.err
    stops = {
        each.url: find_stop([(is_right, True)] * 40, comparisons=2, margin=0.2)
        for each, is_right in ((wrong, False), (twin, True))
    }
    assert {url: found[url]["metrics"]["n"] for url in stops} == stops
    assert len(wrong.seen) < len(right.seen)


@pytest.mark.parametrize(
    ("words", "is_on"),
    [
        ((), False),
        (("task.cluster=scenario", POLICY), False),
        (("task.cluster=scenario",), True),
        (("task.cluster=scenario", "task.repeat_index=1"), False),
    ],
)
def test_the_gate_stops_jobs_with_independent_questions(words: tuple[str, ...], is_on: bool) -> None:
    assert compose_gate_keys("task=tool_turns", *words) == (("lora=none", 5) if is_on else (None, None))


def test_keys_that_do_not_fit_early_stopping_are_rejected() -> None:
    with raises(ConfigError, "conflict", "task.cluster"):
        ToolTurnsConfig(early_stop_vs="lora=none")
    with raises(ConfigError, "conflict", "task.repeat_index"):
        ToolTurnsConfig(early_stop_vs="lora=none", cluster=ClusterKey.scenario, repeat_index=1)


@pytest.mark.thorough
def test_a_loss_is_shown_at_each_level_and_stops_the_gate(runner: Run, both: str) -> None:
    done = runner("--baseline", both, "--format", "json", module="runner_compare")
    (row,) = [each for each in json.loads(done.out)["tables"][0]["rows"] if each["comparison"]]
    assert (row["comparison"]["losses"], row["comparison"]["finding"]) == (len(SCENARIOS), "worse")
    compared = {each["category"]: each["finding"] for each in row["tool_calls"]["compared"]}
    assert compared == dict.fromkeys(LEVELS, "worse")
    assert runner("pack", both, "-o", "base.runner.gz", module="runner_compare").code == 0
    gate = runner("gate", "base.runner.gz", "outputs", "--json", "--margin", "5", module="runner_compare")
    assert [candidate["verdict"] for candidate in json.loads(gate.out)["candidates"]] == ["NO-GO"]
    assert gate.code == 1


@pytest.fixture
def several_messages(tmp_path: Path) -> list[str]:
    """The words of a job in which the embedded model answers three word problems per scenario.

    Its chat template takes tools without showing them, since it was not trained for tools.
    """
    model = tmp_path / "model"
    shutil.copytree(embedded.MODEL_DIR, model)
    template = model / "chat_template.jinja"
    template.write_text("{% if tools %}{% endif %}" + template.read_text())
    questions = [item.question for item in load_questions(Gsm8kConfig(limit=72))]
    record = {"environment": "files", "state": {"files": {"a": "b"}}}
    calls = [[], [], [{"name": "delete_file", "arguments": {"path": "a"}}]]
    lines = [
        json.dumps(record | {"messages": questions[at : at + 3], "calls": calls}) + "\n"
        for at in range(0, 72, 3)
    ]
    (tmp_path / "messages.jsonl").write_text("".join(lines))
    return [
        "model=auto", f"model.name={model}", "model.dtype=float32", "task=tool_turns", "task.limit=null",
        f"task.data={tmp_path}/messages.jsonl", "generation.max_new_tokens=96", "tracking=none",
    ]  # fmt: skip


def test_a_real_model_plays_several_turns_and_is_judged_again_from_its_samples(
    runner: Run, several_messages: list[str]
) -> None:
    """It was not trained for calls, so it reaches no goal."""
    words = (*several_messages, "print=json")
    done = runner(*words)
    first, samples = done.json(), samples_of(done)
    metrics = first["metrics"]
    assert (metrics["accuracy"], metrics["n"], metrics["calls_per_scenario"]) == (0, 24, 0)
    turns = [len(sample.calls or ()) for sample in samples]
    assert metrics["turns_per_scenario"] == sum(turns) / 24 > 2
    for sample in samples:
        prompts = [call.prompt_tokens for call in sample.calls or ()]
        assert prompts == sorted(prompts)
        assert sum(prompts) == sample.prompt_tokens
    folder = Path(first["output_dir"])
    before = (folder / "samples.jsonl").read_bytes()
    (folder / "result.json").unlink()
    again = runner(*words).json()
    assert (folder / "samples.jsonl").read_bytes() == before
    names = [name for name in metrics if "accuracy" in name or "scenario" in name]
    assert len(names) >= 8
    assert {name: again["metrics"][name] for name in names} == {name: metrics[name] for name in names}


def test_a_prompt_beyond_the_context_stops_only_its_scenario(runner: Run) -> None:
    done = runner("task=tool_turns", "task.limit=10", "task.tool_placement=system", "generation.max_new_tokens=8", "print=json", "tracking=none")  # fmt: skip
    assert done.code == 1
    samples = samples_of(done)
    failed = {
        sample.tool_function.partition("/")[0] for sample in samples if sample.tool_function and sample.failed
    }
    assert failed == {"calendar"}
    assert len(samples) == 10
    assert all(sample.permanent for sample in samples if sample.failed)


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 8, 19])
def test_a_killed_job_resumes_with_the_same_samples(
    runner: Run, tmp_path: Path, several_messages: list[str], count: int
) -> None:
    words = [*several_messages, "generation.batch_size=2"]
    whole = samples_of(runner(*words, "print=json", f"output_dir={tmp_path}/whole"))
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words, f"output_dir={tmp_path}/killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(answers(tmp_path / "killed")) >= count)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    assert count <= len(answers(tmp_path / "killed")) < 24
    resumed = samples_of(runner(*words, "print=json", f"output_dir={tmp_path}/killed"))
    texts = [
        [[call.answer.text for call in sample.calls or ()] for sample in some] for some in (whole, resumed)
    ]
    assert texts[0] == texts[1]
    assert [(sample.answer, sample.tool_outcome) for sample in resumed] == [
        (sample.answer, sample.tool_outcome) for sample in whole
    ]


def test_a_plan_names_scenarios_levels_and_environments(runner: Run) -> None:
    done = runner("model=stub", "task=tool_turns", "task.limit=40", "plan=true")
    assert done.code == 0
    assert "40 scenarios of 5 levels in 4 environments" in done.out + done.err


def test_a_damaged_file_and_a_template_without_tools_end_with_exit_code_2(
    runner: Run, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"environment": "bank"}\n')
    done = runner("model=stub", "task=tool_turns", "task.data=a.jsonl")
    assert done.code == 2
    assert "a.jsonl, line 1" in done.err
    assert "Traceback" not in done.err
    done = runner("task=tool_turns", "task.limit=2", "tracking=none")
    assert done.code == 2
    assert "task.tool_placement=system" in done.err
