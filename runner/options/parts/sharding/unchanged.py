"""Detects parts of an earlier split that do not have to be written again.

A part is made from its header and ranges of the source's files. Its `key` describes both by
sizes, times, inodes and headers, which are cheap to read. An unchanged part has the key of
its last write and an unmodified file. task.compare=content reads all bytes instead, for
users who do not trust times.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.options.parts.keys import CompareMode
from runner.options.parts.sharding.layout import ModelLayout
from runner.options.parts.sharding.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    UNFINISHED,
    part_file_name,
    partition_file_name,
)
from runner.options.parts.sharding.strategies import PlannedPart
from runner.options.parts.sharding.zstd_archive import ProgressCallback
from runner_base import ConfigError, DataError, load_json_object, os_errors_as_data_error
from runner_engine.checkpoints import Checkpoint, WeightFile, file_io

KEY = "task.output_dir"


@dataclass(frozen=True)
class SplitPlan:
    """Plan of a split: source checkpoint, planned parts and settings."""

    checkpoint: Checkpoint
    layout: ModelLayout
    parts: list[PlannedPart]
    strategy: dict[str, Any]  # its name and its settings
    checksums: str
    name: str  # of the source, for people
    revision: str | None
    # identifies the folder of a local source, so that two models of the same name are told apart
    place: str | None
    inline: bool = False  # numbers in the JSON instead of references

    @property
    def source_checkpoint_state(self) -> dict[str, Any]:
        """State of the source checkpoint's files, as recorded in the manifest.

        Contains a hash of all tensor shapes, and size, modification time and inode of each file.
        """
        shapes = [[tensor.name, tensor.dtype, tensor.shape] for tensor in self.checkpoint.tensors]
        files = {
            file.path.name: read_file_size_and_mtime(file.path) | {"layout": _hash_file_layout(file)}
            for file in self.checkpoint.files
        }
        return {"place": self.place, "tensors": hash_json(sorted(shapes)), "files": files}

    def build_part_header(self, part: PlannedPart) -> bytes:
        metadata = {"format": "pt"}
        for file in self.checkpoint.files:
            metadata |= file.metadata
        return file_io.build_safetensors_header(part.tensors, metadata)

    def hash_part_inputs(self, part: PlannedPart, source_checkpoint_state: dict[str, Any]) -> str:
        """Hash everything that determines a part's content. A part with another hash must be written again.

        Hashes the source files, the tensors' byte ranges and the header.
        """
        ranges = [[tensor.file.name, tensor.offset, tensor.nbytes, tensor.strides] for tensor in part.tensors]
        files = {
            name: source_checkpoint_state["files"][name]
            for name in sorted({tensor.file.name for tensor in part.tensors})
        }
        form = [self.checksums, self.inline, hashlib.sha256(self.build_part_header(part)).hexdigest()]
        return hash_json([form, ranges, files])


def read_file_size_and_mtime(path: Path) -> dict[str, int]:
    """Return a file's size, modification time and inode, which reveal that the file was rewritten."""
    with os_errors_as_data_error(path):
        stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _hash_file_layout(file: WeightFile) -> str:
    tensors = [
        [tensor.name, tensor.dtype, tensor.shape, tensor.offset, tensor.strides] for tensor in file.tensors
    ]
    return hash_json([hashlib.sha256(file.header).hexdigest(), tensors])


