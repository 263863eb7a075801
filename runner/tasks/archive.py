"""Pack the parts of a split into an archive, or unpack one: everything else in the folder stays as it is.

The parts are checked first; the manifest is written last, and until then manifest.unfinished.json lists the parts that
are done, so that an interrupted run goes on from them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoints import byteio
from runner.checkpoints.weight_files import load_json
from runner.config.root import RunnerConfig
from runner.config.task import Archive, ArchiveConfig
from runner.core import machine
from runner.core.errors import ConfigError
from runner.core.result import Result
from runner.sharding.archive import codec, compress, open_part
from runner.sharding.completeness import require_complete
from runner.sharding.manifest import (
    ARCHIVES,
    MANIFEST,
    MODEL_FILES,
    SOURCE_HEADERS,
    UNFINISHED,
    Manifest,
    PartEntry,
    part_file,
    read_manifest,
)
from runner.sharding.write import Meter
from runner.tasks.base import Context, Inputs, Uses

VERSION = 1
USES = frozenset({Uses.own_location})
FROM_LEDGER = True

MIB = machine.MIB
KEY = "task.output_dir"
MADE_FROM = "archived_from"  # SHA-256 of the manifest that a run began with


@dataclass
class Parts(Inputs):
    """The manifest of the parts."""

    task: ArchiveConfig
    manifest: Manifest


def prepare(config: RunnerConfig) -> Parts:
    """Read the manifest and hash it: it holds the digest of everything else."""
    task = config.task
    assert isinstance(task, ArchiveConfig)
    manifest = _manifest(task)
    return Parts({"manifest": byteio.file_sha256(manifest.folder / MANIFEST)}, task, manifest)


def run(inputs: Parts, context: Context) -> Result:
    """Write the parts in their other form, and the files around them as they are."""
    machine.reset_peak()
    started, manifest, recorder = time.perf_counter(), inputs.manifest, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    values = load_json(manifest.folder / MANIFEST)
    values["archive"] = None if manifest.archive else inputs.task.archive.value
    made_from = inputs.hashes["manifest"]
    done = _earlier(folder, made_from)
    with recorder.progress(sum(part.stored.nbytes for part in manifest.parts), "check parts", "bytes") as bar:
        require_complete(manifest, Meter(bar))
    todo = [part for part in manifest.parts if part.part_id not in done]
    byteio.require_space(folder, sum(part.raw.nbytes for part in todo))  # noise does not get smaller
    byteio.make_folder(folder)
    write_started, raw_bytes = time.perf_counter(), sum(part.raw.nbytes for part in manifest.parts)
    total = sum(part.raw.nbytes for part in todo)
    with byteio.hold(folder, KEY), recorder.progress(total, "archive", "bytes") as bar:
        meter = Meter(bar)
        _write_unfinished(folder, values, done, made_from)
        _copy_small(manifest, folder)
        for part in todo:
            bar.describe(f"part {part.part_id}")
            entry = next(one for one in values["parts"] if one["part_id"] == part.part_id)
            convert = _unpacked if manifest.archive else _packed
            done[part.part_id] = convert(manifest, part, folder, entry, meter)
            _write_unfinished(folder, values, done, made_from)
        byteio.write_json(folder / MANIFEST, values | {"parts": [done[part_id] for part_id in sorted(done)]})
        (folder / UNFINISHED).unlink()
    now, written = time.perf_counter(), sum(entry["bytes"] for entry in done.values())
    stored = sum(part.stored.nbytes for part in manifest.parts)
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
        artifacts=[str(folder / name) for name in (MANIFEST, *(entry["file"] for entry in done.values()))],
    )


def _row(part: PartEntry, entry: dict[str, Any]) -> dict[str, Any]:
    nbytes = entry["bytes"]
    return {"part": part.part_id, "file": entry["file"], "mib": nbytes / MIB, "share_of_raw": nbytes / part.raw.nbytes}


def _manifest(task: ArchiveConfig) -> Manifest:
    """Read the manifest; parts that are in the wanted form already are an error."""
    manifest = read_manifest(Path(task.parts).expanduser().absolute())
    if (manifest.archive is None) == (task.archive is Archive.none):
        what = (
            "is no archive: its parts are as they are loaded" if manifest.archive is None else "is an archive already"
        )
        raise ConfigError(f"task.archive={task.archive.value}: task.parts={manifest.folder} {what}")
    codec()  # says at once what is not installed
    return manifest


def _earlier(folder: Path, made_from: str) -> dict[int, dict[str, Any]]:
    """Return the parts that an interrupted run of the same packing has finished; any other content is refused."""
    names = byteio.list_folder(folder, KEY)
    earlier = load_json(folder / UNFINISHED) if UNFINISHED in names else {}
    if names and earlier.get(MADE_FROM) != made_from:
        raise ConfigError(
            f"{KEY}={folder}: the folder is not empty ({', '.join(names[:3])}{', ...' * (len(names) > 3)}). "
            "Nothing was changed: give an empty or new folder"
        )
    entries = [entry for entry in earlier.get("parts", []) if (folder / entry["file"]).is_file()]
    right = [
        entry
        for entry in entries
        if byteio.file_digest(folder / entry["file"], byteio.algorithm_of(entry["digest"])) == entry["digest"]
    ]
    return {entry["part_id"]: entry for entry in right}


def _write_unfinished(folder: Path, values: dict[str, Any], done: dict[int, dict[str, Any]], made_from: str) -> None:
    parts = [done[part_id] for part_id in sorted(done)]
    byteio.write_json(folder / UNFINISHED, values | {MADE_FROM: made_from, "parts": parts})


def _copy_small(manifest: Manifest, folder: Path) -> None:
    """Copy what is not a part: it was checked a moment ago, and is checked again on the way."""
    small = [(f"{MODEL_FILES}/{one.file}", str(one.digest)) for one in manifest.companions]
    small += [(f"{SOURCE_HEADERS}/{one.file}", str(one.digest)) for one in manifest.headers]
    small += [(part.partition, f"sha256:{part.partition_sha256}") for part in manifest.parts]
    for place, digest in small:
        path = manifest.folder / place
        byteio.make_folder((folder / place).parent)
        pieces = byteio.read_range(path, 0, byteio.file_size(path))
        byteio.write_digested(folder / place, pieces, "sha256", digest)


def _packed(manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: Meter) -> dict[str, Any]:
    frames: list[int] = []
    name = part_file(part.part_id) + ARCHIVES["zstd"]
    pieces = compress(_pieces(manifest, part, meter), frames)
    digest = byteio.write_digested(folder / name, pieces, manifest.checksums)
    raw = {"raw_bytes": part.raw.nbytes, "raw_digest": part.raw.digest, "frames": frames}
    return entry | {"file": name, "bytes": sum(frames), "digest": digest} | raw


def _unpacked(manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: Meter) -> dict[str, Any]:
    path = folder / part_file(part.part_id)
    byteio.write_digested(
        path, _pieces(manifest, part, meter), byteio.algorithm_of(str(part.raw.digest)), part.raw.digest
    )
    kept = {key: value for key, value in entry.items() if key not in ("raw_bytes", "raw_digest", "frames")}
    kept |= {"file": path.name, "bytes": part.raw.nbytes, "digest": part.raw.digest}
    return kept | {"mtime_ns": path.stat().st_mtime_ns}


def _pieces(manifest: Manifest, part: PartEntry, meter: Meter) -> Iterator[bytes | memoryview]:
    """Yield the safetensors file of a part, whichever form it is in."""
    for piece in open_part(manifest.folder, part)(0, part.raw.nbytes):
        yield piece
        meter(len(piece))
