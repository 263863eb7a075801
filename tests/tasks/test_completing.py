"""Samples over several starts: errors are asked again, damage is refused by line, what was measured
is not lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises

from runner.config.root import RunnerConfig
from runner.records.jobs import read_samples
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import JobFailed, RunRecordError
from runner_base.result import FinishReason, Record, Sample, Status, Verdict
from runner_base.signed_jsonl import dump_signed_line, parse_signed_line
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.scheduler import Scheduler
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.sessions.base import Event
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
MEASURED = (
    "weight_mib",
    "load_s",
    "peak_rss_mib",
    "prefill_tok_per_s",
    "decode_tok_per_s",
    "shared_prompt_tokens",
)


@pytest.fixture
def config(make_config: Make, tiny_model: LocalModelConfig) -> RunnerConfig:
    one_by_one = GenerationConfig(max_new_tokens=8, batch_size=1)
    return make_config(model=tiny_model, generation=one_by_one, task=Gsm8kConfig(limit=6))


@contextmanager
def memory_for(passes: int) -> Iterator[None]:
    """Have every forward pass after so many run out of memory, as torch says it; the trials of the
    model do not count."""
    real: Any = Forward._run_model
    real_step = Scheduler.step
    count, is_at_work = 0, False

    def step(self: Scheduler) -> list[Event]:
        nonlocal is_at_work
        is_at_work = True
        return real_step(self)

    def forward(self: Forward, *arguments: Any) -> torch.Tensor:
        nonlocal count
        count += is_at_work
        if count > passes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "_run_model", forward)
        patch.setattr(Scheduler, "step", step)
        yield


def lines_of(folder: str) -> list[str]:
    return (Path(folder) / "samples.jsonl").read_text().splitlines()


def answers(folder: str) -> list[tuple[int, list[int], str | None]]:
    found = read_samples(Path(folder) / "samples.jsonl")
    return [(index, found[index].answer.token_ids, found[index].answer.verdict) for index in sorted(found)]


@pytest.mark.thorough
def test_answers_that_memory_was_too_short_for_are_asked_again(config: RunnerConfig, tmp_path: Path) -> None:
    undisturbed = run(config)
    config.output_dir = str(tmp_path / "short")
    bases = BaseModelCache()  # of a worker, which lives on
    with memory_for(23):
        short = run(config, base_models=bases)
    errors = int(short.result.metrics["errors"])
    assert 0 < errors < 6
    assert short.status is Status.FAILED
    assert short.error is not None
    assert f"{errors} of 6 prompts ended in an error. First error (prompt " in short.error
    assert "needs more memory than is available" in short.error
    assert "Run the same command to repeat these requests" in short.error
    assert len(lines_of(short.output_dir)) == 6, "what has failed stays as evidence"
    again = run(config, base_models=bases)
    assert again.status is Status.FINISHED
    assert again.result.metrics["errors"] == 0
    were = "question was" if errors == 1 else "questions were"
    assert any(note.startswith(f"{errors} {were} asked again") for note in again.result.notes)
    assert len(lines_of(again.output_dir)) == 6 + errors
    assert answers(again.output_dir) == answers(undisturbed.output_dir)
    assert run(config).from_ledger


@pytest.mark.thorough
def test_a_job_without_memory_for_anything_works_once_there_is_some(config: RunnerConfig) -> None:
    bases = BaseModelCache()
    with memory_for(0), raises(JobFailed, "failed", "gsm8k"):
        run(config, base_models=bases)
    assert run(config, base_models=bases).status is Status.FINISHED


@pytest.mark.thorough
def test_completions_with_errors_are_handed_over_and_replaced_by_answers(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    prompts, output = tmp_path / "p.txt", tmp_path / "said.jsonl"
    prompts.write_text("one\ntwo\nthree\n")
    task = GenerateConfig(prompts=str(prompts), output=str(output))
    one_by_one = GenerationConfig(max_new_tokens=8, batch_size=1)
    config = make_config(model=tiny_model, generation=one_by_one, task=task)
    with memory_for(9):
        assert run(config).status is Status.FAILED
    said = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(said) == 3
    assert any("error" in line for line in said)
    assert run(config).status is Status.FINISHED
    assert not any("error" in json.loads(line) for line in output.read_text().splitlines())


def resealed(line: str, **changed: Any) -> str:
    """Change a sample and give it the checksum that fits."""
    return dump_signed_line(parse_signed_line(line) | changed)


DAMAGE: dict[str, tuple[Callable[[list[str]], list[str]], int]] = {
    "bad UTF-8": (lambda it: [it[0], it[1].replace("question", "question\udcff", 1), *it[2:]], 2),
    "changed text": (lambda it: [it[0], it[1].replace('"text": "', '"text": "x'), *it[2:]], 2),
    "changed verdict": (lambda it: [resealed(it[0], verdict="correct"), *it[1:]], 1),
    "other gold": (lambda it: [resealed(it[0], gold="1234567"), *it[1:]], 1),
    "other question": (lambda it: [it[0], resealed(it[1], question="?"), *it[2:]], 2),
    "other prompt": (lambda it: [it[0], resealed(it[1], prompt_sha256="0" * 64), *it[2:5]], 2),
    "doubled index": (lambda it: [*it, resealed(it[0], seconds=9.0)], 7),
    "foreign index": (lambda it: [*it[:5], resealed(it[5], index=77)], 6),
    "no checksum": (lambda it: [it[0].partition(', "checksum"')[0] + "}", *it[1:]], 1),
}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_samples_that_are_not_as_they_were_written_are_refused_by_line(
    config: RunnerConfig, damage: str
) -> None:
    folder = Path(run(config).output_dir)
    change, line = DAMAGE[damage]
    (folder / "result.json").unlink()
    file = folder / "samples.jsonl"
    changed = "".join(f"{line}\n" for line in change(lines_of(str(folder)))).encode(errors="surrogateescape")
    file.write_bytes(changed)
    with raises(RunRecordError, "damaged") as refused:
        run(config)
    assert refused.value.reason.startswith(f"{file}, line {line}: ")
    assert file.read_bytes() == changed


@pytest.mark.thorough
def test_a_result_that_is_lost_is_rebuilt_with_all_that_was_measured(config: RunnerConfig) -> None:
    whole = run(config)
    (Path(whole.output_dir) / "result.json").unlink()
    again = run(config)
    assert {name: again.result.metrics[name] for name in MEASURED} == {
        name: whole.result.metrics[name] for name in MEASURED
    }
    assert again.result.metrics.keys() == whole.result.metrics.keys()
    assert again.result.facts == whole.result.facts
    assert "6 of 6 samples come from an earlier, interrupted run of this job" in again.result.notes


@pytest.mark.thorough
@pytest.mark.slow
def test_a_job_that_goes_on_counts_what_was_measured_before(config: RunnerConfig) -> None:
    whole = run(config)
    folder = Path(whole.output_dir)
    (folder / "result.json").unlink()
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines_of(str(folder))[:4]))
    before = json.loads((folder / "measured.json").read_text())["stats"]
    run(config)
    after = json.loads((folder / "measured.json").read_text())["stats"]
    assert after["decode_tokens"] > before["decode_tokens"]
    assert after["decode_s"] > before["decode_s"]


# ------------------------------------------------------------------- rerun=failed, and what can
# have no answer


@pytest.mark.thorough
def test_rerun_failed_asks_only_what_has_no_answer(config: RunnerConfig) -> None:
    bases = BaseModelCache()
    with memory_for(23):
        short = run(config, base_models=bases)
    errors, kept = int(short.result.metrics["errors"]), lines_of(short.output_dir)
    assert 0 < errors < 6
    config.rerun = "failed"
    again = run(config, base_models=bases)
    assert again.status is Status.FINISHED
    assert lines_of(again.output_dir)[:6] == kept, "an answer is evidence, and so is an error"
    assert len(lines_of(again.output_dir)) == 6 + errors
    assert [path.name for path in Path(again.output_dir).parent.iterdir()] == [again.job_id], (
        "nothing was set aside"
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_said_again_without_a_load(
    runner: Callable[..., Any], tmp_path: Path, tiny_llama: Path
) -> None:
    (tmp_path / "p.txt").write_text("one\n" + "x" * 600 + "\nthree\n")
    arguments = ("model=auto", f"model.name={tiny_llama}", "model.device=cpu", "task=generate", "task.prompts=p.txt",
                 "task.format=raw", "generation.max_new_tokens=8", "tracking=none", "print=json")  # fmt: skip
    stands = (
        "1 of 3 prompts cannot be answered. First error (prompt 1): the prompt has 600 tokens, but the model "
        "has room for 512"
    )
    first = runner(*arguments)
    assert first.code == 1
    assert stands in first.err
    assert "does not repeat these requests. Use rerun=failed" in first.err
    file = Path(first.json()["output_dir"]) / "samples.jsonl"
    kept = file.read_text()
    # a cold start, which says what it imports
    again = runner(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert again.code == 1
    assert stands in again.err
    assert "| torch\n" not in again.err.replace(" ", "").replace("|", "| "), "nothing is loaded"
    assert file.read_text() == kept
    assert again.json()["metrics"]["new_tokens"] == first.json()["metrics"]["new_tokens"] == 16
    insists = runner(*arguments, "rerun=failed")
    assert insists.code == 1
    assert stands in insists.err
    assert file.read_text().startswith(kept)
    assert len(file.read_text().splitlines()) == 4, "only the one without an answer was asked again"


@pytest.mark.thorough
def test_a_job_without_anything_that_can_be_answered_says_so_at_each_start(
    make_config: Make, tiny_model: LocalModelConfig
) -> None:
    config = make_config(model=tiny_model, task=GenerateConfig(prompt="x" * 600))
    for rerun, lines in ((False, 1), (False, 1), ("failed", 2)):
        config.rerun = rerun
        with raises(JobFailed, "failed", "generate"):
            run(config)
        (file,) = Path(config.output_dir).glob("jobs/*/samples.jsonl")
        assert len(file.read_text().splitlines()) == lines


# --------------------------------------------------------------------------- answers that another
# job has already


def kept(record: Record) -> list[Sample]:
    """The samples of a job in order, without where they come from and how long they took."""
    found = read_samples(Path(record.output_dir) / "samples.jsonl")
    return [replace(found[index], reused_from=None, seconds=0.0) for index in sorted(found)]


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_more_questions_generate_only_what_is_new_and_fewer_nothing(
    config: RunnerConfig, tmp_path: Path, temperature: float
) -> None:
    config.generation = GenerationConfig(max_new_tokens=8, temperature=temperature)
    config.task = Gsm8kConfig(limit=4)
    small, bases = run(config), BaseModelCache()
    config.task = Gsm8kConfig(limit=7)
    large = run(config, base_models=bases)
    assert large.job_id != small.job_id
    note = f"4 of 7 samples are reused from job {small.job_id}, which asked the same questions"
    assert any(one.startswith(note) for one in large.result.notes)
    stats = json.loads((Path(large.output_dir) / "measured.json").read_text())["stats"]
    fresh = kept(large)[4:]
    assert stats["decode_tokens"] == sum(len(one.answer.token_ids) - 1 for one in fresh), (
        "the speed is of what was generated"
    )
    config.output_dir = str(tmp_path / "apart")
    alone = run(config, base_models=bases)
    assert kept(alone) == kept(large), "an equal question gets an equal draw"
    names = ("accuracy", "n", "prompt_tokens", "new_tokens", "wrong", "cut_off")
    assert [alone.result.metrics[name] for name in names] == [large.result.metrics[name] for name in names]

    config.output_dir = str(Path(large.output_dir).parents[1])
    config.task = Gsm8kConfig(limit=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.engines.LazyEngine.load", None)  # whoever loads one fails
        less = run(config)
    assert kept(less) == kept(small)[:3]
    assert not less.result.metrics.keys() & {"decode_tok_per_s", "load_s", "peak_rss_mib"}, (
        "nothing was measured"
    )
    assert less.result.facts["architecture"] == small.result.facts["architecture"]
    reused, cut_off, *of_engine = less.result.notes
    assert reused.startswith("3 of 3 samples are reused from job ")
    assert cut_off == "3 of 3 cut off at 8 tokens: raise generation.max_new_tokens"
    of_speed = (
        "of the answers finished within 8 tokens"  # of three answers, and at a speed that was measured here
    )
    said = [[note for note in notes if of_speed not in note] for notes in (of_engine, small.result.notes[1:])]
    assert said[0] == said[1], "what was said of the engine holds for its answers"
    (Path(less.output_dir) / "result.json").unlink()
    again = run(config)
    assert again.result.notes == less.result.notes, "the lines say themselves where they come from"
    config.rerun = True
    assert not any("are reused from" in one for one in run(config, base_models=bases).result.notes)


@pytest.mark.thorough
def test_errors_other_prompts_and_changed_lines_are_not_taken(config: RunnerConfig) -> None:
    config.task = Gsm8kConfig(limit=5)
    small, bases = run(config), BaseModelCache()
    file = Path(small.output_dir) / "samples.jsonl"
    lines = {Sample.from_json(line).index: line for line in lines_of(small.output_dir)}
    lines[0] = resealed(lines[0], finish_reason=FinishReason.error, error="boom")
    lines[1] = resealed(lines[1], prompt_sha256="0" * 64)
    lines[2] = resealed(lines[2], verdict="correct", extracted={"strict": "1", "flexible": "1"})
    file.write_text("".join(f"{line}\n" for line in lines.values()))
    before = file.read_bytes()
    config.task = Gsm8kConfig(limit=6)
    large = run(config, base_models=bases)
    found = read_samples(Path(large.output_dir) / "samples.jsonl")
    assert [found[index].reused_from for index in range(6)] == [None, None, *[small.job_id] * 3, None]
    assert found[2].answer.verdict is not Verdict.correct, "a text is taken, and its verdict is not"
    assert not any(one.failed for one in found.values())
    assert file.read_bytes() == before
    file.write_bytes(before.replace(b'"seconds"', b'"seconde"', 1))
    config.task = Gsm8kConfig(limit=7)
    notes = run(config, base_models=bases).result.notes
    assert any(note.startswith(f"no answers were reused from job {small.job_id}: ") for note in notes)
    assert any(note.startswith(f"3 of 7 samples are reused from job {large.job_id}") for note in notes)
    assert any(note.startswith(f"3 of 7 samples are reused from job {small.job_id}") for note in notes)
