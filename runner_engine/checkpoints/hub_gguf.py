"""A .gguf file of a hub, as OWNER/MODEL:QUANT names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runner_base import ConfigError

NAMED = re.compile(r"([\w.-]+/[\w.-]+):([\w.-]+)", re.ASCII)
PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
BESIDE = ("mmproj", "imatrix")  # what lies beside the model in such a repository


@dataclass(frozen=True)
class Named:
    """A repository, and which of its files is meant."""

    repository: str
    quant: str

    @property
    def patterns(self) -> tuple[str, ...]:
        """The files to fetch, as the quant is usually spelled."""
        spellings = dict.fromkeys((self.quant, self.quant.upper(), self.quant.lower()))
        return tuple(f"*{spelling}*.gguf" for spelling in spellings)

    def pick(self, folder: Path, key: str) -> Path:
        """Return the one file in a folder, or the first part of it; ConfigError if there is none,
        or if there are several."""
        exact = re.compile(rf"(^|[.\-_/]){re.escape(self.quant)}([.\-]|$)", re.I)
        found = [
            file
            for file in sorted(folder.rglob("*.gguf"))
            if exact.search(file.relative_to(folder).as_posix())
            and not any(sign in file.name for sign in BESIDE)
            and ((part := PART.search(file.name)) is None or part[1] == "00001")
        ]
        if len(found) != 1:
            names = ", ".join(file.relative_to(folder).as_posix() for file in found)
            has = f"has several such files: {names}" if found else "has no .gguf file of that name"
            raise ConfigError(
                f"{self.repository} {has}",
                key=key,
                value=f"{self.repository}:{self.quant}",
                code="ambiguous" if found else "not_found",
            )
        return found[0]


def named(name: str) -> Named | None:
    """Return what OWNER/MODEL:QUANT names; None if a name is none such."""
    found = NAMED.fullmatch(name)
    return None if found is None else Named(found[1], found[2])
