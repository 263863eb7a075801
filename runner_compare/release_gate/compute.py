"""Checks candidates against the requirements of a gate. Without significant evidence, the verdict is ASK."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from runner_base import ConfigError
from runner_base.errors import find_closest_names
from runner_base.notes import note
from runner_compare.features.gates.metric_bounds import find_metric_bounds
from runner_compare.features.gates.section import COMPARISONS, SHOWN_GOOD, RequirementTerm
from runner_compare.features.noise_floor.compute import BATCH_SIZE, TableNoiseFloors
from runner_compare.model.data import REPEAT, Run, Table, TableRow, key_label
from runner_compare.model.missing_jobs import MissingJob
from runner_compare.model.repeated_runs import join_machine_names
from runner_compare.model.table import QUESTION_KEYS
from runner_compare.reader import Reader
from runner_compare.release_gate.history import share_of_night
from runner_compare.release_gate.pooled_rules import has_pooled_measure, list_pooled_rows
from runner_compare.release_gate.verdicts import (
    POOLED,
    WORST_FIRST,
    CandidateVerdict,
    Check,
    GateReport,
    GateVerdict,
    Policy,
    Rule,
    Tier,
)
from runner_compare.render.labels import format_row_name
from runner_compare.statistics import ALPHA, RATIOS, Decision, MarginVerdict
from runner_compare.statistics.effects import compute_margin_test_p_value
from runner_compare.ways.repeats import is_speed, load_compared_repeats


@dataclass(frozen=True)
class RuleTables:
    """Tables that compare the candidates with the baseline by the margins of one rule."""

    rule: Rule
    tables: list[Table]

    @property
    def has_accuracies(self) -> bool:
        return any(table.has_accuracies for table in self.tables)


def check_candidates_against_policy(
    compared: Sequence[RuleTables],
    policy: Policy,
    reader: Reader,
    missing_jobs: Sequence[MissingJob],
    baseline: str,
    baseline_setting: str,
) -> GateReport:
    """Check all candidates. A job without a result, or an expected candidate without one, is NO-GO."""
    checks: dict[str, list[Check]] = defaultdict(list)
    job_ids: dict[str, list[str]] = defaultdict(list)
    panels: dict[tuple[str, str, str], str] = {}
    rules_and_tables = [
        (of_rule.rule, table)
        for of_rule in compared
        for table in of_rule.tables
        if not of_rule.rule.is_pooled or has_pooled_measure(of_rule.rule, table.has_accuracies)
    ]
    tables = [table for _, table in rules_and_tables]
    num_tasks = len({table.task for table in tables})
    shares = {tier: share_of_night(policy.night or 0) / _count_test_families(compared, tier) for tier in Tier}
    for of_rule in compared:
        if of_rule.rule.is_pooled:
            rule, name_by_run = replace(of_rule.rule, limits=()), _name_candidates_by_run(of_rule.tables)
            for name, row in list_pooled_rows(rule, of_rule.tables, name_by_run, reader):
                found = _check_candidate_row(row, rule, reader, POOLED, shares[rule.tier])
                checks[name] += [replace(check, tier=rule.tier) for check in found]
    for rule, table in rules_and_tables:
        num_details = sum(each is rule for each, _ in rules_and_tables) if rule.is_pooled else 1
        for row in table.candidate_rows:
            name = _choose_candidate_name(row, table)
            panel = _name_panel(row, num_tasks)
            other = panels.setdefault((table.task, name, panel), row.run.job_id)
            if other != row.run.job_id:
                raise ConfigError(
                    f"two candidates are named {name}: {other} and {row.run.job_id}. Compare only one of them",
                    code="ambiguous",
                )
            checks[name] += [
                replace(check, run_id=row.run.run_id, tier=rule.tier, is_detail=rule.is_pooled)
                for check in _check_candidate_row(row, rule, reader, panel, shares[rule.tier] / num_details)
            ]
            job_ids[name].append(row.run.job_id)
    for name, of_rule in [(name, of_rule) for name in checks for of_rule in compared if of_rule.rule.task]:
        if not any(
            _choose_candidate_name(row, table) == name for table in of_rule.tables for row in table.rows
        ):
            missing = note("no_task", task=of_rule.rule.task)
            checks[name].append(Check(GateVerdict.no_go, missing, tier=of_rule.rule.tier))
    for job in missing_jobs:
        checks[job.name].append(
            Check(GateVerdict.no_go, note("no_result", state=job.state.value, reason=job.reason))
        )
        job_ids[job.name] += [job.job_id] if job.job_id else []
    known = [
        (name, row.run)
        for table in tables
        for row in table.rows
        for name in [_choose_candidate_name(row, table)]
    ]
    for label in policy.expected:
        if not any(_is_label_of_run(label, name, run) for name, run in known) and not any(
            label in _split_candidate_name_into_words(job.name) for job in missing_jobs
        ):
            names = {word for name, _ in known for word in (name, *_split_candidate_name_into_words(name))}
            similar = find_closest_names(label, sorted(names))
            checks[label].append(Check(GateVerdict.no_go, note("expected", similar=similar)))
    candidates = [
        CandidateVerdict(name, tuple(dict.fromkeys(job_ids[name])), tuple(found))
        for name, found in checks.items()
    ]
    if not candidates:
        raise ConfigError(
            "only the baseline was found. Add the results of at least one candidate", code="empty"
        )
    candidates.sort(key=lambda candidate: WORST_FIRST.index(candidate.verdict))
    floors = {floor for table in tables for floor in table.get_section_data(TableNoiseFloors).floors}
    pooled = [
        check.decision.n
        for found in checks.values()
        for check in found
        if check.decision and not check.run_id
    ]
    return GateReport(
        baseline,
        max([_count_questions(tables), *pooled]),
        policy,
        tuple(candidates),
        tuple(sorted(floors, key=lambda floor: (floor.task, floor.baseline))),
        baseline_setting,
    )


def _count_test_families(compared: Sequence[RuleTables], tier: Tier) -> int:
    """Return how many families of tests of a tier share the error rate of NO-GO. Holm's procedure covers
    the comparisons within a family: one measure in one table. A pooled rule has two families: the test
    of all questions, and the tests of the tasks.
    """
    of_tier = [each for each in compared if each.rule.tier is tier]
    families = {
        (number, table.task, effect.measure.partition("/")[0])
        for number, rule_tables in enumerate(of_tier)
        if not rule_tables.rule.is_pooled
        for table in rule_tables.tables
        for row in table.candidate_rows
        for effect in row.effects
        if effect.verdict is not None
    }
    return max(len(families) + 2 * sum(each.rule.is_pooled for each in of_tier), 1)


def _check_candidate_row(
    row: TableRow, rule: Rule, reader: Reader, panel: str, error_rate_share: float
) -> list[Check]:
    if row.note is not None:
        return [Check(GateVerdict.unpaired, note("not_compared", why=row.note), panel)]
    decisions = [effect for effect in row.effects if effect.verdict is not None]
    measures = {_get_measure(effect) for effect in decisions}
    checks: list[Check] = []
    if row.baseline is not None and RATIOS in measures:
        decisions, checks = _separate_incomparable_measurements(
            row.run, row.baseline.run, decisions, reader, panel
        )
    checks += [check_loss_within_margin(decision, row.run, panel, error_rate_share) for decision in decisions]
    checks += [
        Check(GateVerdict.unpaired, note("no_measure", measure=measure), panel)
        for measure in rule.margins
        if measure not in measures and not rule.is_pooled
    ]
    return checks + [_check_metric_limit(term, row, reader, panel) for term in rule.limits]


def _separate_incomparable_measurements(
    run: Run, base: Run, decisions: list[Decision], reader: Reader, panel: str
) -> tuple[list[Decision], list[Check]]:
    """Return the decisions that two machines allow, and a check for each measurement without a decision.

    Speeds of different machines are not compared. A measure that only the baseline has is NO-GO: a
    workload that runs out of memory has no repeats.
    """
    machine, baseline_machine = join_machine_names(run), join_machine_names(base)
    if machine == baseline_machine:
        measured = load_compared_repeats(run, reader)
        lost = [measure for measure in load_compared_repeats(base, reader) if measure not in measured]
        reasons = [note("missing_measure", measure=measure) for measure in lost]
        return decisions, [Check(GateVerdict.no_go, reason, panel) for reason in reasons]
    comparable = [each for each in decisions if not (each.is_ratio and is_speed(each.measure))]
    if len(comparable) == len(decisions):
        return decisions, []
    reason = note("other_machine", machine=machine, baseline_machine=baseline_machine)
    return comparable, [Check(GateVerdict.unpaired, reason, panel)]


def check_loss_within_margin(
    decision: Decision, run: Run, panel: str, error_rate_share: float = 1.0
) -> Check:
    """Check whether the loss is within the margin. NO-GO requires significance at this share of the error rate."""
    if decision.verdict in SHOWN_GOOD:
        return Check(GateVerdict.go, note("within"), panel, decision)
    if decision.verdict is MarginVerdict.worse_by_more:
        if error_rate_share >= 1 or _compute_p_value_beyond_margin(decision) < ALPHA * error_rate_share:
            return Check(GateVerdict.no_go, note("beyond"), panel, decision)
        return Check(
            GateVerdict.ask, note("beyond_share", error_rate=ALPHA * error_rate_share), panel, decision
        )
    further = None if decision.needed is None else max(0, decision.needed - decision.n)
    seconds, answered = run.metrics.get("seconds"), run.metrics.get("n")
    takes = further * seconds / answered if further is not None and seconds and answered else None
    return Check(GateVerdict.ask, note("undecided"), panel, decision, further, takes)


def _compute_p_value_beyond_margin(decision: Decision) -> float:
    """Return the adjusted p-value of a loss beyond the margin, for the best outcome of cut-off answers."""
    versions = [decision, *(decision.ends or ())]
    p = max(
        compute_margin_test_p_value(version.test, version.margin_value)
        for version in versions
        if version.margin_value is not None
    )
    return p * decision.comparisons


def _check_metric_limit(term: RequirementTerm, row: TableRow, reader: Reader, panel: str) -> Check:
    """Check a metric against a limit. GO and NO-GO require its whole interval on one side of the limit."""
    known = find_metric_bounds(row.run, term.key, reader)
    if known is None:
        return Check(GateVerdict.no_go, note("no_metric", key=term.key), panel)
    compare, limit = COMPARISONS[term.sign], float(term.value)
    values = {"key": term.key, "value": known.value, "sign": term.sign, "limit": limit}
    if known.low is None or known.high is None:
        return Check(GateVerdict.ask, note("no_interval", why=known.why, **values), panel)
    low, high = sorted((known.low, known.high))
    sides = [compare(low, limit), compare(high, limit)]
    verdict = GateVerdict.go if all(sides) else GateVerdict.ask if any(sides) else GateVerdict.no_go
    baseline = None if row.baseline is None else row.baseline.run.metrics.get(term.key)
    return Check(verdict, note("limit", low=low, high=high, baseline=baseline, **values), panel)


def _get_measure(decision: Decision) -> str:
    return RATIOS if decision.is_ratio else decision.measure.partition("/")[0]


def _choose_candidate_name(row: TableRow, table: Table) -> str:
    """Return a candidate's name. It omits the repeat index and the batch size if all candidates share them."""
    shared = {
        key
        for key in (REPEAT, BATCH_SIZE)
        if len({other.run.get_value(key) for other in table.candidate_rows}) == 1
    }
    return format_row_name(row, [key for key in table.keys if key not in {*QUESTION_KEYS, *shared}])


