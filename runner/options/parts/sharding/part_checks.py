"""Checks a split's parts against the manifest. Collects problems instead of raising an error for the first
one.

`quick` reads sizes, headers and JSON. `files` reads every byte once and compares file
digests. `full` also compares each tensor's digest in the same pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.core.json_fields import ListedFile
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding import partition_file
from runner.options.parts.sharding.manifest import SOURCE_HEADERS, Manifest, PartEntry
from runner.options.parts.sharding.partition_file import (
    INLINE,
    InlineNumbers,
    Partition,
    PartitionLayer,
    TensorReference,
)
from runner.options.parts.sharding.zstd_archive import (
    ProgressCallback,
    RangeReader,
    create_part_range_reader,
    read_part_header,
)
from runner_base import ConfigError, DataError
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import TensorLocation
from runner_engine.checkpoints import DTYPE_BITS, WeightFile, file_io, parse_safetensors_header


@dataclass
class CheckedPart:
    """A checked part with its tensors and the problems that were found."""

    entry: PartEntry
    problems: list[Note] = field(default_factory=list)
    readable: bool = False  # header or partition
    tensors: dict[str, TensorLocation] = field(default_factory=dict)  # by the header, else by the partition
    # of each tensor: computed by `full`, else as listed
    digests: dict[str, str] = field(default_factory=dict)
    read: RangeReader | None = None  # None: the header is not readable
    nbytes: int = 0  # that were read
    seconds: float = 0.0


def check_part(
    manifest: Manifest, entry: PartEntry, check_level: str, report_progress: ProgressCallback
) -> CheckedPart:
    """Check that a part's file, header and partition_N.json agree with the manifest."""
    started, done, folder = time.perf_counter(), CheckedPart(entry), manifest.folder
    path = folder / entry.stored.file
    partition = _read_partition(folder, entry, done.problems)
    if partition is not None:
        done.readable = True
        done.tensors = {
            layer.name: _make_tensor_location(layer, path)
            for layer in partition.layers
            if layer.dtype in DTYPE_BITS
        }
        placed = {layer.name: layer.parameters for layer in partition.layers}
        done.digests = {
            name: stored.digest for name, stored in placed.items() if isinstance(stored, TensorReference)
        }
    size_problems = list(_size_problems(path, entry.stored))
    done.problems += size_problems
    if not path.is_file():
        return done
    try:
        header = read_part_header(folder, entry)
    except DataError as error:
        done.problems.append(note("unreadable", error=str(error)))
    else:
        done.readable, done.tensors = True, {tensor.name: tensor for tensor in header.tensors}
        done.problems += _find_header_problems(entry, header, partition)
        if not size_problems:  # with a wrong size, reading the rest finds nothing more
            done.read = create_part_range_reader(folder, entry)
            if check_level != "quick":
                _compare_part_with_recorded_digests(
                    path, done, header, partition, check_level, report_progress
                )
    done.seconds = time.perf_counter() - started
    return done


def require_intact_part(manifest: Manifest, entry: PartEntry, check_level: str) -> None:
    """Raise DataError unless a part exists and matches the manifest."""
    problems = check_part(manifest, entry, check_level, lambda _: None).problems
    if problems:
        more = f" ({len(problems) - 1} more problems: task=verify lists them)" if len(problems) > 1 else ""
        raise DataError(
            f"part {entry.part_id} of {manifest.folder} is damaged: {render_note(problems[0], NOTES)}{more}",
            code="damaged",
        )


def _read_partition(folder: Path, entry: PartEntry, problems: list[Note]) -> Partition | None:
    """Read a part's partition_N.json. Adds a note to `problems` if its digest differs from the manifest."""
    path = folder / entry.partition
    if not path.is_file():
        problems.append(note("missing", file=entry.partition))
        return None
    digest = file_io.hash_file_sha256(path)
    if digest != entry.partition_sha256:
        expected = entry.partition_sha256
        problems.append(note("other_sha256", file=entry.partition, expected=expected, found=digest))
    try:
        partition = partition_file.read_partition(path)
    except DataError as error:
        problems.append(note("unreadable", error=str(error)))
        return None
    if partition.part_id != entry.part_id:
        found = partition.part_id
        problems.append(note("other_part_id", file=entry.partition, expected=entry.part_id, found=found))
    return partition


