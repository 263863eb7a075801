"""Implements task=archive, which compresses or decompresses a split's parts and copies all other files
unchanged.

The parts are checked first, and the manifest is written last. Until then
manifest.unfinished.json lists the finished parts, so an interrupted run resumes from them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.parts.keys import ArchiveConfig, ArchiveFormat
from runner.options.parts.sharding.completeness import require_all_tensors_in_parts
from runner.options.parts.sharding.manifest import (
    ARCHIVES,
    MANIFEST,
    UNFINISHED,
    Manifest,
    PartEntry,
    part_file_name,
    read_manifest,
)
from runner.options.parts.sharding.split_writer import ByteMeter, build_copied_file_target
from runner.options.parts.sharding.zstd_archive import (
    compress_frames,
    create_part_range_reader,
    get_zstd_codec,
)
from runner.records.artifacts import record_file_states
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner_base import MIB, ConfigError, Result, load_json_object, machine
from runner_base.files import lock_folder
from runner_engine.checkpoints import file_io

VERSION = 1
USES = frozenset({Uses.own_location})
FROM_LEDGER = True

KEY = "task.output_dir"
MADE_FROM = "archived_from"  # key of the SHA-256 of the manifest that a run began with


@dataclass
class ArchiveInputs(TaskInputs):
    """Input of task=archive: the manifest of the split."""

    task: ArchiveConfig
    manifest: Manifest


def prepare(config: RunnerConfig) -> ArchiveInputs:
    """Read and hash the split's manifest. Raises ConfigError if the parts already have the requested
    format.
    """
    task = typed_task_config(config, ArchiveConfig)
    manifest = read_manifest(task.parts)
    if (manifest.archive is None) == (task.archive is ArchiveFormat.none):
        why = (
            "not compressed, so its parts can already be loaded"
            if manifest.archive is None
            else "already compressed"
        )
        raise ConfigError(
            f"task.parts={manifest.folder} is {why}",
            key="task.archive",
            value=task.archive.value,
            code="no_effect",
        )
    get_zstd_codec()  # raises at once if the library is not installed
    return ArchiveInputs({"manifest": manifest.sha256}, task, manifest)


def run(inputs: ArchiveInputs, context: TaskContext) -> Result:
    """Write the parts compressed or uncompressed, as requested, and copy all other files."""
    machine.reset_peak_rss()
    started, manifest, recorder = time.perf_counter(), inputs.manifest, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    values = load_json_object(manifest.folder / MANIFEST)
    values["archive"] = None if manifest.archive else inputs.task.archive.value
    unfinished = values | {MADE_FROM: inputs.hashes["manifest"]}
    done = _find_already_archived_parts(folder, inputs.hashes["manifest"])
    require_all_tensors_in_parts(manifest, recorder.create_progress_bar)
    todo = [part for part in manifest.parts if part.part_id not in done]
    # random weights do not get smaller
    file_io.require_disk_space(folder, sum(part.raw.nbytes for part in todo))
    file_io.create_folder(folder)
    write_started, raw_bytes = time.perf_counter(), sum(part.raw.nbytes for part in manifest.parts)
    total = sum(part.raw.nbytes for part in todo)
    with lock_folder(folder, KEY), recorder.create_progress_bar(total, "archive", "bytes") as bar:
        meter = ByteMeter(bar)
        file_io.write_json_atomically(folder / UNFINISHED, unfinished | _ordered_entries(done))
        _copy_and_verify_uncompressed_files(manifest, folder)
        for part in todo:
            bar.set_title(f"part {part.part_id}")
            convert = _decompress_checkpoint_part if manifest.archive else _compress_part
            done[part.part_id] = convert(manifest, part, folder, values["parts"][part.part_id], meter)
            file_io.write_json_atomically(folder / UNFINISHED, unfinished | _ordered_entries(done))
        file_io.write_json_atomically(folder / MANIFEST, values | _ordered_entries(done))
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
        rows=[_table_row(part, done[part.part_id]) for part in manifest.parts],
        facts={"output_dir": str(folder), "source": manifest.source},
        artifacts=record_file_states(files),
    )


def _table_row(part: PartEntry, entry: dict[str, Any]) -> dict[str, Any]:
    nbytes = entry["bytes"]
    return {
        "part": part.part_id,
        "file": entry["file"],
        "mib": nbytes / MIB,
        "share_of_raw": nbytes / part.raw.nbytes,
    }


def _find_already_archived_parts(folder: Path, manifest_sha256: str) -> dict[int, dict[str, Any]]:
    """Return the manifest entries of parts that an interrupted run wrote. Raises ConfigError if the
    folder has other files.
    """
    names = file_io.list_file_names_in_folder(folder, KEY)
    earlier = load_json_object(folder / UNFINISHED) if UNFINISHED in names else {}
    if names and earlier.get(MADE_FROM) != manifest_sha256:
        raise ConfigError(
            (
                "the folder contains files that are not part of an archive of this split: "
                f"{', '.join(names[:3])}{(', ...' if len(names) > 3 else '')}. Nothing was "
                "changed. Give an empty or new folder"
            ),
            key=KEY,
            value=folder,
            code="exists",
        )
    finished = {}
    for entry in earlier.get("parts", []):
        path, digest = folder / entry["file"], entry["digest"]
        if path.is_file() and file_io.hash_file(path, file_io.parse_digest_algorithm(digest)) == digest:
            finished[entry["part_id"]] = entry
    return finished


def _ordered_entries(entries: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {"parts": [entries[part_id] for part_id in sorted(entries)]}


def _copy_and_verify_uncompressed_files(manifest: Manifest, folder: Path) -> None:
    """Copy the split's other files and verify the digests of the copies."""
    files = [
        (f"{sub}/{file.file}", str(file.digest))
        for sub, group in manifest.non_part_files.items()
        for file in group
    ]
    files += [(part.partition, f"sha256:{part.partition_sha256}") for part in manifest.parts]
    for path, digest in files:
        build_copied_file_target(manifest.folder / path, path, digest=digest).write(folder)


def _compress_part(
    manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: ByteMeter
) -> dict[str, Any]:
    name, frames = part_file_name(part.part_id) + ARCHIVES["zstd"], list[int]()
    pieces = compress_frames(_iterate_part_bytes(manifest, part, meter), frames)
    digest = file_io.write_file_atomically_with_digest(folder / name, pieces, manifest.checksums)
    raw = {"raw_bytes": part.raw.nbytes, "raw_digest": part.raw.digest, "frames": frames}
    return entry | {"file": name, "bytes": sum(frames), "digest": digest} | raw


def _decompress_checkpoint_part(
    manifest: Manifest, part: PartEntry, folder: Path, entry: dict[str, Any], meter: ByteMeter
) -> dict[str, Any]:
    path, digest = folder / part_file_name(part.part_id), str(part.raw.digest)
    file_io.write_file_atomically_with_digest(
        path, _iterate_part_bytes(manifest, part, meter), file_io.parse_digest_algorithm(digest), digest
    )
    unpacked = {
        key: value for key, value in entry.items() if key not in ("raw_bytes", "raw_digest", "frames")
    }
    unpacked |= {"file": path.name, "bytes": part.raw.nbytes, "digest": digest}
    return unpacked | {"mtime_ns": path.stat().st_mtime_ns}


def _iterate_part_bytes(
    manifest: Manifest, part: PartEntry, meter: ByteMeter
) -> Iterator[bytes | memoryview]:
    """Yield the uncompressed bytes of a part's safetensors file."""
    for piece in create_part_range_reader(manifest.folder, part)(0, part.raw.nbytes):
        yield piece
        meter(len(piece))
