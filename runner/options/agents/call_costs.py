"""Counts the tokens of agent calls by role and by graph edge."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from runner.options.agents.discussion import Discussion, PromptEdge
from runner.options.agents.keys import DECISION, Role
from runner.sandbox.sandbox import CodeStatus
from runner_base.notes import Note, note


@dataclass
class Cost:
    """Counts of model calls, tokens and failed programs. For a graph edge, only prompt tokens are counted."""

    calls: int = 0
    prompt_tokens: float = 0.0  # of an edge: its share of the prompts by characters, so not a whole number
    new_tokens: int = 0
    code_failed: int = 0
    usd: float | None = None  # of the calls whose price is known


@dataclass
class CostTally:
    """Sums the token costs of many discussions by role and by graph edge."""

    roles: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    links: defaultdict[PromptEdge, Cost] = field(default_factory=lambda: defaultdict(Cost))
    # by why they failed; empty: without failure
    programs: Counter[str] = field(default_factory=Counter)

    def add_discussion(self, discussion: Discussion) -> None:
        for answered in discussion.answered.values():
            turn, call = answered.turn, answered.call
            role = self.roles[turn.role_name]
            role.calls += 1
            role.prompt_tokens += call.prompt_tokens
            role.new_tokens += call.answer.num_tokens
            if answered.call.cost_usd is not None:
                role.usd = (role.usd or 0.0) + answered.call.cost_usd
            if answered.code is not None:
                has_failed = answered.code.status is CodeStatus.code_failed
                role.code_failed += has_failed
                self.programs[answered.code.why if has_failed else ""] += 1
            for link, share in turn.compute_prompt_fraction_by_edge().items():
                self.links[link].calls += 1
                self.links[link].prompt_tokens += share * call.prompt_tokens

    def compute_metrics(self, num_questions: int) -> dict[str, float]:
        """Return the summed calls, tokens and failed programs, and the tokens per question."""
        total = self.total
        return ({} if total.usd is None else {"cost_usd": total.usd}) | {
            "calls": total.calls,
            "code_failed": total.code_failed,
            "prompt_tokens": total.prompt_tokens,
            "new_tokens": total.new_tokens,
            "prompt_tokens_per_question": total.prompt_tokens / num_questions,
            "new_tokens_per_question": total.new_tokens / num_questions,
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

    def count_calls(self, role: str) -> int:
        return self.roles[role].calls

    def make_failed_programs_note(self) -> Note | None:
        """Return a note with the number of failed programs and the most frequent reason, or None if no
        program failed.
        """
        written, failed = self.programs.total(), self.programs.total() - self.programs[""]
        if not failed:
            return None
        whys = Counter({why: count for why, count in self.programs.items() if why})
        ((why, count),) = whys.most_common(1)
        return note("programs_failed", "warning", failed=failed, written=written, count=count, why=why)

    def build_token_cost_rows(self) -> list[dict[str, Any]]:
        """Return one table row per role, followed by one row per graph edge, in the order of the agents."""
        lines = [
            _table_row(who, cost, writes_code=who == Role.programming_expert.words)
            for who, cost in self._ordered_roles()
        ]
        lines += [
            {"tokens of": f"edge {link}", "calls": cost.calls, "prompt tokens": round(cost.prompt_tokens)}
            for link, cost in self._ordered_edges()
        ]
        return lines

    def total_row(self, name: str) -> dict[str, Any]:
        return _table_row(name, self.total, writes_code=bool(self.programs))

    def build_token_count_facts(self) -> dict[str, str]:
        """Return the number of tokens by role and by graph edge, as text."""
        by_role = (
            f"{who} {cost.prompt_tokens:,.0f} + {cost.new_tokens:,}" for who, cost in self._ordered_roles()
        )
        by_edge = (f"{link} {cost.prompt_tokens:,.0f}" for link, cost in self._ordered_edges())
        return {"tokens_by_role": " · ".join(by_role), "prompt_tokens_by_edge": " · ".join(by_edge)}

    def _ordered_roles(self) -> list[tuple[str, Cost]]:
        return [
            (who, self.roles[who]) for who in (*(role.words for role in Role), DECISION) if who in self.roles
        ]

    def _ordered_edges(self) -> list[tuple[PromptEdge, Cost]]:
        return sorted(
            self.links.items(), key=lambda item: (item[0].target is None, item[0].kind, item[0].sort_key)
        )


def _table_row(name: str, cost: Cost, *, writes_code: bool) -> dict[str, Any]:
    return {
        "tokens of": name,
        "calls": cost.calls,
        "programs failed": cost.code_failed if writes_code else None,
        "prompt tokens": round(cost.prompt_tokens),
        "new tokens": cost.new_tokens,
    }
