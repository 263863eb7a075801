"""Reads and writes partition_N.json, which contains either the weights as numbers or references to
safetensors.

Inline lists of numbers are cut out while the JSON is read, and only their byte range is
stored. Their numbers are read in chunks, so memory does not depend on their count. Only
small models are written inline.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core.json_fields import JsonFieldReader
from runner_base import ConfigError, DataError
from runner_base.texts import parse_json_object
from runner_engine import TensorLocation
from runner_engine.checkpoints import file_io

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]

REFERENCE, INLINE = "reference", "inline"
# inside a string the closing quote would be escaped
NUMBERS = re.compile(rb'"parameters"\s*:\s*\[')
PLACE = "numbers from byte, to byte"  # the key that replaces a list that was cut out
OVERLAP_BYTES = 4096  # longer than any match of NUMBERS, so that one across two pieces is found
MAX_TEXT_BYTES = 100_000_000  # of all but the numbers
PLAIN = {  # dtypes that numpy reads directly
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    **{f"{sign}{bits}": f"<{sign.lower()}{bits // 8}" for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": "|u1",
}
READABLE = (*PLAIN, "BF16", "F8_E4M3", "F8_E5M2")
MAX_INLINE_PARAMS = 1_000_000
TEXT_BYTES_PER_PARAM = 22  # float32; 18 for bfloat16
TEXT_BYTES = b"0123456789+-.eE, \t\r\n"
LONGEST_NUMBER = 1000  # bytes of one number as text


@dataclass(frozen=True)
class TensorReference:
    """Name and byte offset of a tensor in a safetensors file.

    `offset` counts from the start of the file.
    """

    file: str
    tensor: str
    dtype: str
    offset: int
    nbytes: int
    digest: str


@dataclass(frozen=True)
class InlineNumbers:
    """Byte range of one layer's weights in partition_N.json, without the brackets of the JSON list."""

    begin: int
    end: int


