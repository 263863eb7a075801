"""Put the parts of a split back together: the same files as the source, byte for byte, checked by SHA-256.

Every part is checked against the manifest before anything is written, so that a damaged one is named. The
files then come from the original headers and the tensors' bytes, and each must hash as the source did.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import machine
from runner.config import MergeConfig, RunnerConfig
from runner.engine.base import Engine
from runner.errors import ConfigError, DataError
from runner.jobs import Recorder
from runner.model import byteio
from runner.model import checkpoint as ckpt
from runner.model.checkpoint import Tensor, WeightFile
from runner.progress import Progress
from runner.result import Result

VERSION = 1
READS_MODEL = False  # only the parts; their manifest is hashed below
MEASURES = False

FORMAT, FORMAT_VERSION = "runner-split", 1  # what task=split writes into manifest.json
MANIFEST = "manifest.json"
UNFINISHED = "manifest.unfinished.json"
MODEL_FILES = "model_files"
SOURCE_HEADERS = "source_headers"
MIB = machine.MIB


@dataclass(frozen=True)
class Listed:
    """A file as the manifest lists it."""

    file: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What merge needs of a manifest, checked; the lists are of files in different folders."""

    source: str
    files: list[Listed]  # of the source: what is to be restored
    headers: list[Listed]  # one for each of them
    companions: list[Listed]
    parts: list[Listed]


def evidence(config: RunnerConfig) -> dict[str, str]:
    """Check the manifest and name it by its SHA-256: it holds the hash of everything else."""
    parts = _parts_dir(config)
    read_manifest(parts)
    return {"manifest": byteio.file_sha256(parts / MANIFEST)}


def execute(config: RunnerConfig, engine: Engine, recorder: Recorder) -> Result:  # noqa: ARG001 - needs no model
    """Check the parts, restore the files, and say how many bytes that were."""
    machine.reset_peak()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    parts_dir, folder = _parts_dir(config), _output_dir(config)
    manifest = read_manifest(parts_dir)
    total = sum(listed.nbytes for listed in (*manifest.parts, *manifest.files))
    with recorder.progress(total, "check parts", "bytes") as bar:
        files = _check(parts_dir, manifest, bar)
        missing = _missing(folder, [*manifest.files, *manifest.companions])
        byteio.require_space(folder, sum(listed.nbytes for listed in missing))
        write_started = time.perf_counter()
        byteio.make_folder(folder)
        bar.say("merge")
        for listed in manifest.companions:
            if listed in missing:
                pieces = byteio.read_range(parts_dir / MODEL_FILES / listed.file, 0, listed.nbytes)
                byteio.write_file(folder / listed.file, pieces, listed.sha256)
        for listed, header, tensors in files:
            if listed in missing:
                whole = byteio.tensor_bytes(header, tensors, bar.advance)
                byteio.write_file(folder / listed.file, whole, listed.sha256)
    now = time.perf_counter()
    restored = [tensor for _, _, tensors in files for tensor in tensors]
    written_mib = sum(listed.nbytes for listed in missing) / MIB
    return Result(
        metrics={
            "num_parts": len(manifest.parts),
            "files": len(files),
            "tensors": len(restored),
            "total_params": sum(tensor.params for tensor in restored),
            "merged_mib": sum(listed.nbytes for listed in manifest.files) / MIB,
            "written_mib": written_mib,
            "seconds": now - started,
            "write_mib_per_s": written_mib / (now - write_started),
            "peak_rss_mib": machine.peak_rss_mib(),
            "rss_growth_mib": max(0.0, machine.peak_rss_mib() - rss_mib),
        },
        rows=[_row(*file) for file in files],
        facts={
            "output_dir": str(folder),
            "source": manifest.source,
            "bit_identical": "yes: every file has the SHA-256 that the manifest gives for the source's",
        },
        notes=[] if missing else ["all files were there already, each with the right SHA-256: nothing was written"],
        artifacts=[str(folder / listed.file) for listed in (*manifest.files, *manifest.companions)],
    )


def _row(listed: Listed, header: bytes, tensors: list[Tensor]) -> dict[str, Any]:  # noqa: ARG001 - one file's triple
    params = sum(tensor.params for tensor in tensors)
    return {"file": listed.file, "tensors": len(tensors), "params": params, "mib": listed.nbytes / MIB}


def _parts_dir(config: RunnerConfig) -> Path:
    assert isinstance(config.task, MergeConfig)
    return Path(config.task.parts).expanduser().absolute()


def _output_dir(config: RunnerConfig) -> Path:
    assert isinstance(config.task, MergeConfig)
    return Path(config.task.output_dir).expanduser().absolute()


