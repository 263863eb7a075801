from __future__ import annotations

from runner.options.agents.discussion import AgentCall, AnsweredCall, SampledDiscussion, Team
from runner.options.agents.keys import DecisionMethod, PromptStyle, Role
from runner_base.result import Answer, Call, FinishReason

PROMPT, NEW = 100, 20  # tokens of a sample


def answered(turn: AgentCall, text: str, reason: FinishReason = FinishReason.stop) -> AnsweredCall:
    prompt = PROMPT if turn.agent is not None else PROMPT + text.count("|") * NEW
    return AnsweredCall(
        turn, Call(Answer(text, [7] * NEW, reason), "sha", prompt, 0.1, turn.role_name, error="boom")
    )


def one(decision: DecisionMethod, samples: int) -> SampledDiscussion:
    team = Team.create_team_with_cycled_roles(1, [Role.inspector], PromptStyle.brief, decision)
    return SampledDiscussion(team, "test/0", "How many?", samples)


def play(discussion: SampledDiscussion, texts: list[str]) -> list[list[str]]:
    """Answer all that is ready, again and again; return which calls were ready together."""
    lots = []
    while turns := discussion.take_ready_calls():
        lots.append([turn.id.removeprefix("test/0/") for turn in turns])
        for turn in turns:
            text = "#### 9" if turn.agent is None else texts[turn.agent % len(texts)]
            discussion.add_answer(answered(turn, text))
    return lots


def test_so_many_samples_are_asked_at_once_and_vote() -> None:
    it = one(DecisionMethod.majority_vote, samples=5)
    assert play(it, ["#### 1", "#### 2", "#### 2", "#### 1", "#### 2"]) == [
        [f"0/{number}" for number in range(5)]
    ]
    assert (it.has_ended, it.answer, it.votes) == (True, "2", ["1", "2", "2", "1", "2"])


def test_no_sample_is_told_of_another_and_the_decision_reads_all() -> None:
    it, seen = one(DecisionMethod.final_refer, samples=3), dict[str, str]()
    while turns := it.take_ready_calls():
        for turn in turns:
            seen[turn.id.removeprefix("test/0/")] = turn.messages[-1].content
            it.add_answer(
                answered(turn, f"words of {turn.agent}\n#### 4" if turn.agent is not None else "#### 9")
            )
    assert it.answer == "9"
    assert len({seen[f"0/{number}"] for number in range(3)}) == 1
    assert all(f"words of {number}" in seen["decision"] for number in range(3))


def test_a_sample_in_error_ends_the_question() -> None:
    it = one(DecisionMethod.majority_vote, samples=2)
    turn, _ = it.take_ready_calls()
    it.add_answer(answered(turn, "", FinishReason.error))
    assert (it.take_ready_calls(), it.has_ended, it.answer) == ([], True, None)
