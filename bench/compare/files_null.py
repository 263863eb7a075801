"""Are the ranks of model files true? `python bench/compare/files_null.py [--draws 300] [--seed 0]`.

Model files score the same texts of unequal length. The KL of a file over a text is its tokens times the file's true KL
a token, times a part that all files share (texts that are hard for each of them) and a part of its own, both of mean 1.
The own part is *even* (lognormal, sigma 0.5), *peaked* (sigma 1: few texts hold much of the KL), *mixed* (even for
every other file, peaked for the rest, so that differences are skewed), *extreme* and *unequal* (sigma 0.5 and 0.3 for
every other file, 1.5 for the rest: a few texts which nobody has drawn hold much of the KL), or shared by four texts
that are a *family*. *Real* parts are those of five .gguf files of the embedded model on 250 texts, drawn again with
repetition. The table is that of `runner-compare --files`, from the KL of each text to the ranks, the front and the
sentences.

First, files of equal KL and size: a rank that is not that of all, or a file that is dominated, is wrong. Then files
with known differences: a range of ranks that lacks a true place is wrong, a file that is called dominated and is not,
and a sentence that says something else than the tests. With --margin a file may be dominated by a smaller one whose KL
is higher by less than the margin; here it is higher by exactly the margin, so that each such claim is wrong. The
control is the order of the estimates, without any test: it must be wrong in half of the tables of equal files.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from simulation import Drawn, Limits, Numbers, Rate, Table, begin

from runner.records.jobs import read_samples
from runner_base import Likelihood
from runner_compare.features.files.ranks import (
    KL,
    FileRow,
    FileTable,
    JobKind,
    find_tied_file_groups,
    rank_model_files_by_kl,
)
from runner_compare.model.data import Run, TableRow, TextScore
from tools.commands import jobs, printed

NARROW, EVEN, PEAKED, EXTREME = 0.3, 0.5, 1.0, 1.5  # sigma of a lognormal part
# of the files in turn
SIGMAS = {
    "peaked": (PEAKED,),
    "mixed": (EVEN, PEAKED),
    "extreme": (EVEN, EXTREME),
    "unequal": (NARROW, EXTREME),
}
SHARED = 1.0  # sigma of the part that all files share
REAL_TEXTS, MOST_TEXTS = 250, 200
FAMILY = 4  # texts
LEAST = 0.001  # nats a token
SIZE_MIB = 50.0
CONTROL = 0.5  # of the tables in which an order without a test must be wrong


@dataclass(frozen=True)
class Line:
    """What is true of the files of a table."""

    words: str
    kls: tuple[float, ...]  # nats a token
    texts: int
    kind: str
    margin: float | None = None
    sizes: tuple[float, ...] = ()  # MiB; empty: all equal

    @property
    def places(self) -> list[tuple[int, int]]:
        """The first and the last place that each file may have by the truth: equal files share
        theirs."""
        return [
            (1 + sum(other < kl for other in self.kls), len(self.kls) - sum(other > kl for other in self.kls))
            for kl in self.kls
        ]


FIVE = (2.5e-5, 4.8e-4, 4.8e-4, 1.4e-3, 5e-3)  # as five files of the embedded model


def steps(count: int, factor: float, equal: int = 1) -> tuple[float, ...]:
    """Return KLs of which each is larger by a factor than the one before, several times each."""
    return tuple(LEAST * factor ** (number // equal) for number in range(count))


EQUAL = [
    Line("5 equal files", (LEAST,) * 5, 50, "even"),
    Line("5 equal files", (LEAST,) * 5, 50, "mixed"),
    Line("5 equal files", (LEAST,) * 5, 200, "even"),
    Line("5 equal files", (LEAST,) * 5, 200, "peaked"),
    Line("5 equal files", (LEAST,) * 5, 200, "mixed"),
    Line("5 equal files", (LEAST,) * 5, 200, "families"),
    Line("5 equal files", (LEAST,) * 5, 50, "real"),
    Line("5 equal files", (LEAST,) * 5, 200, "real"),
    Line("10 equal files", (LEAST,) * 10, 200, "mixed"),
    Line("5 equal files", (LEAST,) * 5, 50, "extreme"),
    Line("5 equal files", (LEAST,) * 5, 200, "extreme"),
    Line("6 equal files", (LEAST,) * 6, 50, "unequal"),
    Line("6 equal files", (LEAST,) * 6, 200, "unequal"),
]
DIFFERENT = [
    Line("2.5e-5, 2 × 4.8e-4, 1.4e-3, 5e-3", FIVE, 200, "even"),
    Line("2.5e-5, 2 × 4.8e-4, 1.4e-3, 5e-3", FIVE, 200, "mixed"),
    Line("2.5e-5, 2 × 4.8e-4, 1.4e-3, 5e-3", FIVE, 200, "real"),
    Line("5 files, each 30 % more", steps(5, 1.3), 200, "real"),
    Line("5 files, each 30 % more", steps(5, 1.3), 1000, "real"),
    Line("7 files, each 10 % more", steps(7, 1.1), 200, "even"),
    Line("7 files, each 10 % more", steps(7, 1.1), 200, "mixed"),
    Line("7 files, each 30 % more", steps(7, 1.3), 200, "mixed"),
    Line("12 files, two of each, 25 % more", steps(12, 1.25, 2), 200, "even"),
    Line("6 files, each twice as far", steps(6, 2), 200, "unequal"),
]
MARGIN = [
    Line("3 files, --margin 0.001nats", (0.001, 0.002, 0.003), 200, kind, 0.001, (50.0, 40.0, 30.0))
    for kind in ("even", "mixed", "real")
]


@dataclass
class Outcome:
    """What one table said."""

    is_wrong_rank: bool  # a range of ranks lacks a true place
    is_wrong_front: bool  # a file is called dominated and is not
    is_wrong_tie: bool  # a sentence does not tell apart what a test has told apart
    is_untested: bool  # ranges do not overlap though no test has told the files apart
    is_wrong_order: bool  # the control: an order of the estimates that is not the true one
    told_apart: int  # pairs of truly different files that ranges or tests tell apart
    width: float  # places in a range, on average


def real_texts() -> tuple[Numbers, Numbers]:
    """Return the KL of five files of the embedded model over each text, as shares of their means,
    and the tokens."""
    files, tokens = [], np.empty(0)
    with tempfile.TemporaryDirectory() as folder:
        place, here = Path(folder), os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        printed("tools.embedded_gguf", "models", cwd=place, env=here)
        keys = f"-m files=models task=likelihood task.limit={REAL_TEXTS} tracking=none workers=1"
        for job in jobs(*keys.split(), cwd=place, env=here):
            samples = read_samples(Path(job["output_dir"]) / "samples.jsonl")
            texts = [it for index in sorted(samples) if (it := samples[index].likelihood) is not None]
            tokens = np.array([it.tokens for it in texts], dtype=np.float64)
            if texts[0].kl_nats is not None:
                kls = np.array([it.kl_nats for it in texts], dtype=np.float64)
                files.append(kls / kls.sum() * tokens.sum())
    return np.array(files), tokens


def draw(
    generator: np.random.Generator, line: Line, real: tuple[Numbers, Numbers] | None = None
) -> tuple[Numbers, Numbers, list[str | None]]:
    """Return the KL of each file over each text [files, texts], the tokens, and the family of each
    text."""
    count, texts = len(line.kls), line.texts
    if line.kind == "real":
        assert real is not None
        chosen = generator.integers(len(real[1]), size=texts)
        return (np.array(line.kls)[:, None] * real[0][:count, chosen], real[1][chosen], [None] * texts)
    tokens = np.clip(generator.lognormal(4.2, 0.5, texts), 5, 500).round()
    in_families = line.kind == "families"
    drawn = texts // FAMILY if in_families else texts
    sigmas = np.array(SIGMAS.get(line.kind, (EVEN,)) * count)[:count, None]
    own = np.exp(sigmas * generator.standard_normal((count, drawn)) - sigmas**2 / 2)
    shared = np.exp(SHARED * generator.standard_normal(drawn) - SHARED**2 / 2)
    parts = np.repeat(own * shared, FAMILY, axis=1) if in_families else own * shared
    families = [f"family {at // FAMILY}" if in_families else None for at in range(texts)]
    return np.array(line.kls)[:, None] * parts * tokens, tokens, families


def table_of(
    kls: Numbers,
    tokens: Numbers,
    families: Sequence[str | None],
    sizes: Sequence[float],
    margin: float | None,
) -> FileTable:
    """Return the product's table of files with these KLs, after a reference."""
    reader, rows, counts = Drawn(), [], tokens.astype(int).tolist()
    for place, nats in enumerate([np.zeros(len(tokens)), *kls]):
        name, is_reference = f"file-{place - 1}", place == 0
        size = 4 * SIZE_MIB if is_reference else sizes[place - 1]
        metrics = {"file_mib": size, "model_mib": size} | (
            {} if is_reference else {KL: float(nats.sum() / sum(counts))}
        )
        run = Run(name, name, "likelihood", "1", "", {}, metrics)
        rows.append(FileRow(name, {JobKind.likelihood: TableRow(run, {})}, is_reference))
        reader.of_texts[name] = {
            at: TextScore(
                ("question", "gold"), "prompt", (), likelihood_of(at, count, kl, is_reference), family
            )
            for at, (count, kl, family) in enumerate(zip(counts, nats.tolist(), families, strict=True))
        }
    table = FileTable(rows, {}, margin=margin)
    rank_model_files_by_kl(table, reader)
    return table