# ---------------------------------------------------------------------------------------------- manifest


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json and refuse what is not one, or what points out of its folder."""
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = (folder / UNFINISHED).exists()
        why = "the split was interrupted: run the same task=split again" if unfinished else "give what task=split wrote"
        raise ConfigError(f"task.parts={folder}: no {MANIFEST} there; {why}")
    values = ckpt.load_json(path)
    found = values.get("format"), values.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise DataError(f"{path}: format {FORMAT} version {FORMAT_VERSION} expected, found {found[0]} {found[1]}")
    source = values.get("source")
    if not isinstance(source, dict):
        raise DataError(f"{path}: source: a JSON object expected")
    manifest = Manifest(
        source=str(source.get("name")),
        files=_listed(path, "source.files", source.get("files")),
        headers=_listed(path, "headers", values.get("headers")),
        companions=_listed(path, "companions", values.get("companions")),
        parts=_listed(path, "parts", values.get("parts")),
    )
    if len(manifest.parts) != values.get("num_parts"):
        raise DataError(f"{path}: num_parts={values.get('num_parts')}, but {len(manifest.parts)} parts are listed")
    if [f"{listed.file}.header" for listed in manifest.files] != [listed.file for listed in manifest.headers]:
        raise DataError(f"{path}: headers: one for each of source.files expected, in the same order")
    targets = [listed.file for listed in (*manifest.files, *manifest.companions)]
    if len(set(targets)) < len(targets):
        raise DataError(f"{path}: source.files and companions name the same file twice")
    return manifest


def _listed(path: Path, key: str, entries: object) -> list[Listed]:
    if not isinstance(entries, list):
        raise DataError(f"{path}: {key}: a list of files expected")
    listed = []
    for entry in entries:
        values = entry if isinstance(entry, dict) else {}
        name, nbytes, sha256 = values.get("file"), values.get("bytes"), values.get("sha256")
        if not ckpt.is_bare_name(name):
            raise DataError(f"{path}: {key}: a bare file name expected, found {name!r}")
        if type(nbytes) is not int or nbytes < 0 or not isinstance(sha256, str):
            raise DataError(f"{path}: {key}: {name} needs bytes and sha256, found {nbytes!r} and {sha256!r}")
        listed.append(Listed(str(name), nbytes, sha256))
    return listed


# ------------------------------------------------------------------------------------------------- check


def _check(folder: Path, manifest: Manifest, bar: Progress) -> list[tuple[Listed, bytes, list[Tensor]]]:
    """Check all that will be read; return, for each file to restore, its header and where its tensors lie."""
    for listed in manifest.parts:
        _require_same(folder / listed.file, listed, f"part {listed.file}", bar)
    for sub, group in ((MODEL_FILES, manifest.companions), (SOURCE_HEADERS, manifest.headers)):
        for listed in group:
            _require_same(folder / sub / listed.file, listed, f"{sub}/{listed.file}", None)
    stored: dict[str, Tensor] = {}
    for listed in manifest.parts:
        for tensor in ckpt.read_weight_file(folder / listed.file).tensors:
            stored.setdefault(tensor.name, tensor)  # a tied embedding lies in two: the first one is read
    files = []
    for listed, header in zip(manifest.files, manifest.headers, strict=True):
        path = folder / SOURCE_HEADERS / header.file
        wanted = ckpt.parse_header(path.read_bytes(), path, listed.nbytes)
        files.append((listed, wanted.header, [_stored(tensor, stored, wanted) for tensor in wanted.tensors]))
    return files


def _require_same(path: Path, listed: Listed, what: str, bar: Progress | None) -> None:
    """Raise DataError unless the file is there, with the size and SHA-256 that the manifest gives."""
    if not path.is_file():
        raise DataError(f"{what} is missing: {path}")
    if (size := path.stat().st_size) != listed.nbytes:
        raise DataError(f"{what} is damaged: {listed.nbytes} bytes expected, {size} found ({path})")
    digest = byteio.file_sha256(path, bar.advance) if bar else byteio.file_sha256(path)
    if digest != listed.sha256:
        raise DataError(f"{what} is damaged: sha256 {listed.sha256} expected, {digest} found ({path})")


def _stored(wanted: Tensor, stored: dict[str, Tensor], file: WeightFile) -> Tensor:
    """Find a tensor of the source among the parts."""
    found = stored.get(wanted.name)
    if found is None:
        raise DataError(f"{file.path}: tensor {wanted.name} is in none of the parts")
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        raise DataError(
            f"{found.file}: tensor {wanted.name}: {wanted.dtype} {list(wanted.shape)} expected, "
            f"{found.dtype} {list(found.shape)} found"
        )
    return found


def _missing(folder: Path, targets: list[Listed]) -> list[Listed]:
    """Return what is still to be written; a folder with anything else than finished targets is refused."""
    names = byteio.list_folder(folder, "task.output_dir")
    known = {listed.file: listed for listed in targets}
    there = {}
    for name in names:
        if name.removesuffix(".tmp") in known and name not in known:
            continue  # left by an interrupted merge; it is written anew
        if name not in known or byteio.file_sha256(folder / name) != known[name].sha256:
            raise ConfigError(
                f"task.output_dir={folder}: holds {name}, which is not what this merge writes. "
                "Nothing was changed: give an empty or new folder"
            )
        there[name] = known[name]
    return [listed for listed in targets if listed.file not in there]
