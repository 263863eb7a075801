"""File names in the folder of a split checkpoint, and the parser and validator of its manifest.json.

Imports neither torch nor safetensors. This module checks the manifest itself: types, bare
file names, known version, ordered parts, consecutive layers.
`runner.options.parts.sharding.part_checks` compares the files with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.core.json_fields import JsonFieldReader, ListedFile
from runner_base import ConfigError, DataError, load_json_object
from runner_engine import TensorLocation
from runner_engine.checkpoints import file_io, is_plain_file_name, model_files

FORMAT, FORMAT_VERSION = model_files.SPLIT_FORMAT, 2
STAMP = {"format": FORMAT, "format_version": FORMAT_VERSION}  # what every manifest begins with
MANIFEST = model_files.SPLIT_MANIFEST
UNFINISHED = "manifest.unfinished.json"  # describes the split while there is no manifest yet
MODEL_FILES = "model_files"
SOURCE_HEADERS = "source_headers"
INSTEAD = "merge the parts with task=merge, and run the merged model"
ARCHIVES = {"zstd": ".zst"}  # compression of an archived part: suffix of its name
SOURCE_FORMATS = ("safetensors", "bin")


def part_file_name(part_id: int) -> str:
    return f"part_{part_id}.safetensors"


def partition_file_name(part_id: int) -> str:
    return f"partition_{part_id}.json"


@dataclass(frozen=True)
class PartEntry:
    """Entry of one part in the manifest."""

    part_id: int
    stored: ListedFile  # the file in the folder
    raw: ListedFile  # the safetensors file: the same one, except in an archive
    frames: tuple[int, ...]  # in an archive: the bytes of each compressed piece, in order
    partition: str
    partition_sha256: str
    layers: tuple[int, int] | None  # first and last, both included; None for a part without layers
    tensors: int
    params: int


@dataclass(frozen=True)
class Totals:
    """Total counts and sizes of tensors. Unique counts include a tied tensor once, stored counts include
    every copy.
    """

    tensors: int
    unique_params: int
    stored_params: int
    unique_bytes: int
    stored_bytes: int

    @classmethod
    def from_tensors(
        cls, unique_tensors: list[TensorLocation], stored_tensors: list[TensorLocation]
    ) -> Totals:
        return cls(
            len(unique_tensors),
            *(sum(tensor.num_elements for tensor in group) for group in (unique_tensors, stored_tensors)),
            *(sum(tensor.nbytes for tensor in group) for group in (unique_tensors, stored_tensors)),
        )


@dataclass(frozen=True)
class Manifest:
    """Validated manifest.json of a split checkpoint, which lists the files of all parts."""

    folder: Path
    strategy: str
    source: str
    source_format: str  # safetensors | bin
    checksums: str  # what parts and tensors are hashed with
    files: tuple[ListedFile, ...]  # of the source
    headers: tuple[ListedFile, ...]  # one for each of them, none for bin
    companions: tuple[ListedFile, ...]
    prefix: str  # of tensor names, before a layer's number
    num_layers: int
    contiguous: bool
    holders: dict[str, tuple[int, ...]]  # the ids of the parts that hold embedding, norm and head
    # of each tensor that is in several parts on purpose: their ids
    tied: dict[str, tuple[int, ...]]
    parts: tuple[PartEntry, ...]
    totals: Totals
    archive: str | None

    @property
    def num_parts(self) -> int:
        return len(self.parts)

    @property
    def non_part_files(self) -> dict[str, tuple[ListedFile, ...]]:
        """The split's other files, which belong to no part, by folder."""
        return {MODEL_FILES: self.companions, SOURCE_HEADERS: self.headers}

    @property
    def sha256(self) -> str:
        """SHA-256 of manifest.json. It identifies the split, because the manifest contains the digests of
        all other files.
        """
        return file_io.hash_file_sha256(self.folder / MANIFEST)

    def require_parts_runnable_as_stages(self, key: str = "task.parts") -> None:
        """Raise ConfigError if the parts cannot run as pipeline stages: compressed parts, or parts
        without whole layers.
        """
        if self.archive is not None:
            raise ConfigError(
                (
                    f"these parts are an archive ({self.archive}), which cannot be loaded. "
                    "Decompress it first: runner task=archive "
                    f"task.archive=none task.parts={self.folder} task.output_dir=NEW_FOLDER"
                ),
                key=key,
                value=self.folder,
                code="unsupported",
            )
        if not self.contiguous or any(part.layers is None for part in self.parts):
            raise ConfigError(
                (
                    f"these parts (strategy {self.strategy}) do not contain consecutive whole layers, so "
                    f"they cannot run. Split with task.strategy=balanced_bytes, or {INSTEAD}"
                ),
                key=key,
                value=self.folder,
                code="unsupported",
            )


