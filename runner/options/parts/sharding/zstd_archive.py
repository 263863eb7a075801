"""Reads and writes compressed parts, part_N.safetensors.zst, which are standard zstd files.

Each MiB of the part is one frame, and the manifest lists the frame lengths. A range of the
part is read by decompressing only its frames, and a whole part streams through a few MiB of
memory. zstd comes with pyarrow, which MLflow requires.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from runner.options.parts.sharding.manifest import PartEntry
from runner_base import ConfigError, DataError, machine
from runner_engine.checkpoints import (
    MAX_HEADER_BYTES,
    WeightFile,
    file_io,
    parse_safetensors_header,
    read_weight_file_header,
)

FRAME_BYTES = 2**20  # of the part; the last frame is shorter
LEVEL = 3
ProgressCallback = Callable[[int], None]  # called with a number of bytes that are done
RangeReader = Callable[[int, int], Iterator[bytes | memoryview]]  # (offset, nbytes) of a part -> its bytes


@cache
def get_zstd_codec() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            "reading and writing zstd needs pyarrow: pip install pyarrow",
            key="task.archive",
            value="zstd",
            code="needs_package",
        ) from error
    return pyarrow.Codec("zstd", compression_level=LEVEL)


def compress_frames(chunks: Iterator[bytes | memoryview], frame_sizes: list[int]) -> Iterator[bytes]:
    """Compress a file and yield its zstd frames. Appends each frame's length to `frame_sizes`."""
    zstd = get_zstd_codec()
    with ThreadPoolExecutor(machine.count_available_cpu_cores()) as pool:
        blocks = _split_into_frames(chunks)
        while batch := list(itertools.islice(blocks, 2 * machine.count_available_cpu_cores())):
            for frame in pool.map(lambda block: zstd.compress(block, asbytes=True), batch):
                frame_sizes.append(len(frame))
                yield frame


def _split_into_frames(chunks: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    waiting = bytearray()
    for piece in chunks:
        waiting += piece
        while len(waiting) >= FRAME_BYTES:
            yield bytes(waiting[:FRAME_BYTES])
            del waiting[:FRAME_BYTES]
    if waiting:
        yield bytes(waiting)


class ArchivedPart:
    """Reads byte ranges of a compressed part."""

    def __init__(self, path: Path, entry: PartEntry) -> None:
        self.path, self.frames, self.raw_bytes = path, entry.frames, entry.raw.nbytes
        self.begins = [0, *itertools.accumulate(self.frames)]
        expected = -(-self.raw_bytes // FRAME_BYTES)
        if len(self.frames) != expected or self.begins[-1] != entry.stored.nbytes:
            raise DataError(
                (
                    f"expected {expected} frames with {entry.stored.nbytes} bytes, but the manifest lists "
                    f"{len(self.frames)} frames with {self.begins[-1]} bytes"
                ),
                key=path,
                code="damaged",
            )
        # ranges are read in order: the next one mostly begins in the same frame
        self._last = (-1, memoryview(b""))

    def read_range(self, offset: int, nbytes: int) -> Iterator[memoryview]:
        """Yield the uncompressed bytes of a range in chunks."""
        while nbytes > 0:
            number, start = divmod(offset, FRAME_BYTES)
            if number >= len(self.frames):
                raise DataError(
                    f"the file is truncated: {nbytes} bytes are missing", key=self.path, code="damaged"
                )
            piece = self._read_frame(number)[start : start + nbytes]
            yield piece
            offset, nbytes = offset + len(piece), nbytes - len(piece)

    def _read_frame(self, frame_index: int) -> memoryview:
        if self._last[0] != frame_index:
            size = min(FRAME_BYTES, self.raw_bytes - frame_index * FRAME_BYTES)
            stored = b"".join(
                map(bytes, file_io.read_range(self.path, self.begins[frame_index], self.frames[frame_index]))
            )
            try:
                content = get_zstd_codec().decompress(stored, decompressed_size=size, asbytes=True)
            except OSError as error:
                raise DataError(
                    f"frame {frame_index} cannot be decompressed ({error})", key=self.path, code="damaged"
                ) from error
            if len(content) != size:
                raise DataError(
                    f"zstd frame {frame_index}: expected {size} uncompressed bytes, found {len(content)}",
                    key=self.path,
                    code="damaged",
                )
            self._last = (frame_index, memoryview(content))
        return self._last[1]


def create_part_range_reader(folder: Path, entry: PartEntry) -> RangeReader:
    path = folder / entry.stored.file
    if entry.frames:
        return ArchivedPart(path, entry).read_range
    return lambda offset, nbytes: file_io.read_range(path, offset, nbytes)


def read_part_header(folder: Path, entry: PartEntry) -> WeightFile:
    path = folder / entry.stored.file
    if not entry.frames:
        return read_weight_file_header(path)
    read, size = create_part_range_reader(folder, entry), entry.raw.nbytes
    length = int.from_bytes(b"".join(map(bytes, read(0, min(8, size)))), "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise DataError(
            f"the header has {length} bytes, but the part has only {size} bytes", key=path, code="damaged"
        )
    return parse_safetensors_header(b"".join(map(bytes, read(0, 8 + length))), path, size)
