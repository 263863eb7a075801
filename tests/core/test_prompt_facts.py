"""The fact about a job's prompts is read as it was written."""

from __future__ import annotations

import pytest

from runner.core.prompt_facts import TWO_BOS, PromptFact


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (
            PromptFact(("chat", "0 worked examples"), "8991fc61c5f5", "without BOS"),
            "chat · 0 worked examples · form 8991fc61c5f5 · without BOS",
        ),
        (PromptFact(("text",), "8991fc61c5f5"), "text · form 8991fc61c5f5"),
        (PromptFact(("text",), None, TWO_BOS), "text · begins with two BOS"),
        (PromptFact(("form",)), "form"),
    ],
)
def test_a_fact_is_read_as_it_was_written(fact: PromptFact, text: str) -> None:
    assert fact.to_fact() == text
    assert PromptFact.from_fact(text) == fact
    assert fact.has_two_bos == ("two" in text)


def test_a_record_without_the_fact_has_no_form() -> None:
    assert PromptFact.from_fact("").form is None