def read_manifest(split_folder: str | Path, key: str = "task.parts") -> Manifest:
    """Read and validate the manifest.json of a split.

    Raises an error for an unknown format, and for file paths outside of the folder.
    """
    folder = Path(split_folder).expanduser().absolute()
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(_explain_missing_manifest(folder), key=key, value=folder, code="not_found")
    values = load_json_object(path)
    found = values.get("format"), values.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise DataError(
            f"expected format {FORMAT} version {FORMAT_VERSION}, found {found[0]} {found[1]}",
            key=path,
            code="unsupported",
        )
    manifest = _ManifestReader(path).parse_manifest(values)
    _require_consistent_manifest(path, manifest, values.get("num_parts"))
    return manifest


def _explain_missing_manifest(folder: Path) -> str:
    why = f"the folder has no {MANIFEST}. Give the folder that task=split wrote"
    if not folder.is_dir():
        why = "the folder does not exist. Give the folder that task=split wrote"
    elif (folder / UNFINISHED).exists():
        why = f"{MANIFEST} is missing, because the split was interrupted. Run the same task=split again"
    return why


def _require_consistent_manifest(path: Path, manifest: Manifest, num_parts: object) -> None:
    """Raise DataError if entries of the manifest contradict each other."""
    if manifest.num_parts != num_parts:
        raise DataError(
            f"num_parts={num_parts}, but the manifest lists {manifest.num_parts} parts",
            key=path,
            code="damaged",
        )
    wanted = (
        [f"{listed.file}.header" for listed in manifest.files]
        if manifest.source_format == "safetensors"
        else []
    )
    if wanted != [listed.file for listed in manifest.headers]:
        raise DataError(
            "headers: expected one header per file of source.files, in this order (none for .bin files)",
            key=path,
            code="damaged",
        )
    if manifest.source_format == "bin":
        _require_bin_tensor_lists(path, manifest)
    targets = [listed.file for listed in (*manifest.files, *manifest.companions)]
    if len(set(targets)) < len(targets):
        raise DataError("source.files and companions name the same file twice", key=path, code="damaged")
    suffix = ARCHIVES.get(manifest.archive or "", "")
    for number, part in enumerate(manifest.parts):
        names = number, part_file_name(number) + suffix, partition_file_name(number)
        if (part.part_id, part.stored.file, part.partition) != names:
            raise DataError(
                (
                    f"parts[{number}]: the entry is part {part.part_id} ({part.stored.file}, "
                    f"{part.partition}), but must be part {names[0]} ({names[1]}, {names[2]})"
                ),
                key=path,
                code="damaged",
            )
    if manifest.contiguous:
        _require_consecutive_layers(path, manifest)
    for what, ids in (
        manifest.holders | {f"tied: {name}": ids for name, ids in manifest.tied.items()}
    ).items():
        if any(part_id >= manifest.num_parts for part_id in ids):
            raise DataError(
                f"{what}: part ids must be below {manifest.num_parts}, but are {list(ids)}",
                key=path,
                code="damaged",
            )


def _require_bin_tensor_lists(path: Path, manifest: Manifest) -> None:
    file_of: dict[str, str] = {}  # by the name of a tensor
    for listed in manifest.files:
        if listed.tensors is None:
            raise DataError(
                f"source.files: the entry {listed.file} has no list of tensor names", key=path, code="damaged"
            )
        for name in listed.tensors:
            if name in file_of:
                raise DataError(
                    f"source.files: tensor {name} is listed twice, in {file_of[name]} and in {listed.file}",
                    key=path,
                    code="damaged",
                )
            file_of[name] = listed.file


