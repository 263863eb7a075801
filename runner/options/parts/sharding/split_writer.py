"""Writes the missing parts of a split atomically one by one, and the manifest last.

During writing there is no manifest.json. manifest.unfinished.json lists the finished parts,
so an interrupted split resumes from them. Unless task.durable=true, a part may still be in
the operating system's cache at the end. After a power failure it may be too short, which
its size in the manifest reveals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.options.parts.keys import CompareMode
from runner.options.parts.sharding import unchanged
from runner.options.parts.sharding.layout import classify_tensor
from runner.options.parts.sharding.manifest import (
    MANIFEST,
    MODEL_FILES,
    SOURCE_HEADERS,
    STAMP,
    UNFINISHED,
    Totals,
    part_file_name,
    partition_file_name,
)
from runner.options.parts.sharding.partition_file import (
    INLINE,
    REFERENCE,
    serialize_partition_with_inline_weights,
)
from runner.options.parts.sharding.strategies import PlannedPart
from runner.options.parts.sharding.unchanged import KEY, SplitPlan
from runner.options.parts.sharding.zstd_archive import ProgressCallback
from runner_base import Progress
from runner_base.files import lock_folder
from runner_engine import TensorLocation
from runner_engine.checkpoints import file_io

SHOW_EVERY_S = 0.1
# opens a progress bar: total, what, unit
OpenProgress = Callable[[float | None, str, str], Progress]


@dataclass
class WriteResult:
    """Result of a split: the manifest, and the parts that were written in this run."""

    manifest: dict[str, Any]
    parts: list[int] = field(default_factory=list)
    nbytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class FileTarget:
    """Output file: its name, its digest if known, and a function that produces its bytes."""

    name: str  # its path in the folder
    nbytes: int
    pieces: Callable[[ProgressCallback], Iterable[bytes | memoryview]]  # makes its bytes
    digest: str | None = None  # None: unknown
    tensors: tuple[TensorLocation, ...] = ()  # of a file of weights

    @property
    def num_params(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)

    def is_file_already_written(self, path: Path) -> bool:
        """Return whether the file at a path already has the expected bytes.

        If no digest is known, computes the digest from the source.
        """
        if not path.is_file() or file_io.get_file_nbytes(path) != self.nbytes:
            return False
        digest = self.digest or file_io.hash_pieces(self.pieces(lambda _: None), "xxh3_128")
        return file_io.hash_file(path, file_io.parse_digest_algorithm(digest)) == digest

    def write(
        self, folder: Path, report_progress: ProgressCallback = lambda _: None, sync_to_disk: bool = False
    ) -> None:
        """Write the file into a folder. Raises JobFailed if its bytes do not match the known digest."""
        path, algorithm = (
            folder / self.name,
            file_io.parse_digest_algorithm(self.digest) if self.digest else "xxh3_128",
        )
        file_io.create_folder(path.parent)
        file_io.write_file_atomically_with_digest(
            path, self.pieces(report_progress), algorithm, self.digest, durable=sync_to_disk
        )


def build_copied_file_target(
    path: Path, file_name: str, nbytes: int | None = None, digest: str | None = None
) -> FileTarget:
    """Describe an output file that is an unchanged copy of a file, such as the tokenizer."""
    size = file_io.get_file_nbytes(path) if nbytes is None else nbytes
    return FileTarget(
        file_name,
        size,
        lambda _: file_io.read_range(path, 0, size),
        digest or file_io.hash_file(path, "sha256"),
    )


class ByteMeter:
    """Shows progress in bytes and bytes per second. Redraws the bar at most every 0.1 s."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._done, self._waiting = 0, 0
        self._began = self._shown = time.perf_counter()

    def __call__(self, nbytes: int) -> None:
        self._waiting += nbytes
        now = time.perf_counter()
        if now - self._shown >= SHOW_EVERY_S:
            self._done += self._waiting
            self._bar.advance(self._waiting, speed=f"{self._done / 1e9 / (now - self._began):.2f} GB/s")
            self._waiting, self._shown = 0, now


