"""What a text is scored after: the prompts of questions, as the model sees them. Not a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.datasets.asking import behind, build_prompt
from runner.datasets.given import Form, Given
from runner.render.notes import note_text
from runner.tasks import Item, ResolvedJob, kind_of, look_at_prompts, prompts_shown
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.notes import note
from runner_engine import Engine, EngineReport, Prompt, Request
from runner_engine.sessions import check_scored


def shown(task: LikelihoodConfig, rows: Sequence[Given], resolved: ResolvedJob) -> str:
    """Return the first task.show_prompt prompts as the model sees them, each with what is scored
    after it."""
    lines = []
    for number, given in enumerate(rows[: task.show_prompt]):
        if given.form is Form.text:
            last = task.last_tokens if task.contexts else None
            form = note(
                "text_without_prompt", number=number, window=task.window, last=last, contexts=task.contexts
            )
            lines.append(note_text(form))
            continue
        prompt = prompt_of(task, given)
        scored = " | ".join(continuation_of(prompt, given, text) for text in given.texts)
        lines += [prompts_shown(resolved, [Request(number, prompt)]), f"scored after it: {scored}"]
    return "\n".join(lines)


def check(task: LikelihoodConfig, rows: Sequence[Given], resolved: ResolvedJob) -> None:
    """Refuse questions behind which a text would be scored as a thought, before the model is
    loaded."""
    asked = next((given for given in rows if given.form is Form.asked), None)
    if asked is not None and not isinstance(prompt := prompt_of(task, asked), str):
        check_scored(prompt, kind_of(resolved.config.model).rendered(resolved, prompt))


def look(task: LikelihoodConfig, rows: Sequence[Given], engine: Engine, report: EngineReport) -> None:
    """Add facts about the prompts of questions, if there are any, to the report."""
    asked = next((given for given in rows if given.form is Form.asked), None)
    if asked is not None:
        form, first = (
            Request(0, prompt_of(task, question)) for question in (replace(asked, question="QUESTION"), asked)
        )
        look_at_prompts([task.prompt.value], form, first, engine, report)


def prompt_of(task: LikelihoodConfig, given: Given) -> Prompt:
    """Return the prompt before the scored texts of a row: a question in the style of the task, or
    the row's own."""
    return (
        build_prompt(task, Item(given.question, "", ""), []) if given.form is Form.asked else given.question
    )


def continuation_of(prompt: Prompt, given: Given, text: str) -> str:
    """Return a scored text as it follows its prompt."""
    return behind(prompt, text) if given.form is Form.asked else text
