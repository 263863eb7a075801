"""Selects the runs to compare: the newest of each job, those with given ids, those that pass a
filter.

--where takes KEY=VALUE[,KEY=VALUE], or an expression over config keys, metrics and ids, such as
"quantization.name='nf4' and accuracy > 0.9". Its parser is our own: MLflow's filter knows neither `or` nor numbers in
parameters.

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

from runner_base import ConfigError, unknown
from runner_base.errors import Code
from runner_compare.model.adapter_names import FORMAT, own_name
from runner_compare.model.data import IDS, JOB_ID, Run, label
from runner_compare.statistics import RATIOS

# a token, or the unreadable rest
TOKEN = re.compile(r"""('[^']*'|"[^"]*"|<=|>=|!=|==|[=<>(),]|[^\s'"=<>!(),]+)|(\S.*)""", re.DOTALL)
EXPRESSION = re.compile(r"""['"<>]|!=|==|\s=|=\s|\s(and|or|in|not)\s|^\s*(not\b|\()""")
EXAMPLE = 'e.g. "quantization.name=\'nf4\' and accuracy > 0.9", "seed in (0, 1)"'


class NoMatch(ConfigError):
    """No run has the wanted values; the message lists the values that runs have."""


def newest(runs: list[Run]) -> list[Run]:
    """Return only the newest run of each job; the given runs are sorted newest first."""
    newest_by_job: dict[str, Run] = {}
    for run in runs:
        newest_by_job.setdefault(run.job_id, run)
    return list(newest_by_job.values())


