"""Which runs are compared: the newest of each job, those with some ids, those that pass a filter.

--where takes KEY=VALUE[,KEY=VALUE], or an expression over config keys, metrics and ids, such as
"quantization.name='nf4' and accuracy > 0.9". Its parser is our own: MLflow's filter knows neither `or` nor numbers in
parameters.

    either     = both ("or" both)*
    both       = one ("and" one)*
    one        = "not" one | "(" either ")" | KEY operator VALUE | KEY ["not"] "in" "(" VALUE ("," VALUE)* ")"
    operator   = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from runner.compare.data import JOB_ID, Run, label
from runner.core.errors import ConfigError, unknown

TOKEN = re.compile(r"""\s*('[^']*'|"[^"]*"|<=|>=|!=|==|[=<>(),]|[^\s'"=<>!(),]+)""")
EXPRESSION = re.compile(r"""['"<>]|!=|==|\s=|=\s|\s(and|or|in|not)\s|^\s*(not\b|\()""")
ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
IDS = (JOB_ID, "run_id", "task")
EXAMPLE = 'e.g. "quantization.name=\'nf4\' and accuracy > 0.9", "seed in (0, 1)"'

Test = Callable[[Run], bool]


def newest(runs: list[Run]) -> list[Run]:
    """Return only the newest run of each job; the given runs are sorted newest first."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.job_id, run)
    return list(found.values())


def pick(ids: list[str], runs: list[Run], option: str) -> list[Run]:
    """Return the runs with these job or run ids, or with ids that begin like these; the newest run of a job."""
    latest = newest(runs)
    chosen: dict[str, Run] = {}
    for text in ids:
        found = [run for run in latest if run.job_id == text] or [run for run in runs if run.run_id == text]
        if not found:
            found = [run for run in latest if run.job_id.startswith(text)]
            found = found or [run for run in runs if run.run_id.startswith(text)]
        if len(found) != 1:
            known = [run.job_id for run in latest]
            several = f"several runs begin like that: {listed(run.job_id for run in found)}"
            raise ConfigError(f"{option} {text}: {several if found else unknown('finished job or run', text, known)}")
        run = found[0]
        if run not in latest:  # the job's folder belongs to its newest run: this one's files are in MLflow only
            run = replace(run, job_id=f"{run.job_id}@{run.run_id[:8]}", folder="")
        chosen[run.run_id] = run
    return list(chosen.values())


def parse_keys(text: str, runs: list[Run], option: str) -> list[str]:
    """Read KEY[,KEY]; a bare group name stands for group.name."""
    known = set().union(*(run.params for run in runs))
    return list(dict.fromkeys(full_key(key.strip(), known, f"{option} {text}") for key in text.split(",")))


def parse_pairs(text: str, runs: list[Run], option: str) -> dict[str, str]:
    """Read KEY=VALUE[,KEY=VALUE]; a bare group name stands for group.name."""
    known = {JOB_ID}.union(*(run.params for run in runs))
    pairs = {}
    for part in re.split(r",(?=[\w.]+=)", text):  # a comma inside a value, as in [1,4], separates nothing
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: give KEY=VALUE, e.g. quantization=none")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        pairs[full_key(key, known, f"{option} {text}")] = value[1:-1] if quoted else value
    return pairs


def full_key(key: str, known: set[str], where: str) -> str:
    """Return the whole name of a config key: quantization stands for quantization.name."""
    full = key if key in known else f"{key}.name"
    if full not in known:
        raise ConfigError(f"{where}: {unknown('config key', key, map(label, known))}")
    return full


def select(runs: list[Run], wanted: dict[str, str], option: str) -> list[Run]:
    """Return the runs that have all wanted values; says which values there are when none has."""
    return _passing(runs, lambda run: matches(run, wanted), wanted, option)


def _passing(runs: list[Run], test: Test, keys: Iterable[str], option: str) -> list[Run]:
    chosen = [run for run in runs if test(run)]
    if not chosen:
        there = (f"{label(key)} has {listed(value_of(run, key) for run in runs)}" for key in dict.fromkeys(keys))
        raise ConfigError(f"{option}: no finished run matches; {'; '.join(there)}")
    return chosen


def matches(run: Run, wanted: dict[str, str]) -> bool:
    """Whether the run has all wanted values; numbers are compared as numbers."""
    return all(same(run.value(key), value) for key, value in wanted.items())


def same(value: str | None, wanted: str) -> bool:
    """Whether a value is the wanted one, as a text or as a number."""
    try:
        return value is not None and (value == wanted or float(value) == float(wanted))
    except ValueError:
        return False


def listed(values: Iterable[str | None], most: int = 12) -> str:
    """Return the distinct values in words, cut after `most`."""
    distinct = sorted({value for value in values if value is not None})
    rest = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return (", ".join(distinct[:most]) or "no value in any run") + rest


def where(runs: list[Run], text: str, flag: str = "--where") -> list[Run]:
    """Return the runs that one --where asks for, in either form; says what there is when none does."""
    option = f"{flag} {text}"
    if not EXPRESSION.search(text):
        return select(runs, parse_pairs(text, runs, flag), option)
    parser = _Parser(text, runs, option)
    return _passing(runs, parser.whole(), parser.keys, option)


def value_of(run: Run, key: str) -> str | None:
    """Return a config key's, an id's or a metric's value as text, or None where the run has none."""
    if key in IDS:
        return str(getattr(run, key))
    if key in run.params:
        return run.params[key]
    return f"{run.metrics[key]:.17g}" if key in run.metrics else None


