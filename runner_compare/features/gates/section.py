"""Checks each run against the requirements of --require, e.g. in continuous integration.

The exit code is 1 if a requirement is not met.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runner_base import ConfigError, format_against_limit, format_unknown_choice_message
from runner_base.errors import Code
from runner_compare.features.gates.metric_bounds import find_metric_bounds, is_event_count_metric
from runner_compare.metrics import UNITS
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.missing_jobs import MissingJob
from runner_compare.model.selection import parse_margins
from runner_compare.reader import Reader
from runner_compare.render.effects import (
    describe_margin_decision,
    explain_impossible_verdict,
    get_sample_unit_name,
)
from runner_compare.render.labels import format_count_interval, format_number, format_row_name
from runner_compare.render.margins import UNDECIDED, format_margin, format_margin_verdict
from runner_compare.render.notes import render_notes
from runner_compare.section import Section
from runner_compare.statistics import RATIOS, Finding, MarginVerdict

OPTION = "--require"
TERM = re.compile(r"([^<>=!\s]+)(<=|>=|!=|==|=|<|>)([^<>=!\s]+)")
WITH_UNIT = re.compile(r"([-+.\d]+(?:e[-+]?\d+)?)([a-z]+)")
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
EXAMPLE = "e.g. 'margin=2 finding!=worse accuracy>=0.8 model_mib<4000 kl_p95<0.5nats'"
SHOWN_GOOD = (MarginVerdict.better, MarginVerdict.as_good, MarginVerdict.worse_but_within)
COUNTED_ACCURACY = ("correct", "wrong")  # counts of what the accuracy tells with its interval
HAS_RESULT = "has a result"  # required of each job of the grid that is compared
FINDINGS = {finding.name: finding for finding in Finding}


@dataclass
class Requirement:
    """Result of checking one requirement on one run: whether the run meets it, and the reason."""

    requirement: str
    job_id: str
    met: bool
    reason: str


@dataclass
class Requirements:
    """Results of all requirements, for the rows of a table or for jobs without a result."""

    of_rows: list[Requirement] = field(default_factory=list)


class Gates(Section):
    """Report section with the results of --require."""

    def sentences(self, table: Table) -> list[str]:
        """Warn about requirements on counts, which do not generalize to other questions."""
        terms = dict.fromkeys(row.requirement for row in table.get_section_data(Requirements).of_rows)
        counts = [term for term in terms if is_event_count_metric(TERM.sub(r"\1", term))]
        if not counts:
            return []
        are = "counts events" if len(counts) == 1 else "count events"
        return [
            f"{', '.join(counts)} {are} in these runs only. The result does not generalize to other questions"
        ]

    def unmet_requirements(self, table: Table) -> list[str]:
        return unmet_requirement_lines([table])

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        return {"requirements": [asdict(requirement) for requirement in collect_requirements(comparison)]}


@dataclass(frozen=True)
class RequirementTerm:
    """One term of --require: key, operator and value."""

    text: str
    key: str
    sign: str
    value: str

    @property
    def is_comparison(self) -> bool:
        """Whether the term needs a comparison with a baseline."""
        return self.key in ("margin", "finding")

    @property
    def margins(self) -> dict[str, float]:
        return parse_margins([self.value], OPTION, "margin=") if self.key == "margin" else {}


def parse_requirements(texts: Sequence[str], runs: Sequence[Run]) -> list[RequirementTerm]:
    """Parse --require. Raises ConfigError for an invalid term or an unknown name."""
    terms = []
    for text in texts:
        joined = re.sub(r"\s*(<=|>=|!=|==|=|<|>)\s*", r"\1", text.strip())
        for part in joined.split():
            match = TERM.fullmatch(part)
            if match is None:
                raise ConfigError(
                    f"cannot read {part!r}; {EXAMPLE}", key=OPTION, value=text, code="bad_value"
                )
            terms.append(
                _validate_gate_requirement(
                    _move_unit_into_metric_key(RequirementTerm(part, *match.groups()), runs), runs
                )
            )
        if not joined:
            raise ConfigError(f"is empty; {EXAMPLE}", key=OPTION, code="empty")
    return list(dict.fromkeys(terms))


def _term_error(term: RequirementTerm, reason: str, code: Code = "bad_value") -> ConfigError:
    return ConfigError(reason, key=OPTION, value=term.text, code=code)


def _move_unit_into_metric_key(term: RequirementTerm, runs: Sequence[Run]) -> RequirementTerm:
    """Move a unit from the value of a term to the end of its key.

    For example, `kl_p999<0.5nats` becomes `kl_p999_nats<0.5`.
    """
    match = WITH_UNIT.fullmatch(term.value)
    if match is None or any(term.key in run.metrics for run in runs):
        return term
    name, _, category = term.key.partition("/")
    key = f"{name}_{match[2]}" + (f"/{category}" if category else "")
    return replace(term, key=key, value=match[1]) if any(key in run.metrics for run in runs) else term


def _reject_missing_or_wrong_unit(term: RequirementTerm, runs: Sequence[Run]) -> None:
    """Raise ConfigError if the value of a term has no unit or a wrong unit."""
    name, _, category = term.key.partition("/")
    of = f"/{category}" if category else ""
    recorded = set().union(*(run.metrics for run in runs))
    if term.key in recorded:
        return
    units = [unit for unit in UNITS if f"{name}{unit}{of}" in recorded]
    if not units:
        return
    unit, given = units[0].removeprefix("_"), WITH_UNIT.fullmatch(term.value)
    value = given[1] if given else term.value
    wrong = f"is in {unit}, not in {given[2]}" if given else "needs its unit"
    written = (
        f"{term.key}{term.sign}{value}{unit}" if unit.isalpha() else f"{name}{units[0]}{of}{term.sign}{value}"
    )
    raise _term_error(term, f"{term.key} {wrong}: {written}")


def _validate_gate_requirement(term: RequirementTerm, runs: Sequence[Run]) -> RequirementTerm:
    if term.key == "margin":
        if term.sign != "=":
            raise _term_error(term, f"give margin=POINTS, {EXAMPLE}")
        # a mistake is said before anything is compared
        parse_margins([term.value], OPTION, "margin=")
        return term
    if term.key == "finding":
        if term.sign not in ("=", "==", "!="):
            raise _term_error(term, "the operator of a finding must be = or !=")
        if term.value not in FINDINGS:
            raise _term_error(
                term, format_unknown_choice_message("finding", term.value, FINDINGS), "unknown_choice"
            )
        return term
    _reject_missing_or_wrong_unit(term, runs)
    metrics = sorted({name for run in runs for name in run.metrics if "/" not in name})
    if term.key not in set().union(*(run.metrics for run in runs)):
        raise _term_error(
            term,
            format_unknown_choice_message("metric", term.key, ["margin", "finding", *metrics]),
            "unknown_choice",
        )
    if term.sign not in COMPARISONS:
        raise _term_error(term, "a metric is compared with < <= > or >=")
    try:
        if math.isnan(float(term.value)):
            raise ValueError
    except ValueError:
        raise _term_error(term, f"{term.value!r} is not a number") from None
    if term.key in COUNTED_ACCURACY and any(run.accuracy_interval for run in runs):
        instead = _format_count_requirement_as_accuracy(term, runs)
        raise _term_error(
            term, f"a count of answers does not generalize to other questions. Use {instead}", "unsupported"
        )
    return term


def _format_count_requirement_as_accuracy(term: RequirementTerm, runs: Sequence[Run]) -> str:
    counts = {run.correct_and_total[1] for run in runs if run.correct_and_total and run.correct_and_total[1]}
    is_of_right = term.key == "correct"
    sign = term.sign if is_of_right else term.sign.translate(str.maketrans("<>", "><"))
    if len(counts) != 1:
        return f"accuracy{sign}SHARE"
    share = float(term.value) / counts.pop()
    return f"accuracy{sign}{share if is_of_right else 1 - share:.4g}"


def merge_margins_with_requirements(
    terms: Sequence[RequirementTerm], margins: dict[str, float]
) -> dict[str, float]:
    """Merge the margins of --margin and --require. Raises ConfigError if they conflict."""
    together = dict(margins)
    for term in terms:
        for measure, size in term.margins.items():
            if together.setdefault(measure, size) != size:
                raise _term_error(
                    term, "this measure has two different margins. Omit one of them", "conflict"
                )
    return together


def check_requirements_on_runs(
    tables: Sequence[Table],
    terms: Sequence[RequirementTerm],
    reader: Reader | None = None,
    missing_jobs: Sequence[MissingJob] = (),
) -> list[Requirement]:
    """Check all requirements on every run that is not a baseline.

    Returns one unmet requirement per job without a result. Raises ConfigError if there is
    nothing to check.
    """
    of_tables = {effect.measure for table in tables for row in table.candidate_rows for effect in row.effects}
    for table in tables:
        table.get_section_data(Requirements).of_rows = [
            _check_term(term, row, table, reader)
            for row in table.candidate_rows
            for term in terms
            if not _applies_only_to_other_tables(term, row, of_tables)
        ]
    if not terms:
        return []
    if not missing_jobs and not any(table.get_section_data(Requirements).of_rows for table in tables):
        raise ConfigError(
            "every selected run is a baseline, so there is no run to check. Select other runs, too",
            key=OPTION,
            code="empty",
        )
    return [Requirement(HAS_RESULT, job.job_id, False, f"{job.name}: {job.state}") for job in missing_jobs]


def collect_requirements(comparison: Comparison) -> list[Requirement]:
    of_rows = [row for table in comparison.tables for row in table.get_section_data(Requirements).of_rows]
    return of_rows + comparison.get_section_data(Requirements).of_rows


def _applies_only_to_other_tables(term: RequirementTerm, row: TableRow, table_measures: set[str]) -> bool:
    own = {effect.measure for effect in row.effects if not effect.is_ratio}
    wanted = set(term.margins) - {RATIOS}
    return bool(own and wanted and not own & wanted and wanted & table_measures)


def unmet_requirement_lines(tables: Sequence[Table]) -> list[str]:
    return format_unmet_requirements(
        row for table in tables for row in table.get_section_data(Requirements).of_rows
    )


def format_unmet_requirements(requirements: Iterable[Requirement]) -> list[str]:
    return [f"requirement failed: {failed.reason}" for failed in requirements if not failed.met]


def _check_term(term: RequirementTerm, row: TableRow, table: Table, reader: Reader | None) -> Requirement:
    if term.key == "margin":
        met, reason = _check_loss_within_margin(term, row)
    elif term.key == "finding":
        met, reason = _check_finding_requirement(term, row)
    else:
        met, reason = _check_metric_requirement(term, row, reader)
    return Requirement(term.text, row.run.job_id, met, f"{format_row_name(row, table.keys)}: {reason}")


def _check_loss_within_margin(term: RequirementTerm, row: TableRow) -> tuple[bool, str]:
    of = [effect for effect in row.effects if (RATIOS if effect.is_ratio else effect.measure) in term.margins]
    if not of:
        return False, f"{term.text}: {_not_compared_message(row)}"
    worst = min(of, key=lambda effect: effect.verdict in SHOWN_GOOD)
    named = f"{worst.measure}: " if worst.is_ratio else ""
    if worst.verdict is MarginVerdict.undecided and (why := explain_impossible_verdict(worst)):
        return False, f"{named}{format_margin_verdict(worst.verdict, format_margin(worst))}: {why}"
    if worst.verdict is MarginVerdict.undecided and worst.finding is not Finding.open:
        return (
            False,
            f"{named}{worst.finding}, but it is {UNDECIDED} whether the loss exceeds {format_margin(worst)}",
        )
    if worst.verdict is MarginVerdict.undecided:
        needs = (
            (
                f" (needs about {format_count_interval(worst.needed, worst.needed_interval)} "
                f"{get_sample_unit_name(worst)} in all)"
            )
            if worst.needed
            else ""
        )
        return False, f"{named}{format_margin_verdict(worst.verdict, format_margin(worst))}{needs}"
    return worst.verdict in SHOWN_GOOD, f"{named}{describe_margin_decision(worst)}"


def _not_compared_message(row: TableRow) -> str:
    return f"not compared, {row.note or 'it has no such measure'}"


def _check_finding_requirement(term: RequirementTerm, row: TableRow) -> tuple[bool, str]:
    if not row.effects:
        return False, f"{term.text}: {_not_compared_message(row)}"
    if empty := [of for of in row.effects if of.no_evidence and of.finding is Finding.open]:
        return False, f"{term.text}: {UNDECIDED}, {render_notes(empty[0].no_evidence)}"
    wanted = FINDINGS[term.value]
    # where answers were cut off, neither end may be what is not allowed
    found = [
        decision
        for of in row.effects
        for decision in (of, *(of.ends or ()))
        if (decision.finding is wanted) == (term.sign == "!=")
    ]
    if not found:
        return True, f"{term.text} holds"
    findings = [
        f"{decision.measure} {decision.finding}" if decision.is_ratio else str(decision.finding)
        for decision in found
    ]
    if not any(decision in row.effects for decision in found):
        findings = [f"{word} with cut-off answers at worst" for word in findings]
    return False, f"{', '.join(dict.fromkeys(findings))}, required {term.text}"


def _check_metric_requirement(
    term: RequirementTerm, row: TableRow, reader: Reader | None
) -> tuple[bool, str]:
    """Check a metric requirement against the worse end of the metric's confidence interval.

    A metric without an interval fails.
    """
    known = find_metric_bounds(row.run, term.key, reader)
    if known is None:
        return False, f"no {term.key} was recorded, required {term.text}"
    compare, limit, is_at_least = (COMPARISONS[term.sign], float(term.value), term.sign.startswith(">"))
    written = f"{term.key} {format_against_limit(known.value, limit, format_number)}"
    written += " in this run" if is_event_count_metric(term.key) else ""
    if known.is_exact:
        met = compare(known.value, limit)
        return met, written + (f", required {term.text}" if not met else "")
    end, other = (known.low, known.high) if is_at_least else (known.high, known.low)
    if end is None or other is None:
        why = f" ({known.why})" if known.why else ""
        shown = (
            "not met, because the metric has no interval" if compare(known.value, limit) else "no interval"
        )
        return False, f"{written}, {shown}{why}, required {term.text}"
    between = f" with {known.between}" if known.between else ""
    low, high = (format_against_limit(other_end, limit, format_number) for other_end in sorted((end, other)))
    interval = f"{written} [{low}, {high}]{between}"
    if compare(end, limit):
        return True, interval
    return (False, f"{interval}{f', {UNDECIDED}' if compare(other, limit) else ''}, required {term.text}")


SECTION = Gates()
