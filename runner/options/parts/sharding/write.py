"""Write the missing parts of a split, each in one step, and the manifest last.

While parts are being written there is no manifest.json: manifest.unfinished.json lists the parts
that are done, so an interrupted split resumes from them. Unless task.durable=true, a part may still
be in the operating system's cache when the split ends: after a power cut it may be too short, which
its size in the manifest reveals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.options.parts.keys import Compare
from runner.options.parts.sharding import unchanged
from runner.options.parts.sharding.archive import Advance
from runner.options.parts.sharding.layout import layer_type
from runner.options.parts.sharding.manifest import (
    MANIFEST,
    MODEL_FILES,
    SOURCE_HEADERS,
    STAMP,
    UNFINISHED,
    Totals,
    part_file,
    partition_name,
)
from runner.options.parts.sharding.partition_file import INLINE, REFERENCE, with_numbers
from runner.options.parts.sharding.strategies import PlannedPart
from runner.options.parts.sharding.unchanged import KEY, Plan
from runner_base import Progress
from runner_base.files import hold_folder
from runner_engine import Tensor
from runner_engine.checkpoints import byteio

SHOW_EVERY_S = 0.1
# opens a progress bar: total, what, unit
OpenProgress = Callable[[float | None, str, str], Progress]


@dataclass
class WriteResult:
    """The manifest, and which parts had to be written for it."""

    manifest: dict[str, Any]
    parts: list[int] = field(default_factory=list)
    nbytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Target:
    """A file to write."""

    name: str  # its path in the folder
    nbytes: int
    pieces: Callable[[Advance], Iterable[bytes | memoryview]]  # makes its bytes
    digest: str | None = None  # None: unknown
    tensors: tuple[Tensor, ...] = ()  # of a file of weights

    @property
    def params(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.params for tensor in self.tensors)

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this target, finished; if the digest is unknown, the bytes are
        made again."""
        if not path.is_file() or byteio.file_size(path) != self.nbytes:
            return False
        digest = self.digest or byteio.digest_of(self.pieces(lambda _: None), "xxh3_128")
        return byteio.file_digest(path, byteio.algorithm_of(digest)) == digest

    def write(self, folder: Path, advance: Advance = lambda _: None, durable: bool = False) -> None:
        """Write the file into a folder; raise JobFailed if it does not have the known digest."""
        path, algorithm = (
            folder / self.name,
            byteio.algorithm_of(self.digest) if self.digest else "xxh3_128",
        )
        byteio.make_folder(path.parent)
        byteio.write_digested(path, self.pieces(advance), algorithm, self.digest, durable=durable)


def copied(path: Path, name: str, nbytes: int | None = None, digest: str | None = None) -> Target:
    """A file that is copied unchanged: config, tokenizer."""
    size = byteio.file_size(path) if nbytes is None else nbytes
    return Target(
        name, size, lambda _: byteio.read_range(path, 0, size), digest or byteio.file_digest(path, "sha256")
    )