def pick(ids: list[str], runs: list[Run], option: str) -> list[Run]:
    """Return the runs with these job or run ids, or the beginnings of ids; of a job, the newest
    run."""
    latest = newest(runs)
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
            several = f"several runs begin with it: {listed(run.job_id for run in matching)}"
            raise ConfigError(
                several if matching else unknown("finished job or run", text, known),
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


def parse_keys(text: str, runs: list[Run], option: str) -> list[str]:
    """Read KEY[,KEY]; a bare group name stands for group.name."""
    known = set().union(*(run.params for run in runs))
    return list(dict.fromkeys(full_key(key.strip(), known, option, text) for key in text.split(",")))


def parse_pairs(text: str, runs: list[Run], option: str) -> dict[str, str]:
    """Read KEY=VALUE[,KEY=VALUE]; a bare group name stands for group.name."""
    known = {JOB_ID}.union(*(run.params for run in runs))
    pairs = {}
    # a comma inside a value, as in [1,4], separates nothing
    for part in re.split(r",(?=[\w.]+=)", text):
        key, equals, value = part.partition("=")
        if not equals:
            reason = "give KEY=VALUE, e.g. quantization=none"
            raise ConfigError(reason, key=option, value=text, code="bad_value")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        pairs[full_key(key, known, option, text)] = value[1:-1] if quoted else value
    return pairs


def full_key(key: str, known: set[str], option: str, text: str) -> str:
    """Return the whole name of a config key: quantization stands for quantization.name."""
    full = key if key in known else f"{key}.name"
    if full not in known:
        reason = unknown("config key", key, map(label, known))
        raise ConfigError(reason, key=option, value=text, code="unknown_choice")
    return full


def select(runs: list[Run], wanted: dict[str, str], option: str, text: str) -> list[Run]:
    """Return the runs that have all wanted values; if none has, the error lists the values."""
    return at_least_one([run for run in runs if matches(run, wanted)], runs, wanted, option, text)


def at_least_one(
    chosen: list[Run], runs: list[Run], keys: Iterable[str], option: str, text: str
) -> list[Run]:
    """Return the chosen runs; if there are none, the error lists the values of these keys."""
    if not chosen:
        values_by_key = (
            f"{label(key)} has {listed(run.value(key) for run in runs)}" for key in dict.fromkeys(keys)
        )
        reason = f"no finished run matches; {'; '.join(values_by_key)}"
        raise NoMatch(reason, key=option, value=text, code="not_found")
    return chosen


def matches(run: Run, wanted: dict[str, str]) -> bool:
    """Whether the run has all wanted values; numbers are compared as numbers, an adapter by its own
    name, too."""
    return all(
        same(run.value(key), value) or (key == FORMAT and value == own_name(run))
        for key, value in wanted.items()
    )


def same(value: str | None, wanted: str) -> bool:
    """Whether a value is the wanted one, as a text or as a number."""
    return value == wanted or number(value) == number(wanted)


def number(text: str | None) -> float:
    """Read a number; any other text is NaN, for which every comparison is false."""
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan


def listed(values: Iterable[str | None], most: int = 12) -> str:
    """Return the distinct values as a list in words, at most `most` of them."""
    distinct = sorted({value for value in values if value is not None})
    rest = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return (", ".join(distinct[:most]) or "no value in any run") + rest


def where(runs: list[Run], text: str, option: str = "--where") -> list[Run]:
    """Return the runs that pass one --where, in either form; if none does, the error lists the
    values."""
    if not EXPRESSION.search(text):
        return select(runs, parse_pairs(text, runs, option), option, text)
    expression = _Expression(text, runs, option)
    passing_ids = expression.either()
    if expression.tokens:
        raise expression.expected("and, or, or the end")
    passing = [run for run in runs if run.run_id in passing_ids]
    return at_least_one(passing, runs, expression.keys, option, text)


OPERATORS: dict[str, Callable[[str | None, str], bool]] = {
    "=": same,
    "==": same,
    "!=": lambda value, wanted: not same(value, wanted),
    "<": lambda value, limit: number(value) < number(limit),
    "<=": lambda value, limit: number(value) <= number(limit),
    ">": lambda value, limit: number(value) > number(limit),
    ">=": lambda value, limit: number(value) >= number(limit),
}


class _Expression:
    """Parses an expression from its tokens, the next one last; each rule returns the ids of the
    runs that pass."""

    def __init__(self, text: str, runs: list[Run], option: str) -> None:
        self.runs, self.option, self.text = runs, option, text
        self.keys: list[str] = []
        self.known = {*IDS}.union(*(run.params.keys() | run.metrics.keys() for run in runs))
        tokens = TOKEN.findall(text.strip())
        if tokens and (unread := tokens[-1][1]):
            raise self.refused(f"cannot read {unread[:20]!r}; quote values, {EXAMPLE}")
        self.tokens: list[str] = [token for token, _ in reversed(tokens)]

    def either(self) -> set[str]:
        passing_ids = self.both()
        while self.takes("or"):
            passing_ids |= self.both()
        return passing_ids

    def both(self) -> set[str]:
        passing_ids = self.condition()
        while self.takes("and"):
            passing_ids &= self.condition()
        return passing_ids

    def condition(self) -> set[str]:
        if self.takes("not"):
            return {run.run_id for run in self.runs} - self.condition()
        if self.takes("("):
            passing_ids = self.either()
            self.needs(")")
            return passing_ids
        return self.comparison()

    def comparison(self) -> set[str]:
        key = self.key()
        negated = self.takes("not")
        if negated:
            self.needs("in")
        if negated or self.takes("in"):
            wanted = self.values()
            return self.passing(key, lambda value: any(same(value, choice) for choice in wanted) != negated)
        sign = self.word("an operator: = != < <= > >= in", among=OPERATORS)
        text = self.value()
        if sign[0] in "<>" and math.isnan(number(text)):
            raise self.refused(f"{key} {sign} {text}: give a number")
        return self.passing(key, lambda value: OPERATORS[sign](value, text))

    def passing(self, key: str, test: Callable[[str | None], bool]) -> set[str]:
        return {run.run_id for run in self.runs if test(run.value(key))}

    def key(self) -> str:
        word = self.word("a key")
        # as MLflow's own filter writes them
        bare = re.sub(r"^(params|metrics|tags|attributes)\.", "", word)
        full = next((key for key in (word, bare, f"{bare}.name") if key in self.known), None)
        if full is None:
            names = [label(key) for key in self.known if "/" not in key]
            raise self.refused(unknown("config key or metric", word, names), "unknown_choice")
        self.keys.append(full)
        return full

    def values(self) -> list[str]:
        self.needs("(")
        values = [self.value()]
        while self.takes(","):
            values.append(self.value())
        self.needs(")")
        return values

    def value(self) -> str:
        word = self.word("a value")
        return word[1:-1] if word[0] in "'\"" else word

    def word(self, what: str, among: Container[str] | None = None) -> str:
        if self.next in ("", "(", ")", ",") or (among is not None and self.next not in among):
            raise self.expected(what)
        return self.tokens.pop()

    def takes(self, token: str) -> bool:
        is_next = self.next.lower() == token
        if is_next:
            self.tokens.pop()
        return is_next

    def needs(self, token: str) -> None:
        if not self.takes(token):
            raise self.expected(token)

    def expected(self, what: str) -> ConfigError:
        actual = repr(self.next) if self.tokens else "the end"
        return self.refused(f"expected {what}, found {actual}; {EXAMPLE}")

    def refused(self, reason: str, code: Code = "bad_value") -> ConfigError:
        return ConfigError(reason, key=self.option, value=self.text, code=code)

    @property
    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""


# measure of a margin → the end of its text, the number that is 1 there, and below which number it
# must stay
MARGIN_UNITS = {
    "log_likelihood": ("nats", 1.0, math.inf),
    RATIOS: ("%", 100.0, 1000.0),
    "accuracy": ("", 100.0, 100.0),
}


def parse_margins(texts: Sequence[str], option: str = "--margin", name: str = "") -> dict[str, float]:
    """Read --margin: `2` is 2 points of accuracy, `0.01nats` of likelihood, `5%` of speed or
    memory; by measure. `name` stands before the number in what the user has written."""
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
                value=f"{name}{text}",
                code="bad_value",
            )
        if measure in margins:
            raise ConfigError(
                "there is another margin for the same measure: give one",
                key=option,
                value=f"{name}{text}",
                code="conflict",
            )
        margins[measure] = value / unit
    return margins
