"""How a model's own files say that its answers are drawn: as transformers' `generate` reads
them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runner_base.errors import DataError
from runner_base.notes import note
from runner_engine.checkpoints.published_settings import (
    build_published_settings_notes,
    read_published_settings,
)
from runner_engine.settings.generation import GENERATIONS
from runner_engine.settings.generation import GenerationConfig as OurGeneration
from runner_engine.settings.sampling import NEUTRAL

# generation_config.json as publishers have them
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-8B": {"bos_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643],
        "pad_token_id": 151643, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"},
    "Qwen2.5-7B-Instruct": {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
        "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        "transformers_version": "4.37.0"},
    "Llama-3.1-8B-Instruct": {"bos_token_id": 128000, "do_sample": True, "eos_token_id": [128001, 128008, 128009],
        "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.42.3"},
    "Llama-2-7b-chat": {"bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "pad_token_id": 0,
        "temperature": 0.6, "max_length": 4096, "top_p": 0.9, "transformers_version": "4.32.0.dev0"},
    "DeepSeek-R1-Distill-Qwen-7B": {"_from_model_config": True, "bos_token_id": 151646, "eos_token_id": 151643,
        "do_sample": True, "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.39.3"},
    "gemma-3-4b-it": {"bos_token_id": 2, "cache_implementation": "hybrid", "do_sample": True,
        "eos_token_id": [1, 106], "pad_token_id": 0, "top_k": 64, "top_p": 0.95, "transformers_version": "4.50.0.dev0"},
    "gpt-oss-20b": {"bos_token_id": 199998, "do_sample": True, "eos_token_id": [200002, 199999, 200012],
        "pad_token_id": 199999, "transformers_version": "4.55.0.dev0"},
    "Mistral-7B-Instruct-v0.3": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2,
        "transformers_version": "4.42.0.dev0"},
    "SmolLM2-135M": {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 0,
        "transformers_version": "4.40.1"},
    "Qwen1.5-1.8B-Chat": {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
        "eos_token_id": [151645, 151643], "repetition_penalty": 1.1, "top_p": 0.8, "transformers_version": "4.37.0"},
    "greedy with a penalty, and a length": {"repetition_penalty": 1.2, "temperature": 0.3, "max_new_tokens": 2048},
    "min_p": {"do_sample": True, "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "top_k": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def transformers_model(tiny_llama: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


def of_generate(model: Any, published: dict[str, Any]) -> dict[str, float]:
    """Return the settings that transformers' `generate` draws with."""
    model.generation_config = GenerationConfig.from_dict(published)
    config, _ = model._prepare_generation_config(None)
    processors: LogitsProcessorList = model._get_logits_processor(
        config, input_ids_seq_length=4, device="cpu"
    )
    found = NEUTRAL | {"temperature": 1.0 if config.do_sample else 0.0}
    for processor in processors:
        match processor:
            case TemperatureLogitsWarper():
                found["temperature"] = processor.temperature
            case TopKLogitsWarper():
                found["top_k"] = processor.top_k
            case TopPLogitsWarper():
                found["top_p"] = processor.top_p
            case MinPLogitsWarper():
                found["min_p"] = processor.min_p
            case RepetitionPenaltyLogitsProcessor():
                found["repetition_penalty"] = processor.penalty
            case _:
                raise AssertionError(f"{processor} is unknown here")
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_generate(name: str, transformers_model: Any, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(PUBLISHED[name]))
    published = read_published_settings(tmp_path)
    assert published is not None
    theirs = of_generate(transformers_model, PUBLISHED[name])
    generation = GENERATIONS["model"]().apply_published_settings(
        published.values, published.sources, published.file, published.max_new_tokens
    )
    ours = {key: getattr(generation, key) for key in theirs if getattr(generation, key) is not None}
    assert ours == {key: theirs[key] for key in ours}
    assert ours.keys() == set(theirs) - {"frequency_penalty", "presence_penalty"}
    assert not generation.needs_published_settings
    assert generation.max_new_tokens == PUBLISHED[name].get("max_new_tokens", 512)


def test_a_wrong_reading_is_seen(transformers_model: Any, tmp_path: Path) -> None:
    """The control: the file of one model is not that of another."""
    (tmp_path / "generation_config.json").write_text(json.dumps(PUBLISHED["Qwen3-8B"]))
    published = read_published_settings(tmp_path)
    assert published is not None
    theirs = of_generate(transformers_model, PUBLISHED["gemma-3-4b-it"])
    assert {key: value for key, value in theirs.items() if published.values.get(key, value) != value} != {}


def gguf_with(file: Path, **sampling: float) -> Path:
    """Write the smallest .gguf file with settings of sampling in its header."""
    writer = GGUFWriter(file, "llama")
    for name, value in sampling.items():
        add = writer.add_int32 if isinstance(value, int) else writer.add_float32
        add(f"general.sampling.{name}", value)  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_header_of_a_gguf_file_is_read_before_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.1}')
    file = gguf_with(tmp_path / "named.gguf", temp=0.6, top_k=20, top_p=0.95, penalty_repeat=1.0, mirostat=2)
    published = read_published_settings(file)
    assert published is not None
    assert published.description == "temperature 0.6, top_p 0.95, top_k 20"
    named = "the .gguf file"
    assert published.sources["temperature"] == note("from_file", file=named)
    assert published.sources["min_p"] == note("not_in_gguf")
    ignored = note("ignored_settings", file=named, ignored={"mirostat": 2})
    assert build_published_settings_notes(OurGeneration(), published) == [
        note("publisher_samples", file=named, settings=published.description),
        ignored,
    ]
    assert build_published_settings_notes(OurGeneration(temperature=0.5), published)[:1] == [ignored]
    beside = read_published_settings(gguf_with(tmp_path / "plain.gguf"))
    assert beside is not None
    assert beside.values["temperature"] == 0.1


def test_no_file_is_no_settings(tmp_path: Path, tiny_llama: Path) -> None:
    assert read_published_settings(gguf_with(tmp_path / "plain.gguf")) is None
    folder = tmp_path / "folder"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert read_published_settings(folder) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"do_sample": "yes"}', "do_sample is 'yes' instead of true or false"),
        ('{"do_sample": true, "temperature": "hot"}', "temperature='hot' must be 0, or lie in"),
        ('{"do_sample": true, "top_p": 1.5}', r"top_p=1.5 must lie in \(0, 1\]"),
        ('{"do_sample": true, "top_k": 2.5}', "top_k=2.5 must be a whole number"),
        ('{"max_new_tokens": 0}', "max_new_tokens is 0. Expected a whole number of at least 1"),
        ("[]", "generation_config.json"),
        ("{", "generation_config.json"),
    ],
)
def test_a_damaged_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_published_settings(tmp_path)
