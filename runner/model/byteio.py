"""Copy and write files in pieces: ranges read, safetensors files put together, all hashed, each in one step.

Copying needs a buffer of a few MiB, whatever the size of the model; torch and safetensors are not imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, DataError, JobFailed, cannot_write
from runner.model.checkpoint import Tensor

CHUNK_BYTES = 4 * 1024 * 1024


def read_range(path: Path, offset: int, nbytes: int) -> Iterator[memoryview]:
    """Yield the bytes of a range piece by piece; each piece is valid until the next one."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, nbytes)))
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            while nbytes > 0:
                count = stream.readinto(buffer[:nbytes])
                if not count:
                    raise DataError(f"{path}: ended while it was being read, {nbytes} bytes short")
                nbytes -= count
                yield buffer[:count]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from error


def build_header(tensors: Iterable[Tensor], metadata: dict[str, str]) -> bytes:
    """Return the header of a file that holds these tensors one after the other, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for tensor in tensors:
        offsets = [position, position := position + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(
    header: bytes,
    tensors: Iterable[Tensor],
    advance: Callable[[int], None],
    hashes: dict[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield a whole safetensors file, header first; fills `hashes` with the SHA-256 of each tensor."""
    yield header
    for tensor in tensors:
        digest = hashlib.sha256()
        for piece in read_range(tensor.file, tensor.offset, tensor.nbytes):
            if hashes is not None:
                digest.update(piece)
            yield piece
            advance(len(piece))
        if hashes is not None:
            hashes[tensor.name] = digest.hexdigest()


def file_sha256(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    for piece in read_range(path, 0, path.stat().st_size):
        digest.update(piece)
        advance(len(piece))
    return digest.hexdigest()


def write_file(target: Path, pieces: Iterable[bytes | memoryview], expected_sha256: str | None = None) -> str:
    """Write a file in one step as its readers see it, and return its SHA-256.

    The bytes go through memory because they are hashed anyway: a copy inside the kernel would save nothing.
    """
    partial = target.with_name(target.name + ".tmp")
    digest = hashlib.sha256()
    try:
        with partial.open("wb", buffering=0) as stream:
            for piece in pieces:
                digest.update(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        sha256 = digest.hexdigest()
        if expected_sha256 not in (None, sha256):
            raise JobFailed(f"{target} would not equal the original: sha256 {expected_sha256} expected, {sha256} found")
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error, "task.output_dir") from error
    finally:
        partial.unlink(missing_ok=True)  # no longer there after a success
    return sha256


def write_json(target: Path, values: object) -> str:
    """Write values as indented JSON in one step, and return the SHA-256."""
    return write_file(target, [json.dumps(values, indent=1).encode() + b"\n"])


def make_folder(folder: Path) -> None:
    """Create a folder and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, "task.output_dir") from error


def require_space(folder: Path, needed_bytes: int, key: str = "task.output_dir") -> None:
    """Raise JobFailed unless the disk that folder is or will be on has room for that many bytes."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < needed_bytes:
        need, free = needed_bytes / 2**20, free_bytes / 2**20
        raise JobFailed(f"{key}={folder}: {need:,.1f} MiB needed, {free:,.1f} MiB free. Nothing was written")


def list_folder(folder: Path, key: str) -> list[str]:
    """Names in a folder, none when it does not exist; a file in its place is an error."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}={folder}: this is a file, a folder is needed")
    try:
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise ConfigError(f"{key}={folder}: cannot be read ({error.strerror})") from error
