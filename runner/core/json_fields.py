"""Reads values of known types from a JSON file; an error names the file, the key and the value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runner_base import DataError, short
from runner_engine.checkpoints import is_bare_name
from runner_engine.checkpoints.byteio import algorithm_of


@dataclass(frozen=True)
class ListedFile:
    """A file as the manifest lists it."""

    file: str
    nbytes: int
    digest: str | None  # ALGORITHM:HEX
    tensors: tuple[str, ...] | None = None  # of a .bin: the tensors in it


class Fields:
    """Reads the values of one JSON file; an error names the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, key: str, entries: object, may_lack_digest: bool = False) -> tuple[ListedFile, ...]:
        return tuple(
            self.listed(key, self.table(key, entry), may_lack_digest) for entry in self.many(key, entries)
        )

    def listed(self, key: str, values: dict[str, Any], may_lack_digest: bool = False) -> ListedFile:
        """A file with its size and its digest, or the SHA-256 in hex of a small one."""
        name, nbytes = values.get("file"), values.get("bytes")
        digest = f"sha256:{values['sha256']}" if "sha256" in values else values.get("digest")
        if not is_bare_name(name):
            self.fail(key, "a bare file name", name)
        if type(nbytes) is not int or nbytes < 0:
            self.fail(key, f"bytes of {name}, a whole number from 0,", nbytes)
        if digest is not None or not may_lack_digest:
            digest = self.digest(f"{key}: {name}", digest)
        tensors = values.get("tensors") if type(values.get("tensors")) is list else None
        names = (
            None
            if tensors is None
            else tuple(self.text(f"{key}: tensors of {name}", tensor) for tensor in tensors)
        )
        return ListedFile(str(name), nbytes, digest, names)

    def digest(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.fail(key, "a digest", value)
        try:
            algorithm_of(value)
        except DataError as error:
            raise DataError(f"{key}: {error}", key=self.path, code=error.code) from None
        return value

    def table(self, key: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(key, "a JSON object", value)
        return dict(value)

    def many(self, key: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            self.fail(key, "a list", value)
        return list(value)

    def text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.fail(key, "text", value)
        return str(value)

    def count(self, key: str, value: object) -> int:
        """A whole number, not negative."""
        if type(value) is not int or value < 0:
            self.fail(key, "a whole number from 0", value)
        return value

    def ids(self, key: str, value: object) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(self.count(key, number) for number in self.many(key, value))

    def range(self, key: str, value: object) -> tuple[int, int] | None:
        """Two whole numbers, or null."""
        if value is None:
            return None
        numbers = self.ids(key, value)
        if len(numbers) != 2:
            self.fail(key, "[first, last] or null", value)
        return numbers[0], numbers[1]

    def one_of(self, key: str, value: object, choices: tuple[object, ...]) -> object:
        """One of the choices, of the same type."""
        if not any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
            self.fail(
                key, " or ".join("null" if choice is None else str(choice) for choice in choices), value
            )
        return value

    def fail(self, key: str, expected: str, found: object) -> NoReturn:
        """Raise DataError."""
        raise DataError(f"{key}: {expected} expected, found {short(found)}", key=self.path, code="damaged")
