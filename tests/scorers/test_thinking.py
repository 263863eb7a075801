"""How much a job's model thought: known answers of all kinds, and nothing said of models that do
not think."""

from __future__ import annotations

from runner_base.model_text import Answer, FinishReason
from runner_base.result import Sample
from runner_base.thought_tokens import compute_thinking_metrics, count_answer_tokens, count_thinking_tokens

STOP, LENGTH = FinishReason.stop, FinishReason.length


def sample(*answers: Answer) -> Sample:
    several = len(answers) > 1
    return Sample(answers[0], "", 9, 0.1, index=0, choices=list(answers) if several else None)


def test_tokens_and_endings_are_those_of_the_answers() -> None:
    thought = Answer.from_text("<think>2+3</think>5", [1] * 8, STOP, thinking_tokens=5, answer_tokens=1)
    cut = Answer.from_text("<think>2+", [1] * 4, LENGTH, thinking_tokens=3, answer_tokens=0)
    spent = Answer.from_text(
        "<think></think>5", [1] * 3, STOP, is_spent=True, thinking_tokens=0, answer_tokens=1
    )
    plain = Answer.from_text("it is 5", [1] * 3, STOP)
    assert [(count_thinking_tokens(it), count_answer_tokens(it)) for it in (thought, cut, spent, plain)] == [
        *((5, 1), (3, 0), (0, 1), (0, 3))
    ]
    failed = sample(Answer("", [], FinishReason.error))
    totals = compute_thinking_metrics([sample(thought, cut), sample(spent), sample(plain), failed])
    assert totals == {
        "thinking_tokens_per_answer": 2.0,
        "answer_tokens_per_answer": 1.25,
        "thought_share": 0.5,
        "endings/closed": 1,
        "endings/budget_spent": 1,
        "endings/cut_off_thinking": 1,
        "endings/cut_off_answer": 0,
        "endings/no_thinking": 1,
    }


def test_a_job_that_does_not_think_has_none_of_it_and_what_nobody_counted_is_not_guessed() -> None:
    assert (
        compute_thinking_metrics(
            [sample(Answer.from_text("5", [1], STOP)), sample(Answer.from_text("a", [1], LENGTH))]
        )
        == {}
    )
    of_earlier_version = Answer("<think>2+3</think>5", [1] * 8, STOP)
    assert (count_thinking_tokens(of_earlier_version), count_answer_tokens(of_earlier_version)) == (
        None,
        None,
    )
    by_a_server = Answer.from_text("5", [], STOP, thinking="2+3", new_tokens=8)
    totals = compute_thinking_metrics([sample(by_a_server)])
    assert totals.keys().isdisjoint({"thinking_tokens_per_answer", "answer_tokens_per_answer"})
    assert (totals["thought_share"], totals["endings/closed"]) == (1, 1)
