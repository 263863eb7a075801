"""Prompts that precede scored texts, in the form that the model sees. Not a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.datasets.question_prompts import build_prompt, format_continuation
from runner.datasets.scored_texts import ScoredItem, TextContext
from runner.render.notes import note_text
from runner.tasks import Item, ResolvedJob, add_prompt_facts, model_kind, render_prompts
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.notes import note
from runner_engine import Engine, EngineReport, Prompt, Request
from runner_engine.sessions import check_scorable


def render_first_prompts(task: LikelihoodConfig, items: Sequence[ScoredItem], resolved: ResolvedJob) -> str:
    """Return the first task.show_prompt prompts in the form that the model sees, each with its
    continuation.
    """
    lines = []
    for number, given in enumerate(items[: task.show_prompt]):
        if given.form is TextContext.text:
            last = task.last_tokens if task.contexts else None
            form = note(
                "text_without_prompt", number=number, window=task.window, last=last, contexts=task.contexts
            )
            lines.append(note_text(form))
            continue
        prompt = build_item_prompt(task, given)
        scored = " | ".join(build_continuation(prompt, given, text) for text in given.texts)
        lines += [render_prompts(resolved, [Request(number, prompt)]), f"scored after it: {scored}"]
    return "\n".join(lines)


def check_not_thinking(task: LikelihoodConfig, items: Sequence[ScoredItem], resolved: ResolvedJob) -> None:
    """Reject questions after which a continuation would be scored as thinking, before the load."""
    asked = next((given for given in items if given.form is TextContext.asked), None)
    if asked is not None and not isinstance(prompt := build_item_prompt(task, asked), str):
        check_scorable(prompt, model_kind(resolved.config.model).render_prompt(resolved, prompt))


def add_facts(
    task: LikelihoodConfig, items: Sequence[ScoredItem], engine: Engine, report: EngineReport
) -> None:
    """Add facts about the prompts of questions, if there are any, to the engine report."""
    asked = next((given for given in items if given.form is TextContext.asked), None)
    if asked is not None:
        form, first = (
            Request(0, build_item_prompt(task, question))
            for question in (replace(asked, question="QUESTION"), asked)
        )
        add_prompt_facts([task.prompt.value], form, first, engine, report)


def build_item_prompt(task: LikelihoodConfig, item: ScoredItem) -> Prompt:
    """Return the prompt before the scored texts: a question in the task's style, or the item's own
    prompt.
    """
    return (
        build_prompt(task, Item(item.question, "", ""), [])
        if item.form is TextContext.asked
        else item.question
    )


def build_continuation(prompt: Prompt, item: ScoredItem, text: str) -> str:
    """Return a scored text in the form in which it follows its prompt."""
    return format_continuation(prompt, text) if item.form is TextContext.asked else text
