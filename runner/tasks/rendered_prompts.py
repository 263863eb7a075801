"""Renders prompts in the form that the model sees, and records which chat template and special tokens
they contain.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.config.resolved import ResolvedJob
from runner.core.prompt_facts import BEGINNINGS, PromptFact
from runner.engines.kinds import get_model_kind
from runner_base.thinking import ends_in_thinking
from runner_engine import Engine, EngineReport, Request, prompt_sha256

HASH_CHARACTERS = 12


def add_prompt_facts_to_report(
    prompt_description: Sequence[str],
    request_without_question: Request,
    first_request: Request,
    engine: Engine,
    report: EngineReport,
) -> None:
    """Add facts about the prompts, such as chat template and beginning-of-sequence token, to the engine
    report.
    """
    seen, form_ids = engine.encode(request_without_question)
    if report.has_chat_template is not None:  # the engine has the tokenizer
        starts = [
            [identifier == report.bos_token for identifier in ids[:2]]
            for ids in (form_ids, engine.encode(first_request)[1])
        ]
        report.facts["bos"] = BEGINNINGS[max(map(sum, starts))]
        use = "there, and not used" if isinstance(request_without_question.prompt, str) else "used"
        report.facts["chat_template"] = use if report.has_chat_template else "none"
    form_sha256 = prompt_sha256(seen)[:HASH_CHARACTERS]
    fact = PromptFact(tuple(prompt_description), form_sha256, report.facts.get("bos"))
    report.facts["prompt"] = fact.to_fact()
    if ends_in_thinking(seen):
        report.facts["thinking"] = "begun by the chat template"


def render_prompts(resolved: ResolvedJob, requests: Sequence[Request]) -> str:
    """Return prompts in the form that the model sees. Only the tokenizer is loaded."""
    seen = {
        request.id: get_model_kind(resolved.config.model).render_prompt(resolved, request.prompt)
        for request in requests
    }
    return "\n".join(f"prompt {number} after the chat template:\n{text}" for number, text in seen.items())
