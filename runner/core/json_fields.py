"""Reads typed values from a JSON file. Errors name the file, the key and the value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runner_base import DataError, format_truncated_repr
from runner_engine.checkpoints import file_io, is_plain_file_name


@dataclass(frozen=True)
class ListedFile:
    """A file entry of a manifest."""

    file: str
    nbytes: int
    digest: str | None  # ALGORITHM:HEX
    tensors: tuple[str, ...] | None = None  # of a .bin: the tensors in it


class JsonFieldReader:
    """Reads typed values of one JSON file. Errors name the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_files(self, key: str, entries: object, may_lack_digest: bool = False) -> tuple[ListedFile, ...]:
        return tuple(
            self.read_manifest_file_entry(key, self.read_object(key, entry), may_lack_digest)
            for entry in self.read_list(key, entries)
        )

    def read_manifest_file_entry(
        self, key: str, file_entry: dict[str, Any], is_digest_optional: bool = False
    ) -> ListedFile:
        """Read a file's entry in a manifest: its name, size and digest."""
        name, nbytes = file_entry.get("file"), file_entry.get("bytes")
        digest = f"sha256:{file_entry['sha256']}" if "sha256" in file_entry else file_entry.get("digest")
        if not is_plain_file_name(name):
            self.raise_error(key, "a bare file name", name)
        if type(nbytes) is not int or nbytes < 0:
            self.raise_error(key, f"the size of {name} in bytes (a whole number of at least 0)", nbytes)
        if digest is not None or not is_digest_optional:
            digest = self.read_digest(f"{key}: {name}", digest)
        tensors = file_entry.get("tensors") if type(file_entry.get("tensors")) is list else None
        names = (
            None
            if tensors is None
            else tuple(self.read_text(f"{key}: tensors of {name}", tensor) for tensor in tensors)
        )
        return ListedFile(str(name), nbytes, digest, names)

    def read_digest(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.raise_error(key, "a digest", value)
        try:
            file_io.parse_digest_algorithm(value)
        except DataError as error:
            raise DataError(f"{key}: {error}", key=self.path, code=error.code) from None
        return value

    def read_object(self, key: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.raise_error(key, "a JSON object", value)
        return dict(value)

    def read_list(self, key: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            self.raise_error(key, "a list", value)
        return list(value)

    def read_text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.raise_error(key, "text", value)
        return str(value)

    def read_non_negative_integer(self, key: str, value: object) -> int:
        """Read a non-negative whole number."""
        if type(value) is not int or value < 0:
            self.raise_error(key, "a whole number from 0", value)
        return value

    def read_counts(self, key: str, value: object) -> tuple[int, ...]:
        """Read a list of non-negative whole numbers."""
        return tuple(self.read_non_negative_integer(key, number) for number in self.read_list(key, value))

    def read_range(self, key: str, value: object) -> tuple[int, int] | None:
        """Read two whole numbers, or null."""
        if value is None:
            return None
        numbers = self.read_counts(key, value)
        if len(numbers) != 2:
            self.raise_error(key, "[first, last] or null", value)
        return numbers[0], numbers[1]

    def read_choice(self, key: str, value: object, choices: tuple[object, ...]) -> object:
        if not any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
            self.raise_error(
                key, " or ".join("null" if choice is None else str(choice) for choice in choices), value
            )
        return value

    def raise_error(self, key: str, expected: str, found: object) -> NoReturn:
        raise DataError(
            f"{key}: {expected} expected, found {format_truncated_repr(found)}", key=self.path, code="damaged"
        )
