"""The table of model files: how jobs are joined, which ranks of KL a test backs, and which files
are on the front."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from raising import raises

from runner_base.errors import ConfigError
from runner_base.result import Likelihood
from runner_compare.features.files.compute import compare_model_files
from runner_compare.features.files.ranks import (
    FileTable,
    JobKind,
    compute_lower_kl_p_value,
    find_non_inferior_pairs,
    find_significantly_lower_kl_pairs,
    find_tied_file_groups,
)
from runner_compare.features.files.render import (
    build_file_columns,
    build_file_records,
    format_file_legend,
    format_model_file_sentences,
)
from runner_compare.model.data import Run, Texts, TextScore
from runner_compare.reader import Reader
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.ratios import compute_paired_p_value

TEXTS = 120
DRAW = Random(0)
TOKENS = [DRAW.randint(5, 40) for _ in range(TEXTS)]


def kl_of(mean: float, seed: int) -> list[float]:
    """Return the KL over each text: the mean a token, with noise between texts."""
    draw = Random(seed)
    return [tokens * mean * draw.uniform(0.5, 1.5) for tokens in TOKENS]


class Likelihoods(Reader):
    """What the table reads of the runs: likelihoods with a KL."""

    def __init__(self) -> None:
        super().__init__()
        self.kls: dict[str, Sequence[float] | None] = {}

    def load_text_scores(self, run: Run) -> Texts:
        kls = self.kls[run.run_id]
        return {
            at: TextScore(
                (f"q{at}", "a"), "p", (1,) * tokens, self.likelihood(at, tokens, kls[at] if kls else None)
            )
            for at, tokens in enumerate(TOKENS)
        }

    @staticmethod
    def likelihood(at: int, tokens: int, kl: float | None) -> Likelihood:
        return Likelihood(at, -0.1 * tokens - (kl or 0.0), tokens, tokens, tokens, tokens, kl_nats=kl,
                          truncation_nats=None if kl is None else 0.0, top_1_agreed=None if kl is None else tokens)  # fmt: skip


class Files:
    """Runs of some model files."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.reader: Any = Likelihoods()

    def add(
        self,
        name: str,
        sha: str,
        kl: Sequence[float] | None,
        mib: float,
        *,
        speed: float = 10.0,
        params: dict[str, str] | None = None,
    ) -> None:
        """Add a likelihood and a sweep of a file."""
        own = {"model.name": name, "quantization.name": "gguf", "task.limit": "120"} | (params or {})
        facts = {"model_sha256": sha} | ({} if kl is None else {"reference": "x · likelihood-000000000000"})
        parts = [
            Likelihoods.likelihood(at, tokens, kl[at] if kl else None) for at, tokens in enumerate(TOKENS)
        ]
        number = len(self.runs)
        job_id = "likelihood-000000000000" if kl is None else f"likelihood-{number}"
        metrics = compute_likelihood_metrics(parts) | {"file_mib": mib, "model_mib": mib + 1}
        self.runs.append(Run(f"l{number}", job_id, "likelihood", "1", "", own, metrics, facts=facts))
        self.reader.kls[f"l{number}"] = kl
        cells = {
            "decode_tok_per_s/batch_1_prompt_64": speed,
            "decode_tok_per_s/batch_32_prompt_64": 10 * speed,
        }
        measured = cells | {"file_mib": mib, "model_mib": mib + 2, "load_s": 1.5}
        self.runs.append(Run(f"s{number}", f"sweep-{number}", "sweep", "1", "", own, measured, facts=facts))

    def table(self, **options: Any) -> FileTable:
        return compare_model_files(self.runs, self.reader, **options)


TIED = "KL divergence does not differ significantly between these files"