def _name_candidates_by_run(tables: Iterable[Table]) -> dict[str, str]:
    return {
        row.run.run_id: _choose_candidate_name(row, table) for table in tables for row in table.candidate_rows
    }


def _name_panel(row: TableRow, num_tasks: int) -> str:
    panel = " ".join(row.panel)
    return f"{row.run.task} {panel}".rstrip() if num_tasks > 1 else panel


def _is_label_of_run(label: str, name: str, run: Run) -> bool:
    """Return whether a label of --expect matches a run by name, job id, config value or KEY=VALUE."""
    choices = {value for key, value in run.params.items() if key.endswith(".name")}
    if label in (name, run.job_id, *_split_candidate_name_into_words(name), *choices):
        return True
    key, sign, value = label.partition("=")
    return bool(sign) and any(
        run.get_value(known) == value for known in run.params if key in (known, key_label(known))
    )


def _split_candidate_name_into_words(name: str) -> set[str]:
    """Return the words of a candidate's name, and VALUE for each word of the form KEY=VALUE."""
    words = name.split()
    return {*words, *(word.partition("=")[2] for word in words if "=" in word)}


def _count_questions(tables: Iterable[Table]) -> int:
    """Return the number of questions in the largest comparison; 0 if only speed and memory are compared."""
    effects = (effect for table in tables for row in table.candidate_rows for effect in row.effects)
    counts = [effect.n for effect in effects if not effect.is_ratio]
    return max((count for count in counts if isinstance(count, int)), default=0)