def write_missing_split_parts(
    folder: Path,
    plan: SplitPlan,
    compare_mode: CompareMode,
    progress: OpenProgress,
    sync_to_disk: bool = False,
) -> WriteResult:
    """Write the planned parts of a split into a folder. Existing intact parts are kept."""
    state = plan.source_checkpoint_state
    earlier = unchanged.read_earlier_manifest(folder)
    unchanged.require_same_split_in_folder(folder, earlier, plan, state)
    stored = sum(part.nbytes for part in plan.parts)
    with progress(2 * stored if compare_mode is CompareMode.content else None, "compare", "bytes") as bar:
        kept = unchanged.find_unchanged_parts(folder, earlier, plan, state, compare_mode, ByteMeter(bar))
    companions = [
        build_copied_file_target(path, f"{MODEL_FILES}/{path.name}") for path in plan.checkpoint.companions
    ]
    headers = [_header_target(file.path.name, file.header) for file in plan.checkpoint.files if file.header]
    missing = [
        small for small in (*companions, *headers) if not small.is_file_already_written(folder / small.name)
    ]
    todo = [part for part in plan.parts if part.part_id not in kept]
    _require_disk_space(folder, todo, missing)
    manifest = {
        **STAMP,
        "strategy": plan.strategy,
        "checksums": plan.checksums,
        "num_parts": len(plan.parts),
        "source": {
            "name": plan.name,
            "revision": plan.revision,
            "format": plan.checkpoint.format,
            "files": _build_source_file_entries(plan, earlier, state, progress),
            "state": state,
        },
        "companions": [_make_manifest_entry(small) for small in companions],
        "headers": [_make_manifest_entry(small) for small in headers],
        **_build_manifest_layout(plan),
        "archive": None,
        "parts": [kept[part_id] for part_id in sorted(kept)],
    }
    done = WriteResult(manifest)
    if todo or missing or earlier != manifest or not (folder / MANIFEST).exists():
        _write_missing_files(folder, plan, done, todo, missing, progress, sync_to_disk)
        unchanged.require_unmodified_source(plan.checkpoint.files, state)
        file_io.write_json_atomically(folder / MANIFEST, manifest, sync_to_disk)
        (folder / UNFINISHED).unlink(missing_ok=True)
    return done


def _write_missing_files(
    folder: Path,
    plan: SplitPlan,
    result: WriteResult,
    parts_to_write: list[PlannedPart],
    small_files: list[FileTarget],
    progress: OpenProgress,
    sync_to_disk: bool,
) -> None:
    """Write the missing files of a split. Updates the manifest after each part."""
    file_io.create_folder(folder)
    manifest = result.manifest
    with (
        lock_folder(folder, KEY),
        progress(sum(part.nbytes for part in parts_to_write), "split", "bytes") as bar,
    ):
        file_io.write_json_atomically(folder / UNFINISHED, manifest, sync_to_disk)
        (folder / MANIFEST).unlink(missing_ok=True)  # from now on it would be wrong
        for small in small_files:
            small.write(folder, sync_to_disk=sync_to_disk)
        began, meter, state = time.perf_counter(), ByteMeter(bar), manifest["source"]["state"]
        for part in parts_to_write:
            bar.set_title(f"part {part.part_id} of {len(plan.parts)}")
            entry = _write_part(folder, part, plan, plan.hash_part_inputs(part, state), sync_to_disk, meter)
            manifest["parts"] = sorted(
                [*manifest["parts"], entry], key=lambda written: int(written["part_id"])
            )
            if part is not parts_to_write[-1]:
                file_io.write_json_atomically(folder / UNFINISHED, manifest, sync_to_disk)
            result.parts.append(part.part_id)
            result.nbytes += entry["bytes"]
        result.seconds = time.perf_counter() - began


def _write_part(
    folder: Path,
    part: PlannedPart,
    plan: SplitPlan,
    part_hash: str,
    sync_to_disk: bool,
    report_progress: ProgressCallback,
) -> dict[str, Any]:
    """Write part_N.safetensors and partition_N.json. Returns the part's entry for the manifest."""
    name, partition = part_file_name(part.part_id), partition_file_name(part.part_id)
    header, digests = plan.build_part_header(part), dict[str, str]()
    pieces = file_io.iter_safetensors_file_bytes(
        header, part.tensors, report_progress, digests, plan.checksums
    )
    digest = file_io.write_file_atomically_with_digest(
        folder / name, pieces, plan.checksums, durable=sync_to_disk
    )
    layers, offset = [], len(header)
    for tensor in part.tensors:
        reference = {"file": name, "tensor": tensor.name, "dtype": tensor.dtype, "offset": offset}
        reference |= {"nbytes": tensor.nbytes, "digest": digests[tensor.name]}
        offset += tensor.nbytes
        layer = {"name": tensor.name, "layer_type": classify_tensor(tensor.name), "dtype": tensor.dtype}
        layers.append(layer | {"shape": list(tensor.shape), "parameters": reference})
    form = INLINE if plan.inline else REFERENCE
    content = {
        "part_id": part.part_id,
        "layers": layers,
        "parameters_format": form,
        "total_params": part.num_params,
    }
    text = (
        serialize_partition_with_inline_weights(content, part.tensors)
        if plan.inline
        else _format_partition_json(content)
    )
    partition_sha256 = file_io.write_file_atomically(folder / partition, [text], durable=sync_to_disk)
    return {
        "part_id": part.part_id,
        "file": name,
        "bytes": offset,
        "digest": digest,
        "partition": partition,
        "partition_sha256": partition_sha256,
        "inline": plan.inline,
        "layers": None if part.layers is None else list(part.layers),
        "holds": part.holds,
        "tensors": len(part.tensors),
        "params": part.num_params,
        "key": part_hash,
        "mtime_ns": (folder / name).stat().st_mtime_ns,
    }


