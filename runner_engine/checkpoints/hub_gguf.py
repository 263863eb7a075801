"""Parses hub names of .gguf files in the form OWNER/MODEL:QUANT, and finds the file in a downloaded
repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runner_base import ConfigError
from runner_engine.checkpoints.model_files import GGUF_PART

NAMED = re.compile(r"([\w.-]+/[\w.-]+):([\w.-]+)", re.ASCII)
BESIDE = ("mmproj", "imatrix")  # what lies beside the model in such a repository


@dataclass(frozen=True)
class HubGgufName:
    """A hub repository and the quantization that selects one of the repository's .gguf files."""

    repository: str
    quant: str

    @property
    def download_patterns(self) -> tuple[str, ...]:
        spellings = dict.fromkeys((self.quant, self.quant.upper(), self.quant.lower()))
        return tuple(f"*{spelling}*.gguf" for spelling in spellings)

    def find_quantized_gguf_file(self, folder: Path, config_key: str) -> Path:
        """Return the .gguf file with this quantization, or the first part of a split file.

        Raises ConfigError for none or several.
        """
        exact = re.compile(rf"(^|[.\-_/]){re.escape(self.quant)}([.\-]|$)", re.I)
        found = [
            file
            for file in sorted(folder.rglob("*.gguf"))
            if exact.search(file.relative_to(folder).as_posix())
            and not any(sign in file.name for sign in BESIDE)
            and ((part := GGUF_PART.fullmatch(file.name)) is None or part["number"] == "00001")
        ]
        if len(found) != 1:
            names = ", ".join(file.relative_to(folder).as_posix() for file in found)
            has = f"has several matching files: {names}" if found else "has no .gguf file with this name"
            raise ConfigError(
                f"{self.repository} {has}",
                key=config_key,
                value=f"{self.repository}:{self.quant}",
                code="ambiguous" if found else "not_found",
            )
        return found[0]


def parse_hub_gguf_name(name: str) -> HubGgufName | None:
    """Parse OWNER/MODEL:QUANT. Returns None for names of another form."""
    found = NAMED.fullmatch(name)
    return None if found is None else HubGgufName(found[1], found[2])
