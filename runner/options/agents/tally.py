"""The cost of calls: prompt and new tokens by role, and the prompt tokens that each edge
contributes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from runner.options.agents.keys import DECISION, Role
from runner.options.agents.sandbox import CodeStatus
from runner.options.agents.team import Discussion, Link
from runner_base.notes import Note, note


@dataclass
class Cost:
    """Calls, their tokens and how many of their programs failed; for an edge, the prompt tokens
    that it contributes."""

    calls: int = 0
    prompt_tokens: float = 0.0  # of an edge: its share of the prompts by characters, so not a whole number
    new_tokens: int = 0
    code_failed: int = 0
    usd: float | None = None  # of the calls whose price is known


@dataclass
class Tally:
    """Adds up discussions."""

    roles: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    links: defaultdict[Link, Cost] = field(default_factory=lambda: defaultdict(Cost))
    # by why they failed; empty: without failure
    programs: Counter[str] = field(default_factory=Counter)

    def add(self, discussion: Discussion) -> None:
        """Count all calls of a discussion."""
        for answered in discussion.answered.values():
            turn, call = answered.turn, answered.call
            role = self.roles[turn.who]
            role.calls += 1
            role.prompt_tokens += call.prompt_tokens
            role.new_tokens += call.answer.tokens
            if answered.call.cost_usd is not None:
                role.usd = (role.usd or 0.0) + answered.call.cost_usd
            if answered.code is not None:
                has_failed = answered.code.status is CodeStatus.code_failed
                role.code_failed += has_failed
                self.programs[answered.code.why if has_failed else ""] += 1
            for link, share in turn.shares().items():
                self.links[link].calls += 1
                self.links[link].prompt_tokens += share * call.prompt_tokens

    def metrics(self, questions: int) -> dict[str, float]:
        """Return the sums, and the averages for a question."""
        total = self.total
        return ({} if total.usd is None else {"cost_usd": total.usd}) | {
            "calls": total.calls,
            "code_failed": total.code_failed,
            "prompt_tokens": total.prompt_tokens,
            "new_tokens": total.new_tokens,
            "prompt_tokens_per_question": total.prompt_tokens / questions,
            "new_tokens_per_question": total.new_tokens / questions,
        }

    @property
    def total(self) -> Cost:
        every = self.roles.values()
        prices = [cost.usd for cost in every if cost.usd is not None]
        return Cost(
            sum(cost.calls for cost in every),
            sum(cost.prompt_tokens for cost in every),
            sum(cost.new_tokens for cost in every),
            sum(cost.code_failed for cost in every),
            sum(prices) if prices else None,
        )

    def calls_of(self, who: str) -> int:
        """Return how many calls a role has got."""
        return self.roles[who].calls

    def failures(self) -> Note | None:
        """Return how many programs have failed, and the most frequent reason; None if none has."""
        written, failed = self.programs.total(), self.programs.total() - self.programs[""]
        if not failed:
            return None
        whys = Counter({why: count for why, count in self.programs.items() if why})
        ((why, count),) = whys.most_common(1)
        return note("programs_failed", "warning", failed=failed, written=written, count=count, why=why)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each role, then for each edge, in the order of the agents."""
        lines = [
            _row(who, cost, writes_code=who == Role.programming_expert.words) for who, cost in self._by_role()
        ]
        lines += [
            {"tokens of": f"edge {link}", "calls": cost.calls, "prompt tokens": round(cost.prompt_tokens)}
            for link, cost in self._by_link()
        ]
        return lines

    def row(self, name: str) -> dict[str, Any]:
        """Return one row for all calls."""
        return _row(name, self.total, writes_code=bool(self.programs))

    def facts(self) -> dict[str, str]:
        """Return the same as text."""
        by_role = (f"{who} {cost.prompt_tokens:,.0f} + {cost.new_tokens:,}" for who, cost in self._by_role())
        by_edge = (f"{link} {cost.prompt_tokens:,.0f}" for link, cost in self._by_link())
        return {"tokens_by_role": " · ".join(by_role), "prompt_tokens_by_edge": " · ".join(by_edge)}

    def _by_role(self) -> list[tuple[str, Cost]]:
        return [
            (who, self.roles[who]) for who in (*(role.words for role in Role), DECISION) if who in self.roles
        ]

    def _by_link(self) -> list[tuple[Link, Cost]]:
        return sorted(
            self.links.items(), key=lambda item: (item[0].target is None, item[0].kind, item[0].ends)
        )


def _row(name: str, cost: Cost, *, writes_code: bool) -> dict[str, Any]:
    return {
        "tokens of": name,
        "calls": cost.calls,
        "programs failed": cost.code_failed if writes_code else None,
        "prompt tokens": round(cost.prompt_tokens),
        "new tokens": cost.new_tokens,
    }