def likelihood_of(at: int, tokens: int, kl: float, is_reference: bool) -> Likelihood:
    """Return the likelihood of a text with such a KL."""
    return Likelihood(at, -0.1 * tokens, tokens, tokens, tokens, tokens, kl_nats=None if is_reference else kl)


def outcome_of(
    generator: np.random.Generator, line: Line, real: tuple[Numbers, Numbers] | None = None
) -> Outcome:
    """Draw a table, and judge what it says by what is true."""
    kls, tokens, families = draw(generator, line, real)
    sizes = line.sizes or (SIZE_MIB,) * len(line.kls)
    table = table_of(kls, tokens, families, sizes, line.margin)
    files = sorted(
        (it for it in table.files if not it.is_reference), key=lambda it: int(it.name.removeprefix("file-"))
    )
    ranks = [it.kl_rank or (0, 0) for it in files]
    truth, margin = line.kls, line.margin or 0.0
    wrong_front = [
        truth[int(by.removeprefix("file-"))] - margin * (sizes[int(by.removeprefix("file-"))] < sizes[place])
        >= kl
        for place, kl in enumerate(truth)
        for by in files[place].dominated_by
        if by != "file--1"
    ]
    told = {
        (one, other)
        for one, other in combinations(range(len(files)), 2)
        if files[other].name in files[one].closer_than or files[one].name in files[other].closer_than
    }
    tied = {
        tuple(sorted(int(it.removeprefix("file-")) for it in pair))
        for group in find_tied_file_groups(table)
        for pair in combinations(group, 2)
    }
    separate = {
        (one, other)
        for one, other in combinations(range(len(files)), 2)
        if ranks[one][1] < ranks[other][0] or ranks[other][1] < ranks[one][0]
    }
    pairs = {*combinations(range(len(files)), 2)}
    estimates = kls.sum(axis=1)
    return Outcome(
        any(low > true_low or high < true_high
            for (low, high), (true_low, true_high) in zip(ranks, line.places, strict=True)),
        any(wrong_front),
        bool(tied & told) or (tied | told) != pairs,
        not separate <= told,
        len({*truth}) < len(truth) or bool((np.argsort(estimates) != np.argsort(truth)).any()),
        sum(truth[one] != truth[other] for one, other in told),
        sum(high - low + 1 for low, high in ranks) / len(ranks),
    )  # fmt: skip