@dataclass(frozen=True)
class PartitionLayer:
    """Entry of partition_N.json that describes one tensor: name, dtype, shape, and weights or their
    location.
    """

    name: str
    layer_type: str
    dtype: str | None  # None in the old form, which has it under layer_type
    shape: tuple[int, ...]
    parameters: TensorReference | InlineNumbers

    @property
    def num_params(self) -> int:
        """Number of values in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Partition:
    """Contents of a partition_N.json file."""

    path: Path
    part_id: int
    layers: tuple[PartitionLayer, ...]
    form: str  # reference | inline


def read_partition(path: Path) -> Partition:
    """Read partition_N.json without loading the weights, which can be very large."""
    text = bytearray()
    for piece in _read_json_without_number_lists(path):
        text += piece
        if len(text) > MAX_TEXT_BYTES:
            raise DataError(
                f"not a partition file: its JSON has over {MAX_TEXT_BYTES:,} bytes besides parameters",
                key=path,
                code="too_large",
            )
    values, fields = parse_json_object(bytes(text), str(path)), JsonFieldReader(path)
    entries = fields.read_list("layers", values.get("layers"))
    layers = tuple(
        _parse_partition_layer(fields, f"layers[{number}]", entry) for number, entry in enumerate(entries)
    )
    forms = {INLINE if isinstance(layer.parameters, InlineNumbers) else REFERENCE for layer in layers}
    # the old form has no such key
    form = values.get("parameters_format", next(iter(forms), INLINE))
    if not forms <= {form}:
        fields.raise_error(
            "parameters_format", f"the format of the layers' parameters, {' and '.join(sorted(forms))},", form
        )
    part_id, listed = (
        fields.read_non_negative_integer(key, values.get(key)) for key in ("part_id", "total_params")
    )
    if (total := sum(layer.num_params for layer in layers)) != listed:
        fields.raise_error("total_params", f"{total}, as the shapes say,", listed)
    if twice := [name for name, count in Counter(layer.name for layer in layers).items() if count > 1]:
        raise DataError(f"layers: {twice[0]} is duplicated", key=path, code="damaged")
    return Partition(path, part_id, layers, str(form))


def _parse_partition_layer(fields: JsonFieldReader, key: str, entry: object) -> PartitionLayer:
    values = fields.read_object(key, entry)
    name = fields.read_text(f"{key}.name", values.get("name"))
    key, dtype = f"{key} ({name})", values.get("dtype")
    return PartitionLayer(
        name=name,
        layer_type=fields.read_text(f"{key}.layer_type", values.get("layer_type")),
        dtype=None if dtype is None else fields.read_text(f"{key}.dtype", dtype),
        shape=fields.read_counts(f"{key}.shape", values.get("shape")),
        parameters=_parse_layer_parameters(fields, f"{key}.parameters", values.get("parameters")),
    )


def _parse_layer_parameters(fields: JsonFieldReader, key: str, value: Any) -> TensorReference | InlineNumbers:
    if isinstance(value, dict) and set(value) == {PLACE}:
        return InlineNumbers(*fields.read_counts(key, value[PLACE]))
    values = fields.read_object(key, value)
    return TensorReference(
        file=fields.read_text(f"{key}.file", values.get("file")),
        tensor=fields.read_text(f"{key}.tensor", values.get("tensor")),
        dtype=fields.read_text(f"{key}.dtype", values.get("dtype")),
        offset=fields.read_non_negative_integer(f"{key}.offset", values.get("offset")),
        nbytes=fields.read_non_negative_integer(f"{key}.nbytes", values.get("nbytes")),
        digest=fields.read_digest(f"{key}.digest", values.get("digest")),
    )


def _read_json_without_number_lists(path: Path) -> Iterator[bytes]:
    """Yield the JSON text of the file, in which byte ranges replace the long lists of numbers."""
    # text not yet searched, where it begins, where the open list begins
    waiting, position, begin = (b"", 0, -1)
    for piece in file_io.read_range(path, 0, file_io.get_file_nbytes(path)):
        waiting += bytes(piece)
        while True:
            if begin >= 0:
                end = waiting.find(b"]")
                if b"[" in (waiting if end < 0 else waiting[:end]):
                    raise DataError(
                        "parameters: expected a flat list of numbers, found a nested list",
                        key=path,
                        code="damaged",
                    )
                if end < 0:
                    position, waiting = position + len(waiting), b""
                    break
                yield json.dumps({PLACE: [begin, position + end]}).encode()
                position, waiting, begin = position + end + 1, waiting[end + 1 :], -1
            found = NUMBERS.search(waiting)
            if found is None:
                cut = max(0, len(waiting) - OVERLAP_BYTES)
                yield waiting[:cut]
                position, waiting = position + cut, waiting[cut:]
                break
            yield waiting[: found.start()] + b'"parameters":'
            begin = position + found.end()
            position, waiting = begin, waiting[found.end() :]
    if begin >= 0:
        raise DataError(
            f"truncated: the list of numbers that begins at byte {begin} has no end", key=path, code="damaged"
        )
    yield waiting


# ------------------------------------------------------------------------------------------ numbers


def check_inline_size(total_params: int) -> None:
    """Raise ConfigError if a model has too many parameters to write them as JSON numbers."""
    if total_params > MAX_INLINE_PARAMS:
        text_gib = total_params * TEXT_BYTES_PER_PARAM / 2**30
        raise ConfigError(
            (
                f"{total_params:,} parameters need {text_gib:,.2f} GiB of JSON. The limit is "
                f"{MAX_INLINE_PARAMS:,} parameters. Use task.inline_parameters=false, "
                "which stores them in safetensors files"
            ),
            key="task.inline_parameters",
            value="true",
            code="too_large",
        )


def serialize_partition_with_inline_weights(
    partition: dict[str, Any], tensors: list[TensorLocation]
) -> bytes:
    """Build the JSON object for partition_N.json. `tensors` must be in the order of the partition's
    layers.
    """
    pairs = zip(partition["layers"], tensors, strict=True)
    layers = ",\n ".join(
        json.dumps(layer | {"parameters": convert_tensor_to_list(tensor)}) for layer, tensor in pairs
    )
    rest = json.dumps({key: partition[key] for key in ("parameters_format", "total_params")})
    return f'{{"part_id": {partition["part_id"]}, "layers": [\n {layers}\n], {rest[1:]}\n'.encode()


def convert_tensor_to_list(tensor: TensorLocation) -> list[float]:
    """Return a tensor's values as Python floats, which JSON represents exactly."""
    import numpy as np

    values = read_tensor_values(tensor, file_io.read_tensor_pieces(tensor))
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(
            (
                f"tensor {tensor.name}: JSON cannot represent the value {values[wrong[0]]} at index "
                f"{wrong[0]}. Use task.inline_parameters=false"
            ),
            key=tensor.file,
            code="unsupported",
        )
    numbers: list[float] = values.tolist()
    return numbers


