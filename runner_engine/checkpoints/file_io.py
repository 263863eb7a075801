"""Reads, hashes and writes large files in pieces. Writes are atomic.

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

from runner_base import (
    MIB,
    ConfigError,
    DataError,
    JobFailed,
    convert_write_error,
    fixed_decimals_formatter,
    format_value_and_limit,
    os_errors_as_data_error,
)
from runner_engine.checkpoints.weight_files import DTYPE_BITS, TensorLocation

KEY = "task.output_dir"  # the key of every folder that this file writes to
CHUNK_BYTES = 256 * 1024  # fits into the processor's cache
ALGORITHMS = ("xxh3_128", "sha256")
SLOW_BYTES = 64 * 1024  # SHA-256 of more than this is computed in a thread

Pieces = Iterable[bytes | memoryview]  # of a file, one after the other


def read_range(
    path: Path, offset: int, nbytes: int, buffer: memoryview | None = None
) -> Iterator[memoryview]:
    """Yield a byte range of a file in pieces.

    Each piece is valid only until the next piece is read.
    """
    buffer = memoryview(bytearray(min(CHUNK_BYTES, nbytes))) if buffer is None else buffer
    with os_errors_as_data_error(path), path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        while nbytes > 0:
            count = stream.readinto(buffer[:nbytes])
            if not count:
                raise DataError(
                    f"the file ended while it was being read; {nbytes} bytes are missing",
                    key=path,
                    code="damaged",
                )
            nbytes -= count
            yield buffer[:count]


def read_tensor_pieces(tensor: TensorLocation, buffer: memoryview | None = None) -> Iterator[memoryview]:
    """Yield a tensor's bytes in pieces, in row-major order as safetensors files require."""
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
    """An incremental hash. Slow algorithms run in a separate thread, in parallel with the caller's I/O."""

    def __init__(self, algorithm: str) -> None:
        import xxhash

        self.algorithm = algorithm
        self._hash: Any = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
        # starts its thread with the first task
        self._pool = ThreadPoolExecutor(1) if algorithm == "sha256" else None
        self._pending: Future[None] | None = None

    def update(self, piece: bytes | memoryview) -> None:
        """Start hashing a piece, perhaps in another thread. The caller must not change the piece
        until `wait` returns.
        """
        self.wait()
        if self._pool is not None and len(piece) > SLOW_BYTES:
            self._pending = self._pool.submit(self._hash.update, piece)
        else:
            self._hash.update(piece)

    def wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def format_digest(self) -> str:
        """Return the digest of all pieces in the form ALGORITHM:HEX."""
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()
        return f"{self.algorithm}:{self._hash.hexdigest()}"


def hash_while_reading(pieces: Pieces, digest: Digest) -> Iterator[bytes | memoryview]:
    """Yield pieces and hash them.

    The next piece may reuse the buffer, so each piece is hashed before the next is read.
    """
    for piece in pieces:
        digest.update(piece)
        yield piece
        digest.wait()


def parse_digest_algorithm(digest: str) -> str:
    """Return the algorithm of a digest in the form ALGORITHM:HEX. Raises DataError for any other form."""
    algorithm, _, rest = digest.partition(":")
    if algorithm not in ALGORITHMS or not rest:
        names = " or ".join(f"{name}:…" for name in ALGORITHMS)
        raise DataError(f"invalid digest {digest!r}. Expected {names}", code="damaged")
    return algorithm


def hash_pieces(pieces: Pieces, algorithm: str, on_progress: Callable[[int], None] | None = None) -> str:
    digest = Digest(algorithm)
    for piece in hash_while_reading(pieces, digest):
        if on_progress is not None:
            on_progress(len(piece))
    return digest.format_digest()


def hash_file(path: Path, algorithm: str, on_progress: Callable[[int], None] | None = None) -> str:
    return hash_pieces(read_range(path, 0, get_file_nbytes(path)), algorithm, on_progress)


def hash_file_sha256(path: Path) -> str:
    return hash_file(path, "sha256").partition(":")[2]


def get_file_nbytes(path: Path) -> int:
    """Return a file's size in bytes. Raises DataError if the file cannot be read."""
    with os_errors_as_data_error(path):
        return path.stat().st_size


