"""Computes each candidate's recovery: its accuracy divided by the baseline's, per task and pooled (--card)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from runner_base import ConfigError, Record
from runner_compare.features.pooled.compute import (
    PooledTable,
    build_pooled_tables,
    choose_question_set_names,
    find_keys_distinguishing_configurations,
    question_set_identity,
)
from runner_compare.features.seeds.seed_tests import compute_seed_accuracies
from runner_compare.model.data import Answers, NotPaired, Run, Table, TableRow, get_natural_sort_key
from runner_compare.model.mean_pairs import (
    Pairs,
    cluster_questions_by_expected_function,
    find_cluster_field,
    get_pair_clusters,
)
from runner_compare.reader import Reader
from runner_compare.readers.runner_job import RESULT
from runner_compare.statistics import Decision, Finding, MeanFlipTest, Method, SeedTest
from runner_compare.statistics.pooling import PoolingWeights
from runner_compare.statistics.recovery import PairedAccuracies, Recovery, compute_recovery
from runner_compare.statistics.simultaneous import align_interval_with_decision

MODEL_SHA256 = "model_sha256"
SIZES = {"weights": "weight_mib", "files": "file_mib"}
MIB = 1 << 20


@dataclass(frozen=True)
class RecoveryCell:
    """Recovery on one set of questions, or pooled over all of them."""

    recovery: Recovery | None = None
    decision: Decision | None = None
    note: str | None = None  # why there is no recovery


@dataclass(frozen=True)
class JobFacts:
    """Jobs of one candidate or of the baseline, with their sizes, hashes and versions."""

    job_ids: tuple[str, ...]
    size_bytes: dict[str, int]  # of the loaded `weights` and of the `files`
    model_sha256: str | None = None
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CandidateRecovery:
    """Recoveries of one candidate."""

    config: dict[str, str | None]
    cells: tuple[RecoveryCell, ...]  # one per set of questions
    pooled: RecoveryCell | None  # None: there is one set only
    facts: JobFacts


@dataclass(frozen=True)
class QuestionSetFacts:
    """A set of questions with the baseline's accuracy."""

    name: str
    data: str
    questions: int
    clusters: int | None
    sha256: str  # of the questions and gold answers
    baseline_accuracy: float


@dataclass(frozen=True)
class RecoveryTable:
    """Recoveries of all candidates against one baseline."""

    keys: list[str]
    model: str
    baseline: dict[str, str | None]
    baseline_facts: JobFacts
    weights: PoolingWeights  # of the pooled recovery
    margin: float | None
    sets: list[QuestionSetFacts]
    candidates: list[CandidateRecovery]


@dataclass
class ComparisonRecovery:
    """Stores the recoveries of a comparison."""

    table: RecoveryTable | None = None


@dataclass(frozen=True)
class _PairedRow:
    row: TableRow
    pairs: Pairs
    clusters: list[str] | None


