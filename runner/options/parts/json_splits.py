"""Converts a split checkpoint in the old JSON format, whose partition_N.json files contain weights as
numbers, to safetensors.

{part_id, layers: [{name, layer_type, shape, parameters: [float32 numbers]}], total_params},
where layer_type names the dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.options.parts.sharding import partition_file
from runner.options.parts.sharding.manifest import MANIFEST, UNFINISHED, partition_file_name
from runner.options.parts.sharding.partition_file import INLINE, Partition, PartitionLayer
from runner.options.parts.sharding.restored_files import tensor_sort_key
from runner.options.parts.sharding.split_writer import FileTarget, build_copied_file_target
from runner.options.parts.sharding.zstd_archive import ProgressCallback
from runner_base import ConfigError, DataError
from runner_engine import TensorLocation
from runner_engine.checkpoints import DTYPE_BITS, DTYPE_NAMES, SINGLE, WEIGHT_SUFFIXES, file_io

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]


def is_json_split_checkpoint(folder: Path) -> bool:
    """Return whether a folder contains a split checkpoint in the old JSON format."""
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return False
    return (folder / partition_file_name(0)).exists() and not any(folder.glob("part_*.safetensors*"))


def read_json_partitions(folder: Path) -> list[Partition]:
    """Read all partition_N.json files of a folder.

    Raises DataError for a gap in the numbers or a duplicate tensor.
    """
    names = {path.name for path in folder.glob("partition_*.json")}
    expected = [partition_file_name(number) for number in range(len(names))]
    if names != set(expected):
        raise DataError(
            f"expected {', '.join(expected)}, found {', '.join(sorted(names))}", key=folder, code="damaged"
        )
    partitions = [partition_file.read_partition(folder / name) for name in expected]
    homes: dict[str, Partition] = {}
    for number, partition in enumerate(partitions):
        if partition.part_id != number:
            raise DataError(
                f"part_id: {number} expected, found {partition.part_id}", key=partition.path, code="damaged"
            )
        if partition.form != INLINE:
            raise DataError(
                (
                    f"part_{number}.safetensors and {MANIFEST} are missing. "
                    "Give the whole folder that task=split wrote"
                ),
                key=partition.path,
                code="not_found",
            )
        for layer in partition.layers:
            if layer.name in homes:
                raise DataError(
                    f"{layer.name} is in {homes[layer.name].path.name}, too",
                    key=partition.path,
                    code="damaged",
                )
            homes[layer.name] = partition
    return partitions


def _list_non_weight_files(folder: Path) -> list[Path]:
    """Return the files of a split checkpoint that contain no weights, such as config and tokenizer."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(("partition_", "."))
        and not path.name.endswith((*WEIGHT_SUFFIXES, ".index.json"))
    ]


class JsonSplitConverter:
    """Converts an old JSON split to one safetensors file, and counts the numbers that were rounded."""

    def __init__(self, folder: Path, partitions: list[Partition], dtype: str | None) -> None:
        """Convert the weights to `dtype`, the name of a safetensors dtype.

        None selects each layer's own dtype, or float32 if the layer names none.
        """
        self.folder, self.source, self.num_parts = folder, folder.name, len(partitions)
        placed = [
            (_make_tensor(partition, layer, dtype), partition, layer)
            for partition in partitions
            for layer in partition.layers
        ]
        self.placed = sorted(placed, key=lambda tensor_and_offset: tensor_sort_key(tensor_and_offset[0]))
        self.tensors = tuple(tensor for tensor, _, _ in self.placed)
        self.header = file_io.build_safetensors_header(self.tensors, {"format": "pt"})
        self.rounded = 0  # numbers that their dtype could not hold exactly, known after `pieces`

    def list_output_files(self) -> list[FileTarget]:
        """Return the output files: the safetensors file, and copies of the split's other files."""
        nbytes = len(self.header) + sum(tensor.nbytes for tensor in self.tensors)
        beside = [build_copied_file_target(path, path.name) for path in _list_non_weight_files(self.folder)]
        return [*beside, FileTarget(SINGLE, nbytes, self.iterate_safetensors_chunks, tensors=self.tensors)]

    def iterate_safetensors_chunks(self, report_progress: ProgressCallback) -> Iterator[bytes]:
        """Yield the bytes of the safetensors file in chunks."""
        self.rounded = 0
        yield self.header
        for tensor, partition, layer in self.placed:
            for values in partition_file.iterate_json_weight_chunks(partition, layer):
                where = f"{partition.path}: {layer.name}"
                data, rounded = encode_numbers(values, tensor.dtype, where)
                self.rounded += rounded
                yield data
                report_progress(len(data))


def _make_tensor(partition: Partition, layer: PartitionLayer, dtype: str | None) -> TensorLocation:
    kind = dtype or get_safetensors_dtype_name(layer.dtype or layer.layer_type) or "F32"
    return TensorLocation(
        layer.name, kind, layer.shape, partition.path, 0, layer.num_params * DTYPE_BITS[kind] // 8
    )


def get_safetensors_dtype_name(dtype: str) -> str | None:
    """Return safetensors' name for a dtype such as torch.float16, or None if safetensors does not support
    the dtype.
    """
    plain = dtype.removeprefix("torch.").strip()
    return plain.upper() if plain.upper() in partition_file.READABLE else DTYPE_NAMES.get(plain.lower())


def encode_numbers(numbers: Numbers, dtype: str, tensor_location: str) -> tuple[bytes, int]:
    """Encode numbers as bytes of a dtype. Also returns how many numbers had to be rounded."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "BF16":
            bits = numbers.astype("<f4").view("<u4").astype("<u8")
            bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
            data = bits.astype("<u2").tobytes()
        elif dtype in partition_file.PLAIN:
            data = numbers.astype(partition_file.PLAIN[dtype]).tobytes()
        else:
            raise ConfigError(
                f"the weights contain numbers outside the range of {dtype}. Use task.dtype=float32",
                key=tensor_location,
                code="unsupported",
            )
    stored = partition_file.decode_tensor_values(dtype, data)
    if not np.isfinite(stored).all():
        number = numbers[~np.isfinite(stored)][0]
        raise DataError(f"{number} exceeds the range of {dtype}", key=tensor_location, code="bad_value")
    # the old form was written with the precision of float32
    exact = "<f8" if stored.dtype.kind in "iu" else "<f4"
    rounded = (
        0 if dtype in ("F32", "F64") else int(np.count_nonzero(stored.astype(exact) != numbers.astype(exact)))
    )
    if rounded and stored.dtype.kind in "iu":
        raise DataError(
            f"the tensor has dtype {dtype}, but contains fractions or numbers outside its range",
            key=tensor_location,
            code="bad_value",
        )
    return data, rounded