def _make_tensor_location(partition_layer: PartitionLayer, path: Path) -> TensorLocation:
    dtype, stored = str(partition_layer.dtype), partition_layer.parameters
    offset, nbytes = (0, 0) if isinstance(stored, InlineNumbers) else (stored.offset, stored.nbytes)
    return TensorLocation(
        partition_layer.name,
        dtype,
        partition_layer.shape,
        path,
        offset,
        nbytes or partition_layer.num_params * DTYPE_BITS[dtype] // 8,
    )


def _size_problems(path: Path, expected: ListedFile) -> Iterator[Note]:
    if not path.is_file():
        yield note("missing", file=path.name)
    elif (size := file_io.get_file_nbytes(path)) != expected.nbytes:
        yield note("other_size", file=path.name, expected=expected.nbytes, found=size)


def _find_header_problems(
    entry: PartEntry, header: WeightFile, partition: Partition | None
) -> Iterator[Note]:
    """Yield the differences between a part's safetensors header, its partition file and the manifest."""
    file, held = entry.stored.file, {tensor.name: tensor for tensor in header.tensors}
    params = sum(tensor.num_elements for tensor in header.tensors)
    if (entry.tensors, entry.params) != (len(held), params):
        yield note(
            "other_counts",
            file=file,
            tensors=entry.tensors,
            params=entry.params,
            found_tensors=len(held),
            found_params=params,
        )
    if partition is None:
        return
    layers = {layer.name: layer for layer in partition.layers}
    for name in held.keys() - layers.keys():
        yield note("unlisted_tensor", file=file, tensor=name, partition=entry.partition)
    for name, layer in layers.items():
        if name not in held:
            yield note("missing_tensor", file=file, tensor=name, partition=entry.partition)
            continue
        tensor = held[name]
        pairs = [("dtype", layer.dtype, tensor.dtype), ("shape", list(layer.shape), list(tensor.shape))]
        if isinstance(reference := layer.parameters, TensorReference):
            pairs += [("file", reference.file, entry.raw.file), ("tensor", reference.tensor, name)]
            pairs += [
                (key, getattr(reference, key), getattr(tensor, key)) for key in ("dtype", "offset", "nbytes")
            ]
        for what, expected, found in dict.fromkeys(
            (what, str(found_value), str(other)) for what, found_value, other in pairs
        ):
            if expected != found:
                yield note(
                    "other_than_listed",
                    file=file,
                    tensor=name,
                    what=what,
                    expected=expected,
                    partition=entry.partition,
                    found=found,
                )


