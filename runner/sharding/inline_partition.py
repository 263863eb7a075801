"""partition_N.json with the numbers themselves in it: written for small models, and read from splits in the old form.

The old form: {part_id, layers: [{name, layer_type, shape, parameters: [float32 numbers]}], total_params}, where
layer_type names the dtype. It has neither a manifest nor safetensors files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.checkpoints import byteio
from runner.checkpoints.weight_files import DTYPE_BITS, SINGLE, WEIGHT_SUFFIXES, Tensor
from runner.core.errors import ConfigError, DataError
from runner.sharding import json_numbers
from runner.sharding.manifest import MANIFEST, UNFINISHED, partition_file
from runner.sharding.partition_file import INLINE, Layer, Partition, read_partition

MAX_INLINE_PARAMS = 1_000_000
TEXT_BYTES_PER_PARAM = 22  # float32; 18 for bfloat16


def refuse_large(total_params: int) -> None:
    """Raise ConfigError when a model is too large for numbers in JSON."""
    if total_params > MAX_INLINE_PARAMS:
        text_gib = total_params * TEXT_BYTES_PER_PARAM / 2**30
        raise ConfigError(
            f"task.inline_parameters=true: {total_params:,} parameters would be {text_gib:,.2f} GiB of JSON text, and "
            f"{MAX_INLINE_PARAMS:,} are the limit: leave it false, and partition_N.json refers to the tensors instead"
        )


def write_inline(target: Path, content: dict[str, Any], tensors: list[Tensor]) -> str:
    """Write a partition with numbers instead of references, and return the file's SHA-256 in hex.

    `content` is the partition with references; `tensors` are those of its layers, in the same order.
    """
    return byteio.write_file(target, _inline(content, tensors))


def _inline(content: dict[str, Any], tensors: list[Tensor]) -> Iterator[bytes]:
    head = {"part_id": content["part_id"]}
    tail = {"parameters_format": INLINE, "total_params": content["total_params"]}
    yield json.dumps(head)[:-1].encode() + b', "layers": ['
    comma = b"\n "
    for layer, tensor in zip(content["layers"], tensors, strict=True):
        described = {key: value for key, value in layer.items() if key != "parameters"}
        yield comma + json.dumps(described)[:-1].encode() + b', "parameters": '
        yield from json_numbers.to_json(tensor)
        yield b"}"
        comma = b",\n "
    yield b"\n], " + json.dumps(tail)[1:].encode() + b"\n"


# ------------------------------------------------------------------------------------------------ reading


def is_legacy(folder: Path) -> bool:
    """Tell whether a folder holds partitions in the old form."""
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return False
    return (folder / partition_file(0)).exists() and not any(folder.glob("part_*.safetensors*"))


def read_legacy(folder: Path) -> list[Partition]:
    """Read all partitions of a folder; a gap in their numbers or a tensor listed twice is an error."""
    found = {path.name for path in folder.glob("partition_*.json")}
    expected = [partition_file(number) for number in range(len(found))]
    if found != set(expected):
        raise DataError(f"{folder}: {', '.join(expected)} expected, found {', '.join(sorted(found))}")
    partitions = [read_partition(folder / name) for name in expected]
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


def companions(folder: Path) -> list[Path]:
    """Return the model's files beside the partitions that hold no weights: config, tokenizer."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(("partition_", "."))
        and not path.name.endswith((*WEIGHT_SUFFIXES, ".index.json"))
    ]


class RestoredFile:
    """The safetensors file that is made from partitions in the old form."""

    name = SINGLE
    digest = None  # known only once it is written

    def __init__(self, partitions: list[Partition], dtype: str | None) -> None:
        """`dtype` as safetensors spells it; None: the one that each layer names, float32 where it names none."""
        placed = [(partition, layer) for partition in partitions for layer in partition.layers]
        tensors = [_tensor(partition, layer, dtype) for partition, layer in placed]
        order = sorted(range(len(placed)), key=lambda at: (-DTYPE_BITS[tensors[at].dtype], tensors[at].name))
        self.placed, self.tensors = [placed[at] for at in order], [tensors[at] for at in order]
        self.header = byteio.build_header(self.tensors, {"format": "pt"})
        self.nbytes = len(self.header) + sum(tensor.nbytes for tensor in self.tensors)
        self.rounded = 0  # numbers that their dtype could not hold exactly, known after `pieces`

    @property
    def params(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.params for tensor in self.tensors)

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this one, by generating it again."""
        if byteio.file_size(path) != self.nbytes:
            return False
        position = 0
        for piece in self.pieces(lambda _: None):
            if b"".join(map(bytes, byteio.read_range(path, position, len(piece)))) != piece:
                return False
            position += len(piece)
        return True

    def pieces(self, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the file piece by piece."""
        self.rounded = 0
        yield self.header
        for (partition, layer), tensor in zip(self.placed, self.tensors, strict=True):
            for values in json_numbers.from_json(partition, layer):
                data, rounded = json_numbers.encode(values, tensor.dtype, f"{partition.path}: {layer.name}")
                self.rounded += rounded
                yield data
                advance(len(data))


def _tensor(partition: Partition, layer: Layer, dtype: str | None) -> Tensor:
    kind = dtype or json_numbers.safetensors_dtype(layer.dtype or layer.layer_type) or "F32"
    nbytes = layer.params * DTYPE_BITS[kind] // 8
    return Tensor(layer.name, kind, layer.shape, partition.path, 0, nbytes)