@pytest.fixture
def files() -> Files:
    """Return a reference, two files that differ in KL, one of the same KL, and a larger one with a
    higher KL."""
    made = Files()
    made.add("/m/full.gguf", "00", None, 100)
    made.add("/m/q8.gguf", "11", kl_of(0.001, 1), 50)
    made.add("/m/q4.gguf", "22", kl_of(0.01, 2), 25)
    made.add("/m/q4_other.gguf", "33", kl_of(0.01, 3), 26, speed=20.0)
    made.add("/m/bad.gguf", "44", kl_of(0.05, 4), 60)
    return made


def test_ranks_overlap_where_no_test_tells_files_apart(files: Files) -> None:
    table = files.table()
    assert [it.name for it in table.files][:2] == ["full.gguf", "q8.gguf"]
    ranks = {it.name: it.kl_rank for it in table.files}
    assert ranks == {
        "full.gguf": None, "q8.gguf": (1, 1), "q4.gguf": (2, 3), "q4_other.gguf": (2, 3), "bad.gguf": (4, 4),
    }  # fmt: skip
    said = format_model_file_sentences(table)
    tied = next(line for line in said if line.startswith(TIED))
    assert tied.count("q4") == 2
    assert "bad" not in tied
    assert {*table.files[1].closer_than} == {"q4.gguf", "q4_other.gguf", "bad.gguf"}
    assert "dominated: bad.gguf by q8.gguf, q4.gguf, q4_other.gguf" in said
    assert (
        "Pareto front of bytes, memory and KL divergence: full.gguf, q8.gguf, q4.gguf, q4_other.gguf" in said
    )


def test_files_that_a_test_has_told_apart_are_in_no_group_together() -> None:
    made = Files()
    made.add("/m/full.gguf", "00", None, 100)
    low, high = kl_of(0.01, 1), kl_of(0.0125, 2)
    made.add("/m/low.gguf", "11", low, 50)
    made.add(
        "/m/between.gguf",
        "22",
        [sum(pair) / 2 + (-1) ** at * 0.3 for at, pair in enumerate(zip(low, high, strict=True))],
        50,
    )
    made.add("/m/high.gguf", "33", high, 50)
    table = made.table()
    ranks = {it.name: it.kl_rank for it in table.files if it.kl_rank}
    assert ranks == {"low.gguf": (1, 2), "between.gguf": (1, 3), "high.gguf": (2, 3)}, "ranges of all overlap"
    assert find_tied_file_groups(table) == [["low.gguf", "between.gguf"], ["between.gguf", "high.gguf"]]
    said = next(line for line in format_model_file_sentences(table) if line.startswith(TIED))
    assert said == f"{TIED}: low.gguf, between.gguf; between.gguf, high.gguf"
    assert {it["file"]: it["closer_than"] for it in build_file_records(table)}["low.gguf"] == ["high.gguf"]


def test_a_margin_lets_a_smaller_file_dominate_and_a_tolerance_counts_speed(files: Files) -> None:
    by_name = {it.name: it for it in files.table(margins={"log_likelihood": 0.02}).files}
    assert by_name["full.gguf"].on_front is False, "a quarter of the size is worth 0.01 nats"
    assert by_name["q4.gguf"].on_front
    assert by_name["q4_other.gguf"].dominated_by == ["q4.gguf"]
    timed = files.table(margins={"log_likelihood": 0.02}, tolerance=0.2)
    assert {it.name: it for it in timed.files}["q4_other.gguf"].on_front, "it is twice as fast"
    assert "Speeds count if they differ by more than 0.2" in format_file_legend(timed)
    assert "--tolerance" in format_file_legend(files.table())


