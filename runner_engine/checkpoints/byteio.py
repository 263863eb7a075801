"""Reads, hashes and writes files in pieces; readers of a file see the old one or the new one, never
half of one.

Each piece is read into one buffer that stays in the processor's cache, and is hashed and written
from there. So only one piece is in memory, whatever the size of the model. This is faster than
letting the kernel copy (copy_file_range, sendfile) while another thread hashes, because the bytes
would then come from memory twice. Imports neither torch nor safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runner_base import MIB, ConfigError, DataError, JobFailed, cannot_write, decimals, reading, told_apart
from runner_engine.checkpoints.weight_files import DTYPE_BITS, Tensor

KEY = "task.output_dir"  # the key of every folder that this file writes to
CHUNK_BYTES = 256 * 1024  # fits into the processor's cache
ALGORITHMS = ("xxh3_128", "sha256")
SLOW_BYTES = 64 * 1024  # SHA-256 of more than this is computed in a thread

Pieces = Iterable[bytes | memoryview]  # of a file, one after the other


def read_range(
    path: Path, offset: int, nbytes: int, buffer: memoryview | None = None
) -> Iterator[memoryview]:
    """Yield the bytes of a range piece by piece; each piece is valid until the next one."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, nbytes))) if buffer is None else buffer
    with reading(path), path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        while nbytes > 0:
            count = stream.readinto(buffer[:nbytes])
            if not count:
                raise DataError(
                    f"ended while it was being read, {nbytes} bytes short", key=path, code="damaged"
                )
            nbytes -= count
            yield buffer[:count]


def tensor_pieces(tensor: Tensor, buffer: memoryview | None = None) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in row-major order, as safetensors stores them."""
    if tensor.strides is None:
        yield from read_range(tensor.file, tensor.offset, tensor.nbytes, buffer)
        return
    import numpy as np

    size = DTYPE_BITS[tensor.dtype] // 8
    try:
        mapped = np.memmap(tensor.file, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {tensor.file} ({error})", code="unreadable") from error
    strides = tuple(size * stride for stride in tensor.strides)
    view: Any = np.ndarray(tensor.shape, f"u{size}", mapped, tensor.offset, strides)
    flags: Any = {"flags": ["external_loop", "buffered"], "op_flags": [["readonly", "contig"]]}
    pieces: Any = np.nditer(view, **flags, order="C", buffersize=CHUNK_BYTES // size)
    for piece in pieces:
        yield memoryview(piece).cast("B")


class Digest:
    """A hash over pieces. A slow hash is computed in its own thread while the piece is being
    written."""

    def __init__(self, algorithm: str) -> None:
        import xxhash

        self.algorithm = algorithm
        self._hash: Any = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
        # starts its thread with the first task
        self._pool = ThreadPoolExecutor(1) if algorithm == "sha256" else None
        self._pending: Future[None] | None = None

    def update(self, piece: bytes | memoryview) -> None:
        """Start to hash a piece, which must not change until `wait` returns."""
        self.wait()
        if self._pool is not None and len(piece) > SLOW_BYTES:
            self._pending = self._pool.submit(self._hash.update, piece)
        else:
            self._hash.update(piece)

    def wait(self) -> None:
        """Wait until the last piece is hashed."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def text(self) -> str:
        """Return ALGORITHM:HEX."""
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()
        return f"{self.algorithm}:{self._hash.hexdigest()}"


def hashed(pieces: Pieces, digest: Digest) -> Iterator[bytes | memoryview]:
    """Yield pieces while they are hashed; the next one, which may overwrite this one, is not read
    before that."""
    for piece in pieces:
        digest.update(piece)
        yield piece
        digest.wait()


def algorithm_of(digest: str) -> str:
    """Return the algorithm of a digest ALGORITHM:HEX; raise DataError for any other text."""
    algorithm, _, rest = digest.partition(":")
    if algorithm not in ALGORITHMS or not rest:
        names = " or ".join(f"{name}:…" for name in ALGORITHMS)
        raise DataError(f"a digest such as {names} expected, found {digest!r}", code="damaged")
    return algorithm


def digest_of(pieces: Pieces, algorithm: str, advance: Callable[[int], None] | None = None) -> str:
    """Return the digest of all pieces together."""
    digest = Digest(algorithm)
    for piece in hashed(pieces, digest):
        if advance is not None:
            advance(len(piece))
    return digest.text()


