"""Builds a comparison table: pools runs, compares each with its baseline, marks the Pareto front, and
sorts rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from runner_base import ConfigError, Progress
from runner_base.notes import Note, note
from runner_compare.features.front.compute import mark_pareto_front
from runner_compare.features.registry import load_comparison_sections
from runner_compare.features.seeds.compute import (
    common_params,
    find_pooled_run,
    merge_runs,
    pool_runs_over_seeds,
    remove_seed_key,
    rows_with_seeds,
)
from runner_compare.model.adapter_names import (
    FORMAT,
    MERGING,
    get_adapter_name,
    replace_adapter_keys_by_names,
)
from runner_compare.model.baselines import (
    create_ignored_keys_note,
    find_baseline,
    find_groups_with_choice,
    format_key_differences,
    get_scoring_method,
    is_ignored_key,
)
from runner_compare.model.data import (
    JOB_ID,
    REPEAT,
    TEAM,
    NotPaired,
    Run,
    Table,
    TableRow,
    config_group,
    get_natural_sort_key,
    key_label,
)
from runner_compare.model.key_rules import KeyRules, select_distinguishing_keys
from runner_compare.model.noise_floor import (
    add_baseline_noise_notes,
    find_baseline_repeat_run_ids,
    find_repeats_of_run,
)
from runner_compare.model.quantization_coverage import add_coverage_notes
from runner_compare.model.selection import has_values, join_distinct
from runner_compare.reader import Reader
from runner_compare.section import NamesRuns
from runner_compare.statistics import Method, RunComparison, decide_comparisons_with_holm
from runner_compare.statistics.accuracy_intervals import (
    compute_accuracy_bound_metrics,
    compute_accuracy_metrics,
)
from runner_compare.statistics.floor_effects import (
    all_solved_note,
    create_cut_off_answers_note,
    create_unsolved_or_unreadable_notes,
)
from runner_compare.ways import PairingOptions, compare_runs, with_notes

# they say which questions were asked
QUESTION_KEYS = (
    "task.data",
    "task.answers",
    "task.split",
    "task.limit",
    "task.only",
    "task.unscored",
    "task.extractor",
    "task.scorer",
)


@dataclass
class ComparisonOptions:
    """Options that select the baseline and control how runs are compared."""

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
    is_each: bool = False  # whether each run has its own error of 5 %, whatever else is compared


def build_comparison_table(runs: list[Run], options: ComparisonOptions, reader: Reader) -> Table:
    """Build the table of one task. If there is a baseline, the rows are compared with it."""
    if options.by or options.baseline or options.base:
        reader.fetch_files(runs)
    runs, base = _pool_runs_into_rows(runs, options, reader)
    options = replace(options, base=base)
    varying = _find_varying_keys(runs, options, reader.key_rules)
    table = _create_comparison_table(runs, varying, options, reader.key_rules)
    if options.baseline or options.base:
        table.baseline = options.baseline or {JOB_ID: options.base.job_id if options.base else ""}
        _compare_rows_with_baselines(table, varying, options, reader)
    if not rows_with_seeds(table):  # the front counts questions only
        mark_pareto_front(table, reader, options.tolerance, options.margins)
    sort_rows(table)
    for section in load_comparison_sections():
        section.compute(table, reader)
    return table


def _pool_runs_into_rows(
    runs: list[Run], options: ComparisonOptions, reader: Reader
) -> tuple[list[Run], Run | None]:
    """Pool the runs that share a table row, by the keys of --by or over seeds.

    Returns the pooled runs, and the baseline if it is one of them.
    """
    if options.by and any(run.correct_and_total for run in runs):
        runs = pool_runs_with_equal_keys(runs, options.by, reader)
    if not options.seeds or not all(run.correct_and_total for run in runs):
        return runs, options.base
    differing = reader.key_rules.find_differing_keys([run.params for run in runs])
    runs = pool_runs_over_seeds(runs, remove_seed_key(differing), reader)
    return runs, find_pooled_run(options.base, runs)


def _find_varying_keys(runs: list[Run], options: ComparisonOptions, rules: KeyRules) -> list[str]:
    """Return the keys of --by. Without --by, return all config keys in which the runs differ."""
    varying = options.by or rules.find_differing_keys([run.params for run in runs])
    varying = remove_seed_key(varying) if options.seeds else varying
    if not any(TEAM in run.params for run in runs):
        return varying
    # the name of a team stands for the keys of its graph
    naming = [section for section in load_comparison_sections() if isinstance(section, NamesRuns)]
    return [key for key in varying if not any(section.replaces_key(key) for section in naming)]


def _create_comparison_table(
    runs: list[Run], varying: list[str], options: ComparisonOptions, rules: KeyRules
) -> Table:
    configs = [run.params for run in runs]
    keys = options.by or select_distinguishing_keys(varying, configs)
    question_keys = [key for key in QUESTION_KEYS if key in keys]
    rows = [
        TableRow(
            run,
            {key: run.get_value(key) for key in keys},
            panel=tuple(f"{key_label(key)}={run.get_value(key)}" for key in question_keys),
        )
        for run in runs
    ]
    keys = keys if options.by else replace_adapter_keys_by_names(keys, rows)
    shared = common_params(configs)
    common = {key: shared[key] for key in rules.find_keys_affecting_results(configs) if key in shared}
    return Table(runs[0].task, keys, rows, common=common)


def _compare_rows_with_baselines(
    table: Table, varying: list[str], options: ComparisonOptions, reader: Reader
) -> None:
    rows = {row.run.run_id: row for row in table.rows}
    all_runs = [row.run for row in table.rows]
    candidates = (
        [options.base] if options.base else [run for run in all_runs if has_values(run, options.baseline)]
    )
    # the baseline's own repeats show its noise, and are nobody's baseline
    repeats = find_baseline_repeat_run_ids(candidates, options.baseline)
    if options.base:
        repeats = find_repeats_of_run(all_runs, options.base, reader)
    candidates = [run for run in candidates if run.run_id not in repeats]
    for run in candidates:
        rows[run.run_id].is_baseline = True
    for run_id in repeats:
        rows[run_id].is_repeat = True
    varying = [key for key in varying if key != REPEAT and not is_ignored_key(key, options.ignore)]
    compared: dict[str, list[RunComparison]] = {}
    with Progress(len(rows), "comparing", "runs") as bar:
        for row in table.rows:
            bar.advance(1)
            if row.is_baseline:
                continue
            try:
                base = options.base or find_baseline(row.run, candidates, options.baseline, varying)
                row.baseline = rows[base.run_id]
                compared[row.run.run_id] = compare_with_baseline(row.run, base, options, reader)
            except NotPaired as reason:
                row.note = str(reason)
    _decide_comparisons(table.rows, compared, options)
    add_baseline_noise_notes(table.rows, reader)
    add_coverage_notes(table)


def _decide_comparisons(
    rows: list[TableRow], compared: dict[str, list[RunComparison]], options: ComparisonOptions
) -> None:
    """Decide the comparisons of all rows with one error rate.

    Repeats of a baseline are decided separately.
    """
    settings = [row for row in rows if row.run.run_id in compared and not row.is_repeat]
    if options.is_each:
        for row in settings:
            row.effects = decide_comparisons_with_holm(
                compared[row.run.run_id], options.margins, options.metrics
            )
        settings = []
    of_table = [effect for row in settings for effect in compared[row.run.run_id]]
    left = iter(decide_comparisons_with_holm(of_table, options.margins, options.metrics))
    for row in settings:
        row.effects = list(islice(left, len(compared[row.run.run_id])))
    for row in rows:
        if row.is_repeat:  # each is judged by itself
            row.effects = decide_comparisons_with_holm(compared.get(row.run.run_id, []))


def add_accuracies_to_comparison(compared: RunComparison, run: Run, base: Run) -> RunComparison:
    """Add the accuracies of both runs to a comparison. Also adds notes about floor effects.

    Accuracies of votes are added only to sequential tests.
    """
    sides = [run, base]
    if compared.effect.method is Method.sequential:
        scores = [side.correct_and_total or (0, 0) for side in sides]
        accuracies = [correct / n if n else None for correct, n in scores]
    else:
        accuracies = [side.accuracy_interval[0] if side.accuracy_interval else None for side in sides]
    reason = create_unsolved_or_unreadable_notes([side.metrics for side in sides], accuracies)
    if reason and compared.unplanned:  # most answers were cut off, which says more
        reason = compared.unplanned, note("larger_limit")
    return replace(
        compared,
        unplanned=reason[0] if reason else compared.unplanned,
        tells_more=all_solved_note(accuracies),
        no_evidence=note("no_evidence", why=reason[0], fix=reason[1]) if reason else None,
        baseline_low=base.accuracy_interval[1] if base.accuracy_interval and base.number is None else None,
    )


def compare_with_baseline(
    run: Run, base: Run, options: ComparisonOptions, reader: Reader
) -> list[RunComparison]:
    compared_keys = [*options.baseline, *options.by]
    if options.base:
        compared_keys = reader.key_rules.find_differing_keys([run.params, base.params])
    other_differences = (
        create_other_config_differences_note(run, base, options, reader.key_rules) if options.by else None
    )
    sides = [run, base]
    why = create_cut_off_answers_note([side.metrics for side in sides])
    noted = []
    for compared in compare_runs(run, base, reader, PairingOptions(compared_keys, options.unpaired)):
        if compared.effect.is_ratio:
            noted.append(compared)
            continue
        ignored = create_ignored_keys_note(run, base, options.ignore, reader.key_rules)
        remarked = with_notes(compared, other_differences, ignored, reader.create_pairing_note(run, base))
        noted.append(add_accuracies_to_comparison(replace(remarked, unplanned=why), run, base))
    return noted


def create_other_config_differences_note(
    run: Run, base: Run, options: ComparisonOptions, rules: KeyRules
) -> Note | None:
    named = {*options.by, *options.baseline}
    chosen = find_groups_with_choice(named)
    keys = rules.find_differing_keys([run.params, base.params])
    keys = [key for key in keys if key not in named and config_group(key) not in chosen]
    return note("also_differ", settings=format_key_differences(run, base, keys)) if keys else None


def sort_rows(table: Table) -> None:
    """Sort the rows so that each baseline stands before the rows that are compared with it."""
    inner = find_groups_with_choice(table.baseline)
    # one run that all others are compared with comes first
    baseline_is_one_run = JOB_ID in table.baseline
    outer = [
        key
        for key in table.keys
        if not baseline_is_one_run and key not in (*table.baseline, REPEAT) and config_group(key) not in inner
    ]

    # an adapter unmerged and the same one merged have two names, and one of them is the baseline
    names_merging = not {*MERGING}.isdisjoint(table.baseline)

    def config_value(row: TableRow, key: str) -> str | None:
        return get_adapter_name(row.run) if key == FORMAT and names_merging else row.config[key]

    def sort_key(row: TableRow) -> tuple[object, ...]:
        outer_values = [get_natural_sort_key(config_value(row, key)) for key in outer]
        return (
            outer_values,
            not row.is_baseline,
            not row.is_repeat,
            [get_natural_sort_key(row.config[key]) for key in table.keys],
            row.run.job_id,
        )

    table.rows.sort(key=sort_key)


def pool_runs_with_equal_keys(runs: list[Run], keys: list[str], reader: Reader) -> list[Run]:
    """Pool runs that have equal values of these keys.

    Raises ConfigError if two runs answered the same question.
    """
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get_value(key) for key in keys), []).append(run)
    return [
        _pool_runs_for_table_row(members, keys, reader) if len(members) > 1 else members[0]
        for members in groups.values()
    ]


def _pool_runs_for_table_row(members: list[Run], pooling_keys: list[str], reader: Reader) -> Run:
    members = sorted(members, key=lambda run: run.job_id)
    names = ", ".join(f"{key_label(key)}={members[0].get_value(key)}" for key in pooling_keys)
    differing = reader.key_rules.find_differing_keys([run.params for run in members])
    differences = "; ".join(
        f"{key_label(key)}: {join_distinct(run.get_value(key) for run in members)}" for key in differing
    )
    option, where = ",".join(map(key_label, pooling_keys)), f"the {len(members)} runs of {names}"
    if len({get_scoring_method(run) for run in members}) > 1:
        raise ConfigError(
            f"{where} cannot be pooled, because their scoring methods differ ({differences or 'versions'})",
            key="--by",
            value=option,
            code="mismatch",
        )
    if not all(run.correct_and_total for run in members):
        raise ConfigError(
            f"{where} cannot be pooled, because some of these runs have no accuracy",
            key="--by",
            value=option,
            code="unsupported",
        )
    whole = merge_runs(members)
    try:
        answers = reader.load_answers(whole)
    except NotPaired as reason:
        raise ConfigError(
            f"{where} cannot be pooled: {reason}", key="--by", value=option, code="mismatch"
        ) from reason
    if whole.correct_and_total and len(answers) < whole.correct_and_total[1]:
        raise ConfigError(
            f"{where} answered the same questions, so they cannot be pooled "
            f"({differences or 'all keys are equal'}). "
            "Add the differing keys to --by, or select one value with --where",
            key="--by",
            value=option,
            code="ambiguous",
        )
    if answers:
        families, counts = zip(
            *((answer.cluster, answer.num_answers) for answer in answers.values()), strict=True
        )
        whole.metrics |= compute_accuracy_metrics(
            [answer.accuracy for answer in answers.values()], families, counts
        )
        at_worst, at_best = (
            [answer.treat_cut_off_answers_as(right).accuracy for answer in answers.values()]
            for right in (False, True)
        )
        whole.metrics |= compute_accuracy_bound_metrics(at_worst, at_best, families, counts)
    return whole
