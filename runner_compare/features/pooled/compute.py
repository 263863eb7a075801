"""--pool: one verdict for each setting over several tasks, splits or data sets, from the
comparisons of the tables.

A set of questions is a column, a setting (the keys that are compared) is a line. Only sets of one
unit are pooled: accuracies with accuracies, nats per token with nats per token. A setting that
lacks one of the sets has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from runner_base import ConfigError, few
from runner_base.notes import Note, note
from runner_compare.model.adapter_names import FORMAT, name_adapters
from runner_compare.model.data import NotPaired, Run, Table, TableRow, group, natural
from runner_compare.model.key_rules import MODEL_KEYS, KeyRules, distinguishing_keys
from runner_compare.model.table import QUESTION_KEYS
from runner_compare.reader import Reader
from runner_compare.statistics import (
    Compared,
    Decision,
    Finding,
    MarginVerdict,
    McNemar,
    MeanFlips,
    Method,
    PooledTexts,
    SignFlips,
    Test,
    judge,
    pooled_accuracies,
)
from runner_compare.statistics.methods.pooled_means import pooled_means
from runner_compare.statistics.pooling import PairedTexts, PairedVerdicts, Weights

# The config keys that say which questions were asked and how they were scored; metric and filter
# are lm-eval's
SET_KEYS = ("task.name", *QUESTION_KEYS, "task.subset", "task.metric", "task.filter")
SHARED = 0.01  # two sets with a larger share of questions in common are not pooled: these would count twice

QuestionSet = tuple[str | None, ...]  # the task, and the values of SET_KEYS


@dataclass
class PooledTable:
    """The settings that are compared with one baseline over several sets of questions."""

    unit: str  # points or nats/token
    weights: Weights
    baseline: dict[str, str]
    keys: list[str]  # that define a setting
    sets: list[str]  # the names of the sets of questions
    rows: list[TableRow]  # one for each setting; its run stands for those of all sets
    # by the row's job id: its rows in the tables
    cells: dict[str, list[TableRow | None]] = field(default_factory=dict)


def pooled_tables(
    tables: Iterable[Table], weights: Weights, by: Sequence[str], margins: dict[str, float], reader: Reader
) -> list[PooledTable]:
    """Return a table for each unit in which a baseline was compared on several sets of
    questions."""
    rows_by_unit: dict[str, list[tuple[Table, TableRow]]] = {}
    for table in tables:
        of_texts = f"nats/{table.unit}" if table.unit else None
        unit = "points" if table.scored else of_texts
        if unit is not None and table.baseline:
            rows_by_unit.setdefault(unit, []).extend((table, row) for row in table.rows if not row.is_repeat)
    pooled = [
        _pooled_table(unit, rows, weights, by, margins, reader)
        for unit, rows in rows_by_unit.items()
        if len({set_of(table, row) for table, row in rows if not row.is_baseline}) > 1
    ]
    if not pooled:
        names = {
            name for rows in rows_by_unit.values() for name in set_names([set_of(*pair) for pair in rows])
        }
        why = (
            f"there is one set of questions only: {few(sorted(names), 4)}"
            if names
            else "nothing was compared"
        )
        raise ConfigError(
            f"{why}. Pooling needs runs of several tasks, splits or data sets",
            key="--pool",
            value=weights,
            code="empty",
        )
    return pooled


def set_of(table: Table, row: TableRow) -> QuestionSet:
    """Return which questions a row has answered."""
    return table.task, *(row.run.value(key) for key in SET_KEYS)


def set_names(sets: Sequence[QuestionSet]) -> list[str]:
    """Return the shortest names that tell sets of questions apart, e.g. `test` and `train`."""
    places = [
        position
        for position in range(len(SET_KEYS) + 1)
        if len({question_set[position] for question_set in sets}) > 1
    ]
    if 1 in places and len({(question_set[0], question_set[1]) for question_set in sets}) == len(
        {question_set[1] for question_set in sets}
    ):
        # lm-eval's own name of a task says more than its group
        places = [position for position in places if position != 0]
    return [
        " ".join(
            str(question_set[position]) for position in places or [0] if question_set[position] is not None
        )
        for question_set in sets
    ]


def _pooled_table(
    unit: str,
    rows: list[tuple[Table, TableRow]],
    weights: Weights,
    by: Sequence[str],
    margins: dict[str, float],
    reader: Reader,
) -> PooledTable:
    keys = setting_keys(rows, by, reader.key_rules)
    compared = [(set_of(table, row), row) for table, row in rows if not row.is_baseline]
    sets = list(dict.fromkeys(question_set for question_set, _ in compared))
    names = set_names(sets)
    settings = sorted(
        {tuple(row.run.value(key) for key in keys) for _, row in compared},
        key=lambda values: [natural(value) for value in values],
    )
    table = PooledTable(unit, weights, rows[0][0].baseline, keys, names, [])
    overlaps = _Overlaps(reader)
    comparisons: list[tuple[TableRow, Compared]] = []
    for number, setting in enumerate(settings):
        found = [
            [
                row
                for question_set, row in compared
                if question_set == wanted and tuple(map(row.run.value, keys)) == setting
            ]
            for wanted in sets
        ]
        line = _line(f"pooled-{number}", dict(zip(keys, setting, strict=True)), keys, found)
        table.rows.append(line)
        table.cells[line.run.job_id] = [rows_of_set[0] if rows_of_set else None for rows_of_set in found]
        try:
            effects = decisions_to_pool(names, found, overlaps, weights)
        except NotPaired as reason:
            line.note = str(reason)
            continue
        pooled = replace(
            pooled_comparison(effects, weights),
            unplanned=effects[0].unplanned if all(effect.unplanned for effect in effects) else None,
            no_evidence=effects[0].no_evidence if all(effect.no_evidence for effect in effects) else None,
            remarks=unlike(effects, names),
        )
        comparisons.append((line, pooled))
    if not by:
        sides = [side for row in table.rows for side in (row, row.baseline) if side is not None]
        table.keys = name_adapters(keys, sides)
    decisions = judge([pooled for _, pooled in comparisons], margins)
    for (row, _), decision in zip(comparisons, decisions, strict=True):
        cells = table.cells[row.run.job_id]
        if any(cell and cell.effect and _is_against(cell.effect, decision) for cell in cells):
            (shown,) = decision.remarks
            decision = replace(decision, remarks=(note("sets_differ", shown=shown),))
        row.effects = [decision]
    return table


def setting_keys(rows: Sequence[tuple[Table, TableRow]], by: Sequence[str], rules: KeyRules) -> list[str]:
    """Return the keys that define a setting: those of --by, or in which the runs of one set of
    questions differ.

    A key in which only the sets differ (a task's own limit of tokens) says nothing about settings,
    unless it is one of the model: differences of two models are not pooled.
    """
    if by:
        return [key for key in by if key not in SET_KEYS]
    configs_by_set: dict[QuestionSet, list[dict[str, str]]] = {}
    for table, row in rows:
        configs_by_set.setdefault(set_of(table, row), []).append(row.run.params)
    within = {key for configs in configs_by_set.values() for key in rules.differing_keys(configs)}
    configs = [row.run.params for _, row in rows]
    keys = [key for key in rules.differing_keys(configs) if key not in SET_KEYS]
    return distinguishing_keys([key for key in keys if key in within or key.startswith(MODEL_KEYS)], configs)


def _line(
    name: str, setting: dict[str, str | None], keys: list[str], found: list[list[TableRow]]
) -> TableRow:
    """Return the line of a setting, and beside it the one of its baseline, which stands in no
    table."""
    bases = [row.baseline.run for rows_of_set in found for row in rows_of_set if row.baseline is not None]
    base = {key: bases[0].value(key) if bases else None for key in keys}
    runs = [row.run for rows_of_set in found for row in rows_of_set]
    base_names = " ".join(dict.fromkeys(run.job_id for run in bases))
    return TableRow(
        Run(" ".join(run.job_id for run in runs), name, "", "", "", _adapter_in(runs), {}),
        setting,
        baseline=TableRow(Run("", base_names, "", "", "", _adapter_in(bases), {}), base),
    )


def _adapter_in(runs: Sequence[Run]) -> dict[str, str]:
    """Return the keys of the adapter of a setting, by which it is named."""
    params = runs[0].params if runs else {}
    return {key: value for key, value in params.items() if group(key) == group(FORMAT)}


def decisions_to_pool(
    names: Sequence[str], found: Sequence[Sequence[TableRow]], overlaps: _Overlaps, weights: Weights
) -> list[Decision]:
    """Return the comparison of a setting with its baseline on each set; NotPaired if they cannot be pooled."""
    missing = [name for name, rows in zip(names, found, strict=True) if not rows]
    if missing:
        raise NotPaired(f"it has no run on {few(missing, 4)}")
    decisions = []
    for name, rows in zip(names, found, strict=True):
        if len(rows) > 1:
            several = few([row.run.job_id for row in rows], 3)
            raise NotPaired(
                f"it has {len(rows)} runs on {name} ({several}): choose one with --where or --runs"
            )
        (row,) = rows
        if row.effect is None:
            raise NotPaired(f"on {name}: {row.note or 'it was not compared'}")
        if row.effect.method == Method.fisher:
            raise NotPaired(f"on {name} it is not paired")
        if row.effect.method == Method.sequential:
            raise NotPaired(f"on {name} it stopped early, and a test for a single look does not hold there")
        if row.effect.method == Method.over_seeds:
            raise NotPaired(f"on {name} it is a mean over seeds, and these are not pooled")
        if row.effect.n == 0:
            raise NotPaired(f"on {name} no question was answered")
        decisions.append(row.effect)
    check_means([decision.test for decision in decisions], weights)
    for (first, first_rows), (second, second_rows) in combinations(zip(names, found, strict=True), 2):
        shared = overlaps.count(first_rows[0], second_rows[0])
        if shared:
            raise NotPaired(
                f"{first} and {second} have {shared:,} questions in common, which would count "
                "twice: choose one of them with --where"
            )
    return decisions


def check_means(tests: Sequence[Test], weights: Weights) -> None:
    """Raise NotPaired if the tests of several tasks are of means that cannot be pooled."""
    means = [test for test in tests if isinstance(test, MeanFlips)]
    if not means:
        return
    if len(means) < len(tests):
        raise NotPaired("only some of its sets have clusters of questions or several answers to each")
    if len({test.by for test in means}) > 1:
        fields = ", ".join(dict.fromkeys(test.by or "none" for test in means))
        raise NotPaired(f"its sets have different clusters: {fields}")
    if len({test.samples for test in means}) > 1:
        counts = ", ".join(str(test.samples) for test in means)
        raise NotPaired(f"its sets have different numbers of answers to each question: {counts}")
    if weights is Weights.tasks and len({len(test.differences) for test in means}) > 1:
        raise NotPaired(
            "its sets have different sizes, and a cluster of several sets would count differently "
            "in each: use --pool questions"
        )


class _Overlaps:
    """Counts the questions that two sets have in common, from the baselines' samples, each read
    once."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.questions_of: dict[str, set[tuple[str | None, ...]]] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def count(self, compared: TableRow, other_compared: TableRow) -> int:
        """Return the number of common questions; 0 if it is a negligible share of both."""
        bases = [(row.baseline or row).run for row in (compared, other_compared)]
        key = bases[0].run_id, bases[1].run_id
        if key not in self.counts:
            questions, other_questions = map(self._questions, bases)
            shared = len(questions & other_questions)
            self.counts[key] = shared if shared > SHARED * min(len(questions), len(other_questions)) else 0
        return self.counts[key]

    def _questions(self, run: Run) -> set[tuple[str | None, ...]]:
        if run.run_id not in self.questions_of:
            texts = (
                {score.text for score in self.reader.texts(run).values()}
                if run.unit
                else {question[1:] for question in self.reader.of_baseline(run)}
            )
            self.questions_of[run.run_id] = {text for text in texts if any(text)}
        return self.questions_of[run.run_id]


def pooled_comparison(effects: Sequence[Decision], weights: Weights) -> Compared:
    """Pool the comparisons of one setting on all sets of questions."""
    whole = pooled_test([effect.test for effect in effects], weights)
    if not any(effect.ends for effect in effects):
        return Compared(whole)
    worst, best = (
        pooled_test([effect.ends[end].test if effect.ends else effect.test for effect in effects], weights)
        for end in (0, 1)
    )
    cut_off, baseline_cut_off = (
        sum(counts) for counts in zip(*(effect.cut_off for effect in effects), strict=True)
    )
    return Compared(whole, (cut_off, baseline_cut_off), (worst, best))


def pooled_test(tests: Sequence[Test], weights: Weights) -> Test:
    """Return the test of all sets of questions together."""
    texts = [test for test in tests if isinstance(test, SignFlips)]
    if texts:
        return PooledTexts(
            [PairedTexts(test.differences, test.sizes) for test in texts], texts[0].unit, weights
        )
    if means := [test for test in tests if isinstance(test, MeanFlips)]:
        return pooled_means(means)
    verdicts = [test for test in tests if isinstance(test, McNemar)]
    return pooled_accuracies(
        [PairedVerdicts(test.wins, test.losses, test.n, test.baseline_correct) for test in verdicts], weights
    )


def unlike(effects: Sequence[Decision], names: Sequence[str]) -> tuple[Note, ...]:
    """Note on which sets a setting is shown to be worse, or better, by themselves."""
    ordered = sorted(zip(effects, names, strict=True), key=lambda pair: pair[0].value)
    shown = {
        name: effect
        for effect, name in ordered
        if effect.verdict is MarginVerdict.worse_by_more or effect.finding is not Finding.open
    }
    return (note("by_themselves", names=shown),) if shown else ()


def _is_against(of_set: Decision, pooled: Decision) -> bool:
    """Whether a set by itself shows another finding than all of them together, or a loss beyond the
    margin."""
    is_beyond = (
        of_set.verdict is MarginVerdict.worse_by_more and pooled.verdict is not MarginVerdict.worse_by_more
    )
    return is_beyond or of_set.finding not in (Finding.open, pooled.finding)
