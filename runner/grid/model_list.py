"""The models of a grid over files: what `files=FOLDER` finds, which of them is the reference, and
what each job gets.

Only headers are read: a file that cannot be read becomes jobs that name the damage, and the others
go on.
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config.plain_text import FILES, REFERENCE, literal, quoted_name
from runner.render.notes import render_notes
from runner_base import MIB, ConfigError, RunnerError, few, names_gguf_file
from runner_base.notes import Note, note
from runner_engine.checkpoints import file_bytes, gguf_file, read_settings
from runner_engine.quantization import read_format

# a grid over files sets them for each of its jobs
ITS_KEYS = ("model", "model.name", "quantization")
PART = re.compile(r"-\d{5}-of-\d{5}$")  # how llama.cpp names the files of a model in parts
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TASK_REFERENCE = "task.reference"


@dataclass(frozen=True)
class ListedModel:
    """A model file, a folder of a model, or a hub id."""

    name: str  # as model.name has it
    is_file: bool = False
    file_mib: float | None = None  # of the weights; None: not on this machine, or not readable
    stored_as: str = ""  # in words: the types of its tensors, or its quantization
    is_quantized: bool = True  # also if that is not known
    problem: str = ""  # why it cannot be read

    @property
    def quantization(self) -> str:
        """The choice that loads it as it is."""
        return "gguf" if self.is_file else "none"

    @property
    def overrides(self) -> list[str]:
        """The overrides of each of its jobs."""
        return ["model=auto", f"model.name={quoted_name(self.name)}", f"quantization={self.quantization}"]

    @property
    def described(self) -> str:
        """Its name, what it holds and its size."""
        size = "" if self.file_mib is None else f"{self.file_mib:,.1f} MiB"
        return f"{self.name} ({', '.join(filter(None, (self.stored_as, size))) or 'not on this machine'})"


def listed(text: str) -> tuple[list[ListedModel], list[Note]]:
    """Return the models that `files=` names, and what was found and is no model by itself."""
    names, left_out = dict[str, bool](), list[Note]()
    for given in _places(text):
        if (found := _models_at(given, left_out)) is None:
            raise ConfigError(
                f"there is neither a .gguf file nor a folder with a config.json in {given}"
                if Path(given).expanduser().exists()
                else f"there is no {given}: give a folder, a pattern such as 'models/*.gguf', files or "
                "folders separated by commas, or hub ids",
                key=FILES,
                value=text,
                code="not_found",
            )
        names |= found
    if not names:
        reason = "; ".join(render_notes(left_out)) or "nothing is there"
        raise ConfigError(reason, key=FILES, value=text, code="empty")
    return [_read(name, is_file) for name, is_file in names.items()], left_out


def reference_among(models: Sequence[ListedModel], wanted: str | None) -> ListedModel:
    """Return the model to compare with: the named one, else the largest unquantized one, else the
    largest.

    A model whose size is unknown is not chosen.
    """
    if wanted is not None:
        wanted_path = Path(wanted).expanduser()
        same = [
            model
            for model in models
            if model.name == wanted or Path(model.name).absolute() == wanted_path.absolute()
        ]
        same = same or [model for model in models if Path(model.name).name == wanted]
        if len(same) != 1:
            names = few([model.name for model in (same or models)], 12)
            why = f"{len(same)} of the files have this name" if same else "it is not among the files"
            raise ConfigError(
                f"{why}: {names}", key=REFERENCE, value=wanted, code="ambiguous" if same else "not_found"
            )
        return same[0]
    readable = [model for model in models if model.file_mib is not None]
    if not readable:
        problems = "; ".join(model.problem for model in models if model.problem)
        raise ConfigError(
            f"no file can be the reference: {problems or 'none is on this machine yet'}: give {REFERENCE}=FILE",
            key=FILES,
            code="not_found",
        )
    return max(readable, key=lambda model: (not model.is_quantized, model.file_mib or 0.0))


def jobs_of(models: Sequence[ListedModel], reference: ListedModel, given: Iterable[str]) -> list[list[str]]:
    """Return for each model the overrides of its jobs, the reference first; jobs without such a key
    do without it.

    `given` are the keys that the study or the command line sets.
    """
    known = set(given)
    if taken := [key for key in ITS_KEYS if key in known]:
        raise ConfigError(
            f"{FILES} sets {', '.join(ITS_KEYS)} of each job: leave out {', '.join(taken)}", code="conflict"
        )
    compared = f"model.name={shlex.quote(reference.name)} quantization={reference.quantization}"
    lists = []
    for model in [reference, *(model for model in models if model is not reference)]:
        lines = model.overrides
        if TASK_REFERENCE not in known:
            lines = [*lines, f"{TASK_REFERENCE}={literal(compared)}"]
        lists.append(lines)
    return lists


def found_models(
    text: str, models: Sequence[ListedModel], left_out: Sequence[Note], reference: ListedModel
) -> list[Note]:
    """Return what is known before anything is loaded: how many files, how large, the reference, and
    what is refused."""
    sizes = [model.file_mib for model in models]
    found = [note("models", text=f"{FILES}={text}", sizes_mib=sizes, reference=reference.described)]
    if reference.is_quantized:
        found.append(note("quantized_reference", "warning", reference=reference.name, key=REFERENCE))
    found += [note("unreadable", model=it.name, problem=it.problem) for it in models if it.problem]
    return [*found, *(note("left_out", what=what) for what in left_out)]


def keys_of_one_value(lists: Sequence[Sequence[str]]) -> frozenset[str]:
    """Return the keys with one value: whether a job has such a key follows from its task."""
    values: dict[str, set[str]] = {}
    for key, _, value in (line.partition("=") for overrides in lists for line in overrides):
        values.setdefault(key, set()).add(value)
    return frozenset(key for key, found in values.items() if len(found) == 1)


def is_filled_in(line: str) -> bool:
    """Whether an override is one that a grid over files adds for the jobs that have such a key."""
    return line.startswith(f"{TASK_REFERENCE}=")


# ------------------------------------------------------------------------------------------ finding


def _places(text: str) -> list[str]:
    """Split at commas, unless the whole text is a path that exists."""
    return (
        [text]
        if Path(text).expanduser().exists()
        else [part.strip() for part in text.split(",") if part.strip()]
    )


def _models_at(given: str, left_out: list[Note]) -> dict[str, bool] | None:
    """Return the models at a place, each with whether it is a file; None if there is nothing."""
    path = Path(given).expanduser()
    if path.is_file():
        return {str(path): True}
    if path.is_dir():
        return (
            {str(path): False} if (path / "config.json").is_file() else _models_in([path], left_out) or None
        )
    if any(sign in given for sign in "*?["):
        return (
            _models_in(
                [Path(matching) for matching in sorted(glob.glob(str(path), recursive=True))], left_out
            )
            or None
        )
    is_hub_id = (
        HUB_ID.fullmatch(given) is not None and not names_gguf_file(given) and not given.startswith(".")
    )
    return {given: False} if is_hub_id else None


def _models_in(paths: Iterable[Path], left_out: list[Note]) -> dict[str, bool]:
    """Return the models among these paths and, in folders without a model, below them; hidden ones
    are not searched."""
    found: dict[str, bool] = {}
    for path in paths:
        if path.is_dir() and (path / "config.json").is_file():
            found[str(path)] = False
        elif path.is_dir():
            found |= _models_in(
                sorted(child for child in path.iterdir() if not child.name.startswith(".")), left_out
            )
        elif not names_gguf_file(path.name):
            continue
        elif PART.search(path.stem):
            left_out.append(note("part_of_model", path=path))
        elif (other := _no_language_model(path)) is not None:
            left_out.append(note("no_language_model", path=path, kind=other))
        else:
            found[str(path)] = True
    return found


def _no_language_model(path: Path) -> str | None:
    """Return what a .gguf file holds instead of a language model: the projector of images, or an
    adapter."""
    try:
        metadata = gguf_file.read_header(path).metadata
    except RunnerError:
        return None  # its jobs name the damage
    kind = str(metadata.get("general.type") or "model")
    other = kind if kind != "model" else str(metadata.get("general.architecture"))
    return other if kind != "model" or other == "clip" else None


def _read(name: str, is_file: bool) -> ListedModel:
    """Read the header of a file, or the config.json of a folder."""
    path = Path(name).expanduser()
    try:
        if is_file:
            header = gguf_file.read_header(path)
            is_quantized = any(tensor.dtype not in gguf_file.FLOATS for tensor in header.tensors)
            return ListedModel(name, True, path.stat().st_size / MIB, header.types, is_quantized)
        if not path.is_dir():
            return ListedModel(name)
        settings = read_settings(path)
        stored = read_format(settings)
        number_format = (
            str(stored)
            if stored is not None
            else str(settings.get("dtype") or settings.get("torch_dtype") or "")
        )
        return ListedModel(name, False, file_bytes(path) / MIB, number_format, stored is not None)
    except RunnerError as error:
        return ListedModel(
            name, is_file, problem=str(error).removeprefix(f"{path.absolute()}: ").removeprefix(f"{path}: ")
        )
