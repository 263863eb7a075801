"""Reads and writes top_k.jsonl: top-k tokens per position, for comparisons with other models.

The file has the most probable tokens, and some drawn at random from all others (earlier
versions drew none).

It has one line per sample, with a checksum as samples have: token ids (32 bit) and natural
logarithms (float32), position by position, compressed with zstd and encoded as base64. The
total probability of the other tokens follows from these. A line is written before its
sample, so a sample without a line means that the file was changed. If a kill has left a
line without its sample, the next line of that index counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records.jsonl_files import AppendOnlyFile, damaged_line_error, read_lines
from runner.records.packed_arrays import ID, LOGPROB, pack_array, unpack_array
from runner_base import dump_signed_line, parse_signed_line

TOP_K = "top_k.jsonl"


@dataclass(frozen=True)
class TopK:
    """The most probable tokens at each position of a sample, most probable first.

    Each position has `width` such tokens, and `drawn` tokens sampled from all others.
    """

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
                f"expected {self.width} token ids and {self.width} log-probabilities per position, found "
                f"{len(self.ids)} and {len(self.logprobs)} in total"
            )
        sizes = len(self.drawn_ids), len(self.drawn_logprobs)
        if sizes != (self.drawn * self.num_positions,) * 2:
            raise ValueError(
                f"expected {self.drawn} sampled tokens per position ({self.num_positions} positions), found "
                f"{sizes[0]} ids and {sizes[1]} log-probabilities"
            )
        if len(self.scored) not in (0, self.num_positions):
            raise ValueError(
                f"expected {self.num_positions} log-probabilities of the document, found {len(self.scored)}"
            )

    @classmethod
    def from_engine_tokens(
        cls,
        top_tokens: Sequence[Sequence[tuple[int, float]]],
        sampled_tokens: Sequence[Sequence[tuple[int, float]]] = (),
        document_logprobs: Sequence[float] = (),
    ) -> TopK:
        width = len(sampled_tokens[0]) if sampled_tokens else 0
        return cls(
            len(top_tokens[0]),
            *_to_arrays(top_tokens),
            width,
            *_to_arrays(sampled_tokens),
            array(LOGPROB, document_logprobs),
        )

    @property
    def num_positions(self) -> int:
        return len(self.ids) // self.width

    def ids_by_position(self) -> list[array[int]]:
        return [
            self.ids[at * self.width : (at + 1) * self.width]
            + self.drawn_ids[at * self.drawn : (at + 1) * self.drawn]
            for at in range(self.num_positions)
        ]


class TopKFile:
    """File top_k.jsonl of a job. `widths` maps each sample to its number of stored tokens per position."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOP_K
        self.widths = {
            int(line["index"]): line["width"]
            for _, line in read_lines(self.path, parse_signed_line, "line", True)
        }
        self._file = AppendOnlyFile(self.path)

    def append_sample(self, index: int, top: TopK) -> None:
        content: dict[str, Any] = {"ids": pack_array(top.ids), "logprobs": pack_array(top.logprobs)}
        if top.drawn:
            content |= {"drawn": top.drawn, "drawn_ids": pack_array(top.drawn_ids)}
            content |= {"drawn_logprobs": pack_array(top.drawn_logprobs)}
        if top.scored:
            content["scored"] = pack_array(top.scored)
        self._file.append_line(
            dump_signed_line({"index": index, "width": top.width, "places": top.num_positions, **content})
        )
        self.widths[index] = top.width

    def close(self) -> None:
        self._file.close()


def read_top_k_file(path: Path) -> dict[int, TopK]:
    """Return a job's stored top-k tokens by sample. Raises RunRecordError for a damaged line."""
    by_sample: dict[int, TopK] = {}
    for number, line in read_lines(path, parse_signed_line, "line of top_k.jsonl"):
        try:
            width, drawn = int(line["width"]), int(line.get("drawn", 0))
            ids, logprobs = _unpack_pair(line, "", width)
            drawn_ids, drawn_logprobs = _unpack_pair(line, "drawn_", drawn) if drawn else _to_arrays(())
            scored = unpack_array(LOGPROB, line.get("scored"), int(line["places"]))
            by_sample[int(line["index"])] = TopK(
                width, ids, logprobs, drawn, drawn_ids, drawn_logprobs, scored
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise damaged_line_error(
                path, number, f"the line is not a record of most probable tokens ({error})"
            ) from error
    return by_sample


def _to_arrays(pairs_by_position: Sequence[Sequence[tuple[int, float]]]) -> tuple[array[int], array[float]]:
    pairs = [pair for pairs_of_position in pairs_by_position for pair in pairs_of_position]
    return array(ID, [token_id for token_id, _ in pairs]), array(LOGPROB, [value for _, value in pairs])


def _unpack_pair(line: dict[str, Any], prefix: str, width: int) -> tuple[array[int], array[float]]:
    count = width * int(line["places"])
    return unpack_array(ID, line[f"{prefix}ids"], count), unpack_array(
        LOGPROB, line[f"{prefix}logprobs"], count
    )
