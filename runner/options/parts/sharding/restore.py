"""The files that a merge writes, from parts with a manifest: their bytes, piece by piece."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial

from runner.options.parts.sharding.archive import Advance
from runner.options.parts.sharding.check import CheckedPart, source_headers
from runner.options.parts.sharding.completeness import parts_by_tensor
from runner.options.parts.sharding.manifest import MODEL_FILES, Manifest
from runner.options.parts.sharding.write import Target, copied
from runner_base import DataError, JobFailed
from runner_engine import Tensor
from runner_engine.checkpoints import DTYPE_BITS, INDEX, SINGLE, byteio

PartOf = dict[str, CheckedPart]  # the part that each tensor is read from, by the tensor's name


def targets(manifest: Manifest, checked: list[CheckedPart]) -> list[Target]:
    """List the files to restore, from parts without problems."""
    # the copies of a tied tensor are equal: the checks have compared them
    part_of = {name: places[0] for name, places in parts_by_tensor(checked).items()}
    made = [
        copied(manifest.folder / MODEL_FILES / listed.file, listed.file, listed.nbytes, listed.digest)
        for listed in manifest.companions
    ]
    if manifest.source_format != "bin":
        for listed, file in zip(manifest.files, source_headers(manifest), strict=True):
            tensors = [part_of[tensor.name].tensors[tensor.name] for tensor in file.tensors]
            made.append(_weights(listed.file, file.header, tensors, part_of, listed.digest))
        return made
    made += _from_bin(manifest, part_of)
    if twice := sorted(name for name, count in Counter(target.name for target in made).items() if count > 1):
        raise DataError(f"{', '.join(twice)} would be restored twice", key=manifest.folder, code="damaged")
    return made


def _from_bin(manifest: Manifest, part_of: PartOf) -> Iterator[Target]:
    """One safetensors file for each .bin, with an index where there are several."""
    only = len(manifest.files) == 1
    weight_map: dict[str, str] = {}
    total = 0
    for listed in manifest.files:
        # pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors
        renamed = f"{listed.file.removesuffix('.bin').replace('pytorch_model', 'model', 1)}.safetensors"
        file = SINGLE if only else renamed
        tensors = sorted((part_of[name].tensors[name] for name in listed.tensors or ()), key=written_order)
        weight_map |= {tensor.name: file for tensor in tensors}
        total += sum(tensor.nbytes for tensor in tensors)
        yield _weights(file, byteio.build_header(tensors, {"format": "pt"}), tensors, part_of)
    if not only:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        content = json.dumps(index, indent=2).encode() + b"\n"
        yield Target(INDEX, len(content), lambda _: [content])


def _weights(
    name: str, header: bytes, tensors: list[Tensor], part_of: PartOf, digest: str | None = None
) -> Target:
    """A safetensors file; each tensor is compared with its digest while it is written."""
    nbytes = len(header) + sum(tensor.nbytes for tensor in tensors)
    return Target(name, nbytes, partial(_pieces, name, header, tensors, part_of), digest, tuple(tensors))


def _pieces(
    name: str, header: bytes, tensors: list[Tensor], part_of: PartOf, advance: Advance
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file; raise JobFailed at a tensor with a wrong digest."""
    yield header
    for tensor in tensors:
        read, expected = part_of[tensor.name].read, part_of[tensor.name].digests[tensor.name]
        assert read is not None  # of a part without problems
        digest = byteio.Digest(byteio.algorithm_of(expected))
        for piece in byteio.hashed(read(tensor.offset, tensor.nbytes), digest):
            yield piece
            advance(len(piece))
        if (found := digest.text()) != expected:
            raise JobFailed(
                f"tensor {tensor.name} would not equal the original: {expected} expected, {found} found "
                f"({tensor.file})",
                key=name,
                code="mismatch",
            )


def written_order(tensor: Tensor) -> tuple[int, str]:
    """Sort as safetensors itself does: wide types first, then by name."""
    return -DTYPE_BITS[tensor.dtype], tensor.name
