"""Finds the models of `files=FOLDER`, chooses the reference model, and builds the jobs'
overrides.

Only headers are read. An unreadable file becomes jobs that report the damage; the other jobs
run.
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config.override_quoting import FILES, REFERENCE, quote_name, quote_unless_quoted
from runner.render.notes import render_notes
from runner_base import MIB, ConfigError, RunnerError, is_gguf_file_name, join_first_names
from runner_base.notes import Note, note
from runner_engine.checkpoints import count_weight_file_nbytes, gguf_file, read_model_config
from runner_engine.quantization import detect_stored_format

# a grid over files sets them for each of its jobs
ITS_KEYS = ("model", "model.name", "quantization")
PART = re.compile(r"-\d{5}-of-\d{5}$")  # how llama.cpp names the files of a model in parts
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TASK_REFERENCE = "task.reference"


@dataclass(frozen=True)
class ListedModel:
    """A model to run: a model file, a model folder, or a Hub id."""

    name: str  # as model.name has it
    is_file: bool = False
    file_mib: float | None = None  # of the weights; None: not on this machine, or not readable
    stored_as: str = ""  # in words: the types of its tensors, or its quantization
    is_quantized: bool = True  # also if that is not known
    problem: str = ""  # why it cannot be read

    @property
    def quantization(self) -> str:
        return "gguf" if self.is_file else "none"

    @property
    def overrides(self) -> list[str]:
        """Overrides that every job with this model gets."""
        return ["model=auto", f"model.name={quote_name(self.name)}", f"quantization={self.quantization}"]

    @property
    def description(self) -> str:
        """Text with the model's name, stored format and file size."""
        size = "" if self.file_mib is None else f"{self.file_mib:,.1f} MiB"
        return f"{self.name} ({', '.join(filter(None, (self.stored_as, size))) or 'not on this machine'})"


def find_models(comma_separated_paths: str) -> tuple[list[ListedModel], list[Note]]:
    """Return the models that `files=` names, and notes on files that are not models."""
    names, left_out = dict[str, bool](), list[Note]()
    for given in _split_paths(comma_separated_paths):
        if (found := _find_models_matching_path(given, left_out)) is None:
            raise ConfigError(
                f"{given} contains neither a .gguf file nor a folder with a config.json"
                if Path(given).expanduser().exists()
                else (
                    f"{given} does not exist. Give files, folders or hub ids separated by commas, "
                    "or a pattern such as 'models/*.gguf'"
                ),
                key=FILES,
                value=comma_separated_paths,
                code="not_found",
            )
        names |= found
    if not names:
        reason = "; ".join(render_notes(left_out)) or "nothing is there"
        raise ConfigError(reason, key=FILES, value=comma_separated_paths, code="empty")
    return [_read_model_header(name, is_file) for name, is_file in names.items()], left_out


def choose_reference_model(models: Sequence[ListedModel], reference_name: str | None) -> ListedModel:
    """Return the model named `reference_name`. Without a name, return the largest unquantized
    model.

    If all models are quantized, the largest model is chosen. A model of unknown size is not
    chosen.
    """
    if reference_name is not None:
        wanted_path = Path(reference_name).expanduser()
        same = [
            model
            for model in models
            if model.name == reference_name or Path(model.name).absolute() == wanted_path.absolute()
        ]
        same = same or [model for model in models if Path(model.name).name == reference_name]
        if len(same) != 1:
            names = join_first_names([model.name for model in (same or models)], 12)
            why = f"{len(same)} files have this name" if same else "no file has this name"
            raise ConfigError(
                f"{why}: {names}",
                key=REFERENCE,
                value=reference_name,
                code="ambiguous" if same else "not_found",
            )
        return same[0]
    readable = [model for model in models if model.file_mib is not None]
    if not readable:
        problems = "; ".join(model.problem for model in models if model.problem)
        raise ConfigError(
            (
                "no model can be chosen as the reference of the comparison "
                f"({problems or 'no model file is on this machine'}). Give {REFERENCE}=FILE"
            ),
            key=FILES,
            code="not_found",
        )
    return max(readable, key=lambda model: (not model.is_quantized, model.file_mib or 0.0))


def build_model_overrides(
    models: Sequence[ListedModel], reference: ListedModel, user_keys: Iterable[str]
) -> list[list[str]]:
    """Return the overrides of each model's jobs. The reference model comes first.

    `user_keys` are the keys that the study or the command line sets. Jobs whose task lacks such a
    key omit it.
    """
    known = set(user_keys)
    if taken := [key for key in ITS_KEYS if key in known]:
        raise ConfigError(
            f"{FILES}=... sets {', '.join(ITS_KEYS)} for each model. Remove {', '.join(taken)}",
            code="conflict",
        )
    compared = f"model.name={shlex.quote(reference.name)} quantization={reference.quantization}"
    lists = []
    for model in [reference, *(model for model in models if model is not reference)]:
        lines = model.overrides
        if TASK_REFERENCE not in known:
            lines = [*lines, f"{TASK_REFERENCE}={quote_unless_quoted(compared)}"]
        lists.append(lines)
    return lists


