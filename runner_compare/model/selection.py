"""Selects the runs to compare: the newest run of each job, or runs by id or filter.

--where takes KEY=VALUE[,KEY=VALUE], or an expression over config keys, metrics and ids,
such as "quantization.name='nf4' and accuracy > 0.9". It has its own parser: MLflow's filter
supports neither `or` nor numbers in parameters.

    either     = both ("or" both)*
    both       = condition ("and" condition)*
    condition  = "not" condition | "(" either ")" | KEY operator VALUE
               | KEY ["not"] "in" "(" VALUE ("," VALUE)* ")"
    operator   = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace

from runner_base import ConfigError, format_unknown_choice_message
from runner_base.errors import Code
from runner_base.renamed_keys import get_current_key_name
from runner_compare.model.adapter_names import FORMAT, get_adapter_name
from runner_compare.model.data import IDS, JOB_ID, Run, key_label
from runner_compare.statistics import RATIOS

# a token, or the unreadable rest
TOKEN = re.compile(r"""('[^']*'|"[^"]*"|<=|>=|!=|==|[=<>(),]|[^\s'"=<>!(),]+)|(\S.*)""", re.DOTALL)
EXPRESSION = re.compile(r"""['"<>]|!=|==|\s=|=\s|\s(and|or|in|not)\s|^\s*(not\b|\()""")
EXAMPLE = 'e.g. "quantization.name=\'nf4\' and accuracy > 0.9", "seed in (0, 1)"'


class NoMatch(ConfigError):
    """Raised if no run has the requested values. The message lists the available values."""


def select_newest_run_per_job(runs: list[Run]) -> list[Run]:
    """Return the newest run of each job. The given runs must be sorted newest first."""
    newest_by_job: dict[str, Run] = {}
    for run in runs:
        newest_by_job.setdefault(run.job_id, run)
    return list(newest_by_job.values())


def find_runs_by_id(ids: list[str], runs: list[Run], option: str) -> list[Run]:
    """Find runs by job id, run id or id prefix. A job id selects the job's newest run."""
    latest = select_newest_run_per_job(runs)
    chosen: dict[str, Run] = {}
    for text in ids:
        matching = [run for run in latest if run.job_id == text] or [
            run for run in runs if run.run_id == text
        ]
        if not matching:
            matching = [run for run in latest if run.job_id.startswith(text)]
            matching = matching or [run for run in runs if run.run_id.startswith(text)]
        if len(matching) != 1:
            known = [run.job_id for run in latest]
            several = f"several runs begin with it: {join_distinct(run.job_id for run in matching)}"
            raise ConfigError(
                several if matching else format_unknown_choice_message("finished job or run", text, known),
                key=option,
                value=text,
                code="ambiguous" if matching else "unknown_choice",
            )
        run = matching[0]
        # the job's folder has the newest run's files: this run's are only in MLflow
        if run not in latest:
            run = replace(run, job_id=f"{run.job_id}@{run.run_id[:8]}", folder="")
        chosen[run.run_id] = run
    return list(chosen.values())


def parse_config_keys(text: str, runs: list[Run], option: str) -> list[str]:
    """Parse config keys in the form `KEY[,KEY]`. GROUP is short for GROUP.name."""
    known = set().union(*(run.params for run in runs))
    return list(
        dict.fromkeys(resolve_config_key(key.strip(), known, option, text) for key in text.split(","))
    )


def parse_config_values(text: str, runs: list[Run], option: str) -> dict[str, str]:
    """Parse config values in the form `KEY=VALUE[,KEY=VALUE]`. GROUP is short for GROUP.name."""
    known = {JOB_ID}.union(*(run.params for run in runs))
    pairs = {}
    # a comma inside a value, as in [1,4], separates nothing
    for part in re.split(r",(?=[\w.]+=)", text):
        key, equals, value = part.partition("=")
        if not equals:
            reason = "give KEY=VALUE, e.g. quantization=none"
            raise ConfigError(reason, key=option, value=text, code="bad_value")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        pairs[resolve_config_key(key, known, option, text)] = value[1:-1] if quoted else value
    return pairs


def resolve_config_key(key: str, known_keys: set[str], option: str, text: str) -> str:
    key = key if key in known_keys else get_current_key_name(key)
    full = key if key in known_keys else f"{key}.name"
    if full not in known_keys:
        reason = format_unknown_choice_message("config key", key, map(key_label, known_keys))
        raise ConfigError(reason, key=option, value=text, code="unknown_choice")
    return full


