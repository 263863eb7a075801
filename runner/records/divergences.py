"""divergences.jsonl: a model's divergence from its reference at each token, for percentiles and
worst tokens.

One line per sample, with a checksum as samples have; the numbers are packed like those of
top_k.jsonl. A line is written before its sample; if a kill has left a line without its sample,
the next line of that index counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records.jsonl_files import AppendOnlyFile, damaged_line_error, read_lines
from runner.records.packed_arrays import ID, LOGPROB, NATS, pack_array, unpack_array
from runner.scorers import Divergence
from runner_base import dump_signed_line, parse_signed_line

DIVERGENCES = "divergences.jsonl"
WORST_TOKENS = "worst_tokens.jsonl"  # beside it, for people: the largest in their texts


@dataclass(frozen=True)
class TokenDivergences:
    """Divergences, log-probabilities and most probable tokens at each position of one sample.

    Divergences are exact, or lower and upper bounds.
    """

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
            raise ValueError(
                f"all arrays need one value per token, but their lengths differ: {sorted(sizes)}"
            )

    @classmethod
    def from_divergence_and_logprobs(
        cls, sample_divergence: Divergence, logprobs: Sequence[float], reference_logprobs: Sequence[float]
    ) -> TokenDivergences:
        reference_first, first = (
            zip(*sample_divergence.firsts, strict=True) if sample_divergence.firsts else ((), ())
        )
        nats = array(NATS, sample_divergence.least), array(NATS, sample_divergence.most)
        return cls(
            *nats,
            array(LOGPROB, logprobs),
            array(LOGPROB, reference_logprobs),
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
    """File divergences.jsonl, to which a job appends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DIVERGENCES
        for _ in read_lines(self.path, parse_signed_line, "line", True):
            pass  # an incomplete last line is cut off
        self._file = AppendOnlyFile(self.path)

    def append_sample(self, index: int, divergences: TokenDivergences) -> None:
        values = {name: getattr(divergences, name) for name in KINDS}
        content = {name: pack_array(some) for name, some in values.items() if some}
        self._file.append_line(
            dump_signed_line({"index": index, "tokens": len(divergences.least), **content})
        )

    def close(self) -> None:
        self._file.close()


def read_divergences(path: Path) -> dict[int, TokenDivergences]:
    """Return a job's token divergences by sample. Raises RunRecordError with file and line for a
    damaged line.
    """
    return dict(_read_lines(path))


def _read_lines(path: Path) -> Iterator[tuple[int, TokenDivergences]]:
    for number, line in read_lines(path, parse_signed_line, f"line of {DIVERGENCES}"):
        try:
            count = int(line["tokens"])
            arrays: dict[str, Any] = {
                name: unpack_array(kind, line.get(name), count) for name, kind in KINDS.items()
            }
            yield int(line["index"]), TokenDivergences(**arrays)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise damaged_line_error(
                path, number, f"the line is not a record of token divergences ({error})"
            ) from error