def build_safetensors_header(tensors: Iterable[TensorLocation], metadata: dict[str, str]) -> bytes:
    """Build the header of a safetensors file with these tensors in this order, padded to a multiple
    of 8 bytes.
    """
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for tensor in tensors:
        offsets = [position, position := position + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def sort_safetensors_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file in place, because safetensors writes it
    in random order.
    """
    with os_errors_as_data_error(path), path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries: dict[str, Any] = json.loads(stream.read(length))
        metadata = entries.get("__metadata__", {})
        if [*metadata] == sorted(metadata):
            return
        entries["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:  # the library would have written it shorter
            raise DataError(
                "the header contains spaces or escapes, which the safetensors library never writes",
                key=path,
                code="damaged",
            )
        stream.seek(8)
        stream.write(text.ljust(length))


def iter_safetensors_file_bytes(
    header: bytes,
    tensors: Iterable[TensorLocation],
    on_progress: Callable[[int], None],
    hashes: dict[str, str],
    algorithm: str,
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file, and store the digest of each tensor in `hashes`."""
    yield header
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for tensor in tensors:
        digest = Digest(algorithm)
        for piece in hash_while_reading(read_tensor_pieces(tensor, buffer), digest):
            yield piece
            on_progress(len(piece))
        hashes[tensor.name] = digest.format_digest()


def write_file_atomically_with_digest(
    target: Path, pieces: Pieces, algorithm: str, expected_digest: str | None = None, durable: bool = False
) -> str:
    """Write a file atomically and return its digest.

    Raises JobFailed if the digest differs from `expected_digest`. `durable` waits until the disk
    has stored the file; otherwise a power cut may truncate the file.
    """
    partial = target.with_name(target.name + ".tmp")
    digest = Digest(algorithm)
    try:
        partial.unlink(missing_ok=True)  # left by a kill; writing into a link would change its file
        with partial.open("xb") as stream:  # pieces as large as ours bypass its buffer
            for piece in hash_while_reading(pieces, digest):
                stream.write(piece)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        text = digest.format_digest()
        if expected_digest not in (None, text):
            raise JobFailed(
                f"{target} would differ from the original: its digest is {text} instead of {expected_digest}",
                code="mismatch",
            )
        partial.replace(target)
    except OSError as error:
        raise convert_write_error(target, error, KEY) from error
    finally:
        partial.unlink(missing_ok=True)  # it was moved after a success
    return text


def write_file_atomically(
    target: Path, pieces: Pieces, expected_sha256: str | None = None, durable: bool = True
) -> str:
    """Write a file atomically and return its SHA-256 in hex."""
    expected = None if expected_sha256 is None else f"sha256:{expected_sha256}"
    return write_file_atomically_with_digest(target, pieces, "sha256", expected, durable=durable).partition(
        ":"
    )[2]


def write_json_atomically(target: Path, content: object, durable: bool = True) -> str:
    """Write indented JSON atomically and return its SHA-256 in hex."""
    return write_file_atomically(target, [json.dumps(content, indent=1).encode() + b"\n"], durable=durable)


def create_folder(folder: Path) -> None:
    """Create a folder and its parents. On failure, raise an error with a message for users."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise convert_write_error(folder, error, KEY) from error


def get_free_disk_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def require_disk_space(folder: Path, required_bytes: int) -> None:
    """Raise JobFailed if the disk of a folder has too little free space. The folder need not exist yet."""
    if required_bytes > (free := get_free_disk_bytes(folder)):
        need, there = format_value_and_limit(required_bytes / MIB, free / MIB, fixed_decimals_formatter(1))
        raise JobFailed(
            f"the disk has {there} MiB free, but {need} MiB are needed. Nothing was written",
            key=KEY,
            value=folder,
            code="too_large",
        )


def check_user_disk_space(folder: Path, required_bytes: int, description: str, fix: str) -> None:
    """Raise ConfigError if the disk of a folder has too little free space for files that the config requires.

    The message contains `description` and `fix`.
    """
    if required_bytes > (free := get_free_disk_bytes(folder)):
        need, there = format_value_and_limit(required_bytes / MIB, free / MIB, fixed_decimals_formatter(1))
        raise ConfigError(
            f"{description} needs {need} MiB in {folder}, but only {there} MiB are free: {fix}",
            code="too_large",
        )


def list_file_names_in_folder(folder: Path, config_key: str) -> list[str]:
    """Return the sorted names of the files in a folder. A missing folder counts as empty.

    Raises ConfigError if the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the path is a file. Give a folder", key=config_key, value=folder, code="bad_value")
    try:
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", key=config_key, value=folder, code="unreadable"
        ) from error