def hash_json(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_earlier_manifest(folder: Path) -> dict[str, Any]:
    """Return an earlier split's manifest, or {} if the folder is empty or absent. Raises ConfigError for
    other contents.
    """
    # a split that was killed at its very beginning leaves only this file
    names = [name for name in file_io.list_file_names_in_folder(folder, KEY) if name != f"{UNFINISHED}.tmp"]
    if not names:
        return {}
    for name in (MANIFEST, UNFINISHED):
        if name in names and (earlier := load_json_object(folder / name)).get("format") == FORMAT:
            return earlier
    more = ", ..." if len(names) > 3 else ""
    raise ConfigError(
        (
            f"the folder is not empty ({', '.join(names[:3])}{more}) and contains no split of "
            "this model. Nothing was changed. Give an empty or new folder"
        ),
        key=KEY,
        value=folder,
        code="exists",
    )


def require_same_split_in_folder(
    folder: Path, earlier_manifest: dict[str, Any], plan: SplitPlan, source_checkpoint_state: dict[str, Any]
) -> None:
    """Raise ConfigError if a folder contains a split that differs from the planned split."""
    if not earlier_manifest:
        return
    source = _get_json_object(earlier_manifest, "source")
    earlier_state = _get_json_object(source, "state")
    pairs: dict[str, tuple[Any, Any]] = {
        "format_version": (earlier_manifest.get("format_version"), FORMAT_VERSION),
        "num_parts": (earlier_manifest.get("num_parts"), len(plan.parts)),
        "strategy": (_format_strategy(earlier_manifest.get("strategy")), _format_strategy(plan.strategy)),
        "source": (source.get("name"), plan.name),
        "revision": (source.get("revision"), plan.revision),
        "archive": (earlier_manifest.get("archive"), None),
    }
    why = [
        f"{key} is {there} in the folder and {here} in this job"
        for key, (there, here) in pairs.items()
        if there != here
    ]
    if not why and earlier_state.get("place") != source_checkpoint_state["place"]:
        why = [f"the source checkpoint {plan.name} was read from another folder"]
    if not why and earlier_state.get("tensors") != source_checkpoint_state["tensors"]:
        why = ["the source had other tensors"]
    if why:
        raise ConfigError(
            (
                f"the folder contains another split ({', '.join(why)}). Nothing was changed. Give "
                "an empty or new folder"
            ),
            key=KEY,
            value=folder,
            code="mismatch",
        )


def _get_json_object(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _format_strategy(strategy: object) -> str:
    if not isinstance(strategy, dict):
        return str(strategy)
    return " ".join(str(value) if key == "name" else f"{key}={value}" for key, value in strategy.items())


def find_unchanged_parts(
    folder: Path,
    earlier_manifest: dict[str, Any],
    plan: SplitPlan,
    source_checkpoint_state: dict[str, Any],
    compare_mode: CompareMode,
    report_progress: ProgressCallback,
) -> dict[int, dict[str, Any]]:
    """Return the manifest entries of existing parts that need no rewriting, by part id."""
    entries = {
        entry.get("part_id"): entry
        for entry in earlier_manifest.get("parts") or ()
        if isinstance(entry, dict)
    }
    kept = {}
    for part in plan.parts:
        entry, key = entries.get(part.part_id), plan.hash_part_inputs(part, source_checkpoint_state)
        path, partition = folder / part_file_name(part.part_id), folder / partition_file_name(part.part_id)
        if entry is None or not path.is_file() or not partition.is_file():
            continue
        on_disk = read_file_size_and_mtime(path)
        if on_disk["bytes"] != entry.get("bytes") or file_io.hash_file_sha256(partition) != entry.get(
            "partition_sha256"
        ):
            continue
        if compare_mode is CompareMode.state:
            same = (entry.get("key"), entry.get("mtime_ns")) == (key, on_disk["mtime_ns"])
        else:
            same = entry.get("inline") is plan.inline and _part_file_matches_source(
                path, entry, part, plan, report_progress
            )
        if same:
            kept[part.part_id] = entry | {"key": key, "mtime_ns": on_disk["mtime_ns"]}
    return kept


def _part_file_matches_source(
    path: Path,
    part_entry: dict[str, Any],
    part: PlannedPart,
    plan: SplitPlan,
    report_progress: ProgressCallback,
) -> bool:
    """Compare a part's file with the source tensors byte by byte."""
    header = plan.build_part_header(part)
    if file_io.get_file_nbytes(path) != len(header) + part.nbytes:
        return False
    if file_io.parse_digest_algorithm(str(part_entry.get("digest"))) != plan.checksums:
        return False
    pieces: list[Iterable[bytes | memoryview]] = [[header], *map(file_io.read_tensor_pieces, part.tensors)]
    wanted = file_io.hash_pieces(itertools.chain(*pieces), plan.checksums, report_progress)
    return file_io.hash_file(path, plan.checksums, report_progress) == wanted


def require_unmodified_source(files: Iterable[WeightFile], source_checkpoint_state: dict[str, Any]) -> None:
    """Raise DataError if a file of the source has changed since the split began."""
    for file in files:
        known = source_checkpoint_state["files"][file.path.name]
        if any(known[key] != value for key, value in read_file_size_and_mtime(file.path).items()):
            raise DataError(
                f"{file.path} changed during the split. Run the same command again", code="changed"
            )
