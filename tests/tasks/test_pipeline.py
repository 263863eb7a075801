"""task=pipeline: the same answers as task=generate with the whole model, and what happens when a process dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from stages import split_into

from runner.checkpoints.resolve import resolve
from runner.config.generation import GenerationConfig
from runner.config.lora import LoraConfig
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.config.task import Framing, GenerateConfig, PipelineConfig
from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError, DataError, JobFailed
from runner.core.result import FinishReason, Record, Sample, Status
from runner.engines import base
from runner.engines.base import Request
from runner.engines.pipeline.engine import PipelineEngine
from runner.quantization.bitsandbytes import Nf4Config
from runner.run import identify, run
from runner.store.jobs import read_samples
from runner.tasks.base import task_of

Make = Callable[..., RunnerConfig]
LAYERS = 4
CPU = {"device": "cpu", "dtype": Dtype.float32}
SAMPLED = GenerationConfig(
    name="sampling", max_new_tokens=12, temperature=1.0, top_k=30, top_p=0.9, repetition_penalty=1.1
)
GREEDY = GenerationConfig(name="greedy", max_new_tokens=12)


@pytest.fixture(scope="module")
def model(saved_family: Any) -> Path:
    folder: Path = saved_family("llama", num_hidden_layers=LAYERS, head_dim=16, tied=True)
    return folder


@pytest.fixture(scope="module")
def parts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into(model, tmp_path_factory.mktemp("pipeline") / "parts", 4)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = ["one", "a longer prompt than the others are", "xy", "to be or not", "7 times 8 is", "end", "so", "why not"]
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("".join(f"{text}\n" for text in texts))
    return str(file)


@pytest.fixture
def pipeline(make_config: Make, parts: Path) -> Callable[..., RunnerConfig]:
    """Return a function that makes the config of a pipeline over the parts."""

    def make(generation: GenerationConfig = GREEDY, **keys: Any) -> RunnerConfig:
        plain: dict[str, Any] = {"parts": str(parts), "processes": 1, "format": Framing.raw}
        if "prompts" not in keys:
            plain["prompt"] = "one"
        task = PipelineConfig(**(plain | keys))
        return make_config(model=LocalModelConfig(name="embedded", **CPU), task=task, generation=generation)  # type: ignore[arg-type]

    return make


def samples(record: Record) -> list[Sample]:
    found = read_samples(Path(record.output_dir) / "samples.jsonl")
    return [found[index] for index in sorted(found)]


def answers(record: Record) -> list[tuple[Any, ...]]:
    return [(one.index, one.prompt_sha256, one.token_ids, one.text, one.finish_reason) for one in samples(record)]


def generated(make_config: Make, model: Path, prompts: str, generation: GenerationConfig, **keys: Any) -> Record:
    task = GenerateConfig(prompts=prompts, format=Framing.raw, **keys)
    return run(make_config(model=LocalModelConfig(name=str(model), **CPU), task=task, generation=generation))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------- one process


@pytest.mark.parametrize("generation", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_answers_are_those_of_generate(
    make_config: Make,
    pipeline: Callable[..., RunnerConfig],
    model: Path,
    prompts: str,
    generation: GenerationConfig,
    micro_batch: int | None,
) -> None:
    expected = generated(make_config, model, prompts, generation)
    record = run(pipeline(generation, prompts=prompts, micro_batch=micro_batch))
    assert answers(record) == answers(expected)
    metrics = record.result.metrics
    assert metrics["n"] == 8
    assert metrics["stages"] == 4
    assert metrics["processes"] == 1
    assert metrics["new_tokens"] == expected.result.metrics["new_tokens"]
    assert metrics["decode_tok_per_s"] > 0
    assert metrics["prefill_tok_per_s"] > 0
    assert [row["layers"] for row in record.result.rows] == ["0-0", "1-1", "2-2", "3-3"]
    assert sum(row["mib"] for row in record.result.rows) == pytest.approx(metrics["weight_mib"])
    assert all(0 < row["busy_share"] <= 1 and row["peak_rss_mib"] > 0 for row in record.result.rows)
    lines = (Path(record.output_dir) / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [one.text for one in samples(record)]


def test_stop_texts_and_limits_end_a_row_and_no_other(
    make_config: Make, pipeline: Callable[..., RunnerConfig], model: Path, prompts: str
) -> None:
    free = samples(run(pipeline(prompts=prompts, micro_batch=4)))
    stop = [free[0].text[3:5], free[5].text[1:3]]
    record = run(pipeline(prompts=prompts, micro_batch=4, stop=stop))
    assert answers(record) == answers(generated(make_config, model, prompts, GREEDY, stop=stop))
    reasons = {one.finish_reason for one in samples(record)}
    assert reasons == {FinishReason.stop, FinishReason.length}


def test_one_prompt_is_shown_whole_and_recorded_once(pipeline: Callable[..., RunnerConfig]) -> None:
    record = run(pipeline())
    assert record.result.text == samples(record)[0].text
    again = run(pipeline(timeout_s=5.0))  # inert
    assert again.from_ledger
    assert again.job_id == record.job_id
    assert run(pipeline(prompt="two")).job_id != record.job_id


def test_its_prompts_are_described_as_a_data_set(pipeline: Callable[..., RunnerConfig], prompts: str) -> None:
    data = task_of(config := pipeline(prompts=prompts)).prepare(config).data
    assert (data["name"], data["source_type"]) == (Path(prompts).name, "local")


def test_the_job_rests_on_manifest_prompts_and_generation(
    pipeline: Callable[..., RunnerConfig], parts: Path, tmp_path: Path, model: Path
) -> None:
    def job(config: RunnerConfig) -> str:
        _, named = identify(config, task_of(config), resolve(config))
        return named.job_id

    first = job(pipeline())
    moved = tmp_path / "moved"
    moved.symlink_to(parts)
    assert job(pipeline(parts=str(moved))) == first
    other = split_into(model, tmp_path / "other", 2)
    assert job(pipeline(parts=str(other))) != first
    assert job(pipeline(SAMPLED)) != first
    assert job(pipeline(processes=2)) == first


def test_an_interrupted_job_goes_on(pipeline: Callable[..., RunnerConfig], prompts: str) -> None:
    whole = run(pipeline(prompts=prompts))
    expected = answers(whole)
    file = Path(whole.output_dir) / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    (file.parent / "result.json").unlink()
    file.write_text("".join(lines[:3]))
    again = run(pipeline(prompts=prompts))
    assert answers(again) == expected
    assert "3 of 8 samples were on disk" in " ".join(again.result.notes)


def test_bad_rows_do_not_stop_the_others(pipeline: Callable[..., RunnerConfig], tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("x" * 300 + "\nfine\n")
    record = run(pipeline(prompts=str(file)))
    assert record.status is Status.FAILED
    said = samples(record)
    assert [one.finish_reason for one in said] == [FinishReason.error, FinishReason.length]
    assert said[0].error == "the prompt has 300 tokens, the model has room for 256"


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"processes": 0}, "task.processes=0: must be 1 or more, or null"),
        ({"micro_batch": 0}, "task.micro_batch=0"),
        ({"timeout_s": 0}, "task.timeout_s=0"),
        ({"parts": " "}, "task.parts=' ': give the folder"),
        ({"prompt": None}, "task=pipeline needs either task.prompt=TEXT or task.prompts=FILE"),
    ],
)
def test_bad_keys(pipeline: Callable[..., RunnerConfig], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**keys)


def test_refused_before_anything_is_loaded(
    pipeline: Callable[..., RunnerConfig], make_config: Make, parts: Path, tmp_path: Path
) -> None:
    def refused(config: RunnerConfig, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            identify(config, task_of(config), resolve(config))

    refused(pipeline(parts=str(tmp_path)), "task.parts=.*: no manifest.json there")
    refused(pipeline(processes=5), "task.processes=5: .* has 4: use at most 4")
    task = PipelineConfig(parts=str(parts), prompt="x")
    refused(make_config(task=task, quantization=Nf4Config()), "quantization=nf4: task=pipeline runs the parts")
    refused(make_config(task=task, lora=LoraConfig(name="peft")), "lora=peft: task=pipeline")
    spread = LocalModelConfig(name="x", device_map="auto")
    refused(make_config(task=task, model=spread), "model.device_map=auto: task=pipeline gives each process")
    branched = tmp_path / "b.jsonl"
    branched.write_text('{"prompt": "a", "branches": ["b"]}\n')
    refused(pipeline(prompts=str(branched)), "branches: task=pipeline has none")


# ---------------------------------------------------------------------------------------- several processes


def command(parts: Path, *more: str) -> list[str]:
    return ["-m", "runner", "task=pipeline", f"task.parts={parts}", "task.format=raw", "model.device=cpu",
            "model.dtype=float32", "tracking=none", *more]  # fmt: skip


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_several_processes_say_the_same(
    make_config: Make, pipeline: Callable[..., RunnerConfig], model: Path, prompts: str, processes: int
) -> None:
    expected = answers(generated(make_config, model, prompts, SAMPLED))
    record = run(pipeline(SAMPLED, prompts=prompts, processes=processes, micro_batch=2))
    assert answers(record) == expected
    metrics, rows = record.result.metrics, record.result.rows
    assert metrics["processes"] == processes
    assert sorted({row["process"] for row in rows}) == list(range(processes))
    assert [row["part"] for row in rows] == [0, 1, 2, 3]
    assert 0 <= metrics["bubble_share"] < 1
    assert metrics["sum_peak_rss_mib"] > metrics["peak_rss_mib"] > 0
    assert record.result.facts["processes"] == f"{processes}, started here, over gloo"
    assert not list(Path(record.output_dir).glob("process_*.log"))
    assert children() == []


def children(parent: int | None = None) -> list[int]:
    """The stage processes of a parent that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text()
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if "stage_process" in line and fields[0] != "Z" and int(fields[1]) == (parent or os.getpid()):
            found.append(int(entry.name))
    return sorted(found)


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 200
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value


