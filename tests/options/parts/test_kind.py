"""model=parts: the same tokens as the whole model in every task; its fingerprint, and what is
refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import warm_process
from in_parts import CPU, GREEDY, SAMPLED, Make, answers, generate, in_parts, prompt_file, samples, whole
from job_engines import open_engine
from raising import raises
from stages import split_into

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.grid.plan import PlanState, plan_job, predict_resources
from runner.options.parts.keys import SplitConfig
from runner.options.parts.model_keys import PartsModelConfig, TransportBackend
from runner.run import check_job_before_model_loading, read_inputs_and_identify_job, run
from runner.speed.synthetic import create_random_requests
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_base import machine
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError, DataError
from runner_base.machine import MIB
from runner_base.result import FinishReason, Status
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.base import Completion
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.rope import RopeLinearConfig

pytestmark = pytest.mark.slow

PARTS = "the parts of the model"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split the embedded model into two parts."""
    return split_into(MODEL_DIR, tmp_path_factory.mktemp("embedded") / "parts", 2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prompt_file(tmp_path_factory.mktemp("prompts"))


# ---------------------------------------------------------------------------------------- the same
# tokens


@pytest.mark.thorough
@pytest.mark.parametrize("generation", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_completions_are_those_of_the_whole_model(
    make_config: Make,
    model: Path,
    parts: Path,
    prompts: str,
    generation: GenerationConfig,
    micro_batch: int | None,
) -> None:
    expected = generate(make_config, whole(model), prompts, generation)
    record = generate(make_config, in_parts(parts, micro_batch=micro_batch), prompts, generation)
    assert answers(record) == answers(expected)
    metrics = record.result.metrics
    assert metrics["n"] == 8
    assert metrics["num_parts"] == 4
    assert metrics["processes"] == 1
    assert metrics["new_tokens"] == expected.result.metrics["new_tokens"]
    assert metrics["decode_tok_per_s"] > 0
    assert metrics["prefill_tok_per_s"] > 0
    assert "shared_prompt_tokens" not in metrics, "no prompt shares its beginning with another"
    rows = record.result.tables[PARTS]
    assert [row["layers"] for row in rows] == ["0-0", "1-1", "2-2", "3-3"]
    assert sum(row["mib"] for row in rows) == pytest.approx(metrics["weight_mib"])
    assert all(0 < row["busy_share"] <= 1 and row["peak_rss_mib"] > 0 for row in rows)
    lines = (Path(record.output_dir) / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [one.answer.text for one in samples(record)]


@pytest.mark.thorough
def test_stop_texts_and_limits_end_a_row_and_no_other(
    make_config: Make, model: Path, parts: Path, prompts: str
) -> None:
    in_fours = in_parts(parts, micro_batch=4)
    free = samples(generate(make_config, in_fours, prompts))
    stop = [free[0].answer.text[3:5], free[5].answer.text[1:3]]
    record = generate(make_config, in_fours, prompts, stop=stop)
    assert answers(record) == answers(generate(make_config, whole(model), prompts, stop=stop))
    reasons = {one.answer.finish_reason for one in samples(record)}
    assert reasons == {FinishReason.stop, FinishReason.length}


@pytest.mark.thorough
@pytest.mark.parametrize("samples_each", [1, 2], ids=["greedy", "sampled"])
def test_word_problems(make_config: Make, embedded: Path, samples_each: int) -> None:
    task = Gsm8kConfig(limit=4, samples=samples_each, check_invariance=2 if samples_each == 1 else 0)
    sampling: dict[str, Any] = (
        {} if samples_each == 1 else {"temperature": 0.8, "min_p": 0.05, "presence_penalty": 0.3}
    )
    generation = GenerationConfig(max_new_tokens=60, **sampling)
    expected, record = (
        run(make_config(model=it, task=task, generation=generation))
        for it in (whole("embedded"), in_parts(embedded))
    )
    assert [replace(one, seconds=0) for one in samples(record)] == [
        replace(one, seconds=0) for one in samples(expected)
    ]
    assert record.result.metrics["accuracy"] == expected.result.metrics["accuracy"]
    assert len(record.result.tables[PARTS]) == 2


@pytest.mark.thorough
def test_a_sweep_gets_the_same_tokens(make_config: Make, embedded: Path) -> None:
    def tokens(config: RunnerConfig) -> list[list[int]]:
        engine = open_engine(config)
        try:
            report = engine.load()
            requests = create_random_requests(3, 16, 8, int(report.metrics["vocab_size"]), seed=0)
            ended: list[Completion] = sorted(
                complete_requests(engine, requests, 3), key=lambda one: int(one.id)
            )
            assert all(len(one.token_times or ()) == 8 for one in ended)
            return [one.answer.token_ids for one in ended]
        finally:
            engine.close()

    task = SweepConfig(
        batch_sizes=[1, 3], prompt_tokens=[16], new_tokens=[8], repeats=1, warmup=0, pictures=False
    )
    config = make_config(model=in_parts(embedded), task=task)
    assert tokens(config) == tokens(make_config(model=whole("embedded"), task=task))
    result = run(config).result
    assert [row["batch_size"] for row in result.rows] == [1, 3]
    assert all(row["decode_tok_per_s"] > 0 for row in result.rows)
    assert len(result.tables[PARTS]) == 2
    assert any(note.startswith("this model's FLOP and bytes per token are unknown") for note in result.notes)


def test_a_conversation(embedded: Path, tmp_path: Path) -> None:
    questions = b"Ann has 3 apples and buys 4 more. How many apples does she have?\nand then?\n"

    def turns(folder: Path, *words: str) -> list[list[int]]:
        folder.mkdir()
        plain = ("tracking=none", "model.dtype=float32", "generation.max_new_tokens=12")
        command = [sys.executable, "-m", "runner", "task=chat", *plain, *words]
        done = warm_process.complete(command, questions, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
        (file,) = folder.glob("outputs/jobs/*/samples.jsonl")
        return [json.loads(line)["token_ids"] for line in file.read_text().splitlines()]

    in_two_parts = turns(tmp_path / "parts", "model=parts", f"model.name={embedded}", "model.stages=1")
    assert len(in_two_parts) == 2
    assert in_two_parts == turns(tmp_path / "whole")


# ---------------------------------------------------------------------------------- a job's
# fingerprint


def test_the_job_depends_on_manifest_prompts_and_generation(
    make_config: Make, model: Path, parts: Path, tmp_path: Path
) -> None:
    def job(generation: GenerationConfig = GREEDY, **keys: Any) -> str:
        task = GenerateConfig(prompt="one")
        config = make_config(model=in_parts(**({"parts": parts} | keys)), task=task, generation=generation)
        return read_inputs_and_identify_job(resolve_job(config))[1].job_id

    first = job()
    moved = tmp_path / "moved"
    moved.symlink_to(parts)
    assert job(parts=moved) == first
    assert job(parts=split_into(model, tmp_path / "other", 2)) != first
    assert job(SAMPLED) != first
    assert job(micro_batch=2) != first
    assert job(stages=2, timeout_s=5.0, backend=TransportBackend.gloo, check_memory=False) == first
    assert job(dtype=Dtype.auto) != first


def test_an_interrupted_job_is_resumed(make_config: Make, parts: Path, prompts: str) -> None:
    record = generate(make_config, in_parts(parts), prompts)
    expected = answers(record)
    file = Path(record.output_dir) / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    (file.parent / "result.json").unlink()
    file.write_text("".join(lines[:3]))
    again = generate(make_config, in_parts(parts), prompts)
    assert answers(again) == expected
    assert "3 of 8 samples come from an earlier" in " ".join(again.result.notes)


def test_bad_rows_do_not_stop_the_others(make_config: Make, parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("x" * 300 + "\nfine\n")
    record = generate(make_config, in_parts(parts), str(file))
    assert record.status is Status.FAILED
    rows = samples(record)
    assert [one.answer.finish_reason for one in rows] == [FinishReason.error, FinishReason.length]
    assert rows[0].error == "the prompt has 300 tokens, but the model has room for 256"


def test_prompts_are_shown_as_the_model_sees_them_without_its_parts(
    make_config: Make, embedded: Path
) -> None:
    encoded = []
    for it in (in_parts(embedded), whole("embedded")):
        config = make_config(model=it)
        encoded.append(get_model_kind(it).encode_prompts(resolve_job(config), ["2+2?", (5, 6)]))
    assert encoded[0] == encoded[1]


def test_a_job_needs_its_parts_and_all_cores(make_config: Make, parts: Path) -> None:
    config = make_config(model=in_parts(parts, dtype=Dtype.float32))
    stored = sum(file.stat().st_size for file in parts.glob("*.safetensors")) / MIB
    need = predict_resources(resolve_job(config))
    assert need.mib == pytest.approx(stored, rel=0.1)
    assert need.threads == machine.count_available_cpu_cores()
    assert plan_job([], config).state is PlanState.todo


# --------------------------------------------------------------------------------------------- bad
# input


@pytest.mark.parametrize(
    "keys",
    [{"stages": 0}, {"micro_batch": 0}, {"timeout_s": 0}, {"name": " "}, {"device": "gpu"}, {"threads": 0}],
)
def test_bad_keys(keys: dict[str, Any]) -> None:
    (key,) = keys
    with raises(ConfigError, "unknown_choice" if key == "device" else "bad_value", f"model.{key}"):
        PartsModelConfig(**({"name": "x"} | keys))


def test_groups_that_change_the_weights_are_refused(make_config: Make, parts: Path) -> None:
    for groups, message in (
        ({"quantization": Nf4Config()}, "quantization=nf4: model=parts .* use quantization=none"),
        ({"lora": PeftConfig(path="x")}, "lora=peft: model=parts"),
        ({"rope": RopeLinearConfig(factor=2.0)}, "rope=linear: model=parts"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config(model=in_parts(parts), **groups)


def test_refused_before_anything_is_loaded(
    make_config: Make, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(config: RunnerConfig, code: Code, key: str) -> None:
        with raises(ConfigError, code, key):
            run(config)

    refused(make_config(model=in_parts(tmp_path)), "not_found", "model.name")
    refused(make_config(model=in_parts(parts, stages=5)), "too_large", "model.stages")
    refused(make_config(model=in_parts(parts, backend=TransportBackend.nccl)), "unsupported", "model.backend")
    incomplete = Path(copytree(parts, tmp_path / "incomplete"))
    (incomplete / "part_3.safetensors").unlink()
    with raises(DataError, "damaged"):
        run(make_config(model=in_parts(incomplete, stages=4)))
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 0.01)
    refused(make_config(model=in_parts(parts)), "too_large", "model.name")
    fits = make_config(model=in_parts(parts, check_memory=False))
    assert check_job_before_model_loading(resolve_job(fits)) == []
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 10_000.0)
    alone, four = (make_config(model=in_parts(parts, stages=stages)) for stages in (1, 4))
    assert check_job_before_model_loading(resolve_job(alone)) == []
    (text,) = check_job_before_model_loading(resolve_job(four))
    assert isinstance(text, str)
    assert re.fullmatch(
        r"4 processes of a pipeline share the .* the whole model fits here and is usually faster .*", text
    )


def test_the_parts_of_other_machines_need_not_be_here(
    make_config: Make, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(copytree(parts, tmp_path / "here"))
    for number in (2, 3):
        (here / f"part_{number}.safetensors").unlink()
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    config = make_config(model=PartsModelConfig(name=str(here), **CPU))
    assert check_job_before_model_loading(resolve_job(config)) == []
    asked = make_config(model=in_parts(here, stages=2))
    with raises(ConfigError, "conflict", "model.stages"):
        check_job_before_model_loading(resolve_job(asked))


def test_tasks_that_need_more_are_refused(make_config: Make, parts: Path) -> None:
    for task, message in (
        (LikelihoodConfig(limit=1), "task=likelihood needs log-probabilities of a continuation"),
        (MemoryConfig(), "task=memory needs memory on this machine"),
        (SplitConfig(num_parts=2), r"contains the parts of a split model\. .* model=parts model.name="),
    ):
        with pytest.raises(ConfigError, match=message):
            run(make_config(model=in_parts(parts), task=task))


@pytest.mark.thorough
def test_the_former_task_name_leads_to_the_new_one(runner: Callable[..., Any]) -> None:
    for words in (("task=pipeline", "task.parts=parts", "task.prompt=x"), ("-m", "task=pipeline,generate")):
        done = runner(*words)
        assert done.code == 2
        assert re.search(
            r"error: task=pipeline is now task=generate model=parts model.name=FOLDER", done.err
        ), done.err
