"""A question with the functions that it offers and the calls that are right; read from the set that
ships."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from runner.config.choices import CONF
from runner.tasks.tools.matching import Wanted
from runner_base import ConfigError, few

MADE = "made"
FILE = CONF / "dataset" / "tool_calls.jsonl"
CATEGORIES = ("simple", "multiple", "parallel", "irrelevant")
NO_CALL = "irrelevant"  # the category in which nothing should be called
# what task.cluster may name besides a key of the lines
BY_FUNCTION, BY_QUESTION = ("function", "question")


@dataclass(frozen=True)
class Case:
    """A question; `wanted` is empty where nothing should be called."""

    id: str
    category: str
    turns: tuple[tuple[str, str], ...]  # role and text
    functions: tuple[Mapping[str, Any], ...]  # as their schemas judge a call
    wanted: tuple[Wanted, ...]
    is_of_bfcl: bool = field(default=False, kw_only=True)
    row: Mapping[str, Any] = field(default_factory=dict, kw_only=True, compare=False)  # its line

    @property
    def function(self) -> str:
        """The first wanted function, or the first offered one where nothing should be called."""
        names = [*(name for name, _ in self.wanted), *(it["name"] for it in self.functions)]
        return str(names[0]) if names else self.id

    def cluster(self, by: str) -> str:
        """Return the family of questions that it belongs to; ConfigError if its line names none."""
        if by == BY_FUNCTION:
            return self.function
        if by == BY_QUESTION:
            return self.id
        from runner.datasets.shapes import cluster_of  # only where a key of the lines is named

        try:
            return cluster_of(self.row, by)
        except KeyError:
            raise ConfigError(
                f"question {self.id} has no such key. Give {BY_FUNCTION}, {BY_QUESTION} or a key of its line: "
                f"{few(sorted(self.row), 8)}",
                key="task.cluster",
                value=by,
                code="unknown_choice",
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"question {self.id}: {error}", key="task.cluster", value=by, code="bad_value"
            ) from error

    @property
    def question(self) -> str:
        """The last turn."""
        return self.turns[-1][1]

    @property
    def gold(self) -> str:
        """The right calls, as a record shows them: of several allowed values the first one."""
        calls = (
            f"{name}({', '.join(_first(values, key) for key, values in one.items())})"
            for name, one in self.wanted
        )
        return "; ".join(calls) or "no call"


def _first(values: Sequence[Any], name: str) -> str:
    return f"{name}={next(iter(values), '')!r}"


def made_cases() -> list[Case]:
    """Return the questions that ship."""
    functions: dict[str, dict[str, Any]] = {}
    cases = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        if "function" in value:
            functions[value["function"]["name"]] = value["function"]
            continue
        cases.append(
            Case(
                value["id"],
                value["category"],
                (("user", value["question"]),),
                tuple(functions[name] for name in value["functions"]),
                tuple((name, allowed) for name, allowed in value["calls"]),
                row=value,
            )
        )
    return cases


def chosen(cases: Sequence[Case], categories: Sequence[str], most: int | None, seed: int) -> list[Case]:
    """Return the cases of some categories, of each no more than `most`: the first ones of an order
    by the seed."""
    picked = []
    for category in categories:
        own = [case for case in cases if case.category == category]
        if most is not None and most < len(own):
            places = sorted(Random(f"{seed}/{category}").sample(range(len(own)), most))
            own = [own[at] for at in places]
        picked += own
    return picked


def cases_sha256(cases: Sequence[Case]) -> str:
    """Return the hash of what is offered, asked and right."""
    plain = [[case.id, case.category, case.turns, case.functions, case.wanted] for case in cases]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
