"""Reads and checks the header of a .gguf file: model settings and tensor offsets. Reads no weights.

Imports neither torch nor the gguf package, so that a damaged file is rejected while a job is
planned.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from runner_base import DataError, format_truncated_repr, is_gguf_file_name, os_errors_as_data_error
from runner_engine.checkpoints.architectures import MODULES
from runner_engine.checkpoints.gguf_header import ArrayLocation, GgufHeader
from runner_engine.checkpoints.weight_files import MAX_DIMENSIONS, TensorLocation

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 counted in 32 bits; no tool writes it any more
ALIGNMENT = 32  # of the tensors, if the file does not set it
LONG_ARRAY = 1024  # longer arrays are vocabularies; only their length is needed
# limits of a header, far above those of any model, so that a hostile one takes neither minutes nor
# all memory
MAX_VALUES = 2**23  # keys, texts and elements of arrays
MAX_TENSORS = 2**17
MAX_TEXT_BYTES = 2**26
MAX_COUNT = 2**31 - 1
# settings that are whole numbers; those with True may have one for each layer
COUNTS = {
    "block_count": False,
    "embedding_length": False,
    "feed_forward_length": True,
    "attention.head_count": True,
    "attention.head_count_kv": True,
    "attention.key_length": False,
    "rope.dimension_count": False,
    "vocab_size": False,
}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")  # before each text
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# the format's own table: number → name, numbers per block, bytes per block
BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
# types whose blocks stay blocks in memory: runner_engine/models/gguf_types.py takes them apart
KEPT_TYPES = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)
# bytes of a block in the kernels' panels, where they are more than in a file: a scale of a part has
# a whole byte there, and one that is a power of two has two
PANEL_BYTES = {"MXFP4": 18, "Q3_K": 114, "Q4_K": 148, "Q5_K": 180, "IQ4_XS": 138}
PANEL_OUTPUTS = 32  # a last panel is padded
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NOT_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def is_gguf_file(path: Path) -> bool:
    """Whether a file starts with the .gguf magic number, or exists and has the suffix .gguf."""
    if is_gguf_file_name(path.name):
        return path.is_file()
    try:
        with path.open("rb") as stream:
            return stream.read(4) == MAGIC
    except (OSError, ValueError):  # a folder, nothing, or an invalid name
        return False


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a .gguf file's header. The result is cached until the file changes."""
    with os_errors_as_data_error(path):
        stat = path.stat()
        return _read_header_cached(path, stat.st_size, stat.st_mtime_ns)


def read_header_array(header: GgufHeader, metadata_key: str, is_text: bool) -> list[Any]:
    array = header.arrays.get(metadata_key)
    if array is None or (array.kind != STRING if is_text else array.kind not in SCALARS):
        raise DataError(
            f"{metadata_key} is not a list of {'strings' if is_text else 'numbers'}",
            key=header.file,
            code="damaged",
        )
    with os_errors_as_data_error(header.file), header.file.open("rb") as stream:
        blob = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with blob:
        if not is_text:
            return list(struct.unpack_from(f"<{array.count}{SCALARS[array.kind]}", blob, array.start))
        texts, at, length_at = [], array.start, LENGTH.unpack_from
        try:
            for _ in range(array.count):
                first = at + 8
                at = first + length_at(blob, at)[0]
                texts.append(blob[first:at].decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"damaged header: {metadata_key}: {error}", key=header.file, code="damaged"
            ) from error
        return texts


def read_gguf_settings(header: GgufHeader) -> dict[str, Any]:
    """Return the model sizes and the dequantized dtype under the keys of a config.json.

    Weights in blocks are products of a float16 and a small integer, which only float32 represents
    exactly.
    """
    of = {key.removeprefix(f"{header.architecture}."): value for key, value in header.metadata.items()}
    names = {tensor.name for tensor in header.tensors}
    kinds = {tensor.dtype for tensor in header.tensors}
    # their norms stay F32
    half_precision = [FLOATS[kind] for kind in ("BF16", "F16") if kind in kinds]
    settings = {
        "num_hidden_layers": of.get("block_count"),
        "hidden_size": of.get("embedding_length"),
        "intermediate_size": max_over_layers(of.get("feed_forward_length")),
        "num_attention_heads": max_over_layers(of.get("attention.head_count")),
        "num_key_value_heads": max_over_layers(of.get("attention.head_count_kv")),
        "head_dim": of.get("attention.key_length") or of.get("rope.dimension_count"),
        "vocab_size": of.get("vocab_size") or of.get("tokenizer.ggml.tokens"),
        "tie_word_embeddings": "output.weight" not in names,
        "dtype": half_precision[0] if half_precision and kinds <= set(FLOATS) else "float32",
    }
    return {key: value for key, value in settings.items() if value is not None}


def is_supported_architecture(header: GgufHeader) -> bool:
    """Whether the project's .gguf reader supports the architecture.

    Otherwise transformers reads the file, which takes seconds.
    """
    # transformers makes a Mistral of a Llama with this name
    return header.architecture in MODULES and header.metadata.get("general.name") != "mistral"