def read_tensor_values(tensor: TensorLocation, chunks: Iterable[bytes | memoryview]) -> Numbers:
    """Decode a tensor's bytes to numbers without rounding."""
    if tensor.dtype not in READABLE:
        raise ConfigError(
            (
                f"tensor {tensor.name}: dtype {tensor.dtype} cannot be written as JSON numbers. "
                f"Supported: {', '.join(READABLE)}. Use task.inline_parameters=false"
            ),
            key="task.inline_parameters",
            value="true",
            code="unsupported",
        )
    return decode_tensor_values(tensor.dtype, b"".join(map(bytes, chunks)))


def decode_tensor_values(dtype: str, data: bytes) -> Numbers:
    """Decode bytes of a dtype to numbers."""
    import numpy as np

    if dtype in PLAIN:
        return np.frombuffer(data, PLAIN[dtype])
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    import torch  # for these two, which numpy lacks

    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[dtype]
    numbers: Numbers = torch.from_numpy(np.frombuffer(data, "|u1").copy()).view(kind).float().numpy()
    return numbers


def iterate_json_weight_chunks(partition: Partition, layer: PartitionLayer) -> Iterator[Numbers]:
    """Yield the weights in a layer's JSON list as float64 arrays, in chunks."""
    assert isinstance(layer.parameters, InlineNumbers)
    where = f"{partition.path}: parameters of {layer.name}"
    begin, end = layer.parameters.begin, layer.parameters.end
    rest, count = b"", 0
    for piece in file_io.read_range(partition.path, begin, end - begin):
        head, comma, rest = (rest + bytes(piece)).rpartition(b",")
        if comma:
            yield (values := _parse_comma_separated_numbers(head, where))
            count += len(values)
        if len(rest) > LONGEST_NUMBER + len(piece) * (not comma):
            raise DataError(f"a number expected, found {_quote_start(rest)}", key=where, code="damaged")
    if rest.strip() or count:
        yield (values := _parse_comma_separated_numbers(rest, where))
        count += len(values)
    if count != layer.num_params:
        raise DataError(
            f"expected {layer.num_params} numbers for the shape {list(layer.shape)}, found {count}",
            key=where,
            code="damaged",
        )


def _parse_comma_separated_numbers(text: bytes, location: str) -> Numbers:
    import numpy as np

    if odd := text.translate(None, TEXT_BYTES):
        raise DataError(f"numbers expected, found {_quote_start(odd)}", key=location, code="damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(text.decode("ascii"), sep=",")
        except (ValueError, DeprecationWarning) as error:
            raise DataError(f"not a list of numbers ({error})", key=location, code="damaged") from error
    if len(values) != text.count(b",") + 1:
        raise DataError(
            f"expected {text.count(b',') + 1} numbers (one more than commas), found {len(values)}",
            key=location,
            code="damaged",
        )
    return values


def _quote_start(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))
