"""divergences.jsonl: how far a model is from its reference at each token, for percentiles and the
worst tokens.

One line per sample, with a checksum as samples have; the numbers are packed as those of
top_k.jsonl. A line is written before its sample; if a kill has left a line without its sample, the
next line of that index counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records.lines import GrowingFile, damaged, read_evidence
from runner.records.packed import ID, LOGPROB, NATS, packed, unpacked
from runner.scorers import Divergence
from runner_base import sealed, unsealed

DIVERGENCES = "divergences.jsonl"
WORST_TOKENS = "worst_tokens.jsonl"  # beside it, for people: the largest in their texts


@dataclass(frozen=True)
class TokenDivergences:
    """What each token of one sample has, position by position."""

    # KL(reference || this) in nats; where the reference has kept some tokens only, a lower bound
    least: array[float]
    most: array[float]  # an upper bound; empty: `least` is exact
    logprobs: array[float]  # of the text's tokens under this model
    reference: array[float]  # under the reference; empty: it did not keep them
    first: array[int]  # the token that this model would choose
    reference_first: array[int] = field(default_factory=lambda: array(ID))

    def __post_init__(self) -> None:
        sizes = {len(numbers) for numbers in (self.least, self.logprobs, self.first, self.reference_first)}
        if sizes | {len(numbers) or len(self.least) for numbers in (self.most, self.reference)} != {
            len(self.least)
        }:
            raise ValueError(f"numbers for {len(self.least)} tokens expected, found {sorted(sizes)}")

    @classmethod
    def of(
        cls, divergence: Divergence, logprobs: Sequence[float], reference: Sequence[float]
    ) -> TokenDivergences:
        """Return what a comparison has found, beside the log-probabilities of the text's tokens."""
        reference_first, first = zip(*divergence.firsts, strict=True) if divergence.firsts else ((), ())
        nats = array(NATS, divergence.least), array(NATS, divergence.most)
        return cls(
            *nats,
            array(LOGPROB, logprobs),
            array(LOGPROB, reference),
            array(ID, first),
            array(ID, reference_first),
        )


KINDS = {
    "least": NATS,
    "most": NATS,
    "logprobs": LOGPROB,
    "reference": LOGPROB,
    "first": ID,
    "reference_first": ID,
}


class DivergenceFile:
    """The file that a job appends to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DIVERGENCES
        for _ in read_evidence(self.path, unsealed, "line", True):
            pass  # an incomplete last line is cut off
        self._file = GrowingFile(self.path)

    def add(self, index: int, divergences: TokenDivergences) -> None:
        """Append a sample's line."""
        values = {name: getattr(divergences, name) for name in KINDS}
        content = {name: packed(some) for name, some in values.items() if some}
        self._file.append(sealed({"index": index, "tokens": len(divergences.least), **content}))

    def close(self) -> None:
        self._file.close()


def read_divergences(path: Path) -> dict[int, TokenDivergences]:
    """Return the lines of a job by sample; EvidenceError with file and line number for a damaged
    line."""
    return dict(_lines(path))


def _lines(path: Path) -> Iterator[tuple[int, TokenDivergences]]:
    for number, line in read_evidence(path, unsealed, f"line of {DIVERGENCES}"):
        try:
            count = int(line["tokens"])
            arrays: dict[str, Any] = {
                name: unpacked(kind, line.get(name), count) for name, kind in KINDS.items()
            }
            yield int(line["index"]), TokenDivergences(**arrays)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise damaged(path, number, f"does not say how far a sample's tokens are ({error})") from error
