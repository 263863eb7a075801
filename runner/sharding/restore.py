"""The files that a merge writes: their bytes, piece by piece, and whether a file is there already.

They come from parts with a manifest, or from a split in the old form, which has partition_N.json files only:
{part_id, layers: [{name, layer_type, shape, parameters: [float32 numbers]}], total_params}, where layer_type names the
dtype.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from runner.checkpoints import byteio
from runner.checkpoints.weight_files import DTYPE_BITS, INDEX, SINGLE, WEIGHT_SUFFIXES, Tensor
from runner.core.errors import DataError, JobFailed
from runner.sharding import partition_file
from runner.sharding.archive import Advance
from runner.sharding.check import CheckedPart, source_headers
from runner.sharding.completeness import parts_by_tensor
from runner.sharding.manifest import MANIFEST, MODEL_FILES, UNFINISHED, Manifest, partition_name
from runner.sharding.partition_file import INLINE, Layer, Partition
from runner.sharding.write import Target, copied

Homes = dict[str, CheckedPart]  # the part that each tensor is read from, by the tensor's name


def targets(manifest: Manifest, checked: list[CheckedPart]) -> list[Target]:
    """List the files to restore, from parts without problems."""
    # the copies of a tied tensor are equal: the checks have compared them
    homes = {name: places[0] for name, places in parts_by_tensor(checked).items()}
    made = [
        copied(manifest.folder / MODEL_FILES / listed.file, listed.file, listed.nbytes, listed.digest)
        for listed in manifest.companions
    ]
    if manifest.source_format != "bin":
        for listed, file in zip(manifest.files, source_headers(manifest), strict=True):
            tensors = [homes[tensor.name].tensors[tensor.name] for tensor in file.tensors]
            made.append(_weights(listed.file, file.header, tensors, homes, listed.digest))
        return made
    made += _from_bin(manifest, homes)
    if twice := sorted(name for name, count in Counter(target.name for target in made).items() if count > 1):
        raise DataError(f"{manifest.folder}: {', '.join(twice)} would be restored twice")
    return made


def _from_bin(manifest: Manifest, homes: Homes) -> Iterator[Target]:
    """One safetensors file for each .bin, with an index where there are several."""
    only = len(manifest.files) == 1
    weight_map: dict[str, str] = {}
    total = 0
    for listed in manifest.files:
        # pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors
        renamed = f"{listed.file.removesuffix('.bin').replace('pytorch_model', 'model', 1)}.safetensors"
        file = SINGLE if only else renamed
        tensors = sorted((homes[name].tensors[name] for name in listed.tensors or ()), key=_written_order)
        weight_map |= {tensor.name: file for tensor in tensors}
        total += sum(tensor.nbytes for tensor in tensors)
        yield _weights(file, byteio.build_header(tensors, {"format": "pt"}), tensors, homes)
    if not only:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        content = json.dumps(index, indent=2).encode() + b"\n"
        yield Target(INDEX, len(content), lambda _: [content])


def _weights(name: str, header: bytes, tensors: list[Tensor], homes: Homes, digest: str | None = None) -> Target:
    """A safetensors file; each tensor is compared with its digest while it is written."""
    nbytes = len(header) + sum(tensor.nbytes for tensor in tensors)
    return Target(name, nbytes, partial(_pieces, name, header, tensors, homes), digest, tuple(tensors))


def _pieces(
    name: str, header: bytes, tensors: list[Tensor], homes: Homes, advance: Advance
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file; raise JobFailed at a tensor with a wrong digest."""
    yield header
    for tensor in tensors:
        read, expected = homes[tensor.name].read, homes[tensor.name].digests[tensor.name]
        assert read is not None  # of a part without problems
        digest = byteio.Digest(byteio.algorithm_of(expected))
        for piece in read(tensor.offset, tensor.nbytes):
            digest.update(piece)
            yield piece
            digest.wait()
            advance(len(piece))
        if (found := digest.text()) != expected:
            raise JobFailed(
                f"{name}: tensor {tensor.name} would not equal the original: {expected} expected, {found} found "
                f"({tensor.file})"
            )