def filter_by_values(runs: list[Run], wanted_values: dict[str, str], option: str, text: str) -> list[Run]:
    """Return the runs that have all wanted config values. Raises NoMatch if no run has them."""
    return require_selected_runs(
        [run for run in runs if has_values(run, wanted_values)], runs, wanted_values, option, text
    )


def require_selected_runs(
    selected_runs: list[Run], runs: list[Run], keys: Iterable[str], option: str, text: str
) -> list[Run]:
    """Return the selected runs. Raises NoMatch if the selection is empty."""
    if not selected_runs:
        values_by_key = (
            f"{key_label(key)} has {join_distinct(run.get_value(key) for run in runs)}"
            for key in dict.fromkeys(keys)
        )
        reason = f"no finished run matches; {'; '.join(values_by_key)}"
        raise NoMatch(reason, key=option, value=text, code="not_found")
    return selected_runs


def has_values(run: Run, wanted_values: dict[str, str]) -> bool:
    """Return whether a run has all wanted config values.

    Numbers are compared numerically. Adapters also match by display name.
    """
    return all(
        equals_value(run.get_value(key), value) or (key == FORMAT and value == get_adapter_name(run))
        for key, value in wanted_values.items()
    )


def equals_value(value: str | None, wanted_value: str) -> bool:
    return value == wanted_value or parse_number(value) == parse_number(wanted_value)


def parse_number(text: str | None) -> float:
    """Parse a number. Text that is not a number becomes NaN, which makes every comparison false."""
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan


def join_distinct(values: Iterable[str | None], max_values: int = 12) -> str:
    distinct = sorted({value for value in values if value is not None})
    rest = f" and {len(distinct) - max_values} more" if len(distinct) > max_values else ""
    return (", ".join(distinct[:max_values]) or "no value in any run") + rest


def filter_runs(runs: list[Run], filter_text: str, option: str = "--where") -> list[Run]:
    """Return the runs that match one --where filter. Raises NoMatch if no run matches."""
    if not EXPRESSION.search(filter_text):
        return filter_by_values(runs, parse_config_values(filter_text, runs, option), option, filter_text)
    expression = _FilterParser(filter_text, runs, option)
    passing_ids = expression.parse_disjunction_and_match_runs()
    if expression.tokens:
        raise expression.syntax_error("and, or, or the end")
    passing = [run for run in runs if run.run_id in passing_ids]
    return require_selected_runs(passing, runs, expression.keys, option, filter_text)


OPERATORS: dict[str, Callable[[str | None, str], bool]] = {
    "=": equals_value,
    "==": equals_value,
    "!=": lambda value, wanted: not equals_value(value, wanted),
    "<": lambda value, limit: parse_number(value) < parse_number(limit),
    "<=": lambda value, limit: parse_number(value) <= parse_number(limit),
    ">": lambda value, limit: parse_number(value) > parse_number(limit),
    ">=": lambda value, limit: parse_number(value) >= parse_number(limit),
}