def build_recovery_table(
    tables: Sequence[Table],
    reader: Reader,
    margins: dict[str, float],
    by_keys: Sequence[str] = (),
    weights: PoolingWeights = PoolingWeights.tasks,
) -> RecoveryTable:
    """Compute all recoveries. Raises ConfigError if no accuracy was compared with a baseline."""
    rows = [
        (table, row)
        for table in tables
        if table.has_accuracies and table.compared_metric is None
        for row in table.rows
        if not row.is_repeat
    ]
    compared = [(question_set_identity(table, row), row) for table, row in rows if row.baseline is not None]
    if not compared:
        raise ConfigError(
            "no accuracy was compared with a baseline. Add --baseline KEY=VALUE, and select runs with verdicts",
            key="--card",
            code="empty",
        )
    keys = find_keys_distinguishing_configurations(rows, by_keys, reader.key_rules)
    sets = list(dict.fromkeys(question_set for question_set, _ in compared))
    pooled = build_pooled_tables(tables, weights, by_keys, margins, reader) if len(sets) > 1 else []
    candidates = []
    for setting in sorted(
        {tuple(map(row.run.get_value, keys)) for _, row in compared},
        key=lambda values: [get_natural_sort_key(value) for value in values],
    ):
        members = [
            [
                row
                for found, row in compared
                if found == wanted and tuple(map(row.run.get_value, keys)) == setting
            ]
            for wanted in sets
        ]
        candidates.append(
            CandidateRecovery(
                dict(zip(keys, setting, strict=True)),
                tuple(_compute_recovery_table_cell(rows_of_set, reader) for rows_of_set in members),
                _compute_pooled_recovery(members, pooled, weights, reader) if len(sets) > 1 else None,
                _collect_model_sizes_and_versions(
                    [row.run for rows_of_set in members for row in rows_of_set], reader
                ),
            )
        )
    bases = [
        next(row.baseline.run for found, row in compared if found == wanted and row.baseline)
        for wanted in sets
    ]
    return RecoveryTable(
        keys,
        bases[0].get_value("model.name") or bases[0].job_id,
        {key: bases[0].get_value(key) for key in keys},
        _collect_model_sizes_and_versions(bases, reader),
        weights,
        margins.get("accuracy"),
        [
            _describe_question_set(name, base, reader.load_baseline_answers(base))
            for name, base in zip(choose_question_set_names(sets), bases, strict=True)
        ],
        candidates,
    )


def _compute_recovery_table_cell(rows: Sequence[TableRow], reader: Reader) -> RecoveryCell:
    if len(rows) != 1:
        return RecoveryCell(note=f"{len(rows)} runs")
    (row,) = rows
    try:
        return _compute_recovery_with_decision(
            [_load_paired_answers(row, reader)], row.effect, PoolingWeights.tasks
        )
    except NotPaired as reason:
        return RecoveryCell(decision=row.effect, note=str(reason))


def _compute_pooled_recovery(
    members: Sequence[Sequence[TableRow]],
    pooled_tables: Sequence[PooledTable],
    weights: PoolingWeights,
    reader: Reader,
) -> RecoveryCell:
    """Compute the pooled recovery of a candidate, if the pooled comparison is valid."""
    names = {row.run.job_id for rows in members for row in rows}
    for table in pooled_tables:
        for row in table.rows:
            cells = {cell.run.job_id for cell in table.cells[row.run.job_id] if cell is not None}
            if table.unit != "points" or not cells or not cells <= names:
                continue
            if row.effect is None:
                return RecoveryCell(note=row.note)
            paired = [_load_paired_answers(cell, reader) for (cell,) in members]
            return _compute_recovery_with_decision(paired, row.effect, weights)
    return RecoveryCell(note="not pooled")


def _load_paired_answers(row: TableRow, reader: Reader) -> _PairedRow:
    """Load the paired outcomes of a row and its baseline. Raises NotPaired if a recovery is not valid."""
    if row.effect is None or row.baseline is None:
        raise NotPaired(row.note or "it was not compared")
    if row.effect.method == Method.fisher:
        raise NotPaired("the comparison is unpaired")
    if row.effect.method == Method.sequential:
        raise NotPaired("the run used early stopping, so a fixed-sample interval is not valid")
    run, base = row.run, row.baseline.run
    answers, base_answers = reader.load_answers(run), reader.load_baseline_answers(base)
    shared = sorted(answers.keys() & base_answers.keys())
    pairs = cluster_questions_by_expected_function(
        shared, [(answers[question], base_answers[question]) for question in shared]
    )
    clusters = get_pair_clusters(
        [(outcome.cluster, base_outcome.cluster) for outcome, base_outcome in pairs],
        find_cluster_field(run, base, pairs),
    )
    return _PairedRow(row, pairs, clusters)