def make_notes_on_listed_models(
    files_value: str, models: Sequence[ListedModel], skipped_notes: Sequence[Note], reference: ListedModel
) -> list[Note]:
    """Return notes on the number and sizes of the models, the reference, and unreadable files."""
    sizes = [model.file_mib for model in models]
    found = [note("models", text=f"{FILES}={files_value}", sizes_mib=sizes, reference=reference.description)]
    if reference.is_quantized:
        found.append(note("quantized_reference", "warning", reference=reference.name, key=REFERENCE))
    found += [note("unreadable", model=it.name, problem=it.problem) for it in models if it.problem]
    return [*found, *(note("left_out", what=what) for what in skipped_notes)]


def find_keys_constant_across_jobs(job_overrides: Sequence[Sequence[str]]) -> frozenset[str]:
    values: dict[str, set[str]] = {}
    for key, _, value in (line.partition("=") for overrides in job_overrides for line in overrides):
        values.setdefault(key, set()).add(value)
    return frozenset(key for key, found in values.items() if len(found) == 1)


def is_reference_override(override: str) -> bool:
    return override.startswith(f"{TASK_REFERENCE}=")


# ------------------------------------------------------------------------------------------ finding


def _split_paths(files_value: str) -> list[str]:
    """Split a value at commas, unless the whole value is an existing path."""
    return (
        [files_value]
        if Path(files_value).expanduser().exists()
        else [part.strip() for part in files_value.split(",") if part.strip()]
    )


def _find_models_matching_path(path_or_pattern: str, skipped_notes: list[Note]) -> dict[str, bool] | None:
    """Find models at a path or glob pattern. Maps each path to True for a file and False for a folder.

    Returns None if nothing exists there.
    """
    path = Path(path_or_pattern).expanduser()
    if path.is_file():
        return {str(path): True}
    if path.is_dir():
        return (
            {str(path): False}
            if (path / "config.json").is_file()
            else _find_model_files_and_folders([path], skipped_notes) or None
        )
    if any(sign in path_or_pattern for sign in "*?["):
        return (
            _find_model_files_and_folders(
                [Path(matching) for matching in sorted(glob.glob(str(path), recursive=True))], skipped_notes
            )
            or None
        )
    is_hub_id = (
        HUB_ID.fullmatch(path_or_pattern) is not None
        and not is_gguf_file_name(path_or_pattern)
        and not path_or_pattern.startswith(".")
    )
    return {path_or_pattern: False} if is_hub_id else None


def _find_model_files_and_folders(paths: Iterable[Path], skipped_notes: list[Note]) -> dict[str, bool]:
    """Find models in these paths and their subfolders. Maps each path to True for a file and False for
    a folder.
    """
    found: dict[str, bool] = {}
    for path in paths:
        if path.is_dir() and (path / "config.json").is_file():
            found[str(path)] = False
        elif path.is_dir():
            found |= _find_model_files_and_folders(
                sorted(child for child in path.iterdir() if not child.name.startswith(".")), skipped_notes
            )
        elif not is_gguf_file_name(path.name):
            continue
        elif PART.search(path.stem):
            skipped_notes.append(note("part_of_model", path=path))
        elif (other := _read_non_llm_gguf_type(path)) is not None:
            skipped_notes.append(note("no_language_model", path=path, kind=other))
        else:
            found[str(path)] = True
    return found


def _read_non_llm_gguf_type(path: Path) -> str | None:
    try:
        metadata = gguf_file.read_gguf_header(path).metadata
    except RunnerError:
        return None  # its jobs name the damage
    kind = str(metadata.get("general.type") or "model")
    other = kind if kind != "model" else str(metadata.get("general.architecture"))
    return other if kind != "model" or other == "clip" else None


def _read_model_header(name: str, is_file: bool) -> ListedModel:
    """Read the header of a .gguf file, or the config.json of a folder."""
    path = Path(name).expanduser()
    try:
        if is_file:
            header = gguf_file.read_gguf_header(path)
            is_quantized = any(tensor.dtype not in gguf_file.FLOATS for tensor in header.tensors)
            return ListedModel(
                name, True, path.stat().st_size / MIB, header.tensor_type_counts_text, is_quantized
            )
        if not path.is_dir():
            return ListedModel(name)
        settings = read_model_config(path)
        stored = detect_stored_format(settings)
        number_format = (
            str(stored)
            if stored is not None
            else str(settings.get("dtype") or settings.get("torch_dtype") or "")
        )
        return ListedModel(
            name, False, count_weight_file_nbytes(path) / MIB, number_format, stored is not None
        )
    except RunnerError as error:
        return ListedModel(
            name, is_file, problem=str(error).removeprefix(f"{path.absolute()}: ").removeprefix(f"{path}: ")
        )