def _require_consecutive_layers(path: Path, manifest: Manifest) -> None:
    """Raise DataError unless the parts' layers are consecutive and cover the whole model."""
    expected = 0
    for part in manifest.parts:
        if part.layers is None:
            continue
        first, last = part.layers
        if first != expected or last < first or last >= manifest.num_layers:
            raise DataError(
                (
                    f"parts[{part.part_id}].layers: expected a range from {expected} to at most "
                    f"{manifest.num_layers - 1}, found [{first}, {last}]"
                ),
                key=path,
                code="damaged",
            )
        expected = last + 1
    if expected != manifest.num_layers:
        raise DataError(
            f"parts: expected layers 0..{manifest.num_layers - 1}, found only 0..{expected - 1}",
            key=path,
            code="damaged",
        )


class _ManifestReader(JsonFieldReader):
    """Parses the JSON values of a manifest."""

    def parse_manifest(self, values: dict[str, Any]) -> Manifest:
        tables = ("source", "layers", "strategy", "totals")
        source, layers, strategy, totals = (self.read_object(key, values.get(key)) for key in tables)
        archive = self.read_choice("archive", values.get("archive"), (None, *ARCHIVES))
        return Manifest(
            folder=self.path.parent,
            strategy=self.read_text("strategy.name", strategy.get("name")),
            source=self.read_text("source.name", source.get("name")),
            source_format=str(self.read_choice("source.format", source.get("format"), SOURCE_FORMATS)),
            checksums=str(self.read_choice("checksums", values.get("checksums"), file_io.ALGORITHMS)),
            files=self.read_files("source.files", source.get("files"), may_lack_digest=True),
            headers=self.read_files("headers", values.get("headers")),
            companions=self.read_files("companions", values.get("companions")),
            prefix=self.read_text("layers.prefix", layers.get("prefix")),
            num_layers=self.read_non_negative_integer("layers.count", layers.get("count")),
            contiguous=self.read_choice("contiguous", values.get("contiguous"), (True, False)) is True,
            holders={key: self.read_counts(key, values.get(key)) for key in ("embedding", "norm", "head")},
            tied=dict(
                self.parse_tied_tensor(key, entry) for key, entry in self.read_json_objects("tied", values)
            ),
            parts=tuple(
                self.parse_part_entry(key, entry, archive is not None)
                for key, entry in self.read_json_objects("parts", values)
            ),
            totals=Totals(
                **{
                    key: self.read_non_negative_integer(f"totals.{key}", totals.get(key))
                    for key in Totals.__dataclass_fields__
                }
            ),
            archive=None if archive is None else str(archive),
        )

    def read_json_objects(self, key: str, values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Return the JSON objects in a list, each with its numbered key for error messages."""
        entries = (
            (f"{key}[{number}]", entry) for number, entry in enumerate(self.read_list(key, values.get(key)))
        )
        return [(where, self.read_object(where, entry)) for where, entry in entries]

    def parse_part_entry(self, key: str, values: dict[str, Any], is_archived: bool) -> PartEntry:
        stored = raw = self.read_manifest_file_entry(key, values)
        frames: tuple[int, ...] = ()
        partition = values.get("partition")
        if not is_plain_file_name(partition):
            self.raise_error(f"{key}.partition", "a bare file name", partition)
        if is_archived:
            nbytes = self.read_non_negative_integer(f"{key}.raw_bytes", values.get("raw_bytes"))
            digest = self.read_digest(f"{key}.raw_digest", values.get("raw_digest"))
            raw = ListedFile(stored.file.removesuffix(".zst"), nbytes, digest)
            frames = self.read_counts(f"{key}.frames", values.get("frames"))
        return PartEntry(
            part_id=self.read_non_negative_integer(f"{key}.part_id", values.get("part_id")),
            stored=stored,
            raw=raw,
            frames=frames,
            partition=str(partition),
            partition_sha256=self.read_text(f"{key}.partition_sha256", values.get("partition_sha256")),
            layers=self.read_range(f"{key}.layers", values.get("layers")),
            tensors=self.read_non_negative_integer(f"{key}.tensors", values.get("tensors")),
            params=self.read_non_negative_integer(f"{key}.params", values.get("params")),
        )

    def parse_tied_tensor(self, key: str, values: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
        return self.read_text(f"{key}.tensor", values.get("tensor")), self.read_counts(
            f"{key}.parts", values.get("parts")
        )