def file_digest(path: Path, algorithm: str, advance: Callable[[int], None] | None = None) -> str:
    """Return the digest of a file, read in pieces."""
    return digest_of(read_range(path, 0, file_size(path)), algorithm, advance)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in pieces."""
    return file_digest(path, "sha256").partition(":")[2]


def file_size(path: Path) -> int:
    """Return the size of a file; raise DataError if it cannot be read."""
    with reading(path):
        return path.stat().st_size


def build_header(tensors: Iterable[Tensor], metadata: dict[str, str]) -> bytes:
    """Return the header of a safetensors file with these tensors in this order, padded to 8
    bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for tensor in tensors:
        offsets = [position, position := position + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file in place, whose library writes them in random
    order."""
    with reading(path), path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries: dict[str, Any] = json.loads(stream.read(length))
        metadata = entries.get("__metadata__", {})
        if [*metadata] == sorted(metadata):
            return
        entries["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:  # the library would have written it shorter
            raise DataError(
                "its header has spaces or escapes that a new one has not", key=path, code="damaged"
            )
        stream.seek(8)
        stream.write(text.ljust(length))


def tensor_bytes(
    header: bytes,
    tensors: Iterable[Tensor],
    advance: Callable[[int], None],
    hashes: dict[str, str],
    algorithm: str,
) -> Iterator[bytes | memoryview]:
    """Yield a whole safetensors file, header first; fills `hashes` with the digest of each
    tensor."""
    yield header
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for tensor in tensors:
        digest = Digest(algorithm)
        for piece in hashed(tensor_pieces(tensor, buffer), digest):
            yield piece
            advance(len(piece))
        hashes[tensor.name] = digest.text()


def write_digested(
    target: Path, pieces: Pieces, algorithm: str, expected: str | None = None, durable: bool = False
) -> str:
    """Write a file atomically and return its digest; raise JobFailed if that is not the expected
    one.

    `durable` waits until the disk has stored the file; otherwise it may be too short after a power
    cut.
    """
    partial = target.with_name(target.name + ".tmp")
    digest = Digest(algorithm)
    try:
        partial.unlink(missing_ok=True)  # left by a kill; writing into a link would change its file
        with partial.open("xb") as stream:  # pieces as large as ours bypass its buffer
            for piece in hashed(pieces, digest):
                stream.write(piece)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        text = digest.text()
        if expected not in (None, text):
            raise JobFailed(
                f"{target} would not equal the original: {expected} expected, {text} found", code="mismatch"
            )
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error, KEY) from error
    finally:
        partial.unlink(missing_ok=True)  # it was moved after a success
    return text


def write_file(target: Path, pieces: Pieces, expected_sha256: str | None = None, durable: bool = True) -> str:
    """Write a file atomically and return its SHA-256 in hex."""
    expected = None if expected_sha256 is None else f"sha256:{expected_sha256}"
    return write_digested(target, pieces, "sha256", expected, durable=durable).partition(":")[2]


def write_json(target: Path, values: object, durable: bool = True) -> str:
    """Write values as indented JSON, atomically, and return the SHA-256."""
    return write_file(target, [json.dumps(values, indent=1).encode() + b"\n"], durable=durable)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, KEY) from error


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk that a folder is, or will be, on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def require_space(folder: Path, needed: int) -> None:
    """Raise JobFailed unless the disk of a folder, which need not exist yet, has room for that many
    bytes."""
    if needed > (free := free_bytes(folder)):
        need, there = told_apart(needed / MIB, free / MIB, decimals(1))
        raise JobFailed(
            f"{need} MiB needed, {there} MiB free. Nothing was written",
            key=KEY,
            value=folder,
            code="too_large",
        )


def require_room(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raise ConfigError unless the disk of a folder has room for something that the user
    requested."""
    if needed > (free := free_bytes(folder)):
        need, there = told_apart(needed / MIB, free / MIB, decimals(1))
        raise ConfigError(
            f"{what} needs {need} MiB in {folder}, {there} MiB are free: {fix}", code="too_large"
        )


def list_folder(folder: Path, key: str) -> list[str]:
    """Return the names in a folder, none if it does not exist; raise ConfigError if it is a
    file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("this is a file, a folder is needed", key=key, value=folder, code="bad_value")
    try:
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", key=key, value=folder, code="unreadable"
        ) from error
