"""task.answers: recorded answers as documents, in their own tokens, against plain forward passes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import warm_process
from grids import wait_for
from likely import model_overrides, samples, scores
from omegaconf import OmegaConf
from raising import raises
from transformers import AutoTokenizer

from runner.config.hydra import format_config_as_yaml
from runner.config.prompts import Framing
from runner.config.root import RunnerConfig
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.position_sums import sum_scores_by_generated_position
from runner_base import ConfigError, RunRecordError
from runner_base.result import Record
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
PROMPTS = "Tell me a story.\nHow is bread baked?\nName three rivers.\n"


def answer(make_config: Make, model: LocalModelConfig, task: Any = None, **keys: Any) -> Record:
    """Run a job that generates answers of up to 80 tokens."""
    generation = GenerationConfig(max_new_tokens=80, **keys)
    return run_recorded(make_config(model=model, task=task or Gsm8kConfig(limit=4), generation=generation))


def run_recorded(config: RunnerConfig) -> Record:
    """Run a job whose folder has the config, as that of a command."""
    return run(config, format_config_as_yaml(OmegaConf.structured(config)))


def score(make_config: Make, model: LocalModelConfig, answered: Record, **keys: Any) -> Record:
    task = LikelihoodConfig(**({"answers": answered.job_id} | keys))
    return run_recorded(make_config(model=model, task=task))


@pytest.mark.parametrize("is_chat", [True, False])
def test_each_answer_is_scored_in_its_own_tokens_after_its_prompt(
    make_config: Make, tiny_model: LocalModelConfig, tiny_llama: Path, tmp_path: Path, is_chat: bool
) -> None:
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    framing = Framing.chat if is_chat else Framing.raw
    task = GenerateConfig(prompts=str(tmp_path / "prompts.txt"), format=framing)
    answered = answer(make_config, tiny_model, task)
    record = score(make_config, tiny_model, answered)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    by_bin: dict[int, list[float]] = {}
    for one, given, text in zip(samples(record), samples(answered), PROMPTS.splitlines(), strict=True):
        assert one.answer.token_ids == given.answer.token_ids
        turn = [{"role": "user", "content": text}]
        seen = (
            tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            if is_chat
            else text
        )
        prompt, ids = tokenizer(seen)["input_ids"], given.answer.token_ids
        assert one.prompt_tokens == len(prompt)
        losses = -scores(tiny_llama, [*prompt, *ids]).gather(1, torch.tensor([*prompt, *ids])[1:, None])[:, 0]
        losses = losses[len(prompt) - 1 :]
        assert one.likelihood.nats == pytest.approx(-float(losses.sum()), rel=1e-5)
        for position, loss in enumerate(losses.tolist()):
            by_bin.setdefault(max(first for first in (0, 16, 64) if first <= position), []).append(loss)
    assert 64 in by_bin
    for first, losses_of_bin in by_bin.items():
        suffix = f"/generated_{first}"
        assert record.result.metrics[f"scored_tokens{suffix}"] == len(losses_of_bin)
        loss = sum(losses_of_bin) / len(losses_of_bin)
        assert record.result.metrics[f"loss_nats_per_token{suffix}"] == pytest.approx(loss, rel=1e-5)
    (table,) = (rows for title, rows in record.result.tables.items() if "generated position" in title)
    assert [row["generated tokens"] for row in table] == ["0–15", "16–63", "64–255"]


@pytest.mark.parametrize("exact", [True, False])
def test_the_divergence_by_generated_position_adds_up_to_the_jobs(
    make_config: Make, two: Make, exact: bool
) -> None:
    base, other = two(0), two(1)
    assert isinstance(base.model, LocalModelConfig)
    assert isinstance(other.model, LocalModelConfig)
    answered = answer(make_config, base.model)
    named = model_overrides(base)
    if not exact:
        named = score(make_config, base.model, answered, keep_top_k=8).job_id
    record = score(make_config, other.model, answered, reference=named, exact=exact)
    metrics = record.result.metrics
    for key in ("kl_nats_per_token", "top_1_agreement"):
        tokens = [metrics[f"scored_tokens/generated_{first}"] for first in (0, 16, 64)]
        values = [metrics[f"{key}/generated_{first}"] for first in (0, 16, 64)]
        whole = sum(size * value for size, value in zip(tokens, values, strict=True)) / sum(tokens)
        assert whole == pytest.approx(metrics[key], rel=1e-6)
    assert all(len(of_bin) == 5 for one in samples(record) for of_bin in one.likelihood.by_answer_position)


def test_several_answers_to_a_question_are_one_cluster(
    make_config: Make, tiny_model: LocalModelConfig
) -> None:
    answered = answer(make_config, tiny_model, Gsm8kConfig(limit=2, samples=3), temperature=1.0)
    record = score(make_config, tiny_model, answered)
    texts = [[choice.token_ids for choice in one.choices] for one in samples(answered)]
    assert [one.answer.token_ids for one in samples(record)] == [*texts[0], *texts[1]]
    assert record.result.metrics["n"] == 6
    assert record.result.metrics["n/generated_0"] == 2


def test_an_equal_selection_of_answers_is_the_same_job(
    make_config: Make, tiny_model: LocalModelConfig
) -> None:
    answered = answer(make_config, tiny_model)
    folder = Path(answered.output_dir)
    of_id, of_folder, of_one, of_last = (
        score(make_config, tiny_model, answered, **keys)
        for keys in ({}, {"answers": str(folder)}, {"limit": 1}, {"offset": 3})
    )
    assert of_folder.job_id == of_id.job_id
    assert len({of_id.job_id, of_one.job_id, of_last.job_id}) == 3
    by_index = [one.answer.token_ids for one in samples(answered)]
    assert [one.answer.token_ids for one in samples(of_last)] == [by_index[3]]


def test_answers_without_tokens_are_tokenized_again_and_counted(
    make_config: Make, tiny_model: LocalModelConfig, tiny_llama: Path
) -> None:
    """A random model writes bytes that are no UTF-8, so some texts have other tokens than the answer had."""
    answered = answer(make_config, tiny_model, Gsm8kConfig(limit=8))
    path = Path(answered.output_dir) / "samples.jsonl"
    stored = samples(answered)
    stored[0] = replace(stored[0], answer=replace(stored[0].answer, text="A plain answer."))
    lines = [replace(one, answer=replace(one.answer, token_ids=[], new_tokens=1)).to_json() for one in stored]
    path.write_text("".join(f"{line}\n" for line in lines))
    record = score(make_config, tiny_model, answered)
    (said,) = (text for text in record.result.notes if "tokenized again" in text)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    texts = [one.answer.text for one in stored]
    different = sum(tokenizer.decode(tokenizer(text)["input_ids"]) != text for text in texts)
    assert [int(word) for word in said.split() if word.isdigit()] == [8, different]
    assert samples(record)[0].answer.token_ids == tokenizer("A plain answer.")["input_ids"]


def test_a_changed_prompt_or_another_tokenizer_is_an_error(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(PROMPTS)
    answered = answer(make_config, tiny_model, GenerateConfig(prompts=str(file)))
    file.write_text(PROMPTS.replace("bread", "cake"))
    with raises(ConfigError, code="mismatch", key="task.answers"):
        score(make_config, tiny_model, answered)
    file.write_text(PROMPTS)
    path = Path(answered.output_dir) / "samples.jsonl"
    stored = [replace(one, answer=replace(one.answer, text="Something else")) for one in samples(answered)]
    path.write_text("".join(f"{one.to_json()}\n" for one in stored))
    with raises(ConfigError, code="mismatch", key="task.answers"):
        score(make_config, tiny_model, answered)


def test_jobs_without_usable_answers_are_rejected(make_config: Make, tiny_model: LocalModelConfig) -> None:
    answered = answer(make_config, tiny_model)
    scored = score(make_config, tiny_model, answered)
    with raises(ConfigError, code="not_found", key="task.answers"):
        score(make_config, tiny_model, answered, answers="gsm8k-0123456789ab")
    with raises(ConfigError, code="unsupported", key="task.answers"):
        score(make_config, tiny_model, answered, answers=scored.job_id)
    with raises(ConfigError, code="too_large", key="task.offset"):
        score(make_config, tiny_model, answered, offset=4)
    config = Path(answered.output_dir) / "config.yaml"
    config.write_text("task: [")
    with raises(RunRecordError, code="damaged", key=config):
        score(make_config, tiny_model, answered)


def test_an_answer_beyond_the_context_length_is_rejected_before_the_load(
    make_config: Make, saved_family: Callable[..., Path], tiny_model: LocalModelConfig
) -> None:
    answered = answer(make_config, tiny_model)
    longest = max(one.prompt_tokens + len(one.answer.token_ids) for one in samples(answered))
    short = saved_family("llama", max_position_embeddings=longest - 2)
    with raises(ConfigError, code="too_large", key="task.answers"):
        score(make_config, replace(tiny_model, name=str(short)), answered)


@pytest.mark.parametrize(
    "keys", [{"window": 64}, {"stride": 8}, {"context_lengths": ["8", "16"]}, {"only": "f"}]
)
def test_keys_of_documents_conflict_with_answers(keys: dict[str, Any]) -> None:
    (name,) = keys
    with raises(ConfigError, code="conflict", key=f"task.{name}"):
        LikelihoodConfig(answers="gsm8k-0123456789ab", **keys)


@pytest.mark.parametrize(
    ("tokens", "bins"),
    [
        (1, [(0, 1)]),
        (16, [(0, 16)]),
        (17, [(0, 16), (16, 1)]),
        (5000, [(0, 16), (16, 48), (64, 192), (256, 768), (1024, 3072), (4096, 904)]),
    ],
)
def test_bins_of_generated_positions(tokens: int, bins: list[tuple[int, int]]) -> None:
    rows = sum_scores_by_generated_position([-1.0] * tokens, [0.5] * tokens, [True] * tokens)
    assert rows == [[first, size, -size, size / 2, size] for first, size in bins]
    assert sum_scores_by_generated_position([-1.0] * tokens) == [[first, size, -size] for first, size in bins]


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 8, 16])
def test_a_killed_job_resumes_with_the_same_samples(
    runner: Callable[..., Any], tmp_path: Path, count: int
) -> None:
    usual = ["tracking=none", "print=json", f"output_dir={tmp_path}/out", "generation.batch_size=1"]
    answered = runner("task=gsm8k", "task.limit=24", *usual).json()["job_id"]
    words = ["task=likelihood", f"task.answers={answered}", *usual]
    reference = runner(*words, "task.keep_top_k=64").json()["job_id"]
    words += ["quantization=nf4", f"task.reference={reference}", "task.exact=false"]
    whole = runner(*words).json()
    folder = Path(whole["output_dir"])
    before = stored_lines(folder)
    shutil.rmtree(folder)
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(stored_lines(folder)) >= count)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert count <= len(stored_lines(folder)) < 24
    again = runner(*words).json()
    assert stored_lines(folder) == before
    names = [name for name in whole["metrics"] if "/generated_" in name]
    assert "kl_nats_per_token/generated_16" in names
    assert [again["metrics"][name] for name in names] == [whole["metrics"][name] for name in names]


def stored_lines(folder: Path) -> dict[int, Any]:
    """Return what a job has scored by now, by index."""
    path = folder / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return {record["index"]: (record["token_ids"], record["likelihood"]) for record in records}