def _compare_part_with_recorded_digests(
    path: Path,
    checked_part: CheckedPart,
    header: WeightFile,
    partition: Partition | None,
    check_level: str,
    report_progress: ProgressCallback,
) -> None:
    """Read a part completely, and compare the digests of its file and tensors with the recorded digests."""
    entry, read, inline = (
        checked_part.entry,
        checked_part.read,
        partition is not None and partition.form == INLINE,
    )
    assert read is not None
    tensors_too = check_level == "full" or inline  # a partition with numbers in it lists no digests
    if entry.frames or not tensors_too:
        algorithm = file_io.parse_digest_algorithm(str(entry.stored.digest))
        found = file_io.hash_file(path, algorithm, report_progress)
        checked_part.nbytes += entry.stored.nbytes
        if found != entry.stored.digest:
            expected = entry.stored.digest
            checked_part.problems.append(
                note("other_digest", file=entry.stored.file, expected=expected, found=found)
            )
            if entry.frames:
                return  # unpacking damaged pieces tells nothing more
    if not tensors_too:
        return
    try:
        whole, digests = _compute_tensor_digests(
            read, header, file_io.parse_digest_algorithm(str(entry.raw.digest)), report_progress
        )
        problems = (
            _compare_inline_numbers_with_tensors(checked_part, read, partition)
            if inline and partition
            else []
        )
    except ConfigError as error:
        checked_part.problems.append(note("unreadable", error=str(error)))
        return
    checked_part.nbytes += entry.raw.nbytes
    if whole != entry.raw.digest:
        expected = entry.raw.digest
        checked_part.problems.append(
            note("other_digest", file=entry.stored.file, expected=expected, found=whole)
        )
    for name, listed in checked_part.digests.items():
        if name in digests and digests[name] != listed:
            checked_part.problems.append(
                note(
                    "other_tensor_digest",
                    file=entry.stored.file,
                    tensor=name,
                    expected=listed,
                    found=digests[name],
                )
            )
    checked_part.problems += problems
    checked_part.digests = digests


def _compute_tensor_digests(
    read_range: RangeReader, header: WeightFile, algorithm: str, report_progress: ProgressCallback
) -> tuple[str, dict[str, str]]:
    """Compute the digests of a part's file and of each of its tensors in a single pass."""
    whole, digests = file_io.Digest(algorithm), {}
    whole.update(header.header)
    for tensor in header.tensors:
        digest = file_io.Digest(algorithm)
        for piece in file_io.hash_while_reading(
            file_io.hash_while_reading(read_range(tensor.offset, tensor.nbytes), whole), digest
        ):
            report_progress(len(piece))
        digests[tensor.name] = digest.format_digest()
    return whole.format_digest(), digests


def _compare_inline_numbers_with_tensors(
    checked_part: CheckedPart, read_range: RangeReader, partition: Partition
) -> list[Note]:
    import numpy as np

    problems = []
    for layer in partition.layers:
        if layer.name in checked_part.tensors and isinstance(layer.parameters, InlineNumbers):
            tensor = checked_part.tensors[layer.name]
            stored = partition_file.read_tensor_values(tensor, read_range(tensor.offset, tensor.nbytes))
            listed = np.concatenate(
                [*partition_file.iterate_json_weight_chunks(partition, layer), np.zeros(0)]
            )
            differ = np.flatnonzero(listed != stored.astype("<f8"))
            if len(differ):
                problems.append(
                    note(
                        "other_numbers",
                        file=partition.path.name,
                        tensor=layer.name,
                        numbers=len(differ),
                        params=layer.num_params,
                    )
                )
    return problems


# ------------------------------------------------------------------------------------------ files
# around


def find_damaged_auxiliary_files(manifest: Manifest, check_level: str) -> dict[str, list[Note]]:
    """Check the split's files that belong to no part. Returns the problems by folder."""
    problems: dict[str, list[Note]] = {}
    for sub, group in manifest.non_part_files.items():
        problems[sub] = []
        for listed in group:
            path = manifest.folder / sub / listed.file
            found = [*_size_problems(path, listed)]
            if not found and (check_level != "quick" or sub == SOURCE_HEADERS):
                digest = file_io.hash_file(path, file_io.parse_digest_algorithm(str(listed.digest)))
                if digest != listed.digest:
                    found = [note("other_digest", file=listed.file, expected=listed.digest, found=digest)]
            problems[sub] += [note("in_folder", folder=sub, problem=problem) for problem in found]
    return problems


def read_source_safetensors_headers(manifest: Manifest) -> list[WeightFile]:
    """Return the original headers of the source checkpoint's safetensors files."""
    files = []
    for listed, header in zip(manifest.files, manifest.headers, strict=False):
        path = manifest.folder / SOURCE_HEADERS / header.file
        files.append(parse_safetensors_header(path.read_bytes(), path, listed.nbytes))
    return files