def _format_partition_json(partition: dict[str, Any]) -> bytes:
    """Format a partition as JSON text with one line per tensor. The json module is slow with indentation."""
    layers = ",\n  ".join(json.dumps(layer) for layer in partition["layers"])
    rest = json.dumps({key: value for key, value in partition.items() if key not in ("part_id", "layers")})
    return f'{{"part_id": {partition["part_id"]},\n "layers": [\n  {layers}\n ],\n {rest[1:]}\n'.encode()


def _header_target(file: str, header: bytes) -> FileTarget:
    digest = file_io.hash_pieces([header], "sha256")
    return FileTarget(f"{SOURCE_HEADERS}/{file}.header", len(header), lambda _: [header], digest)


def _make_manifest_entry(target: FileTarget) -> dict[str, Any]:
    sha256 = str(target.digest).removeprefix("sha256:")
    return {"file": Path(target.name).name, "bytes": target.nbytes, "sha256": sha256}


def _build_source_file_entries(
    plan: SplitPlan,
    earlier_manifest: dict[str, Any],
    source_checkpoint_state: dict[str, Any],
    progress: OpenProgress,
) -> list[dict[str, Any]]:
    """Return the manifest entries that describe the source checkpoint's files.

    SHA-256 digests require reading all files again, so they need task.checksums=sha256.
    """
    files = sorted(plan.checkpoint.files, key=lambda file: file.path.name)
    digests: dict[str, Any] = {}
    if plan.checksums == "sha256":
        source = earlier_manifest.get("source", {})
        states = source.get("state", {}).get("files", {})
        known = {
            source_file.get("file"): source_file.get("digest") for source_file in source.get("files", [])
        }
        same = [
            name
            for name, now in source_checkpoint_state["files"].items()
            if states.get(name) == now and known.get(name)
        ]
        digests = {name: known[name] for name in same}
        todo = [file for file in files if file.path.name not in digests]
        with progress(sum(file.size for file in todo), "hash", "bytes") as bar:
            for file in todo:
                digests[file.path.name] = file_io.hash_file(file.path, "sha256", ByteMeter(bar))
    entries: list[dict[str, Any]] = [
        {"file": file.path.name, "bytes": file.size, "digest": digests.get(file.path.name)} for file in files
    ]
    if (
        plan.checkpoint.format == "bin"
    ):  # there is no header to list them, and merge makes shards of the same tensors
        for entry, file in zip(entries, files, strict=True):
            entry["tensors"] = [tensor.name for tensor in file.tensors]
    return entries


def _build_manifest_layout(plan: SplitPlan) -> dict[str, Any]:
    parts = plan.parts

    def part_ids_holding(*contents: str) -> list[int]:
        return [part.part_id for part in parts if {*contents} & {*part.holds}]

    def part_ids_with_tensor(tensor: TensorLocation) -> list[int]:
        return [part.part_id for part in parts if tensor in part.tensors]

    return {
        "layers": {"prefix": plan.layout.stack, "count": len(plan.layout.layers)},
        "contiguous": all(part.layers is not None for part in parts),
        "embedding": part_ids_holding("embedding"),
        "norm": part_ids_holding("norm"),
        "head": part_ids_holding("head", "tied head"),
        "tied": [
            {"tensor": tensor.name, "parts": part_ids_with_tensor(tensor), "as": "head"}
            for tensor in plan.layout.tied
        ],
        "totals": vars(
            Totals.from_tensors(
                plan.checkpoint.tensors, [tensor for part in parts for tensor in part.tensors]
            )
        ),
    }


def _require_disk_space(
    folder: Path, parts_to_write: list[PlannedPart], small_files: list[FileTarget]
) -> None:
    """Raise an error if the disk is too full. Each new part needs space before its old version is removed."""
    needed = held = sum(small.nbytes for small in small_files)
    for part in parts_to_write:
        needed = max(needed, held + part.nbytes)
        old = folder / part_file_name(part.part_id)
        held += part.nbytes - (old.stat().st_size if old.exists() else 0)
    if parts_to_write or small_files:
        file_io.require_disk_space(folder, needed)