def can_keep_gguf_blocks(header: GgufHeader) -> bool:
    """Whether all matrices of a model can stay quantized as .gguf blocks."""
    return is_supported_architecture(header) and any(tensor.dtype in KEPT_TYPES for tensor in header.tensors)


def list_in_memory_tensors(header: GgufHeader) -> list[TensorLocation]:
    kept = {tensor.name: tensor for tensor in header.tensors if tensor.dtype in KEPT_TYPES}
    return [kept.get(tensor.name, tensor) for tensor in list_tensors_as_float32(header)]


def compute_packing_overhead_nbytes(tensor: TensorLocation) -> int:
    if tensor.dtype not in KEPT_TYPES or len(tensor.shape) not in (2, 3):
        return 0
    *experts, outputs, inputs = tensor.shape
    _, numbers, stored = next(one for one in BLOCKS.values() if one[0] == tensor.dtype)
    of_panel = inputs // numbers * PANEL_BYTES.get(tensor.dtype, stored) * PANEL_OUTPUTS
    return math.prod(experts) * math.ceil(outputs / PANEL_OUTPUTS) * of_panel - tensor.nbytes


def list_tensors_as_float32(header: GgufHeader) -> list[TensorLocation]:
    """List the tensors as if dequantized to float32, the form in which transformers loads them."""
    weights = [tensor for tensor in header.tensors if tensor.name not in NOT_WEIGHTS]
    return [replace(tensor, dtype="F32", nbytes=4 * tensor.num_elements) for tensor in weights]


def max_over_layers(value: Any) -> Any:
    """Return the maximum of a per-layer list, or the number itself if the setting is a single number."""
    return max(value) if isinstance(value, list) else value


@lru_cache(maxsize=64)
def _read_header_cached(path: Path, file_nbytes: int, _mtime_ns: int) -> GgufHeader:
    with path.open("rb") as stream:
        start = stream.read(4)
        if start != MAGIC:
            raise DataError(
                f"not a GGUF file: the first bytes are {start!r} instead of {MAGIC!r}",
                key=path,
                code="damaged",
            )
        blob = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with blob:
        try:
            return _parse_header(_HeaderReader(blob), path, file_nbytes)
        except (struct.error, IndexError, OverflowError) as error:
            raise DataError(
                f"truncated: the file ends within the header, after {file_nbytes} bytes",
                key=path,
                code="damaged",
            ) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"damaged header ({error})", key=path, code="damaged") from error