def _written_order(tensor: Tensor) -> tuple[int, str]:
    """Sort as safetensors itself does: wide types first, then by name."""
    return -DTYPE_BITS[tensor.dtype], tensor.name


# ------------------------------------------------------------------------------------------ from the old form


def is_legacy(folder: Path) -> bool:
    """Tell whether a folder holds partitions in the old form."""
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return False
    return (folder / partition_name(0)).exists() and not any(folder.glob("part_*.safetensors*"))


def read_legacy(folder: Path) -> list[Partition]:
    """Read all partitions of a folder; a gap in their numbers or a tensor listed twice is an error."""
    found = {path.name for path in folder.glob("partition_*.json")}
    expected = [partition_name(number) for number in range(len(found))]
    if found != set(expected):
        raise DataError(f"{folder}: {', '.join(expected)} expected, found {', '.join(sorted(found))}")
    partitions = [partition_file.read_partition(folder / name) for name in expected]
    homes: dict[str, Partition] = {}
    for number, partition in enumerate(partitions):
        if partition.part_id != number:
            raise DataError(f"{partition.path}: part_id: {number} expected, found {partition.part_id}")
        if partition.form != INLINE:
            raise DataError(
                f"{partition.path}: refers to tensors in part_{number}.safetensors, and neither that nor {MANIFEST} "
                "is there: give the whole folder that task=split wrote"
            )
        for layer in partition.layers:
            if layer.name in homes:
                raise DataError(f"{partition.path}: {layer.name} stands in {homes[layer.name].path.name}, too")
            homes[layer.name] = partition
    return partitions


def _legacy_companions(folder: Path) -> list[Path]:
    """Return the model's files beside the partitions that hold no weights: config, tokenizer."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(("partition_", "."))
        and not path.name.endswith((*WEIGHT_SUFFIXES, ".index.json"))
    ]


class FromNumbers:
    """Makes the safetensors file of a split in the old form, and counts the numbers that had to be rounded."""

    def __init__(self, folder: Path, partitions: list[Partition], dtype: str | None) -> None:
        """`dtype` as safetensors spells it; None: the one that each layer names, float32 where it names none."""
        self.folder, self.source, self.num_parts = folder, folder.name, len(partitions)
        made = [(_tensor(one, layer, dtype), one, layer) for one in partitions for layer in one.layers]
        self.placed = sorted(made, key=lambda placed: _written_order(placed[0]))
        self.tensors = tuple(tensor for tensor, _, _ in self.placed)
        self.header = byteio.build_header(self.tensors, {"format": "pt"})
        self.rounded = 0  # numbers that their dtype could not hold exactly, known after `pieces`

    def targets(self) -> list[Target]:
        """List the files to restore: this one, and those beside the partitions."""
        nbytes = len(self.header) + sum(tensor.nbytes for tensor in self.tensors)
        beside = [copied(path, path.name) for path in _legacy_companions(self.folder)]
        return [*beside, Target(SINGLE, nbytes, self.pieces, tensors=self.tensors)]

    def pieces(self, advance: Advance) -> Iterator[bytes]:
        """Yield the file piece by piece."""
        self.rounded = 0
        yield self.header
        for tensor, partition, layer in self.placed:
            for values in partition_file.from_json(partition, layer):
                where = f"{partition.path}: {layer.name}"
                data, rounded = partition_file.encode(values, tensor.dtype, where)
                self.rounded += rounded
                yield data
                advance(len(data))


def _tensor(partition: Partition, layer: Layer, dtype: str | None) -> Tensor:
    kind = dtype or partition_file.safetensors_dtype(layer.dtype or layer.layer_type) or "F32"
    return Tensor(layer.name, kind, layer.shape, partition.path, 0, layer.params * DTYPE_BITS[kind] // 8)
