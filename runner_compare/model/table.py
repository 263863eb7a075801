"""Makes a table of runs: pools them by --by, compares each row with its baseline, marks the front,
sorts the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from runner_base import ConfigError, Progress
from runner_base.notes import Note, note
from runner_compare.features.front.compute import mark_front
from runner_compare.features.registry import every_section
from runner_compare.features.seeds.compute import (
    row_of,
    rows_over_seeds,
    rows_with_seeds,
    shared_values,
    together,
    without_seed,
)
from runner_compare.model.adapter_names import FORMAT, MERGING, name_adapters, own_name
from runner_compare.model.baselines import (
    both_values,
    differing_ignored,
    find_baseline,
    is_ignored,
    named_groups,
    scoring,
)
from runner_compare.model.data import (
    JOB_ID,
    REPEAT,
    TEAM,
    NotPaired,
    Run,
    Table,
    TableRow,
    group,
    label,
    natural,
)
from runner_compare.model.key_rules import KeyRules, distinguishing_keys
from runner_compare.model.noise_floor import beside_noise, repeats_among
from runner_compare.model.quantized_share import beside_reach
from runner_compare.model.selection import listed, matches
from runner_compare.reader import Reader
from runner_compare.section import NamesRuns
from runner_compare.statistics import Compared, Method, judge
from runner_compare.statistics.clustered_share import accuracy_figures, bounds_of_accuracy
from runner_compare.statistics.floor_effects import (
    what_tells_more,
    why_more_would_not_decide,
    why_no_evidence,
)
from runner_compare.ways import Asked, compare, noting

# they say which questions were asked
QUESTION_KEYS = (
    "task.data",
    "task.split",
    "task.limit",
    "task.only",
    "task.without",
    "task.extractor",
    "task.scorer",
)


@dataclass
class ComparisonOptions:
    """Which runs are compared with which baseline, and how."""

    baseline: dict[str, str] = field(default_factory=dict)
    # the keys that define a row; empty: all that differ
    by: list[str] = field(default_factory=list)
    seeds: bool = False  # whether runs that differ only in their seed are one row
    unpaired: bool = False
    base: Run | None = None  # the baseline, if the user named one run
    margins: dict[str, float] = field(default_factory=dict)  # measure → the loss that is acceptable
    # by how much speeds may differ by noise alone, if the user says so
    tolerance: float | None = None
    metrics: int = 1  # tables of one score, a metric each, that share the 5 %
    ignore: Sequence[str] = ()  # keys in which a run may differ from its baseline


def tabulate(runs: list[Run], choice: ComparisonOptions, reader: Reader) -> Table:
    """Return one task's table, with comparisons if there is a baseline."""
    if choice.by or choice.baseline or choice.base:
        reader.fetch(runs)
    runs, base = _one_run_a_row(runs, choice, reader)
    choice = replace(choice, base=base)
    varying = _varying_keys(runs, choice, reader.key_rules)
    table = _table_of(runs, varying, choice, reader.key_rules)
    if choice.baseline or choice.base:
        table.baseline = choice.baseline or {JOB_ID: choice.base.job_id if choice.base else ""}
        _compare_rows(table, varying, choice, reader)
    if not rows_with_seeds(table):  # the front counts questions only
        mark_front(table, reader, choice.tolerance, choice.margins)
    arrange(table)
    for section in every_section():
        section.add(table, reader)
    return table


def _one_run_a_row(
    runs: list[Run], choice: ComparisonOptions, reader: Reader
) -> tuple[list[Run], Run | None]:
    """Join the runs that are one row, by --by or over their seeds; return them, and the baseline if
    it is one of them."""
    if choice.by and any(run.score for run in runs):
        runs = pool(runs, choice.by, reader)
    if not choice.seeds or not all(run.score for run in runs):
        return runs, choice.base
    differing = reader.key_rules.differing_keys([run.params for run in runs])
    runs = rows_over_seeds(runs, without_seed(differing), reader)
    return runs, row_of(choice.base, runs)


def _varying_keys(runs: list[Run], choice: ComparisonOptions, rules: KeyRules) -> list[str]:
    """Return the keys in which rows differ: those of --by, or all in which their configs do."""
    varying = choice.by or rules.differing_keys([run.params for run in runs])
    varying = without_seed(varying) if choice.seeds else varying
    if not any(TEAM in run.params for run in runs):
        return varying
    # the name of a team stands for the keys of its graph
    naming = [section for section in every_section() if isinstance(section, NamesRuns)]
    return [key for key in varying if not any(section.stands_for(key) for section in naming)]


