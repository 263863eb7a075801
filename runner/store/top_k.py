"""top_k.jsonl: the most probable tokens at each position of a job's texts, for jobs that compare their model with it.

It has one line per sample, with a checksum as samples have: token ids (32 bit) and natural logarithms (float32),
position by position, compressed with zstd and encoded as base64. The total probability of the other tokens follows from
these. A line is written before its sample, so a sample without a line means that the file was changed. If a kill has
left a line without its sample, the next line of that index counts.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.core.result import sealed, unsealed
from runner.store.lines import GrowingFile, damaged, read_evidence

TOP_K = "top_k.jsonl"
ID, LOGPROB = "I", "f"  # 4 bytes each, little-endian on all machines that torch runs on
BYTES = 4


@dataclass(frozen=True)
class TopK:
    """The `width` most probable tokens at each position of one sample, in descending order."""

    width: int
    ids: array[int]
    logprobs: array[float]

    def __post_init__(self) -> None:
        if self.width < 1 or len(self.ids) != len(self.logprobs) or len(self.ids) % self.width:
            raise ValueError(f"{len(self.ids)} ids and {len(self.logprobs)} logarithms in places of {self.width}")

    @classmethod
    def of(cls, top: Sequence[Sequence[tuple[int, float]]]) -> TopK:
        """Return the tokens that an engine has reported for each position."""
        pairs = [pair for place in top for pair in place]
        return cls(len(top[0]), array(ID, [one for one, _ in pairs]), array(LOGPROB, [value for _, value in pairs]))

    @property
    def places(self) -> int:
        """How many tokens the sample has."""
        return len(self.ids) // self.width

    def ids_by_position(self) -> list[array[int]]:
        """Return the token ids of each position."""
        return [self.ids[at : at + self.width] for at in range(0, len(self.ids), self.width)]


class TopKFile:
    """The file that a job appends to; `widths` has the samples with a line already, and its width."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOP_K
        self.widths = {
            int(line["index"]): line["width"] for _, line in read_evidence(self.path, unsealed, "line", True)
        }
        self._file = GrowingFile(self.path)

    def add(self, index: int, top: TopK) -> None:
        """Append a sample's line."""
        packed = {"ids": _packed(top.ids), "logprobs": _packed(top.logprobs)}
        self._file.append(sealed({"index": index, "width": top.width, "places": top.places, **packed}))
        self.widths[index] = top.width

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_top_k(path: Path) -> dict[int, TopK]:
    """Return the lines of a job by sample; EvidenceError with file and line number for a damaged line."""
    by_sample: dict[int, TopK] = {}
    for number, line in read_evidence(path, unsealed, "line of top_k.jsonl"):
        try:
            count = int(line["width"]) * int(line["places"])
            ids, logprobs = _unpacked(ID, line["ids"], count), _unpacked(LOGPROB, line["logprobs"], count)
            by_sample[int(line["index"])] = TopK(int(line["width"]), ids, logprobs)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise damaged(path, number, f"is not a sample's most probable tokens ({error})") from error
    return by_sample


def _packed(values: array[Any]) -> str:
    import pyarrow  # late: importing it takes tens of milliseconds

    return base64.b64encode(pyarrow.compress(values.tobytes(), codec="zstd", asbytes=True)).decode()


def _unpacked(typecode: str, text: str, count: int) -> array[Any]:
    import pyarrow

    values: array[Any] = array(typecode)
    packed = base64.b64decode(text, validate=True)
    values.frombytes(pyarrow.decompress(packed, decompressed_size=count * BYTES, codec="zstd", asbytes=True))
    return values