class _HeaderReader:
    """Reads the numbers and strings of a .gguf header in file order."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.at, self.values_left = blob, 4, MAX_VALUES

    def count_and_limit_header_values(self, num_values: int, path: Path) -> None:
        """Add to the number of header entries read so far. Raises DataError if it exceeds the limit."""
        self.values_left -= num_values
        if self.values_left < 0:
            raise DataError(
                f"damaged header: more than {MAX_VALUES:,} values up to byte {self.at}",
                key=path,
                code="damaged",
            )

    def read_scalar(self, scalar_type: str) -> Any:
        (value,) = struct.unpack_from(f"<{scalar_type}", self.blob, self.at)
        self.at += struct.calcsize(f"<{scalar_type}")
        return value

    def read_string(self, path: Path) -> str:
        length = self.read_scalar("Q")
        if length > len(self.blob) - self.at:
            raise IndexError("the string ends beyond the file")
        if length > MAX_TEXT_BYTES:
            raise DataError(
                f"damaged header: a string at byte {self.at} is {length:,} bytes long",
                key=path,
                code="damaged",
            )
        self.at += length
        return self.blob[self.at - length : self.at].decode()

    def skip_strings(self, count: int) -> None:
        # a vocabulary may have 262,144 texts
        blob, at, length_at = (self.blob, self.at, LENGTH.unpack_from)
        for _ in range(count):
            at += 8 + length_at(blob, at)[0]
        if at > len(blob):
            raise IndexError("the last string ends beyond the file")
        self.at = at

    def read_value(self, value_type: int, path: Path) -> Any:
        if value_type == STRING:
            return self.read_string(path)
        if value_type in SCALARS:
            return self.read_scalar(SCALARS[value_type])
        if value_type != ARRAY:
            raise DataError(
                f"damaged header: the value at byte {self.at} has unknown type {value_type}",
                key=path,
                code="damaged",
            )
        inner, count = self.read_scalar("I"), self.read_scalar("Q")
        if count <= LONG_ARRAY or inner == STRING:
            self.count_and_limit_header_values(count, path)
        if count <= LONG_ARRAY:
            return [self.read_value(inner, path) for _ in range(count)]
        if inner == STRING:
            self.skip_strings(count)
        elif inner in SCALARS:
            self.at += count * struct.calcsize(f"<{SCALARS[inner]}")
        else:
            raise DataError(
                f"damaged header: the long array at byte {self.at} has unsupported type {inner}",
                key=path,
                code="damaged",
            )
        return count


def _parse_header(reader: _HeaderReader, path: Path, file_nbytes: int) -> GgufHeader:
    version = reader.read_scalar("I")
    if version not in VERSIONS:
        raise DataError(
            f"GGUF version {version} is unsupported. Supported versions: {', '.join(map(str, VERSIONS))}",
            key=path,
            code="unsupported",
        )
    tensor_count, pairs = reader.read_scalar("Q"), reader.read_scalar("Q")
    if tensor_count > MAX_TENSORS:
        raise DataError(
            f"damaged header: {tensor_count:,} tensors; at most {MAX_TENSORS:,} are read",
            key=path,
            code="damaged",
        )
    reader.count_and_limit_header_values(pairs, path)
    metadata: dict[str, Any] = {}
    arrays: dict[str, ArrayLocation] = {}
    for _ in range(pairs):
        key = reader.read_string(path)
        if key in metadata:
            raise DataError(
                f"damaged header: the key {format_truncated_repr(key)} is duplicated",
                key=path,
                code="damaged",
            )
        kind = reader.read_scalar("I")
        if kind == ARRAY:
            inner, count = struct.unpack_from("<IQ", reader.blob, reader.at)
            arrays[key] = ArrayLocation(inner, count, reader.at + 12)
        value = reader.read_value(kind, path)
        metadata[key] = len(value) if key == "tokenizer.ggml.tokens" and isinstance(value, list) else value
    _check_gguf_metadata(metadata, path)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    unaligned: dict[str, TensorLocation] = {}
    for _ in range(tensor_count):
        name = reader.read_string(path)
        if name in unaligned:
            raise DataError(
                f"damaged header: two tensors are called {format_truncated_repr(name)}",
                key=path,
                code="damaged",
            )
        dimensions = reader.read_scalar("I")
        if dimensions > MAX_DIMENSIONS:
            raise DataError(
                f"tensor {name} has {dimensions:,} dimensions. At most {MAX_DIMENSIONS} are supported",
                key=path,
                code="unsupported",
            )
        fastest_first = [reader.read_scalar("Q") for _ in range(dimensions)]
        kind, offset = reader.read_scalar("I"), reader.read_scalar("Q")
        if kind not in BLOCKS:
            raise DataError(f"tensor {name} has unsupported type {kind}", key=path, code="unsupported")
        type_name, numbers, block_bytes = BLOCKS[kind]
        if fastest_first and fastest_first[0] % numbers:
            raise DataError(
                f"tensor {name} has rows of {fastest_first[0]} numbers. "
                f"The row length must be a multiple of {numbers}",
                key=path,
                code="damaged",
            )
        nbytes = math.prod(fastest_first) // numbers * block_bytes
        if offset % alignment:
            raise DataError(
                f"tensor {name} starts at {offset}, which is not a multiple of general.alignment={alignment}",
                key=path,
                code="damaged",
            )
        unaligned[name] = TensorLocation(
            name, type_name, tuple(reversed(fastest_first)), path, offset, nbytes
        )
    start = -(-reader.at // alignment) * alignment
    tensors = tuple(replace(tensor, offset=start + tensor.offset) for tensor in unaligned.values())
    for tensor in tensors:
        if tensor.offset + tensor.nbytes > file_nbytes:
            raise DataError(
                f"truncated: tensor {tensor.name} should end at byte {tensor.offset + tensor.nbytes}, "
                f"but the file has only {file_nbytes} bytes",
                key=path,
                code="damaged",
            )
    in_order = sorted((tensor for tensor in tensors if tensor.nbytes), key=lambda tensor: tensor.offset)
    for one, after in pairwise(in_order):
        if after.offset < one.offset + one.nbytes:
            raise DataError(f"tensors {one.name} and {after.name} overlap", key=path, code="damaged")
    return GgufHeader(path, metadata, arrays, tensors)


def _check_gguf_metadata(metadata: dict[str, Any], path: Path) -> None:
    """Raise DataError if a metadata entry has a wrong type or is out of range."""

    def reject_value(key: str, expected: str) -> NoReturn:
        raise DataError(
            f"damaged header: {key} is {format_truncated_repr(metadata[key])}. Expected {expected}",
            key=path,
            code="damaged",
        )

    def is_count(value: object) -> bool:
        return type(value) is int and 0 <= value <= MAX_COUNT

    if "general.architecture" not in metadata:
        raise DataError(
            "the file contains no model, because its header has no general.architecture",
            key=path,
            code="damaged",
        )
    architecture = metadata["general.architecture"]
    if not isinstance(architecture, str) or not architecture:
        reject_value("general.architecture", "a text")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not is_count(alignment) or alignment.bit_count() != 1:
        reject_value("general.alignment", "a power of two")
    if not is_count(metadata.get("tokenizer.ggml.tokens", 0)):
        reject_value("tokenizer.ggml.tokens", "a list")
    for name, may_be_list in COUNTS.items():
        value = metadata.get(key := f"{architecture}.{name}", 0)
        values = value if may_be_list and isinstance(value, list) and value else [value]
        if not all(map(is_count, values)):
            reject_value(
                key, f"a whole number from 0 to {MAX_COUNT}{(', or one per layer' if may_be_list else '')}"
            )
