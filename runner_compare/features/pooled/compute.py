"""Combines the comparisons of each configuration over several tasks, splits or data sets (--pool).

A set of questions is a column, a setting (the compared keys) is a line. Only sets of one
unit are pooled: accuracies with accuracies, nats per token with nats per token. A setting
that lacks one of the sets has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from runner_base import ConfigError, join_first_names
from runner_base.notes import Note, note
from runner_compare.model.adapter_names import FORMAT, replace_adapter_keys_by_names
from runner_compare.model.data import NotPaired, Run, Table, TableRow, config_group, get_natural_sort_key
from runner_compare.model.key_rules import MODEL_KEYS, KeyRules, select_distinguishing_keys
from runner_compare.model.table import QUESTION_KEYS
from runner_compare.reader import Reader
from runner_compare.statistics import (
    Decision,
    Finding,
    MarginVerdict,
    McNemarTest,
    MeanFlipTest,
    Method,
    PooledLikelihoodTest,
    RunComparison,
    SignFlipTest,
    Test,
    create_pooled_test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.methods.pooled_means import pool_tests_over_tasks
from runner_compare.statistics.pooling import PairedTexts, PairedVerdicts, PoolingWeights

# The config keys that say which questions were asked and how they were scored; metric and filter
# are lm-eval's
SET_KEYS = ("task.name", *QUESTION_KEYS, "task.subset", "task.metric", "task.filter")
SHARED = 0.01  # two sets with a larger share of questions in common are not pooled: these would count twice

QuestionSet = tuple[str | None, ...]  # the task, and the values of SET_KEYS


@dataclass
class PooledTable:
    """Comparisons of several configurations with one baseline, each combined over several sets of
    questions.
    """

    unit: str  # points or nats/token
    weights: PoolingWeights
    baseline: dict[str, str]
    keys: list[str]  # that define a setting
    sets: list[str]  # the names of the sets of questions
    rows: list[TableRow]  # one for each setting; its run stands for those of all sets
    # by the row's job id: its rows in the tables
    cells: dict[str, list[TableRow | None]] = field(default_factory=dict)


def build_pooled_tables(
    tables: Iterable[Table],
    weights: PoolingWeights,
    by_keys: Sequence[str],
    margins: dict[str, float],
    reader: Reader,
) -> list[PooledTable]:
    """Build up to two pooled tables: one of accuracies in points, and one of log-likelihoods in nats."""
    rows_by_unit: dict[str, list[tuple[Table, TableRow]]] = {}
    for table in tables:
        of_texts = f"nats/{table.likelihood_unit}" if table.likelihood_unit else None
        unit = "points" if table.has_accuracies else of_texts
        if unit is not None and table.baseline:
            rows_by_unit.setdefault(unit, []).extend((table, row) for row in table.rows if not row.is_repeat)
    pooled = [
        _build_pooled_table(unit, rows, weights, by_keys, margins, reader)
        for unit, rows in rows_by_unit.items()
        if len({question_set_identity(table, row) for table, row in rows if not row.is_baseline}) > 1
    ]
    if not pooled:
        names = {
            name
            for rows in rows_by_unit.values()
            for name in choose_question_set_names([question_set_identity(*pair) for pair in rows])
        }
        why = (
            f"all runs answered the same set of questions: {join_first_names(sorted(names), 4)}"
            if names
            else "nothing was compared"
        )
        raise ConfigError(
            f"{why}. Select runs of several tasks, splits or data sets",
            key="--pool",
            value=weights,
            code="empty",
        )
    return pooled


def question_set_identity(table: Table, row: TableRow) -> QuestionSet:
    return table.task, *(row.run.get_value(key) for key in SET_KEYS)


def choose_question_set_names(question_sets: Sequence[QuestionSet]) -> list[str]:
    """Return the shortest unique name of each set of questions, e.g. `test` and `train`."""
    places = [
        position
        for position in range(len(SET_KEYS) + 1)
        if len({question_set[position] for question_set in question_sets}) > 1
    ]
    if 1 in places and len({(question_set[0], question_set[1]) for question_set in question_sets}) == len(
        {question_set[1] for question_set in question_sets}
    ):
        # lm-eval's own name of a task says more than its group
        places = [position for position in places if position != 0]
    for count in range(1, len(places)):
        if len({tuple(each[position] for position in places[:count]) for each in question_sets}) == len(
            {*question_sets}
        ):
            places = places[:count]
            break
    return [
        " ".join(
            str(question_set[position])
            for position in places or [0]
            if question_set[position] not in (None, "null")
        )
        for question_set in question_sets
    ]


def _build_pooled_table(
    effect_unit: str,
    rows: list[tuple[Table, TableRow]],
    weights: PoolingWeights,
    by_keys: Sequence[str],
    margins: dict[str, float],
    reader: Reader,
) -> PooledTable:
    keys = find_keys_distinguishing_configurations(rows, by_keys, reader.key_rules)
    compared = [(question_set_identity(table, row), row) for table, row in rows if not row.is_baseline]
    sets = list(dict.fromkeys(question_set for question_set, _ in compared))
    names = choose_question_set_names(sets)
    settings = sorted(
        {tuple(row.run.get_value(key) for key in keys) for _, row in compared},
        key=lambda values: [get_natural_sort_key(value) for value in values],
    )
    table = PooledTable(effect_unit, weights, rows[0][0].baseline, keys, names, [])
    overlaps = _OverlapCounter(reader)
    comparisons: list[tuple[TableRow, RunComparison]] = []
    for number, setting in enumerate(settings):
        found = [
            [
                row
                for question_set, row in compared
                if question_set == wanted and tuple(map(row.run.get_value, keys)) == setting
            ]
            for wanted in sets
        ]
        line = _create_pooled_row(f"pooled-{number}", dict(zip(keys, setting, strict=True)), keys, found)
        table.rows.append(line)
        table.cells[line.run.job_id] = [rows_of_set[0] if rows_of_set else None for rows_of_set in found]
        try:
            effects = collect_poolable_decisions(names, found, overlaps, weights)
        except NotPaired as reason:
            line.note = str(reason)
            continue
        pooled = replace(
            pool_comparisons(effects, weights),
            unplanned=effects[0].unplanned if all(effect.unplanned for effect in effects) else None,
            no_evidence=effects[0].no_evidence if all(effect.no_evidence for effect in effects) else None,
            remarks=create_findings_per_question_set_note(effects, names),
        )
        comparisons.append((line, pooled))
    if not by_keys:
        sides = [side for row in table.rows for side in (row, row.baseline) if side is not None]
        table.keys = replace_adapter_keys_by_names(keys, sides)
    decisions = decide_comparisons_with_holm([pooled for _, pooled in comparisons], margins)
    for (row, _), decision in zip(comparisons, decisions, strict=True):
        cells = table.cells[row.run.job_id]
        if any(
            cell and cell.effect and _is_contradicting_pooled_result(cell.effect, decision) for cell in cells
        ):
            (shown,) = decision.remarks
            decision = replace(decision, remarks=(note("sets_differ", shown=shown),))
        row.effects = [decision]
    return table


def find_keys_distinguishing_configurations(
    rows: Sequence[tuple[Table, TableRow]], by_keys: Sequence[str], rules: KeyRules
) -> list[str]:
    """Return the config keys that distinguish configurations.

    These are the keys of --by, or those in which runs on one set of questions differ. A key in
    which only the sets differ (a task's own token limit) is not included, unless it is a key of the
    model: differences of two models are not pooled.
    """
    if by_keys:
        return [key for key in by_keys if key not in SET_KEYS]
    configs_by_set: dict[QuestionSet, list[dict[str, str]]] = {}
    for table, row in rows:
        configs_by_set.setdefault(question_set_identity(table, row), []).append(row.run.params)
    within = {key for configs in configs_by_set.values() for key in rules.find_differing_keys(configs)}
    configs = [row.run.params for _, row in rows]
    keys = [key for key in rules.find_differing_keys(configs) if key not in SET_KEYS]
    return select_distinguishing_keys(
        [key for key in keys if key in within or key.startswith(MODEL_KEYS)], configs
    )


def _create_pooled_row(
    name: str, setting: dict[str, str | None], keys: list[str], rows_by_question_set: list[list[TableRow]]
) -> TableRow:
    bases = [
        row.baseline.run
        for rows_of_set in rows_by_question_set
        for row in rows_of_set
        if row.baseline is not None
    ]
    base = {key: bases[0].get_value(key) if bases else None for key in keys}
    runs = [row.run for rows_of_set in rows_by_question_set for row in rows_of_set]
    base_names = " ".join(dict.fromkeys(run.job_id for run in bases))
    return TableRow(
        Run(" ".join(run.job_id for run in runs), name, "", "", "", _adapter_params(runs), {}),
        setting,
        baseline=TableRow(Run("", base_names, "", "", "", _adapter_params(bases), {}), base),
    )


def _adapter_params(runs: Sequence[Run]) -> dict[str, str]:
    params = runs[0].params if runs else {}
    return {key: value for key, value in params.items() if config_group(key) == config_group(FORMAT)}


def collect_poolable_decisions(
    names: Sequence[str],
    rows_by_question_set: Sequence[Sequence[TableRow]],
    overlap_counter: _OverlapCounter,
    weights: PoolingWeights,
) -> list[Decision]:
    """Return a configuration's comparison on each set of questions. Raises NotPaired if these
    cannot be pooled.
    """
    missing = [name for name, rows in zip(names, rows_by_question_set, strict=True) if not rows]
    if missing:
        raise NotPaired(f"this configuration has no run on {join_first_names(missing, 4)}")
    decisions = []
    for name, rows in zip(names, rows_by_question_set, strict=True):
        if len(rows) > 1:
            several = join_first_names([row.run.job_id for row in rows], 3)
            raise NotPaired(
                f"this configuration has {len(rows)} runs on {name} ({several}). Select one with --where or --runs"
            )
        (row,) = rows
        if row.effect is None:
            raise NotPaired(f"on {name}: {row.note or 'it was not compared'}")
        if row.effect.method == Method.fisher:
            raise NotPaired(f"the comparison on {name} is unpaired")
        if row.effect.method == Method.sequential:
            raise NotPaired(f"the run on {name} used early stopping, so a fixed-sample test is not valid")
        if row.effect.method == Method.over_seeds:
            raise NotPaired(f"the result on {name} is a mean over seeds, which --pool does not support")
        if row.effect.n == 0:
            raise NotPaired(f"no question of {name} was answered")
        decisions.append(row.effect)
    require_poolable_mean_accuracies([decision.test for decision in decisions], weights)
    for (first, first_rows), (second, second_rows) in combinations(
        zip(names, rows_by_question_set, strict=True), 2
    ):
        shared = overlap_counter.count_shared_questions(first_rows[0], second_rows[0])
        if shared:
            raise NotPaired(
                f"{first} and {second} share {shared:,} questions, which would count twice. "
                "Select one of the sets with --where"
            )
    return decisions


def require_poolable_mean_accuracies(tests: Sequence[Test], weights: PoolingWeights) -> None:
    """Raise NotPaired if tests of mean accuracies cannot be combined into one test."""
    if not any(isinstance(test, MeanFlipTest) for test in tests):
        return
    counts = [test.samples if isinstance(test, MeanFlipTest) else 1 for test in tests]
    if len({*counts}) > 1:
        shown = ", ".join(map(str, counts))
        raise NotPaired(f"the number of answers per question differs between the sets: {shown}")
    if weights is PoolingWeights.tasks and len({test.effect.n for test in tests}) > 1:
        raise NotPaired(
            "the sets differ in size, so clusters would have unequal weights. Use --pool questions"
        )


class _OverlapCounter:
    """Counts the questions that two sets share. Loaded questions are cached."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.questions_of: dict[str, set[tuple[str | None, ...]]] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def count_shared_questions(self, table_row: TableRow, other_table_row: TableRow) -> int:
        """Return the number of questions that two sets share.

        Returns 0 if the shared questions are a negligible fraction of both sets.
        """
        bases = [(row.baseline or row).run for row in (table_row, other_table_row)]
        key = bases[0].run_id, bases[1].run_id
        if key not in self.counts:
            questions, other_questions = map(self._load_questions, bases)
            shared = len(questions & other_questions)
            self.counts[key] = shared if shared > SHARED * min(len(questions), len(other_questions)) else 0
        return self.counts[key]

    def _load_questions(self, run: Run) -> set[tuple[str | None, ...]]:
        if run.run_id not in self.questions_of:
            texts = (
                {score.text for score in self.reader.load_text_scores(run).values()}
                if run.likelihood_unit
                else {question[1:] for question in self.reader.load_baseline_answers(run)}
            )
            self.questions_of[run.run_id] = {text for text in texts if any(text)}
        return self.questions_of[run.run_id]


def pool_comparisons(decisions: Sequence[Decision], weights: PoolingWeights) -> RunComparison:
    whole = pool_tests([effect.test for effect in decisions], weights)
    if not any(effect.ends for effect in decisions):
        return RunComparison(whole)
    worst, best = (
        pool_tests([effect.ends[end].test if effect.ends else effect.test for effect in decisions], weights)
        for end in (0, 1)
    )
    cut_off, baseline_cut_off = (
        sum(counts) for counts in zip(*(effect.cut_off for effect in decisions), strict=True)
    )
    return RunComparison(whole, (cut_off, baseline_cut_off), (worst, best))


def pool_tests(tests: Sequence[Test], weights: PoolingWeights) -> Test:
    """Combine the tests on several sets of questions into one test."""
    texts = [test for test in tests if isinstance(test, SignFlipTest)]
    if texts:
        return PooledLikelihoodTest(
            [PairedTexts(test.differences, test.sizes) for test in texts], texts[0].unit, weights
        )
    verdicts = [test for test in tests if isinstance(test, McNemarTest)]
    if len(verdicts) < len(tests):
        return pool_tests_over_tasks([test for test in tests if isinstance(test, MeanFlipTest | McNemarTest)])
    return create_pooled_test(
        [PairedVerdicts(test.wins, test.losses, test.n, test.baseline_correct) for test in verdicts], weights
    )


def create_findings_per_question_set_note(
    decisions: Sequence[Decision], names: Sequence[str]
) -> tuple[Note, ...]:
    ordered = sorted(zip(decisions, names, strict=True), key=lambda pair: pair[0].value)
    shown = {
        name: effect
        for effect, name in ordered
        if effect.verdict is MarginVerdict.worse_by_more or effect.finding is not Finding.open
    }
    return (note("by_themselves", names=shown),) if shown else ()


def _is_contradicting_pooled_result(set_decision: Decision, pooled: Decision) -> bool:
    is_beyond = (
        set_decision.verdict is MarginVerdict.worse_by_more
        and pooled.verdict is not MarginVerdict.worse_by_more
    )
    return is_beyond or set_decision.finding not in (Finding.open, pooled.finding)
