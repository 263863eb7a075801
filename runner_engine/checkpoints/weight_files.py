"""Reads and checks the headers of a checkpoint's safetensors files, without the weights.

Imports neither torch nor safetensors. A damaged or hostile header is rejected before anything is
written, with the tensor, the expected and the actual value. A caller that wants to read a .bin
passes a reader for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import DataError, format_truncated_repr, load_json_object, os_errors_as_data_error
from runner_base.notes import Note
from runner_base.texts import parse_json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = {"safetensors": (SINGLE, INDEX), "bin": ("pytorch_model.bin", "pytorch_model.bin.index.json")}
MAX_DIMENSIONS = 8  # a tensor of a language model has at most 5
MAX_NUMBER = 2**63 - 1  # in a header; a product of eight is still a float, for messages
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
)
DTYPE_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

DTYPE_NAMES = {  # from the frameworks' names
    "float": "F32",
    "double": "F64",
    "half": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class TensorLocation:
    """The location of a tensor in a file. `offset` counts bytes from the start of the file."""

    name: str
    dtype: str  # its safetensors name: BF16, F8_E4M3, I8
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = (
        None  # in elements; only in a .bin, where a tensor need not be contiguous
    )

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightFile:
    """A weight file: its raw header, and its tensors sorted by offset.

    The header includes the length field, and is empty for a .bin file.
    """

    path: Path
    size: int
    header: bytes
    metadata: dict[str, str]
    tensors: list[TensorLocation]
    notes: tuple[Note, ...] = ()  # what a reader of the result has to know


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model folder: weight files, other files that belong to the model, and ignored files."""

    folder: Path
    config: dict[str, Any]
    files: list[WeightFile]
    companions: list[Path]
    left_out: list[str] = field(default_factory=list)
    format: str = "safetensors"

    @property
    def tensors(self) -> list[TensorLocation]:
        return [tensor for file in self.files for tensor in file.tensors]


def read_checkpoint(folder: Path, read_bin: Callable[[Path], WeightFile] | None = None) -> Checkpoint:
    """Read the headers of all weight files in a model folder, and check them against the files and
    the shard index.

    safetensors are preferred, as in transformers; a .bin is read only if the caller passes a reader.
    """
    readers = {"safetensors": read_weight_file_header} | ({} if read_bin is None else {"bin": read_bin})
    for kind, reader in readers.items():
        single, index = (folder / name for name in NAMES[kind])
        if single.exists():
            files = [reader(single)]
        elif index.exists():
            files = _read_shards(index, reader)
        else:
            continue
        break
    else:
        found = (
            ", ".join(sorted(path.name for path in folder.iterdir() if _is_weight_name(path.name))) or "none"
        )
        names = ", ".join(name for kind in readers for name in NAMES[kind])
        raise DataError(f"{folder} contains no {names} (weight files found: {found})", code="not_found")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    # the index of .bin files is not copied
    kept = {INDEX} if kind == "safetensors" and not single.exists() else set()
    companions = [
        path for path in entries if path.is_file() and (path.name in kept or not _is_weight_name(path.name))
    ]
    known = {file.path.name for file in files} | {path.name for path in companions}
    left_out = [path.name + "/" * path.is_dir() for path in entries if path.name not in known]
    return Checkpoint(folder, load_json_object(folder / "config.json"), files, companions, left_out, kind)


def _is_weight_name(name: str) -> bool:
    return name.endswith((*WEIGHT_SUFFIXES, ".safetensors.index.json", ".bin.index.json"))


def _read_shards(index_path: Path, read_file: Callable[[Path], WeightFile]) -> list[WeightFile]:
    """Read every shard that an index lists. Raises DataError if index and shards list different tensors."""
    weight_map = read_shard_index(index_path)
    files = [read_file(path) for path in list_shard_files(index_path, weight_map)]
    actual: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor.name in actual:
                raise DataError(
                    f"tensor {tensor.name} is in two files: {actual[tensor.name]} and {file.path.name}",
                    code="ambiguous",
                )
            actual[tensor.name] = file.path.name
    for name, shard in weight_map.items():
        if actual.get(name) != shard:
            where = f"it is in {actual[name]}" if name in actual else "no file contains it"
            raise DataError(
                f"the index lists tensor {name} in {shard}, but {where}", key=index_path, code="mismatch"
            )
    for name, shard in actual.items():
        if name not in weight_map:
            raise DataError(
                f"the index does not list tensor {name} of {shard}", key=index_path, code="mismatch"
            )
    return files


