"""Reads the sampling settings that a model's publisher recommends, from generation_config.json
or a .gguf header.

A generation_config.json is read as in transformers' `generate`: without `do_sample` it is greedy,
and unnamed settings have transformers' defaults. What a .gguf file does not name is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import DataError, format_truncated_repr, load_json_object
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.sampling import NEUTRAL, PARAMETERS, is_number_of_type

FILE = "generation_config.json"
OF_GGUF = "general.sampling."
# what transformers' generate takes where a file that samples does not name it
DEFAULTS_OF_TRANSFORMERS = {"temperature": 1.0, "top_k": 50}
GGUF_NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True)
class PublishedSettings:
    """The sampling settings that a model's publisher recommends, and the source file of each setting."""

    file: str  # the words for the file
    # by the name of a key of `generation`; all but the penalties by frequency and presence
    values: Mapping[str, float]
    sources: Mapping[str, Note]  # by the same names
    max_new_tokens: int | None = None
    # what the file names and no engine here does
    ignored: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> bool:
        return bool(self.values["temperature"])

    @property
    def description(self) -> str:
        if not self.samples:
            return "greedy"
        named = {"temperature": self.values["temperature"]}
        named |= {name: value for name, value in self.values.items() if value != NEUTRAL.get(name)}
        return ", ".join(f"{name} {value:g}" for name, value in named.items())


def read_published_settings(path: Path) -> PublishedSettings | None:
    if path.is_file() and gguf_file.is_gguf_file(path):
        named = {
            key.removeprefix(OF_GGUF): value
            for key, value in gguf_file.read_gguf_header(path).metadata.items()
            if key.startswith(OF_GGUF)
        }
        if named:
            return _parse_gguf_settings(path, named)
    folder = path if path.is_dir() else path.parent
    return _parse_generation_config(folder / FILE) if (folder / FILE).is_file() else None


def _parse_generation_config(path: Path) -> PublishedSettings:
    named = load_json_object(path)
    name_of_file = f"the model's {FILE}"
    from_file = note("from_file", file=name_of_file)
    samples = named.get("do_sample") or False
    if not isinstance(samples, bool):
        raise DataError(
            f"do_sample is {format_truncated_repr(samples)} instead of true or false",
            key=path,
            code="damaged",
        )
    values, sources = _create_neutral_sampling_settings(note("from_transformers"))
    if not samples:
        values["temperature"] = 0.0
        sources["temperature"] = from_file
    else:
        values |= DEFAULTS_OF_TRANSFORMERS
    for name, parameter in PARAMETERS.items():
        is_used = samples or parameter.for_greedy
        if named.get(name) is not None and is_used and name in values:
            values[name] = _validate_sampling_setting(path, name, named[name], name)
            sources[name] = from_file
    length = named.get("max_new_tokens")
    if length is not None and not (is_number_of_type(length, int) and length >= 1):
        raise DataError(
            f"max_new_tokens is {format_truncated_repr(length)}. Expected a whole number of at least 1",
            key=path,
            code="damaged",
        )
    return PublishedSettings(name_of_file, values, sources, length)


def _parse_gguf_settings(path: Path, metadata_by_name: Mapping[str, Any]) -> PublishedSettings:
    values, sources = _create_neutral_sampling_settings(note("not_in_gguf"))
    ignored = dict(metadata_by_name)
    for own_name, name in GGUF_NAMES.items():
        if own_name in metadata_by_name:
            values[name] = _validate_sampling_setting(path, OF_GGUF + own_name, ignored.pop(own_name), name)
            sources[name] = note("from_file", file="the .gguf file")
    return PublishedSettings("the .gguf file", values, sources, ignored=ignored)


def _create_neutral_sampling_settings(source: Note) -> tuple[dict[str, float], dict[str, Note]]:
    values = {"temperature": 1.0}
    values |= {name: NEUTRAL[name] for name in ("top_p", "top_k", "min_p", "repetition_penalty")}
    return values, dict.fromkeys(values, source)


def _validate_sampling_setting(file: Path, key: str, value: Any, name: str) -> float:
    parameter = PARAMETERS[name]
    # as llama.cpp and vLLM write it
    is_off = name == "top_k" and is_number_of_type(value, int) and value == -1
    if is_off:
        return 0
    is_whole = parameter.kind is int and isinstance(value, float) and value == int(value)
    number = int(value) if is_whole else value
    if not parameter.is_valid(number):
        raise DataError(
            f"{key}={format_truncated_repr(value)} {parameter.allowed_range_text}", key=file, code="damaged"
        )
    return round(float(number), 6) if parameter.kind is float else int(number)


def build_published_settings_notes(
    generation: GenerationConfig, published: PublishedSettings | None
) -> list[Note]:
    """Return notes on recommended settings that are unsupported, or that greedy decoding ignores."""
    if published is None:
        return []
    notes = []
    if generation.temperature == 0 and generation.name == GenerationConfig.name and published.samples:
        notes.append(note("publisher_samples", file=published.file, settings=published.description))
    if published.ignored:
        notes.append(note("ignored_settings", file=published.file, ignored=published.ignored))
    return notes