def rates(
    generator: np.random.Generator, line: Line, draws: int, real: tuple[Numbers, Numbers] | None = None
) -> tuple[dict[str, Rate], float, float]:
    """Return how often a table is wrong in each way, the share of different pairs told apart, and a
    range's width."""
    outcomes = [outcome_of(generator, line, real) for _ in range(draws)]
    counted = {
        "rank": [it.is_wrong_rank for it in outcomes],
        "front": [it.is_wrong_front for it in outcomes],
        "sentence": [it.is_wrong_tie or it.is_untested for it in outcomes],
        "control": [it.is_wrong_order for it in outcomes],
    }
    different = sum(one != other for one, other in combinations(line.kls, 2))
    power = sum(it.told_apart for it in outcomes) / (draws * different) if different else 0.0
    width = sum(it.width for it in outcomes) / draws
    return {name: Rate(sum(column), draws) for name, column in counted.items()}, power, width


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded, a sentence is wrong, or the control is not
    wrong often."""
    (given, generator, started), limits = begin("files_null", __doc__, 300, "draws"), Limits()
    heads = f"{'true KL':34}", "texts", "own part", "a rank is wrong %", "the front is wrong %"
    more_heads = "a sentence contradicts %", "by estimates, wrong %", "told apart", "places"
    table, real, failed = Table("of the tables", *heads, *more_heads), real_texts(), 0
    for line in (*EQUAL, *DIFFERENT, *MARGIN):
        is_costly = len(line.kls) > len(FIVE) or line.texts > MOST_TEXTS
        draws = -(-given // 4) if is_costly and line not in EQUAL else given
        found, power, width = rates(generator, line, draws, real)
        columns = (found[name] for name in ("rank", "front", "sentence", "control"))
        told_apart = f"{power:.0%}" if len({*line.kls}) > 1 else ""
        table.row(line.words, line.texts, line.kind, *columns, told_apart, f"{width:.1f}")
        limits.false += [found["rank"], found["front"]]
        failed += found["sentence"].times > 0 or (line in EQUAL and found["control"].low < CONTROL)
    print(f"\nlines with a wrong sentence or control: {failed}")
    return limits.conclude(started) or int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