def _table_of(runs: list[Run], varying: list[str], choice: ComparisonOptions, rules: KeyRules) -> Table:
    """Return the table of these rows, in which nothing is compared yet."""
    configs = [run.params for run in runs]
    keys = choice.by or distinguishing_keys(varying, configs)
    question_keys = [key for key in QUESTION_KEYS if key in keys]
    rows = [
        TableRow(
            run,
            {key: run.value(key) for key in keys},
            panel=tuple(f"{label(key)}={run.value(key)}" for key in question_keys),
        )
        for run in runs
    ]
    keys = keys if choice.by else name_adapters(keys, rows)
    shared = shared_values(configs)
    common = {key: shared[key] for key in rules.meaningful_keys(configs) if key in shared}
    return Table(runs[0].task, keys, rows, common=common)


def _compare_rows(table: Table, varying: list[str], choice: ComparisonOptions, reader: Reader) -> None:
    """Find the baseline of each row, compare the two, and judge all comparisons together."""
    rows = {row.run.run_id: row for row in table.rows}
    all_runs = [row.run for row in table.rows]
    candidates = [choice.base] if choice.base else [run for run in all_runs if matches(run, choice.baseline)]
    # the baseline's own repeats show its noise, and are nobody's baseline
    repeats = repeats_among(candidates, choice.baseline)
    candidates = [run for run in candidates if run.run_id not in repeats]
    for run in candidates:
        rows[run.run_id].is_baseline = True
    for run_id in repeats:
        rows[run_id].is_repeat = True
    varying = [key for key in varying if key != REPEAT and not is_ignored(key, choice.ignore)]
    compared: dict[str, list[Compared]] = {}
    with Progress(len(rows), "comparing") as bar:
        for row in table.rows:
            bar.advance(1)
            if row.is_baseline:
                continue
            try:
                base = choice.base or find_baseline(row.run, candidates, choice.baseline, varying)
                row.baseline = rows[base.run_id]
                compared[row.run.run_id] = compared_with(row.run, base, choice, reader)
            except NotPaired as reason:
                row.note = str(reason)
    _judge_rows(table.rows, compared, choice)
    beside_noise(table.rows, reader)
    beside_reach(table)


def _judge_rows(rows: list[TableRow], compared: dict[str, list[Compared]], choice: ComparisonOptions) -> None:
    """Give each row what is decided about it, by the id of its run."""
    settings = [row for row in rows if row.run.run_id in compared and not row.is_repeat]
    of_table = [effect for row in settings for effect in compared[row.run.run_id]]
    left = iter(judge(of_table, choice.margins, choice.metrics))
    for row in settings:
        row.effects = list(islice(left, len(compared[row.run.run_id])))
    for row in rows:
        if row.is_repeat:  # each is judged by itself
            row.effects = judge(compared.get(row.run.run_id, []))


def with_floor(compared: Compared, run: Run, base: Run) -> Compared:
    """Add what equal verdicts leave open, by the accuracies that are compared: those of votes only
    where bets are."""
    sides = [run, base]
    if compared.effect.method is Method.sequential:
        scores = [side.score or (0, 0) for side in sides]
        accuracies = [correct / n if n else None for correct, n in scores]
    else:
        accuracies = [side.interval[0] if side.interval else None for side in sides]
    reason = why_no_evidence([side.metrics for side in sides], accuracies)
    if reason and compared.unplanned:  # most answers were cut off, which says more
        reason = compared.unplanned, note("larger_limit")
    return replace(
        compared,
        unplanned=reason[0] if reason else compared.unplanned,
        tells_more=what_tells_more(accuracies),
        no_evidence=note("no_evidence", why=reason[0], fix=reason[1]) if reason else None,
        baseline_low=base.interval[1] if base.interval and base.number is None else None,
    )


