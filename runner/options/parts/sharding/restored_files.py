"""Describes the checkpoint files that task=merge restores from the parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial

from runner.options.parts.sharding.completeness import group_parts_by_tensor
from runner.options.parts.sharding.manifest import MODEL_FILES, Manifest
from runner.options.parts.sharding.part_checks import CheckedPart, read_source_safetensors_headers
from runner.options.parts.sharding.split_writer import FileTarget, build_copied_file_target
from runner.options.parts.sharding.zstd_archive import ProgressCallback
from runner_base import DataError, JobFailed
from runner_engine import TensorLocation
from runner_engine.checkpoints import DTYPE_BITS, INDEX, SINGLE, file_io

PartsByTensor = dict[str, CheckedPart]  # the part that each tensor is read from, by the tensor's name


def list_files_to_restore(manifest: Manifest, checked_parts: list[CheckedPart]) -> list[FileTarget]:
    # the copies of a tied tensor are equal: the checks have compared them
    part_of = {name: places[0] for name, places in group_parts_by_tensor(checked_parts).items()}
    made = [
        build_copied_file_target(
            manifest.folder / MODEL_FILES / listed.file, listed.file, listed.nbytes, listed.digest
        )
        for listed in manifest.companions
    ]
    if manifest.source_format != "bin":
        for listed, file in zip(manifest.files, read_source_safetensors_headers(manifest), strict=True):
            tensors = [part_of[tensor.name].tensors[tensor.name] for tensor in file.tensors]
            made.append(_make_safetensors_target(listed.file, file.header, tensors, part_of, listed.digest))
        return made
    made += _iterate_files_converted_from_bin(manifest, part_of)
    if twice := sorted(name for name, count in Counter(target.name for target in made).items() if count > 1):
        raise DataError(
            f"task=merge would write {', '.join(twice)} twice", key=manifest.folder, code="damaged"
        )
    return made


def _iterate_files_converted_from_bin(
    manifest: Manifest, part_by_tensor: PartsByTensor
) -> Iterator[FileTarget]:
    """Yield one output file in safetensors format for each .bin file of the source checkpoint.

    Yields an index file too if there are several.
    """
    only = len(manifest.files) == 1
    weight_map: dict[str, str] = {}
    total = 0
    for listed in manifest.files:
        # pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors
        renamed = f"{listed.file.removesuffix('.bin').replace('pytorch_model', 'model', 1)}.safetensors"
        file = SINGLE if only else renamed
        tensors = sorted(
            (part_by_tensor[name].tensors[name] for name in listed.tensors or ()), key=tensor_sort_key
        )
        weight_map |= {tensor.name: file for tensor in tensors}
        total += sum(tensor.nbytes for tensor in tensors)
        yield _make_safetensors_target(
            file, file_io.build_safetensors_header(tensors, {"format": "pt"}), tensors, part_by_tensor
        )
    if not only:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        content = json.dumps(index, indent=2).encode() + b"\n"
        yield FileTarget(INDEX, len(content), lambda _: [content])


def _make_safetensors_target(
    file_name: str,
    header: bytes,
    tensors: list[TensorLocation],
    part_by_tensor: PartsByTensor,
    digest: str | None = None,
) -> FileTarget:
    """Describe a safetensors file to be written. The writer verifies the digest of each tensor."""
    nbytes = len(header) + sum(tensor.nbytes for tensor in tensors)
    return FileTarget(
        file_name,
        nbytes,
        partial(_iterate_safetensors_bytes, file_name, header, tensors, part_by_tensor),
        digest,
        tuple(tensors),
    )


def _iterate_safetensors_bytes(
    file_name: str,
    header: bytes,
    tensors: list[TensorLocation],
    part_by_tensor: PartsByTensor,
    report_progress: ProgressCallback,
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file. Raises JobFailed if a tensor's digest is wrong."""
    yield header
    for tensor in tensors:
        read, expected = part_by_tensor[tensor.name].read, part_by_tensor[tensor.name].digests[tensor.name]
        assert read is not None  # of a part without problems
        digest = file_io.Digest(file_io.parse_digest_algorithm(expected))
        for piece in file_io.hash_while_reading(read(tensor.offset, tensor.nbytes), digest):
            yield piece
            report_progress(len(piece))
        if (found := digest.format_digest()) != expected:
            raise JobFailed(
                (
                    f"tensor {tensor.name} would differ from the original: expected {expected}, "
                    f"found {found} ({tensor.file})"
                ),
                key=file_name,
                code="mismatch",
            )


def tensor_sort_key(tensor: TensorLocation) -> tuple[int, str]:
    """Return a sort key for the tensor order of safetensors: wide dtypes first, then names."""
    return -DTYPE_BITS[tensor.dtype], tensor.name