class _FilterParser:
    """Recursive-descent parser of a --where filter. Its methods return ids of matching runs."""

    def __init__(self, text: str, runs: list[Run], option: str) -> None:
        self.runs, self.option, self.text = runs, option, text
        self.keys: list[str] = []
        self.known = {*IDS}.union(*(run.params.keys() | run.metrics.keys() for run in runs))
        tokens = TOKEN.findall(text.strip())
        if tokens and (unread := tokens[-1][1]):
            raise self.config_error(f"cannot read {unread[:20]!r}; quote values, {EXAMPLE}")
        self.tokens: list[str] = [token for token, _ in reversed(tokens)]

    def parse_disjunction_and_match_runs(self) -> set[str]:
        passing_ids = self.parse_conjunction_and_match_runs()
        while self.accept_token("or"):
            passing_ids |= self.parse_conjunction_and_match_runs()
        return passing_ids

    def parse_conjunction_and_match_runs(self) -> set[str]:
        passing_ids = self.parse_condition_and_match_runs()
        while self.accept_token("and"):
            passing_ids &= self.parse_condition_and_match_runs()
        return passing_ids

    def parse_condition_and_match_runs(self) -> set[str]:
        if self.accept_token("not"):
            return {run.run_id for run in self.runs} - self.parse_condition_and_match_runs()
        if self.accept_token("("):
            passing_ids = self.parse_disjunction_and_match_runs()
            self.require_token(")")
            return passing_ids
        return self.parse_comparison_and_match_runs()

    def parse_comparison_and_match_runs(self) -> set[str]:
        key = self.parse_filter_key()
        negated = self.accept_token("not")
        if negated:
            self.require_token("in")
        if negated or self.accept_token("in"):
            wanted = self.parse_parenthesized_values()
            return self.matching_ids(
                key, lambda value: any(equals_value(value, choice) for choice in wanted) != negated
            )
        sign = self.parse_word("an operator: = != < <= > >= in", allowed=OPERATORS)
        text = self.parse_value()
        if sign[0] in "<>" and math.isnan(parse_number(text)):
            raise self.config_error(f"{key} {sign} {text}: give a number")
        return self.matching_ids(key, lambda value: OPERATORS[sign](value, text))

    def matching_ids(self, key: str, test: Callable[[str | None], bool]) -> set[str]:
        return {run.run_id for run in self.runs if test(run.get_value(key))}

    def parse_filter_key(self) -> str:
        word = self.parse_word("a key")
        # as MLflow's own filter writes them
        bare = re.sub(r"^(params|metrics|tags|attributes)\.", "", word)
        full = next(
            (key for key in (word, bare, get_current_key_name(bare), f"{bare}.name") if key in self.known),
            None,
        )
        if full is None:
            names = [key_label(key) for key in self.known if "/" not in key]
            raise self.config_error(
                format_unknown_choice_message("config key or metric", word, names), "unknown_choice"
            )
        self.keys.append(full)
        return full

    def parse_parenthesized_values(self) -> list[str]:
        self.require_token("(")
        values = [self.parse_value()]
        while self.accept_token(","):
            values.append(self.parse_value())
        self.require_token(")")
        return values

    def parse_value(self) -> str:
        word = self.parse_word("a value")
        return word[1:-1] if word[0] in "'\"" else word

    def parse_word(self, expected_kind: str, allowed: Container[str] | None = None) -> str:
        if self.next_token in ("", "(", ")", ",") or (allowed is not None and self.next_token not in allowed):
            raise self.syntax_error(expected_kind)
        return self.tokens.pop()

    def accept_token(self, token: str) -> bool:
        is_next = self.next_token.lower() == token
        if is_next:
            self.tokens.pop()
        return is_next

    def require_token(self, token: str) -> None:
        if not self.accept_token(token):
            raise self.syntax_error(token)

    def syntax_error(self, expected_kind: str) -> ConfigError:
        actual = repr(self.next_token) if self.tokens else "the end"
        return self.config_error(f"expected {expected_kind}, found {actual}; {EXAMPLE}")

    def config_error(self, reason: str, code: Code = "bad_value") -> ConfigError:
        return ConfigError(reason, key=self.option, value=self.text, code=code)

    @property
    def next_token(self) -> str:
        return self.tokens[-1] if self.tokens else ""


# measure of a margin → the end of its text, the number that is 1 there, and below which number it
# must stay
MARGIN_UNITS = {
    "log_likelihood": ("nats", 1.0, math.inf),
    RATIOS: ("%", 100.0, 1000.0),
    "accuracy": ("", 100.0, 100.0),
}


def parse_margins(texts: Sequence[str], option: str = "--margin", prefix: str = "") -> dict[str, float]:
    """Parse --margin and return the margin of each measure, e.g. `2` (accuracy points) or `5%`
    (speed).

    `5%` also applies to memory. `prefix` precedes the number in the user's input.
    """
    margins: dict[str, float] = {}
    for text in texts:
        measure = next(name for name, (end, _, _) in MARGIN_UNITS.items() if text.endswith(end))
        end, unit, most = MARGIN_UNITS[measure]
        try:
            value = float(text.removesuffix(end))
        except ValueError:
            value = math.nan
        if not 0 < value < most:
            raise ConfigError(
                "must be a number of percentage points between 0 and 100 (2), "
                "of nats above 0 with its unit (0.01nats), or of percent between 0 and 1000 with its sign (5%)",
                key=option,
                value=f"{prefix}{text}",
                code="bad_value",
            )
        if measure in margins:
            raise ConfigError(
                "two margins are set for the same measure. Set only one",
                key=option,
                value=f"{prefix}{text}",
                code="conflict",
            )
        margins[measure] = value / unit
    return margins