class Meter:
    """Counts bytes for a progress bar and shows their speed; redraws rarely, since pieces come by
    the thousand."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._done, self._waiting = 0, 0
        self._began = self._shown = time.perf_counter()

    def __call__(self, nbytes: int) -> None:
        """Count bytes."""
        self._waiting += nbytes
        now = time.perf_counter()
        if now - self._shown >= SHOW_EVERY_S:
            self._done += self._waiting
            self._bar.advance(self._waiting, speed=f"{self._done / 1e9 / (now - self._began):.2f} GB/s")
            self._waiting, self._shown = 0, now


def update(
    folder: Path, plan: Plan, compare: Compare, progress: OpenProgress, durable: bool = False
) -> WriteResult:
    """Write the planned parts into a folder; parts that exist and are right are kept."""
    state = plan.state
    earlier = unchanged.read_earlier(folder)
    unchanged.refuse_other(folder, earlier, plan, state)
    stored = sum(part.nbytes for part in plan.parts)
    with progress(2 * stored if compare is Compare.content else None, "compare", "bytes") as bar:
        kept = unchanged.find_unchanged(folder, earlier, plan, state, compare, Meter(bar))
    companions = [copied(path, f"{MODEL_FILES}/{path.name}") for path in plan.checkpoint.companions]
    headers = [_header(file.path.name, file.header) for file in plan.checkpoint.files if file.header]
    missing = [small for small in (*companions, *headers) if not small.is_at(folder / small.name)]
    todo = [part for part in plan.parts if part.part_id not in kept]
    _require_space(folder, todo, missing)
    manifest = {
        **STAMP,
        "strategy": plan.strategy,
        "checksums": plan.checksums,
        "num_parts": len(plan.parts),
        "source": {
            "name": plan.name,
            "revision": plan.revision,
            "format": plan.checkpoint.format,
            "files": _source_files(plan, earlier, state, progress),
            "state": state,
        },
        "companions": [_listed(small) for small in companions],
        "headers": [_listed(small) for small in headers],
        **_contents_of(plan),
        "archive": None,
        "parts": [kept[part_id] for part_id in sorted(kept)],
    }
    done = WriteResult(manifest)
    if todo or missing or earlier != manifest or not (folder / MANIFEST).exists():
        _write(folder, plan, done, todo, missing, progress, durable)
        unchanged.require_unmoved(plan.checkpoint.files, state)
        byteio.write_json(folder / MANIFEST, manifest, durable)
        (folder / UNFINISHED).unlink(missing_ok=True)
    return done


def _write(
    folder: Path,
    plan: Plan,
    done: WriteResult,
    todo: list[PlannedPart],
    missing: list[Target],
    progress: OpenProgress,
    durable: bool,
) -> None:
    """Write what is missing; the entries of new parts go into the manifest one by one."""
    byteio.make_folder(folder)
    manifest = done.manifest
    with hold_folder(folder, KEY), progress(sum(part.nbytes for part in todo), "split", "bytes") as bar:
        byteio.write_json(folder / UNFINISHED, manifest, durable)
        (folder / MANIFEST).unlink(missing_ok=True)  # from now on it would be wrong
        for small in missing:
            small.write(folder, durable=durable)
        began, meter, state = time.perf_counter(), Meter(bar), manifest["source"]["state"]
        for part in todo:
            bar.describe(f"part {part.part_id} of {len(plan.parts)}")
            entry = _write_part(folder, part, plan, plan.key(part, state), durable, meter)
            manifest["parts"] = sorted(
                [*manifest["parts"], entry], key=lambda written: int(written["part_id"])
            )
            if part is not todo[-1]:
                byteio.write_json(folder / UNFINISHED, manifest, durable)
            done.parts.append(part.part_id)
            done.nbytes += entry["bytes"]
        done.seconds = time.perf_counter() - began


def _write_part(
    folder: Path, part: PlannedPart, plan: Plan, key: str, durable: bool, advance: Advance
) -> dict[str, Any]:
    """Write part_N.safetensors and partition_N.json, and return the part's entry in the
    manifest."""
    name, partition = part_file(part.part_id), partition_name(part.part_id)
    header, digests = plan.header(part), dict[str, str]()
    pieces = byteio.tensor_bytes(header, part.tensors, advance, digests, plan.checksums)
    digest = byteio.write_digested(folder / name, pieces, plan.checksums, durable=durable)
    layers, offset = [], len(header)
    for tensor in part.tensors:
        reference = {"file": name, "tensor": tensor.name, "dtype": tensor.dtype, "offset": offset}
        reference |= {"nbytes": tensor.nbytes, "digest": digests[tensor.name]}
        offset += tensor.nbytes
        layer = {"name": tensor.name, "layer_type": layer_type(tensor.name), "dtype": tensor.dtype}
        layers.append(layer | {"shape": list(tensor.shape), "parameters": reference})
    form = INLINE if plan.inline else REFERENCE
    content = {
        "part_id": part.part_id,
        "layers": layers,
        "parameters_format": form,
        "total_params": part.params,
    }
    text = with_numbers(content, part.tensors) if plan.inline else _one_line_per_tensor(content)
    partition_sha256 = byteio.write_file(folder / partition, [text], durable=durable)
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
        "params": part.params,
        "key": key,
        "mtime_ns": (folder / name).stat().st_mtime_ns,
    }


def _one_line_per_tensor(partition: dict[str, Any]) -> bytes:
    """Write a partition as JSON with one line per tensor: the json module is slow where it
    indents."""
    layers = ",\n  ".join(json.dumps(layer) for layer in partition["layers"])
    rest = json.dumps({key: value for key, value in partition.items() if key not in ("part_id", "layers")})
    return f'{{"part_id": {partition["part_id"]},\n "layers": [\n  {layers}\n ],\n {rest[1:]}\n'.encode()


def _header(file: str, header: bytes) -> Target:
    digest = byteio.digest_of([header], "sha256")
    return Target(f"{SOURCE_HEADERS}/{file}.header", len(header), lambda _: [header], digest)


def _listed(small: Target) -> dict[str, Any]:
    """The manifest's entry for a file that is copied unchanged."""
    sha256 = str(small.digest).removeprefix("sha256:")
    return {"file": Path(small.name).name, "bytes": small.nbytes, "sha256": sha256}


