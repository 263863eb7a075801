"""partition_N.json, read in both forms: each layer's numbers inline, or a reference to where its tensor lies.

Lists of numbers are not parsed here: they are cut out of the text while it is read, and only their position in the file
is kept. So memory does not depend on how many numbers there are.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoints import byteio
from runner.checkpoints.json_fields import Fields
from runner.checkpoints.weight_files import parse_object
from runner.core.errors import DataError

REFERENCE, INLINE = "reference", "inline"
NUMBERS = re.compile(rb'"parameters"\s*:\s*\[')  # inside a text the closing quote would have a backslash before it
PLACE = "numbers from byte, to byte"  # replaces a list that was cut out
OVERLAP_BYTES = 4096  # longer than any match of NUMBERS, so that one across two pieces is found
MAX_TEXT_BYTES = 100_000_000  # of all but the numbers


@dataclass(frozen=True)
class Reference:
    """Where a tensor lies: `offset` counts bytes from the start of the part's safetensors file."""

    file: str
    tensor: str
    dtype: str
    offset: int
    nbytes: int
    digest: str


@dataclass(frozen=True)
class Inline:
    """Where a list of numbers begins and ends in the JSON, without its brackets."""

    begin: int
    end: int


@dataclass(frozen=True)
class Layer:
    """One tensor of a part."""

    name: str
    layer_type: str
    dtype: str | None  # absent in the old form, which has it under layer_type
    shape: tuple[int, ...]
    parameters: Reference | Inline

    @property
    def params(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Partition:
    """What partition_N.json says."""

    path: Path
    part_id: int
    layers: tuple[Layer, ...]
    form: str  # reference | inline


def read_partition(path: Path) -> Partition:
    """Read a partition_N.json of either form, without its numbers."""
    text = bytearray()
    for piece in _without_numbers(path):
        text += piece
        if len(text) > MAX_TEXT_BYTES:
            raise DataError(f"{path}: more than {MAX_TEXT_BYTES:,} bytes of JSON besides the numbers: no partition")
    values, fields = parse_object(bytes(text), str(path)), Fields(path)
    entries = fields.many("layers", values.get("layers"))
    layers = tuple(_layer(fields, f"layers[{number}]", entry) for number, entry in enumerate(entries))
    forms = {INLINE if isinstance(layer.parameters, Inline) else REFERENCE for layer in layers}
    said = values.get("parameters_format", next(iter(forms), INLINE))  # the old form says nothing
    if not forms <= {said}:
        fields.fail("parameters_format", f"{' and '.join(sorted(forms))}, as the layers' parameters are,", said)
    part_id, listed = (fields.count(key, values.get(key)) for key in ("part_id", "total_params"))
    if (total := sum(layer.params for layer in layers)) != listed:
        fields.fail("total_params", f"{total}, as the shapes say,", listed)
    if twice := [name for name, count in Counter(layer.name for layer in layers).items() if count > 1]:
        raise DataError(f"{path}: layers: {twice[0]} stands there twice")
    return Partition(path, part_id, layers, str(said))


def _layer(fields: Fields, key: str, entry: object) -> Layer:
    values = fields.table(key, entry)
    name = fields.text(f"{key}.name", values.get("name"))
    key, dtype = f"{key} ({name})", values.get("dtype")
    return Layer(
        name=name,
        layer_type=fields.text(f"{key}.layer_type", values.get("layer_type")),
        dtype=None if dtype is None else fields.text(f"{key}.dtype", dtype),
        shape=fields.ids(f"{key}.shape", values.get("shape")),
        parameters=_parameters(fields, f"{key}.parameters", values.get("parameters")),
    )


def _parameters(fields: Fields, key: str, value: Any) -> Reference | Inline:
    if isinstance(value, dict) and set(value) == {PLACE}:
        return Inline(*fields.ids(key, value[PLACE]))
    values = fields.table(key, value)
    return Reference(
        file=fields.text(f"{key}.file", values.get("file")),
        tensor=fields.text(f"{key}.tensor", values.get("tensor")),
        dtype=fields.text(f"{key}.dtype", values.get("dtype")),
        offset=fields.count(f"{key}.offset", values.get("offset")),
        nbytes=fields.count(f"{key}.nbytes", values.get("nbytes")),
        digest=fields.digest(f"{key}.digest", values.get("digest")),
    )


def _without_numbers(path: Path) -> Iterator[bytes]:
    """Yield the JSON with the position of each list of numbers instead of the list."""
    waiting, position, begin = b"", 0, -1  # text not yet searched, where it begins, where the open list begins
    for piece in byteio.read_range(path, 0, byteio.file_size(path)):
        waiting += bytes(piece)
        while True:
            if begin >= 0:
                end = waiting.find(b"]")
                if b"[" in (waiting if end < 0 else waiting[:end]):
                    raise DataError(f"{path}: parameters: one flat list of numbers expected, found a list inside")
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
        raise DataError(f"{path}: truncated: the list of numbers that begins at byte {begin} has no end")
    yield waiting
