"""task=instructions as a job: it resumes, is judged again without decoding, is compared and gated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interrupts import answers, kill_when
from raising import raises
from stopping import POLICY, compose_gate_keys, find_jobs, find_stop
from traced import traces_of

from runner.options.instructions.generated_prompts import generate_prompts
from runner.options.instructions.judging import check_response
from runner.options.instructions.keys import ClusterKey, InstructionsConfig
from runner_base import ConfigError
from runner_base.result import Sample

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
MANY = "My answer is no. It is late (8 p.m.). We rest."
ALIKE = "My answer is no. It is late (9 p.m.). We rest."  # follows the same instructions
FEW = "No, no, no"
SINGLE = ("model=stub", "task=instructions", "task.num_instructions=[1]", "task.limit=220")


def samples_of(done: Any) -> list[Sample]:
    lines = Path(done.json()["output_dir"], "samples.jsonl").read_text().splitlines()
    return sorted(map(Sample.from_json, lines), key=lambda sample: sample.index)


def solved_by(answer: str) -> set[int]:
    prompts = generate_prompts(220, [1], 0, [])
    return {number for number, prompt in enumerate(prompts) if all(check_response(answer, prompt).strict)}


def test_a_loss_is_shown_and_stops_the_gate(runner: Run) -> None:
    many, few = solved_by(MANY), solved_by(FEW)
    lost, won = len(many - few), len(few - many)
    assert lost > 20 > won >= 0
    assert solved_by(ALIKE) == many
    chosen = f"model.answer='{MANY}','{FEW}','{ALIKE}'"
    # without MLflow: the comparison reads the records
    assert runner("-m", *SINGLE, chosen, "print=none", "tracking=none").code == 0
    named = f"model.answer='{MANY}'"
    done = runner("--baseline", named, "--format", "json", module="runner_compare")
    rows = [row for row in json.loads(done.out)["tables"][0]["rows"] if row["comparison"]]
    found = {row["config"]["model.answer"]: row["comparison"] for row in rows}
    assert (found[FEW]["wins"], found[FEW]["losses"], found[FEW]["finding"]) == (won, lost, "worse")
    assert found[FEW]["difference"] == pytest.approx((won - lost) / 220)
    assert (found[ALIKE]["wins"], found[ALIKE]["losses"]) == (0, 0)
    assert found[ALIKE]["finding"] == "no difference shown"
    assert runner("pack", named, "-o", "base.runner.gz", module="runner_compare").code == 0
    gate = runner("gate", "base.runner.gz", "outputs", "--json", "--margin", "5", module="runner_compare")
    verdicts = {candidate["name"]: candidate["verdict"] for candidate in json.loads(gate.out)["candidates"]}
    assert verdicts == {f"model.answer={FEW}": "NO-GO", f"model.answer={ALIKE}": "GO"}
    assert gate.code == 1


def test_each_candidate_stops_when_its_verdict_is_decided(runner: Run, tmp_path: Path) -> None:
    """Two of three prompts ask for no comma. A candidate without commas is the control, and stops with GO."""
    kinds = ["startend:quotation", "punctuation:no_comma", "punctuation:no_comma"] * 30
    rows = [{"key": number, "prompt": f"Say {number}.", "instruction_id_list": [kind], "kwargs": [{}]}
            for number, kind in enumerate(kinds)]  # fmt: skip
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("model=stub", "task=instructions", f"task.data={tmp_path}/prompts.jsonl", "task.limit=null",
             "print=json", "tracking=none")  # fmt: skip
    baseline = f"gate.baseline=\"model.answer='{MANY}'\""
    done = runner("-m", *words, baseline, "gate.margin=10", f"model.answer='{MANY}','{FEW}','{ALIKE}'")
    verdicts = {each["name"].partition("=")[2]: each["verdict"] for each in done.json()["candidates"]}
    assert (done.code, verdicts) == (1, {FEW: "NO-GO", ALIKE: "GO"}), done.err
    found = find_jobs(tmp_path, "model.answer")
    solved = [kind == "punctuation:no_comma" for kind in kinds]
    stops = {}
    for answer, own in ((FEW, [False] * 90), (ALIKE, solved)):
        stops[answer] = find_stop(zip(own, solved, strict=True), comparisons=2, margin=0.1)
        metrics = found[answer]["metrics"]
        assert metrics["questions_asked"] == metrics["n"] == stops[answer] < 90
        assert metrics["questions_left"] == 90 - metrics["n"]
        assert metrics["correct"] == sum(own[: stops[answer]])
    assert stops[FEW] < stops[ALIKE]
    assert "early_stop_decision" not in found[MANY]["metrics"]
    # without the gate, the job asks the rest, and reuses what there is
    rest = samples_of(runner(*words, f"model.answer='{FEW}'"))
    assert len(rest) == 90
    assert all(sample.reused_from for sample in rest[: stops[FEW]])
    assert not all(sample.reused_from for sample in rest)


@pytest.mark.parametrize(
    ("words", "is_on"),
    [((), True), ((POLICY,), False), (("task.cluster=kind",), False), (("task.repeat_index=1",), False)],
)
def test_the_gate_stops_jobs_with_independent_questions(words: tuple[str, ...], is_on: bool) -> None:
    assert compose_gate_keys("task=instructions", *words) == (("lora=none", 5) if is_on else (None, None))


def test_keys_that_do_not_fit_early_stopping_are_rejected() -> None:
    with raises(ConfigError, "conflict", "task.cluster"):
        InstructionsConfig(early_stop_vs="lora=none", cluster=ClusterKey.kind)
    with raises(ConfigError, "conflict", "task.repeat_index"):
        InstructionsConfig(early_stop_vs="lora=none", repeat_index=1)


@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_a_grid_of_two_quantizations_is_gated_and_logged(runner: Run, tmp_path: Path) -> None:
    """Real models with a low accuracy, so that the gate asks for more or easier questions."""
    words = ("task=instructions", "task.limit=44", "generation.max_new_tokens=16", "print=json")
    gate = ("gate.baseline=quantization=none", "gate.margin=50")
    done = runner("-m", "quantization=none,fp4", *words, *gate)
    assert (done.code, done.json()["candidates"][0]["verdict"]) == (3, "ASK"), done.err
    for limit, code in (("--max=prompt_loose_accuracy=0.9", 0), ("--min=accuracy=0.99", 1)):
        found = runner("gate", "quantization=none", "--grid", "last", limit, module="runner_compare")
        assert found.code == code, (limit, found.out, found.err)
    single = runner("quantization=fp4", *words, "tracking.traces=true")
    traces = traces_of(tmp_path, single)
    correct = [it.value for trace in traces for it in trace.info.assessments if it.name == "correct"]
    assert len(correct) == 44
    assert sum(correct) / 44 == single.json()["metrics"]["accuracy"]


def test_another_limit_and_other_clusters_are_judged_without_decoding(runner: Run) -> None:
    words = (*SINGLE, f"model.answer='{MANY}'", "print=json", "tracking=none")
    first = samples_of(runner(*words))
    again = samples_of(runner(*words, "task.limit=250", "task.cluster=kind"))
    assert {sample.reused_from is not None for sample in again[:220]} == {True}
    assert {sample.reused_from for sample in again[220:]} == {None}
    assert [sample.answer for sample in again[:220]] == [sample.answer for sample in first]
    assert len({sample.cluster for sample in again}) == 22


def test_a_job_without_its_result_is_judged_again_from_its_samples(runner: Run) -> None:
    words = (*SINGLE, f"model.answer='{MANY}'", "print=json", "tracking=none")
    first = runner(*words).json()
    Path(first["output_dir"], "result.json").unlink()
    before = Path(first["output_dir"], "samples.jsonl").read_bytes()
    again = runner(*words).json()
    assert Path(first["output_dir"], "samples.jsonl").read_bytes() == before
    names = [name for name in first["metrics"] if "accuracy" in name]
    assert len(names) >= 12
    assert {name: again["metrics"][name] for name in names} == {
        name: first["metrics"][name] for name in names
    }


@pytest.mark.thorough
@pytest.mark.parametrize("count", [None, 1, 8, 19, 24], ids=["load", "first", "middle", "late", "result"])
def test_a_killed_job_resumes_with_the_same_result(runner: Run, tmp_path: Path, count: int | None) -> None:
    """It is killed while the model loads, between two answers, or after the last one and before the result."""
    words = ["task=instructions", "task.limit=24", "generation.max_new_tokens=24", "generation.batch_size=2",
             "model.dtype=float32", "tracking=none"]  # fmt: skip
    whole = runner(*words, "print=json", f"output_dir={tmp_path}/whole")
    killed = tmp_path / "killed"

    def is_reached() -> bool:
        if count is None:
            return bool([*killed.glob("jobs/*/config.yaml")])
        return len(answers(killed)) >= count

    kill_when(is_reached, killed, words)
    assert (count or 0) <= len(answers(killed)) <= (24 if count == 24 else 23)
    resumed = runner(*words, "print=json", f"output_dir={killed}")
    assert [(sample.answer, sample.gold) for sample in samples_of(resumed)] == [
        (sample.answer, sample.gold) for sample in samples_of(whole)
    ]
    names = [name for name in whole.json()["metrics"] if "accuracy" in name or "degenerate" in name]
    assert len(names) >= 12
    assert {name: resumed.json()["metrics"][name] for name in names} == {
        name: whole.json()["metrics"][name] for name in names
    }


def test_other_kinds_are_judged_without_decoding(runner: Run) -> None:
    words = (*SINGLE, f"model.answer='{MANY}'", "print=json", "tracking=none")
    runner(*words)
    fewer = runner(*words, "task.exclude_kinds=[punctuation:no_comma]").json()
    samples = [
        json.loads(line) for line in Path(fewer["output_dir"], "samples.jsonl").read_text().splitlines()
    ]
    assert fewer["metrics"]["instructions"] == 220
    assert not any("no_comma" in sample["gold"] for sample in samples)


def test_a_plan_names_prompts_instructions_and_kinds(runner: Run) -> None:
    done = runner("task=instructions", "task.limit=300", "plan=true")
    assert done.code == 0
    assert "300 prompts with 600 instructions of 22 kinds" in done.out + done.err


def test_a_damaged_file_ends_with_exit_code_2(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"key": 1, "prompt": "x", "instruction_id_list": ["no:kind"], "kwargs": [{}]}\n'
    )
    done = runner("model=stub", "task=instructions", "task.data=a.jsonl")
    assert done.code == 2
    assert "a.jsonl, line 1" in done.err
    assert "no:kind" in done.err
    assert "Traceback" not in done.err