def compared_with(run: Run, base: Run, choice: ComparisonOptions, reader: Reader) -> list[Compared]:
    """Compare a run with its baseline, and note what else a reader of the comparison has to
    know."""
    compared_keys = [*choice.baseline, *choice.by]
    if choice.base:
        compared_keys = reader.key_rules.differing_keys([run.params, base.params])
    other_differences = also_differ(run, base, choice, reader.key_rules) if choice.by else None
    sides = [run, base]
    why = why_more_would_not_decide([side.metrics for side in sides])
    noted = []
    for compared in compare(run, base, reader, Asked(compared_keys, choice.unpaired)):
        if compared.effect.is_ratio:
            noted.append(compared)
            continue
        ignored = differing_ignored(run, base, choice.ignore, reader.key_rules)
        remarked = noting(compared, other_differences, ignored, reader.remark(run, base))
        noted.append(with_floor(replace(remarked, unplanned=why), run, base))
    return noted


def also_differ(run: Run, base: Run, choice: ComparisonOptions, rules: KeyRules) -> Note | None:
    """Say in which keys two configurations differ besides the keys of --by."""
    named = {*choice.by, *choice.baseline}
    chosen = named_groups(named)
    keys = rules.differing_keys([run.params, base.params])
    keys = [key for key in keys if key not in named and group(key) not in chosen]
    return note("also_differ", settings=both_values(run, base, keys)) if keys else None


def arrange(table: Table) -> None:
    """Put each baseline right above the rows that are compared with it."""
    inner = named_groups(table.baseline)
    # one run that all others are compared with comes first
    baseline_is_one_run = JOB_ID in table.baseline
    outer = [
        key
        for key in table.keys
        if not baseline_is_one_run and key not in (*table.baseline, REPEAT) and group(key) not in inner
    ]

    # an adapter unmerged and the same one merged have two names, and one of them is the baseline
    names_merging = not {*MERGING}.isdisjoint(table.baseline)

    def outer_value(row: TableRow, key: str) -> str | None:
        return own_name(row.run) if key == FORMAT and names_merging else row.config[key]

    def sort_key(row: TableRow) -> tuple[object, ...]:
        outer_values = [natural(outer_value(row, key)) for key in outer]
        return (
            outer_values,
            not row.is_baseline,
            not row.is_repeat,
            [natural(row.config[key]) for key in table.keys],
            row.run.job_id,
        )

    table.rows.sort(key=sort_key)


def pool(runs: list[Run], by: list[str], reader: Reader) -> list[Run]:
    """Pool the runs that agree in these keys; ConfigError if two of them answered the same
    question."""
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in by), []).append(run)
    return [_pooled(members, by, reader) if len(members) > 1 else members[0] for members in groups.values()]


def _pooled(members: list[Run], by: list[str], reader: Reader) -> Run:
    members = sorted(members, key=lambda run: run.job_id)
    names = ", ".join(f"{label(key)}={members[0].value(key)}" for key in by)
    differing = reader.key_rules.differing_keys([run.params for run in members])
    differences = "; ".join(f"{label(key)}: {listed(run.value(key) for run in members)}" for key in differing)
    option, where = ",".join(map(label, by)), f"the {len(members)} runs of {names}"
    if len({scoring(run) for run in members}) > 1:
        raise ConfigError(
            f"{where} were scored by different rules and cannot be pooled ({differences or 'versions'})",
            key="--by",
            value=option,
            code="mismatch",
        )
    if not all(run.score for run in members):
        raise ConfigError(
            f"{where} cannot be pooled: not all of them counted right answers",
            key="--by",
            value=option,
            code="unsupported",
        )
    whole = together(members)
    try:
        answers = reader.of(whole)
    except NotPaired as reason:
        raise ConfigError(
            f"{where} cannot be pooled: {reason}", key="--by", value=option, code="mismatch"
        ) from reason
    if whole.score and len(answers) < whole.score[1]:
        raise ConfigError(
            f"{where} answered the same questions more than once ({differences or 'nothing differs'}): name those keys "
            "in --by, too, or choose one value with --where",
            key="--by",
            value=option,
            code="ambiguous",
        )
    if answers:
        families, counts = zip(
            *((answer.cluster, answer.samples) for answer in answers.values()), strict=True
        )
        whole.metrics |= accuracy_figures([answer.mean for answer in answers.values()], families, counts)
        at_worst, at_best = (
            [answer.if_cut_off(right).mean for answer in answers.values()] for right in (False, True)
        )
        whole.metrics |= bounds_of_accuracy(at_worst, at_best, families, counts)
    return whole
