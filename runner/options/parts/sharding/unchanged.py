"""Which parts of an earlier split can be kept, because writing them again would change nothing.

A part is made from its header and from ranges of the source's files. Its `key` describes both by
sizes, times, inodes and headers, which are cheap to read. A part is kept if its key is the same as
when it was written, and its file has not changed since. task.compare=content reads everything
instead, for users who do not trust times.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.options.parts.keys import Compare
from runner.options.parts.sharding.archive import Advance
from runner.options.parts.sharding.layout import Layout
from runner.options.parts.sharding.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    UNFINISHED,
    part_file,
    partition_name,
)
from runner.options.parts.sharding.strategies import PlannedPart
from runner_base import ConfigError, DataError, load_json, reading
from runner_engine.checkpoints import Checkpoint, WeightFile, byteio

KEY = "task.output_dir"


@dataclass(frozen=True)
class Plan:
    """A planned split that is not written yet."""

    checkpoint: Checkpoint
    layout: Layout
    parts: list[PlannedPart]
    strategy: dict[str, Any]  # its name and its settings
    checksums: str
    name: str  # of the source, for people
    revision: str | None
    # identifies the folder of a local source, so that two models of the same name are told apart
    place: str | None
    inline: bool = False  # numbers in the JSON instead of references

    @property
    def state(self) -> dict[str, Any]:
        """Describe the source: the model by its tensors, the files by size, time and inode."""
        shapes = [[tensor.name, tensor.dtype, tensor.shape] for tensor in self.checkpoint.tensors]
        files = {
            file.path.name: file_state(file.path) | {"layout": _layout(file)}
            for file in self.checkpoint.files
        }
        return {"place": self.place, "tensors": sha256_of(sorted(shapes)), "files": files}

    def header(self, part: PlannedPart) -> bytes:
        """The header of a part's file; it keeps the metadata of the source's headers."""
        metadata = {"format": "pt"}
        for file in self.checkpoint.files:
            metadata |= file.metadata
        return byteio.build_header(part.tensors, metadata)

    def key(self, part: PlannedPart, state: dict[str, Any]) -> str:
        """Return a hash of everything that a part is made from."""
        ranges = [[tensor.file.name, tensor.offset, tensor.nbytes, tensor.strides] for tensor in part.tensors]
        files = {name: state["files"][name] for name in sorted({tensor.file.name for tensor in part.tensors})}
        form = [self.checksums, self.inline, hashlib.sha256(self.header(part)).hexdigest()]
        return sha256_of([form, ranges, files])


def file_state(path: Path) -> dict[str, int]:
    """Return size, time and inode of a file, which change when it is written."""
    with reading(path):
        stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _layout(file: WeightFile) -> str:
    tensors = [
        [tensor.name, tensor.dtype, tensor.shape, tensor.offset, tensor.strides] for tensor in file.tensors
    ]
    return sha256_of([hashlib.sha256(file.header).hexdigest(), tensors])


def sha256_of(values: object) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_earlier(folder: Path) -> dict[str, Any]:
    """Return the manifest of an earlier split, {} for an empty or absent folder; reject any other
    folder."""
    # a split that was killed at its very beginning leaves only this file
    names = [name for name in byteio.list_folder(folder, KEY) if name != f"{UNFINISHED}.tmp"]
    if not names:
        return {}
    for name in (MANIFEST, UNFINISHED):
        if name in names and (earlier := load_json(folder / name)).get("format") == FORMAT:
            return earlier
    more = ", ..." if len(names) > 3 else ""
    raise ConfigError(
        f"the folder is not empty ({', '.join(names[:3])}{more}) and holds no "
        "split of this model. Nothing was changed: give an empty or new folder",
        key=KEY,
        value=folder,
        code="exists",
    )


def refuse_other(folder: Path, earlier: dict[str, Any], plan: Plan, state: dict[str, Any]) -> None:
    """Raise ConfigError unless an earlier split is one of the same model into the same parts."""
    if not earlier:
        return
    source = _table(earlier, "source")
    earlier_state = _table(source, "state")
    pairs: dict[str, tuple[Any, Any]] = {
        "format_version": (earlier.get("format_version"), FORMAT_VERSION),
        "num_parts": (earlier.get("num_parts"), len(plan.parts)),
        "strategy": (_words(earlier.get("strategy")), _words(plan.strategy)),
        "source": (source.get("name"), plan.name),
        "revision": (source.get("revision"), plan.revision),
        "archive": (earlier.get("archive"), None),
    }
    why = [f"{key} is {there} there and {here} here" for key, (there, here) in pairs.items() if there != here]
    if not why and earlier_state.get("place") != state["place"]:
        why = [f"its source is another folder named {plan.name}"]
    if not why and earlier_state.get("tensors") != state["tensors"]:
        why = ["its source had other tensors"]
    if why:
        raise ConfigError(
            f"holds another split ({', '.join(why)}). Nothing was changed: give an empty or new folder",
            key=KEY,
            value=folder,
            code="mismatch",
        )


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the value of a key, or {} if it is not a JSON object."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _words(strategy: object) -> str:
    """A strategy in one line."""
    if not isinstance(strategy, dict):
        return str(strategy)
    return " ".join(str(value) if key == "name" else f"{key}={value}" for key, value in strategy.items())


def find_unchanged(
    folder: Path,
    earlier: dict[str, Any],
    plan: Plan,
    state: dict[str, Any],
    compare: Compare,
    advance: Advance,
) -> dict[int, dict[str, Any]]:
    """Return the entries of the parts that need not be written, by part id."""
    entries = {entry.get("part_id"): entry for entry in earlier.get("parts") or () if isinstance(entry, dict)}
    kept = {}
    for part in plan.parts:
        entry, key = entries.get(part.part_id), plan.key(part, state)
        path, partition = folder / part_file(part.part_id), folder / partition_name(part.part_id)
        if entry is None or not path.is_file() or not partition.is_file():
            continue
        on_disk = file_state(path)
        if on_disk["bytes"] != entry.get("bytes") or byteio.file_sha256(partition) != entry.get(
            "partition_sha256"
        ):
            continue
        if compare is Compare.state:
            same = (entry.get("key"), entry.get("mtime_ns")) == (key, on_disk["mtime_ns"])
        else:
            same = entry.get("inline") is plan.inline and _same_content(path, entry, part, plan, advance)
        if same:
            kept[part.part_id] = entry | {"key": key, "mtime_ns": on_disk["mtime_ns"]}
    return kept


def _same_content(path: Path, entry: dict[str, Any], part: PlannedPart, plan: Plan, advance: Advance) -> bool:
    """Read a part and its source, and tell whether they hold the same."""
    header = plan.header(part)
    if byteio.file_size(path) != len(header) + part.nbytes:
        return False
    if byteio.algorithm_of(str(entry.get("digest"))) != plan.checksums:
        return False
    pieces: list[Iterable[bytes | memoryview]] = [[header], *map(byteio.tensor_pieces, part.tensors)]
    wanted = byteio.digest_of(itertools.chain(*pieces), plan.checksums, advance)
    return byteio.file_digest(path, plan.checksums, advance) == wanted


def require_unmoved(files: Iterable[WeightFile], state: dict[str, Any]) -> None:
    """Raise DataError if a file of the source has changed since the split began."""
    for file in files:
        known = state["files"][file.path.name]
        if any(known[key] != value for key, value in file_state(file.path).items()):
            raise DataError(
                f"{file.path} was changed while it was being split: run the same command again",
                code="changed",
            )
