"""Tensors as JSON numbers and back, piece by piece, without torch: partition_N.json with the numbers themselves in it.

So it is written for small models on request, and so splits in the old form are read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from runner.checkpoints import byteio
from runner.checkpoints.weight_files import DTYPE_BITS, Tensor
from runner.core.errors import ConfigError, DataError
from runner.sharding.partition_file import Inline, Layer, Partition

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]

PLAIN = {  # dtypes that numpy reads directly
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    **{f"{sign}{bits}": f"<{sign.lower()}{bits // 8}" for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": "|u1",
}
DTYPE_NAMES = {  # names of dtypes in frameworks, which the old form had under layer_type
    "float": "F32",
    "double": "F64",
    "half": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
READABLE = (*PLAIN, "BF16", "F8_E4M3", "F8_E5M2")
MAX_INLINE_PARAMS = 1_000_000
TEXT_BYTES_PER_PARAM = 22  # float32; 18 for bfloat16
TEXT_BYTES = b"0123456789+-.eE, \t\r\n"
LONGEST_NUMBER = 1000  # bytes of one number as text


def refuse_large(total_params: int) -> None:
    """Raise ConfigError when a model is too large for numbers in JSON."""
    if total_params > MAX_INLINE_PARAMS:
        text_gib = total_params * TEXT_BYTES_PER_PARAM / 2**30
        raise ConfigError(
            f"task.inline_parameters=true: {total_params:,} parameters would be {text_gib:,.2f} GiB of JSON text, and "
            f"{MAX_INLINE_PARAMS:,} are the limit: leave it false, and partition_N.json refers to the tensors instead"
        )


def text_of(content: dict[str, Any], tensors: list[Tensor]) -> Iterator[bytes]:
    """Yield a partition with numbers instead of references; `tensors` are those of its layers, in the same order."""
    head, tail = ({key: content[key] for key in keys} for keys in (["part_id"], ["parameters_format", "total_params"]))
    yield json.dumps(head)[:-1].encode() + b', "layers": ['
    comma = b"\n "
    for layer, tensor in zip(content["layers"], tensors, strict=True):
        described = {key: value for key, value in layer.items() if key != "parameters"}
        yield comma + json.dumps(described)[:-1].encode() + b', "parameters": '
        yield from to_json(tensor)
        yield b"}"
        comma = b",\n "
    yield b"\n], " + json.dumps(tail)[1:].encode() + b"\n"


def to_json(tensor: Tensor) -> Iterator[bytes]:
    """Yield a tensor's numbers as a JSON list; each one reads back as exactly the same number."""
    import numpy as np

    yield b"["
    comma, position = b"", 0
    for values in read_numbers(tensor, byteio.tensor_pieces(tensor)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise DataError(
                f"{tensor.file}: tensor {tensor.name}: number {position + int(wrong[0])} is {values[wrong[0]]}, which "
                "JSON cannot hold: use task.inline_parameters=false"
            )
        yield comma + json.dumps(values.tolist(), allow_nan=False)[1:-1].encode()
        comma, position = b", ", position + len(values)
    yield b"]"


def read_numbers(tensor: Tensor, pieces: Iterable[bytes | memoryview]) -> Iterator[Numbers]:
    """Yield a tensor's numbers, exact, from its bytes."""
    if tensor.dtype not in READABLE:
        raise ConfigError(
            f"task.inline_parameters=true: tensor {tensor.name} is {tensor.dtype}, which is no list of numbers "
            f"(those are {', '.join(READABLE)}): use task.inline_parameters=false"
        )
    size = DTYPE_BITS[tensor.dtype] // 8
    rest = b""
    for piece in pieces:
        data = rest + bytes(piece)
        whole = len(data) - len(data) % size
        rest = data[whole:]
        if whole:
            yield decode(tensor.dtype, data[:whole])


def decode(dtype: str, data: bytes) -> Numbers:
    """Return the numbers that these bytes encode."""
    import numpy as np

    if dtype in PLAIN:
        return np.frombuffer(data, PLAIN[dtype])
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    codes = np.frombuffer(data, np.uint8)
    if dtype == "F8_E5M2":  # a float16 cut short
        return (codes.astype("<u2") << 8).view("<f2")
    return _e4m3()[codes]


def _e4m3() -> Numbers:
    """The 256 numbers of F8_E4M3: bias 7, no infinity, NaN is all ones."""
    import numpy as np

    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent, (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0**-9)
    size = np.where(codes & 127 == 127, np.nan, size)
    return np.where(codes & 128, -size, size).astype("<f4")


def from_json(partition: Partition, layer: Layer) -> Iterator[Numbers]:
    """Yield a layer's inline numbers as float64, piece by piece."""
    assert isinstance(layer.parameters, Inline)
    where = f"{partition.path}: parameters of {layer.name}"
    begin, end = layer.parameters.begin, layer.parameters.end
    rest, count = b"", 0
    for piece in byteio.read_range(partition.path, begin, end - begin):
        head, comma, rest = (rest + bytes(piece)).rpartition(b",")
        if comma:
            yield (values := _parse(head, where))
            count += len(values)
        if len(rest) > LONGEST_NUMBER + len(piece) * (not comma):
            raise DataError(f"{where}: a number expected, found {_start(rest)}")
    if rest.strip() or count:
        yield (values := _parse(rest, where))
        count += len(values)
    if count != layer.params:
        raise DataError(f"{where}: {layer.params} numbers expected by the shape {list(layer.shape)}, {count} found")


def _parse(text: bytes, where: str) -> Numbers:
    import numpy as np

    if odd := text.translate(None, TEXT_BYTES):
        raise DataError(f"{where}: numbers expected, found {_start(odd)}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(text.decode("ascii"), sep=",")
        except (ValueError, DeprecationWarning) as error:
            raise DataError(f"{where}: not a list of numbers ({error})") from error
    if len(values) != text.count(b",") + 1:
        raise DataError(f"{where}: a number between any two commas expected, found {len(values)} numbers only")
    return values


def _start(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))


def safetensors_dtype(dtype: str) -> str | None:
    """Return the safetensors name of a dtype as frameworks name it, None where there is no such dtype."""
    plain = dtype.removeprefix("torch.").strip()
    return plain.upper() if plain.upper() in READABLE else DTYPE_NAMES.get(plain.lower())


def encode(values: Numbers, dtype: str, where: str) -> tuple[bytes, int]:
    """Return numbers as the bytes of a dtype, and how many of them had to be rounded."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "BF16":
            bits = values.astype("<f4").view("<u4").astype("<u8")
            bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
            data = bits.astype("<u2").tobytes()
        elif dtype in PLAIN:
            data = values.astype(PLAIN[dtype]).tobytes()
        else:
            raise ConfigError(f"{where}: numbers cannot be stored as {dtype}: use task.dtype=float32")
    stored = decode(dtype, data)
    if not np.isfinite(stored).all():
        number = values[~np.isfinite(stored)][0]
        raise DataError(f"{where}: {number} is beyond the range of {dtype}")
    exact = "<f8" if stored.dtype.kind in "iu" else "<f4"  # the old form was written with the precision of float32
    rounded = 0 if dtype in ("F32", "F64") else int(np.count_nonzero(stored.astype(exact) != values.astype(exact)))
    if rounded and stored.dtype.kind in "iu":
        raise DataError(f"{where}: {dtype} expected, found numbers with fractions or beyond its range")
    return data, rounded