def read_shard_index(index_path: Path) -> dict[str, str]:
    """Read the file name of each tensor from a shard index. Raises DataError for file names with a folder."""
    weight_map = load_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(
            f"weight_map is {format_truncated_repr(weight_map)}. Expected a map from tensor names to file names",
            key=index_path,
            code="damaged",
        )
    for name, shard in weight_map.items():
        if not is_plain_file_name(shard):
            raise DataError(
                f"tensor {name} is listed in {format_truncated_repr(shard)}; expected a bare file name",
                key=index_path,
                code="damaged",
            )
    return weight_map


def list_shard_files(index_path: Path, weight_map: dict[str, str]) -> list[Path]:
    """Return the paths of the shards in an index. Raises DataError if a shard does not exist."""
    files = [index_path.parent / shard for shard in sorted(set(weight_map.values()))]
    for path in files:
        if not path.is_file():
            raise DataError(
                f"the index lists {path.name}, which does not exist in {index_path.parent}",
                key=index_path,
                code="not_found",
            )
    return files


def find_weight_files_to_load(folder: Path) -> tuple[str, list[Path]]:
    """Return the format and paths of the weight files that transformers loads from a folder."""
    for kind, (single, index) in NAMES.items():
        if (folder / single).is_file():
            return kind, [folder / single]
        if (folder / index).is_file():
            return kind, list_shard_files(folder / index, read_shard_index(folder / index))
    return "", []


def read_weight_file_header(path: Path) -> WeightFile:
    """Read and check the header of one safetensors file. No weights are read."""
    with os_errors_as_data_error(path):
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise DataError(
                    f"truncated or not a safetensors file: the header length is {length} bytes, "
                    f"but the file has {size} bytes (header limit {MAX_HEADER_BYTES})",
                    key=path,
                    code="damaged",
                )
            return parse_safetensors_header(start + stream.read(length), path, size)


def parse_safetensors_header(header: bytes, path: Path, file_size: int) -> WeightFile:
    """Parse and check a safetensors header.

    The tensors must have valid dtypes and shapes, and fill the file without gaps.
    """
    entries = parse_json_object(header[8:], str(path))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError(
            f"__metadata__ must map names to text, found {format_truncated_repr(metadata)}",
            key=path,
            code="damaged",
        )
    unsorted = [_parse_tensor_entry(name, entry, path, len(header)) for name, entry in entries.items()]
    tensors = sorted(unsorted, key=lambda tensor: (tensor.offset, tensor.nbytes))
    position = len(header)
    for tensor in tensors:
        if tensor.offset != position:
            what = "overlaps the previous tensor" if tensor.offset < position else "leaves a gap before it"
            raise DataError(
                f"tensor {tensor.name} {what}: it starts at byte {tensor.offset} instead of {position}",
                key=path,
                code="damaged",
            )
        position += tensor.nbytes
        if position > file_size:
            raise DataError(
                f"truncated: tensor {tensor.name} ends at byte {position}, but the file ends at {file_size}",
                key=path,
                code="damaged",
            )
    if position != file_size:
        raise DataError(
            f"the file has {file_size} bytes, but its header describes {position}: "
            f"{file_size - position} bytes too many",
            key=path,
            code="damaged",
        )
    return WeightFile(path, file_size, header, metadata, tensors)


def _parse_tensor_entry(name: str, entry: Any, path: Path, header_bytes: int) -> TensorLocation:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_valid = (
            type(shape) is type(entry["data_offsets"]) is list
            and len(shape) <= MAX_DIMENSIONS
            and all(type(number) is int and 0 <= number <= MAX_NUMBER for number in (*shape, begin, end))
        )
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise DataError(
            f"tensor {name} has an invalid entry {format_truncated_repr(entry)}. Expected dtype, shape and "
            f"data_offsets (whole numbers from 0 to 2^63 - 1, at most {MAX_DIMENSIONS} dimensions)",
            key=path,
            code="damaged",
        )
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise DataError(
            f"tensor {name} has unknown dtype {dtype!r}. Known dtypes: {', '.join(DTYPE_BITS)}",
            key=path,
            code="damaged",
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if (end - begin) * 8 != bits:
        raise DataError(
            f"tensor {name}: {dtype} of shape {format_truncated_repr(shape)} needs {bits / 8:.10g} bytes, "
            f"but data_offsets {begin}..{end} span {end - begin} bytes",
            key=path,
            code="damaged",
        )
    return TensorLocation(name, dtype, tuple(shape), path, header_bytes + begin, end - begin)


def is_plain_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")
