"""The prompts of a task that asks questions, as the model sees them: facts about their form, and
their texts."""

from __future__ import annotations

from collections.abc import Sequence

from runner.config.resolved import ResolvedJob
from runner.core.prompt_facts import BEGINNINGS, PromptFact
from runner.engines.kinds import kind_of
from runner_base.thinking import ends_in_thinking
from runner_engine import Engine, EngineReport, Request, prompt_sha256

HASH_CHARACTERS = 12


def look_at_prompts(
    description: Sequence[str], form: Request, first: Request, engine: Engine, report: EngineReport
) -> None:
    """Add facts about all prompts to the report; `words` say what they are, `form` is a prompt
    without a question."""
    seen, form_ids = engine.encode(form)
    if report.has_chat_template is not None:  # the engine has the tokenizer
        starts = [
            [identifier == report.bos_token for identifier in ids[:2]]
            for ids in (form_ids, engine.encode(first)[1])
        ]
        report.facts["bos"] = BEGINNINGS[max(map(sum, starts))]
        use = "there, and not used" if isinstance(form.prompt, str) else "used"
        report.facts["chat_template"] = use if report.has_chat_template else "none"
    form_sha256 = prompt_sha256(seen)[:HASH_CHARACTERS]
    fact = PromptFact(tuple(description), form_sha256, report.facts.get("bos"))
    report.facts["prompt"] = fact.to_fact()
    if ends_in_thinking(seen):
        report.facts["thinking"] = "begun by the chat template"


def prompts_shown(resolved: ResolvedJob, requests: Sequence[Request]) -> str:
    """Return prompts as the model sees them; only the tokenizer is loaded."""
    seen = {
        request.id: kind_of(resolved.config.model).rendered(resolved, request.prompt) for request in requests
    }
    return "\n".join(f"prompt {number} as the model sees it:\n{text}" for number, text in seen.items())