def test_files_of_one_name_in_two_folders_and_one_file_under_two_names(files: Files) -> None:
    files.add("/m/sub/q8.gguf", "55", kl_of(0.03, 5), 45)
    moved = files.runs[3]  # the sweep of q8, recorded before the file was moved
    moved.params = moved.params | {"model.name": "/elsewhere/q8.gguf"}
    by_name = {it.name: it for it in files.table().files}
    assert by_name["q8.gguf"].rows[JobKind.speed].run is moved
    assert len(by_name["sub/q8.gguf"].rows) == 2
    columns = {column.head: column.cells for column in build_file_columns(files.table())}
    assert columns["file"][0] == "full.gguf (reference)"
    assert "decode tok/s\n32 rows" in columns
    records = {it["file"]: it for it in build_file_records(files.table())}
    assert records["sub/q8.gguf"]["model"] == "/m/sub/q8.gguf"
    assert records["q4_other.gguf"]["decode_tok_per_s"] == {"1": 20.0, "32": 200.0}
    assert records["q4.gguf"]["shift"]["finding"] == "worse"


def test_one_file_that_is_loaded_in_two_ways_has_two_lines(files: Files) -> None:
    files.add("/m/q4.gguf", "22", kl_of(0.011, 6), 25, params={"quantization.dequantize": "true"})
    names = [it.name for it in files.table().files]
    assert "q4.gguf quantization.dequantize=true" in names


def test_what_cannot_be_joined_is_said(files: Files) -> None:
    files.add("/m/q8.gguf", "11", kl_of(0.001, 1), 50, params={"task.limit": "100"})
    with raises(ConfigError, "ambiguous"):
        files.table()
    del files.runs[-2:]
    files.runs[2].facts["reference"] = "y · likelihood-111111111111"
    with raises(ConfigError, "mismatch", "--files"):
        files.table()
    del files.runs[:2]
    with raises(ConfigError, "missing", "--files"):
        files.table()
    assert files.table(baseline="model.name=/m/q8.gguf").files[0].name == "q8.gguf"
    with raises(ConfigError, "empty", "--files"):
        compare_model_files(files.runs[:2], files.reader)


def test_a_file_without_a_job_has_gaps_and_a_sentence(files: Files) -> None:
    del files.runs[-1]
    table = files.table()
    assert "bad.gguf has no speed job" in format_model_file_sentences(table)
    assert {it.name: it.on_front for it in table.files}["bad.gguf"] is None
    assert all(len(column.cells) == 5 for column in build_file_columns(table))


def test_equal_files_are_never_told_apart_and_order_does_not_matter() -> None:
    one, other = kl_of(0.01, 1), kl_of(0.002, 2)
    sizes = [float(it) for it in TOKENS]
    assert find_significantly_lower_kl_pairs([one, one], sizes) == set()
    assert find_significantly_lower_kl_pairs([one, other], sizes) == {(1, 0)}
    assert find_significantly_lower_kl_pairs([other, one], sizes) == {(0, 1)}
    assert find_non_inferior_pairs([one, other], sizes, margin=0.02) == {(0, 1), (1, 0)}
    assert find_non_inferior_pairs([one, other], sizes, margin=0.001) == {(1, 0)}


def test_a_file_is_closer_only_if_one_more_of_its_worst_texts_would_not_change_that() -> None:
    """Two of 60 texts have half of the KL of both files: a third one would decide."""
    draw = Random(5)
    low, high = ([size + draw.random() / 10 for _ in range(58)] for size in (0.5, 0.8))
    low, high, ones = [*low, 10.0, 10.2], [*high, 10.2, 10.4], [1.0] * 60
    gaps = [kl - other for kl, other in zip(low, high, strict=True)]
    assert compute_paired_p_value(gaps, ones) < 0.05, "the test of these texts alone, as before"
    assert compute_lower_kl_p_value(low, high, ones) > 0.05
    assert find_significantly_lower_kl_pairs([low, high], ones) == set()
    assert find_non_inferior_pairs([low, high], ones, 0.01) == set()


def test_files_that_differ_everywhere_are_told_apart_and_equal_ones_are_not() -> None:
    draw = Random(6)
    low, high = ([size * (1 + draw.random() / 5) for _ in range(100)] for size in (1.0, 1.5))
    ones = [1.0] * 100
    assert find_significantly_lower_kl_pairs([high, low], ones) == {(1, 0)}
    assert find_significantly_lower_kl_pairs([low, low], ones) == set()