def _compute_recovery_with_decision(
    paired_rows: Sequence[_PairedRow], decision: Decision | None, weights: PoolingWeights
) -> RecoveryCell:
    """Compute a recovery whose interval excludes 1 if the decision is that candidate and baseline differ.

    The interval covers the worst and the best outcome of cut-off answers.
    """
    assert decision is not None
    versions = [_build_paired_accuracies(paired_rows, lambda pairs: pairs)]
    if any(decision.cut_off):
        versions += [
            _build_paired_accuracies(paired_rows, _count_cut_off_as(right)) for right in (False, True)
        ]
    found = [
        compute_recovery(tasks, weights, decision.simultaneous_interval_error_rate) for tasks in versions
    ]
    recovery = found[0]
    if recovery is None:
        return RecoveryCell(decision=decision, note="the baseline solved no question")
    known = [version for version in found if version is not None]
    ends = min(version.low for version in known), max(version.high for version in known)
    tested = [(1.0, decision.finding is not Finding.open)]
    low, high = align_interval_with_decision(ends, recovery.value, tested)
    return RecoveryCell(replace(recovery, low=low, high=high), decision)


def _count_cut_off_as(is_correct: bool) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [
        (outcome.treat_cut_off_answers_as(is_correct), base.treat_cut_off_answers_as(not is_correct))
        for outcome, base in pairs
    ]


def _build_paired_accuracies(
    paired_rows: Sequence[_PairedRow], count: Callable[[Pairs], Pairs]
) -> list[PairedAccuracies]:
    tasks = []
    for paired in paired_rows:
        pairs, row = count(paired.pairs), paired.row
        test = row.effect.test if row.effect is not None else None
        questions_test = test.by_questions if isinstance(test, SeedTest) else test
        has_seeds = isinstance(test, SeedTest) and row.baseline is not None
        tasks.append(
            PairedAccuracies(
                [outcome.accuracy for outcome, _ in pairs],
                [base.accuracy for _, base in pairs],
                paired.clusters,
                max(outcome.num_answers for pair in pairs for outcome in pair),
                isinstance(questions_test, MeanFlipTest) and questions_test.is_strict,
                compute_seed_accuracies(row.run) if has_seeds else (),
                compute_seed_accuracies(row.baseline.run) if has_seeds and row.baseline else (),
            )
        )
    return tasks


def _describe_question_set(name: str, base: Run, answers: Answers) -> QuestionSetFacts:
    clusters = {outcome.cluster for outcome in answers.values()}
    texts = sorted((question, gold) for _, question, gold in answers)
    listed = json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return QuestionSetFacts(
        name,
        base.get_value("task.data") or base.task,
        len(answers),
        None if None in clusters else len(clusters),
        hashlib.sha256(listed).hexdigest(),
        fmean(outcome.accuracy for outcome in answers.values()),
    )


def _collect_model_sizes_and_versions(runs: Sequence[Run], reader: Reader) -> JobFacts:
    parts = [part for run in runs for part in run.parts or [run]]
    sizes = {
        name: round(max(part.metrics[key] for part in parts) * MIB)
        for name, key in SIZES.items()
        if parts and all(key in part.metrics for part in parts)
    }
    hashes = {part.facts.get(MODEL_SHA256) for part in parts}
    versions = {version: None for part in parts for version in _read_library_versions(part, reader)}
    return JobFacts(
        tuple(dict.fromkeys(part.job_id for part in parts)),
        sizes,
        hashes.pop() if len(hashes) == 1 else None,
        tuple(versions),
    )


def _read_library_versions(run: Run, reader: Reader) -> list[tuple[str, str]]:
    """Return the versions of packages that a job recorded; [] for results of other tools."""
    path = next(iter(reader.find_files(run, RESULT)), None)
    if path is None:
        return []
    try:
        return [*Record.from_json(path.read_text(encoding="utf-8")).versions.items()]
    except (OSError, ValueError, KeyError, TypeError):
        return []
