"""Questions with offered functions and expected calls, read from the installed data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from runner.config.choices import CONF
from runner.tasks.tools.matching import Wanted
from runner_base import ConfigError, join_first_names

MADE = "made"
FILE = CONF / "dataset" / "tool_calls.jsonl"
CATEGORIES = ("simple", "multiple", "parallel", "irrelevant")
NO_CALL = "irrelevant"  # the category in which nothing should be called
# what task.cluster may name besides a key of the lines
BY_FUNCTION, BY_QUESTION = ("function", "question")


@dataclass(frozen=True)
class Case:
    """A question with offered functions and expected calls. For some questions, no call is right."""

    id: str
    category: str
    turns: tuple[tuple[str, str], ...]  # role and text
    functions: tuple[Mapping[str, Any], ...]  # as their schemas judge a call
    wanted: tuple[Wanted, ...]
    is_of_bfcl: bool = field(default=False, kw_only=True)
    row: Mapping[str, Any] = field(default_factory=dict, kw_only=True, compare=False)  # its line

    @property
    def main_function_name(self) -> str:
        """Name of the first expected function. If no call is expected, name of the first offered function."""
        names = [*(name for name, _ in self.wanted), *(it["name"] for it in self.functions)]
        return str(names[0]) if names else self.id

    def cluster(self, cluster_key: str) -> str:
        """Return the question's cluster. Raises ConfigError if the data set has no field `cluster_key`."""
        if cluster_key == BY_FUNCTION:
            return self.main_function_name
        if cluster_key == BY_QUESTION:
            return self.id
        from runner.datasets.row_layouts import parse_cluster_name  # only where a key of the lines is named

        try:
            return parse_cluster_name(self.row, cluster_key)
        except KeyError:
            raise ConfigError(
                (
                    f"question {self.id} lacks this field. Set {BY_FUNCTION}, {BY_QUESTION} or a "
                    f"field of the question: {join_first_names(sorted(self.row), 8)}"
                ),
                key="task.cluster",
                value=cluster_key,
                code="unknown_choice",
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"question {self.id}: {error}", key="task.cluster", value=cluster_key, code="bad_value"
            ) from error

    @property
    def question(self) -> str:
        """The text of the last turn."""
        return self.turns[-1][1]

    @property
    def gold(self) -> str:
        """The expected calls as text. If several values are allowed, only the first is shown."""
        calls = (
            f"{name}({', '.join(_format_argument(values, key) for key, values in one.items())})"
            for name, one in self.wanted
        )
        return "; ".join(calls) or "no call"


def _format_argument(allowed_values: Sequence[Any], name: str) -> str:
    return f"{name}={next(iter(allowed_values), '')!r}"


def read_installed_tool_cases() -> list[Case]:
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


def select_cases(
    cases: Sequence[Case], categories: Sequence[str], max_per_category: int | None, seed: int
) -> list[Case]:
    picked = []
    for category in categories:
        own = [case for case in cases if case.category == category]
        if max_per_category is not None and max_per_category < len(own):
            places = sorted(Random(f"{seed}/{category}").sample(range(len(own)), max_per_category))
            own = [own[at] for at in places]
        picked += own
    return picked


def hash_cases(cases: Sequence[Case]) -> str:
    """Return the SHA-256 of all cases' functions, questions and expected calls."""
    plain = [[case.id, case.category, case.turns, case.functions, case.wanted] for case in cases]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
