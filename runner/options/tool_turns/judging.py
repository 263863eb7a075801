"""Judges answers of task=tool_turns by playing the stored answers of a scenario again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.options.tool_turns.episode import ChatForm, Episode
from runner.options.tool_turns.keys import ClusterKey
from runner.options.tool_turns.scenarios import Scenario
from runner.tasks import QuestionJudge
from runner_base import Sample, Verdict
from runner_base.tool_outcomes import ToolOutcome

EXECUTED = "executed_calls"  # what a sample records: the calls, each with its fault
VERDICTS = {
    ToolOutcome.right: Verdict.correct,
    ToolOutcome.cut_off: Verdict.cut_off,
    ToolOutcome.context_exceeded: Verdict.cut_off,
    ToolOutcome.no_answer: Verdict.no_answer,
}


class ScenarioJudge(QuestionJudge):
    """Adds the verdict to samples of task=tool_turns. Caches the episodes for the metrics."""

    def __init__(self, scenarios: Mapping[int, Scenario], chat_form: ChatForm, cluster: ClusterKey) -> None:
        self.scenarios, self.chat_form, self.cluster = scenarios, chat_form, cluster

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        scenario, episode = self.scenarios[sample.index], self.replay(sample)
        outcome = ToolOutcome.no_answer if sample.failed else episode.outcome
        executed = "; ".join(
            f"{call}{f' [{result.fault}]' if result.fault else ''}" for call, result in episode.calls
        )
        verdict = VERDICTS.get(outcome, Verdict.wrong)
        return replace(
            sample,
            answer=replace(sample.answer, extracted={EXECUTED: executed or None}, verdict=verdict),
            question=scenario.question,
            gold=scenario.gold,
            cluster=scenario.family if self.cluster is ClusterKey.template else scenario.id,
            tool_category=scenario.level,
            tool_length=0,
            tool_outcome=outcome.value,
            tool_function=scenario.family,
        )

    def replay(self, sample: Sample) -> Episode:
        """Play the stored answers of a sample."""
        episode = Episode(self.scenarios[sample.index], self.chat_form)
        for call in sample.calls or ():
            if episode.has_ended:
                break
            episode.add_answer(call.answer, call.error)
        return episode

    def has_same_question(self, sample: Sample) -> bool:
        scenario = self.scenarios.get(sample.index)
        return scenario is not None and (sample.question, sample.gold) == (scenario.question, scenario.gold)
