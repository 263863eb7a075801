"""top_k.jsonl: the tokens that a job has kept at each position of its texts, for jobs that compare
their model with it.

They are the most probable ones, and some that were drawn from all others (earlier versions drew
none).

It has one line per sample, with a checksum as samples have: token ids (32 bit) and natural
logarithms (float32), position by position, compressed with zstd and encoded as base64. The total
probability of the other tokens follows from these. A line is written before its sample, so a sample
without a line means that the file was changed. If a kill has left a line without its sample, the
next line of that index counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records.lines import GrowingFile, damaged, read_evidence
from runner.records.packed import ID, LOGPROB, packed, unpacked
from runner_base import sealed, unsealed

TOP_K = "top_k.jsonl"


@dataclass(frozen=True)
class TopK:
    """The `width` most probable tokens at each position of one sample, in descending order, and
    `drawn` others."""

    width: int
    ids: array[int]
    logprobs: array[float]
    drawn: int = 0
    drawn_ids: array[int] = field(default_factory=lambda: array(ID))
    drawn_logprobs: array[float] = field(default_factory=lambda: array(LOGPROB))
    # of the text's own tokens; once, none
    scored: array[float] = field(default_factory=lambda: array(LOGPROB))

    def __post_init__(self) -> None:
        if self.width < 1 or len(self.ids) != len(self.logprobs) or len(self.ids) % self.width:
            raise ValueError(
                f"{len(self.ids)} ids and {len(self.logprobs)} logarithms in places of {self.width}"
            )
        sizes = len(self.drawn_ids), len(self.drawn_logprobs)
        if sizes != (self.drawn * self.places,) * 2:
            raise ValueError(
                f"{sizes[0]} drawn ids and {sizes[1]} logarithms in {self.places} places of {self.drawn}"
            )
        if len(self.scored) not in (0, self.places):
            raise ValueError(f"{len(self.scored)} tokens of the text in {self.places} places")

    @classmethod
    def of(
        cls,
        top: Sequence[Sequence[tuple[int, float]]],
        drawn: Sequence[Sequence[tuple[int, float]]] = (),
        scored: Sequence[float] = (),
    ) -> TopK:
        """Return the tokens that an engine has reported for each position, and the logarithms of
        the text's own."""
        width = len(drawn[0]) if drawn else 0
        return cls(len(top[0]), *_arrays(top), width, *_arrays(drawn), array(LOGPROB, scored))

    @property
    def places(self) -> int:
        """How many tokens the sample has."""
        return len(self.ids) // self.width

    def ids_by_position(self) -> list[array[int]]:
        """Return the token ids of each position, the drawn ones last."""
        return [
            self.ids[at * self.width : (at + 1) * self.width]
            + self.drawn_ids[at * self.drawn : (at + 1) * self.drawn]
            for at in range(self.places)
        ]


class TopKFile:
    """The file that a job appends to; `widths` has the samples with a line already, and its
    width."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOP_K
        self.widths = {
            int(line["index"]): line["width"] for _, line in read_evidence(self.path, unsealed, "line", True)
        }
        self._file = GrowingFile(self.path)

    def add(self, index: int, top: TopK) -> None:
        """Append a sample's line."""
        content: dict[str, Any] = {"ids": packed(top.ids), "logprobs": packed(top.logprobs)}
        if top.drawn:
            content |= {"drawn": top.drawn, "drawn_ids": packed(top.drawn_ids)}
            content |= {"drawn_logprobs": packed(top.drawn_logprobs)}
        if top.scored:
            content["scored"] = packed(top.scored)
        self._file.append(sealed({"index": index, "width": top.width, "places": top.places, **content}))
        self.widths[index] = top.width

    def close(self) -> None:
        self._file.close()


def read_top_k(path: Path) -> dict[int, TopK]:
    """Return the lines of a job by sample; EvidenceError with file and line number for a damaged
    line."""
    by_sample: dict[int, TopK] = {}
    for number, line in read_evidence(path, unsealed, "line of top_k.jsonl"):
        try:
            width, drawn = int(line["width"]), int(line.get("drawn", 0))
            ids, logprobs = _unpacked_pair(line, "", width)
            drawn_ids, drawn_logprobs = _unpacked_pair(line, "drawn_", drawn) if drawn else _arrays(())
            scored = unpacked(LOGPROB, line.get("scored"), int(line["places"]))
            by_sample[int(line["index"])] = TopK(
                width, ids, logprobs, drawn, drawn_ids, drawn_logprobs, scored
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise damaged(path, number, f"is not a sample's most probable tokens ({error})") from error
    return by_sample


def _arrays(pairs_by_position: Sequence[Sequence[tuple[int, float]]]) -> tuple[array[int], array[float]]:
    pairs = [pair for pairs_of_position in pairs_by_position for pair in pairs_of_position]
    return array(ID, [token_id for token_id, _ in pairs]), array(LOGPROB, [value for _, value in pairs])


def _unpacked_pair(line: dict[str, Any], prefix: str, width: int) -> tuple[array[int], array[float]]:
    count = width * int(line["places"])
    return unpacked(ID, line[f"{prefix}ids"], count), unpacked(LOGPROB, line[f"{prefix}logprobs"], count)
