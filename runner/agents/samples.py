"""One agent answers a question several times: so often, or as often as a number of tokens buys.

A vote over the samples is self-consistency; the deciding agent, which reads all of them, picks the best of them.
"""

from __future__ import annotations

from dataclasses import replace

from runner.agents.graph import Round
from runner.agents.team import Answered, Discussion, Team
from runner.config.agents import DecisionMethod

MOST = 256  # samples of a question that tokens may buy

_ALONE = Round((), (), (), 0.0)


class SampledDiscussion(Discussion):
    """One question that one agent answers several times; no sample is told of another."""

    def __init__(self, team: Team, key: str, question: str, samples: int, budget: float | None = None) -> None:
        """Take the one agent's team. With a budget in tokens it is asked one by one, until these are used."""
        first = samples if budget is None else 1
        super().__init__(replace(team, roles=team.roles[:1] * first), key, question, [_ALONE])
        self.budget = budget

    def take(self, answered: Answered) -> None:
        """Add the answer to a call, and ask once more if the budget allows it."""
        super().take(answered)
        if self.budget is not None and answered.turn.agent is not None and not self.failed:
            number = len(self.team.roles)
            if number < MOST and self._is_nearer_with_one_more(self.budget):
                self.team = replace(self.team, roles=(*self.team.roles, self.team.roles[0]))
                self._ask(0, number)

    def _is_nearer_with_one_more(self, budget: float) -> bool:
        """Whether one more sample brings the tokens nearer to the budget, taking it to be like those before.

        The deciding agent is asked after the last sample: it reads the question and every sample's text, and answers
        at about the length of one.
        """
        calls = [one.call for one in self.answered.values()]
        prompt, new = (
            sum(counts) / len(calls) for counts in ([it.prompt_tokens for it in calls], [it.tokens for it in calls])
        )
        spent, one_more = len(calls) * (prompt + new), prompt + new
        if self.team.decision is DecisionMethod.final_refer:
            spent += prompt + len(calls) * new + new
            one_more += new
        return spent + one_more / 2 <= budget
