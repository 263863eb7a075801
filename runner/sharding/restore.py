"""The files that a merge writes: their bytes, piece by piece, and whether a file is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.checkpoints import byteio
from runner.checkpoints.json_fields import Listed
from runner.checkpoints.weight_files import DTYPE_BITS, INDEX, SINGLE, Tensor
from runner.core.errors import DataError, JobFailed
from runner.sharding.archive import Read
from runner.sharding.check import CheckedPart, source_headers
from runner.sharding.completeness import parts_by_tensor
from runner.sharding.manifest import MODEL_FILES, Manifest

Advance = Callable[[int], None]


class Target(Protocol):
    """A file to restore."""

    @property
    def name(self) -> str:
        """Its file name."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    @property
    def digest(self) -> str | None:
        """Its digest, where that is known."""
        ...

    def pieces(self, advance: Advance) -> Iterator[bytes | memoryview]:
        """Yield its bytes."""
        ...

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this one, finished."""
        ...


@dataclass(frozen=True)
class CopiedFile:
    """A file that is copied unchanged: config, tokenizer."""

    name: str
    nbytes: int
    path: Path
    digest: str

    def pieces(self, advance: Advance) -> Iterator[bytes | memoryview]:
        """Yield its bytes."""
        return byteio.read_range(self.path, 0, self.nbytes)

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this one."""
        return byteio.file_digest(path, byteio.algorithm_of(self.digest)) == self.digest


@dataclass(frozen=True)
class TextFile:
    """A file that is generated: the index of shards."""

    name: str
    content: bytes
    digest: str | None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return len(self.content)

    def pieces(self, advance: Advance) -> Iterator[bytes | memoryview]:
        """Yield its bytes."""
        yield self.content

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this one."""
        return byteio.file_size(path) == self.nbytes and path.read_bytes() == self.content


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a part."""

    tensor: Tensor
    read: Read
    digest: str


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file; each tensor is compared with its digest while it is written."""

    name: str
    header: bytes
    tensors: tuple[StoredTensor, ...]
    digest: str | None = None  # of the whole, where the manifest has it

    @property
    def nbytes(self) -> int:
        """Its size."""
        return len(self.header) + sum(stored.tensor.nbytes for stored in self.tensors)

    @property
    def params(self) -> int:
        """How many numbers it holds."""
        return sum(stored.tensor.params for stored in self.tensors)

    def pieces(self, advance: Advance) -> Iterator[bytes | memoryview]:
        """Yield its bytes; raise JobFailed at a tensor with a wrong digest."""
        yield self.header
        for stored in self.tensors:
            digest = byteio.Digest(byteio.algorithm_of(stored.digest))
            for piece in stored.read(stored.tensor.offset, stored.tensor.nbytes):
                digest.update(piece)
                yield piece
                digest.wait()
                advance(len(piece))
            if (found := digest.text()) != stored.digest:
                raise JobFailed(
                    f"{self.name}: tensor {stored.tensor.name} would not equal the original: {stored.digest} expected, "
                    f"{found} found ({stored.tensor.file})"
                )

    def is_at(self, path: Path) -> bool:
        """Tell whether a file has this header and these tensors."""
        if byteio.file_size(path) != self.nbytes:
            return False
        if b"".join(map(bytes, byteio.read_range(path, 0, len(self.header)))) != self.header:
            return False
        position = len(self.header)
        for stored in self.tensors:
            pieces = byteio.read_range(path, position, stored.tensor.nbytes)
            if byteio.digest_of(pieces, byteio.algorithm_of(stored.digest)) != stored.digest:
                return False
            position += stored.tensor.nbytes
        return True


def targets(manifest: Manifest, checked: list[CheckedPart]) -> list[Target]:
    """List the files to restore, from parts without problems."""
    stored = {}
    for name, places in parts_by_tensor(checked).items():
        place = places[0]  # the copies of a tied tensor are equal: the checks have compared them
        assert place.tensors is not None
        assert place.read is not None
        stored[name] = StoredTensor(place.tensors[name], place.read, place.digests[name])
    copied = [
        CopiedFile(listed.file, listed.nbytes, manifest.folder / MODEL_FILES / listed.file, str(listed.digest))
        for listed in manifest.companions
    ]
    if manifest.source_format == "bin":
        made: list[Target] = [*_from_bin(manifest, stored)]
        _require_distinct(manifest, [*copied, *made])
        return [*copied, *made]
    files = [
        WeightsFile(listed.file, file.header, tuple(stored[tensor.name] for tensor in file.tensors), listed.digest)
        for listed, file in zip(manifest.files, source_headers(manifest), strict=True)
    ]
    return [*copied, *files]


def _from_bin(manifest: Manifest, stored: dict[str, StoredTensor]) -> Iterator[Target]:
    """One safetensors file for each .bin, with an index where there are several."""
    only = len(manifest.files) == 1
    names = {listed.file: SINGLE if only else _renamed(listed) for listed in manifest.files}
    weight_map: dict[str, str] = {}
    for listed in manifest.files:
        held = tuple(stored[name] for name in listed.tensors or ())
        ordered = tuple(sorted(held, key=lambda one: (-DTYPE_BITS[one.tensor.dtype], one.tensor.name)))
        header = byteio.build_header([one.tensor for one in ordered], {"format": "pt"})
        weight_map |= {one.tensor.name: names[listed.file] for one in ordered}
        yield WeightsFile(names[listed.file], header, ordered)
    if not only:
        total = sum(stored[name].tensor.nbytes for name in weight_map)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        yield TextFile(INDEX, json.dumps(index, indent=2).encode() + b"\n")


def _renamed(listed: Listed) -> str:
    """pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors."""
    return f"{listed.file.removesuffix('.bin').replace('pytorch_model', 'model', 1)}.safetensors"


def _require_distinct(manifest: Manifest, made: list[Target]) -> None:
    names = [target.name for target in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{manifest.folder}: {', '.join(twice)} would be restored twice")