@pytest.fixture
def decoding(parts: Path, prompts: str, tmp_path: Path, warm_children: None) -> Any:
    """Start a long pipeline as its own process; yield it with the stages' pids once it is decoding."""
    out = tmp_path / "outputs"
    arguments = ["generation.max_new_tokens=100", f"task.prompts={prompts}", "task.micro_batch=1", f"output_dir={out}"]
    arguments += ["task.processes=4", "print=json"]
    process = subprocess.Popen(
        [sys.executable, *command(parts, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: list(out.glob("jobs/*/samples.jsonl")) or process.poll() is not None, "a first completion")
        assert process.poll() is None, process.communicate()
        yield process, children(process.pid), out
    finally:
        process.kill()
        process.communicate()


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_whole(decoding: Any, victim: int) -> None:
    process, pids, out = decoding
    assert len(pids) == 3
    os.kill(pids[victim], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert output == ""
    rank = victim + 1  # they were started in this order
    assert f"error: process {rank} of 4 (part {rank}, layers {rank}-{rank}) was killed by SIGKILL" in errors
    assert "Traceback" not in errors
    assert all(gone(pid) for pid in pids)
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "FAILED"


@pytest.mark.slow
def test_ctrl_c_ends_all(decoding: Any) -> None:
    process, pids, out = decoding
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted: what was done is kept" in errors
    assert all(gone(pid) for pid in pids)
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "KILLED"


@pytest.mark.slow
def test_no_stage_outlives_a_first_process_that_is_killed(decoding: Any) -> None:
    process, pids, _ = decoding
    process.kill()
    process.wait()
    until(lambda: all(gone(pid) for pid in pids), "all stages gone")


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(pipeline: Callable[..., RunnerConfig], tmp_path: Path) -> None:
    engine = PipelineEngine(pipeline(processes=2, timeout_s=3.0), tmp_path)
    try:
        engine.load()
        [pid] = children()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(JobFailed, match="no answer from the 2 processes of the pipeline for 3 s"):
            list(base.complete(engine, [Request(0, "one")]))
    finally:
        engine.close()
    assert gone(pid)


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_a_process_that_cannot_load_says_why(
    pipeline: Callable[..., RunnerConfig], parts: Path, tmp_path: Path
) -> None:
    broken = Path(copytree(parts, tmp_path / "broken"))
    file = broken / "part_2.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"process 2 of 4 \(part 2, layers 2-2\): part 2 of .* is damaged"):
        run(pipeline(parts=str(broken), processes=4))
    assert children() == []


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_torchrun(make_config: Make, model: Path, parts: Path, prompts: str, tmp_path: Path) -> None:
    expected = answers(generated(make_config, model, prompts, GREEDY))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = command(
        parts, f"task.prompts={prompts}", "generation.max_new_tokens=12", "print=json", f"output_dir={tmp_path}/o"
    )

    def start() -> dict[str, Any]:
        done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        [line] = done.stdout.splitlines()  # the others are silent
        values: dict[str, Any] = json.loads(line)
        return values

    values = start()
    found = read_samples(Path(values["output_dir"]) / "samples.jsonl")
    assert [(i, s.prompt_sha256, s.token_ids, s.text, s.finish_reason) for i, s in sorted(found.items())] == expected
    assert values["metrics"]["processes"] == 2
    assert start()["job_id"] == values["job_id"], "done already: the others leave, too"
    too_many = [*launch[:-1], "--nproc-per-node=5", *arguments, "rerun=true"]
    done = subprocess.run(too_many, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "each process runs a part or more, and" in done.stderr


@pytest.mark.slow
def test_a_killed_process_of_torchrun_ends_the_whole(parts: Path, prompts: str, tmp_path: Path) -> None:
    out = tmp_path / "outputs"
    arguments = ["generation.max_new_tokens=200", f"task.prompts={prompts}", "task.micro_batch=1", f"output_dir={out}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    process = subprocess.Popen(
        [*launch, *command(parts, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: list(out.glob("jobs/*/samples.jsonl")) or process.poll() is not None, "a first completion")
        ranks = {rank: pid for pid in workers(process.pid) if (rank := variable(pid, "RANK"))}
        assert sorted(ranks) == ["0", "1", "2"]
        os.kill(ranks["1"], signal.SIGKILL)
        output, errors = process.communicate(timeout=100)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert output == ""
    assert re.search(r"error: process 1 of 3 \(parts? 1.*\) ended without a word", errors), errors
    assert all(gone(pid) for pid in ranks.values())
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "FAILED"


def workers(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def variable(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next((line.partition("=")[2] for line in lines if line.startswith(f"{name}=")), "")
