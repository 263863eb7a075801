"""Pack the parts of a split into an archive, or unpack one; all other files are copied unchanged.

The parts are checked first. The manifest is written last; until then manifest.unfinished.json lists
the parts that are done, so that an interrupted run resumes from them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.parts.keys import Archive, ArchiveConfig
from runner.options.parts.sharding.archive import codec, compress, open_part
from runner.options.parts.sharding.completeness import require_complete
from runner.options.parts.sharding.manifest import (
    ARCHIVES,
    MANIFEST,
    UNFINISHED,
    Manifest,
    PartEntry,
    part_file,
    read_manifest,
)
from runner.options.parts.sharding.write import Meter, copied
from runner.records.artifacts import promise
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner_base import MIB, ConfigError, Result, load_json, machine
from runner_base.files import hold_folder
from runner_engine.checkpoints import byteio

VERSION = 1
USES = frozenset({Uses.own_location})
FROM_LEDGER = True

KEY = "task.output_dir"
MADE_FROM = "archived_from"  # key of the SHA-256 of the manifest that a run began with


@dataclass
class ArchiveInputs(Inputs):
    """The manifest of the parts."""

    task: ArchiveConfig
    manifest: Manifest


def prepare(config: RunnerConfig) -> ArchiveInputs:
    """Read the manifest and hash it; parts that already have the wanted form are an error."""
    task = own_config(config, ArchiveConfig)
    manifest = read_manifest(task.parts)
    if (manifest.archive is None) == (task.archive is Archive.none):
        why = "not an archive: its parts can be loaded" if manifest.archive is None else "an archive already"
        raise ConfigError(
            f"task.parts={manifest.folder} is {why}",
            key="task.archive",
            value=task.archive.value,
            code="no_effect",
        )
    codec()  # raises at once if the library is not installed
    return ArchiveInputs({"manifest": manifest.sha256}, task, manifest)


def run(inputs: ArchiveInputs, context: Context) -> Result:
    """Write the parts in their other form, and copy the files around them."""
    machine.reset_peak()
    started, manifest, recorder = time.perf_counter(), inputs.manifest, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    values = load_json(manifest.folder / MANIFEST)
    values["archive"] = None if manifest.archive else inputs.task.archive.value
    unfinished = values | {MADE_FROM: inputs.hashes["manifest"]}
    done = _earlier(folder, inputs.hashes["manifest"])
    require_complete(manifest, recorder.progress)
    todo = [part for part in manifest.parts if part.part_id not in done]
    # random weights do not get smaller
    byteio.require_space(folder, sum(part.raw.nbytes for part in todo))
    byteio.make_folder(folder)
    write_started, raw_bytes = time.perf_counter(), sum(part.raw.nbytes for part in manifest.parts)
    total = sum(part.raw.nbytes for part in todo)
    with hold_folder(folder, KEY), recorder.progress(total, "archive", "bytes") as bar:
        meter = Meter(bar)
        byteio.write_json(folder / UNFINISHED, unfinished | _in_order(done))
        _copy_small(manifest, folder)
        for part in todo:
            bar.describe(f"part {part.part_id}")
            convert = _unpacked if manifest.archive else _packed
            done[part.part_id] = convert(manifest, part, folder, values["parts"][part.part_id], meter)
            byteio.write_json(folder / UNFINISHED, unfinished | _in_order(done))
        byteio.write_json(folder / MANIFEST, values | _in_order(done))
        (folder / UNFINISHED).unlink()
    now, written = time.perf_counter(), sum(entry["bytes"] for entry in done.values())
    stored = sum(part.stored.nbytes for part in manifest.parts)
    files: dict[Path, str | None] = {folder / MANIFEST: None}
    files |= {folder / entry["file"]: str(entry["digest"]) for entry in done.values()}
    return Result(
        metrics={
            "num_parts": len(done),
            "raw_mib": raw_bytes / MIB,
            "archive_mib": (stored if manifest.archive else written) / MIB,
            "share": (stored if manifest.archive else written) / raw_bytes,
            "seconds": now - started,
            "raw_mib_per_s": total / MIB / (now - write_started),
            "peak_rss_mib": machine.peak_rss_mib(),
        },
        rows=[_row(part, done[part.part_id]) for part in manifest.parts],
        facts={"output_dir": str(folder), "source": manifest.source},
        artifacts=promise(files),
    )


def _row(part: PartEntry, entry: dict[str, Any]) -> dict[str, Any]:
    nbytes = entry["bytes"]
    return {
        "part": part.part_id,
        "file": entry["file"],
        "mib": nbytes / MIB,
        "share_of_raw": nbytes / part.raw.nbytes,
    }


def _earlier(folder: Path, made_from: str) -> dict[int, dict[str, Any]]:
    """Return the parts that an interrupted run of the same job has finished; reject any other
    content."""
    names = byteio.list_folder(folder, KEY)
    earlier = load_json(folder / UNFINISHED) if UNFINISHED in names else {}
    if names and earlier.get(MADE_FROM) != made_from:
        raise ConfigError(
            f"the folder is not empty ({', '.join(names[:3])}{(', ...' if len(names) > 3 else '')}). "
            "Nothing was changed: give an empty or new folder",
            key=KEY,
            value=folder,
            code="exists",
        )
    finished = {}
    for entry in earlier.get("parts", []):
        path, digest = folder / entry["file"], entry["digest"]
        if path.is_file() and byteio.file_digest(path, byteio.algorithm_of(digest)) == digest:
            finished[entry["part_id"]] = entry
    return finished


def _in_order(done: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {"parts": [done[part_id] for part_id in sorted(done)]}


def _copy_small(manifest: Manifest, folder: Path) -> None:
    """Copy the files that are not parts; their digests are checked again while they are copied."""
    files = [
        (f"{sub}/{file.file}", str(file.digest)) for sub, group in manifest.around.items() for file in group
    ]
    files += [(part.partition, f"sha256:{part.partition_sha256}") for part in manifest.parts]
    for path, digest in files:
        copied(manifest.folder / path, path, digest=digest).write(folder)


def _packed(
    manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: Meter
) -> dict[str, Any]:
    name, frames = part_file(part.part_id) + ARCHIVES["zstd"], list[int]()
    pieces = compress(_pieces(manifest, part, meter), frames)
    digest = byteio.write_digested(folder / name, pieces, manifest.checksums)
    raw = {"raw_bytes": part.raw.nbytes, "raw_digest": part.raw.digest, "frames": frames}
    return entry | {"file": name, "bytes": sum(frames), "digest": digest} | raw


def _unpacked(
    manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: Meter
) -> dict[str, Any]:
    path, digest = folder / part_file(part.part_id), str(part.raw.digest)
    byteio.write_digested(path, _pieces(manifest, part, meter), byteio.algorithm_of(digest), digest)
    unpacked = {
        key: value for key, value in entry.items() if key not in ("raw_bytes", "raw_digest", "frames")
    }
    unpacked |= {"file": path.name, "bytes": part.raw.nbytes, "digest": digest}
    return unpacked | {"mtime_ns": path.stat().st_mtime_ns}


def _pieces(manifest: Manifest, part: PartEntry, meter: Meter) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a part's safetensors file, whatever form it is stored in."""
    for piece in open_part(manifest.folder, part)(0, part.raw.nbytes):
        yield piece
        meter(len(piece))