def _source_files(
    plan: Plan, earlier: dict[str, Any], state: dict[str, Any], progress: OpenProgress
) -> list[dict[str, Any]]:
    """List the source's files, with their SHA-256 only on request: it takes one more pass over all
    files."""
    files = sorted(plan.checkpoint.files, key=lambda file: file.path.name)
    digests: dict[str, Any] = {}
    if plan.checksums == "sha256":
        source = earlier.get("source", {})
        states = source.get("state", {}).get("files", {})
        known = {
            source_file.get("file"): source_file.get("digest") for source_file in source.get("files", [])
        }
        same = [name for name, now in state["files"].items() if states.get(name) == now and known.get(name)]
        digests = {name: known[name] for name in same}
        todo = [file for file in files if file.path.name not in digests]
        with progress(sum(file.size for file in todo), "hash", "bytes") as bar:
            for file in todo:
                digests[file.path.name] = byteio.file_digest(file.path, "sha256", Meter(bar))
    entries: list[dict[str, Any]] = [
        {"file": file.path.name, "bytes": file.size, "digest": digests.get(file.path.name)} for file in files
    ]
    if (
        plan.checkpoint.format == "bin"
    ):  # there is no header to list them, and merge makes shards of the same tensors
        for entry, file in zip(entries, files, strict=True):
            entry["tensors"] = [tensor.name for tensor in file.tensors]
    return entries


def _contents_of(plan: Plan) -> dict[str, Any]:
    """Return which parts hold embedding, norm and head, and the size of the model, unique and as
    stored."""
    parts = plan.parts

    def holders(*what: str) -> list[int]:
        return [part.part_id for part in parts if {*what} & {*part.holds}]

    def parts_with(tensor: Tensor) -> list[int]:
        return [part.part_id for part in parts if tensor in part.tensors]

    return {
        "layers": {"prefix": plan.layout.stack, "count": len(plan.layout.layers)},
        "contiguous": all(part.layers is not None for part in parts),
        "embedding": holders("embedding"),
        "norm": holders("norm"),
        "head": holders("head", "tied head"),
        "tied": [
            {"tensor": tensor.name, "parts": parts_with(tensor), "as": "head"} for tensor in plan.layout.tied
        ],
        "totals": vars(
            Totals.of(plan.checkpoint.tensors, [tensor for part in parts for tensor in part.tensors])
        ),
    }


def _require_space(folder: Path, todo: list[PlannedPart], missing: list[Target]) -> None:
    """Require room on the disk; a part is written beside its predecessor, which is removed
    afterwards."""
    needed = held = sum(small.nbytes for small in missing)
    for part in todo:
        needed = max(needed, held + part.nbytes)
        old = folder / part_file(part.part_id)
        held += part.nbytes - (old.stat().st_size if old.exists() else 0)
    if todo or missing:
        byteio.require_space(folder, needed)