@dataclass
class _Parser:
    text: str
    runs: list[Run]
    option: str

    def __post_init__(self) -> None:
        self.tokens: list[str] = []
        self.at = 0
        self.keys: list[str] = []
        self.known = {*IDS}.union(*(run.params.keys() | run.metrics.keys() for run in self.runs))
        rest = self.text.strip()
        while rest:
            found = TOKEN.match(rest)
            if found is None:
                raise ConfigError(f"{self.option}: cannot read {rest[:20]!r}; quote values, {EXAMPLE}")
            self.tokens.append(found[1])
            rest = rest[found.end() :].strip()

    def whole(self) -> Test:
        test = self.either()
        if self.at < len(self.tokens):
            raise self.expected("and, or, or the end")
        return test

    def either(self) -> Test:
        tests = [self.both()]
        while self.takes("or"):
            tests.append(self.both())
        return lambda run: any(test(run) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self.takes("and"):
            tests.append(self.one())
        return lambda run: all(test(run) for test in tests)

    def one(self) -> Test:
        if self.takes("not"):
            test = self.one()
            return lambda run: not test(run)
        if self.takes("("):
            test = self.either()
            self.needs(")")
            return test
        return self.comparison()

    def comparison(self) -> Test:
        key = self.key()
        inverted = self.takes("not")
        if inverted:
            self.needs("in")
        if inverted or self.takes("in"):
            values = self.values()
            return lambda run: any(same(value_of(run, key), value) for value in values) != inverted
        sign = self.word("an operator: = != < <= > >= in")
        if sign in ("=", "==", "!="):
            wanted, inverted = self.value(), sign == "!="
            return lambda run: same(value_of(run, key), wanted) != inverted
        if sign not in ORDER:
            self.at -= 1
            raise self.expected("an operator: = != < <= > >= in")
        limit = _number(text := self.value())
        if limit is None:
            raise ConfigError(f"{self.option}: {key} {sign} {text}: give a number")
        return lambda run: (mine := _number(value_of(run, key))) is not None and ORDER[sign](mine, limit)

    def key(self) -> str:
        word = self.word("a key")
        bare = re.sub(r"^(params|metrics|tags|attributes)\.", "", word)  # as MLflow's own filter writes them
        full = next((key for key in (word, bare, f"{bare}.name") if key in self.known), None)
        if full is None:
            names = [label(key) for key in self.known if "/" not in key]
            raise ConfigError(f"{self.option}: {unknown('config key or metric', word, names)}")
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

    def word(self, what: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at] in ("(", ")", ","):
            raise self.expected(what)
        self.at += 1
        return self.tokens[self.at - 1]

    def takes(self, token: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at].lower() == token
        self.at += found
        return found

    def needs(self, token: str) -> None:
        if not self.takes(token):
            raise self.expected(token)

    def expected(self, what: str) -> ConfigError:
        found = repr(self.tokens[self.at]) if self.at < len(self.tokens) else "the end"
        return ConfigError(f"{self.option}: expected {what}, found {found}; {EXAMPLE}")


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
