"""How functions are offered: by the chat template, or as JSON in the system message; and in which
form calls return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.tasks import ResolvedJob, kind_of
from runner.tasks.tools.cases import Case
from runner.tasks.tools.keys import AUTO, Offer, ToolsConfig
from runner_base.notes import Note, note
from runner_engine import Message, Prompt, tool_calls
from runner_engine.checkpoints import chat_templates


@dataclass(frozen=True)
class WrittenIn:
    """The form in which a model writes calls, and why it is taken for this one."""

    name: str
    reason: Note

    @property
    def form(self) -> tool_calls.Form:
        return tool_calls.form_named(self.name)

    @property
    def note(self) -> Note:
        return note("calls_written_in", form=self.name, reason=self.reason)


def written_in(task: ToolsConfig, resolved: ResolvedJob) -> WrittenIn:
    """Return the form in which calls are expected; only the template's text is read."""
    if task.form != AUTO:
        return WrittenIn(task.form, note("form_by_key", form=task.form))
    if task.offer is Offer.system:
        return WrittenIn(tool_calls.USUAL, note("form_by_system"))
    shown = tool_calls.name_for(kind_of(resolved.config.model).chat_template(resolved))
    if shown is None:
        return WrittenIn(tool_calls.USUAL, note("form_unknown"))
    return WrittenIn(shown, note("form_by_template"))


def check_template(task: ToolsConfig, resolved: ResolvedJob) -> None:
    """Refuse a template that would leave the functions out, as far as its text is known before the
    load."""
    template = kind_of(resolved.config.model).chat_template(resolved)
    if task.offer is Offer.template and template is not None:
        chat_templates.check_takes_tools(template, str(getattr(resolved.config.model, "name", "")))


def prompt_of(
    task: ToolsConfig, case: Case, further: Sequence[Mapping[str, Any]], form: tool_calls.Form
) -> Prompt:
    """Return a case's prompt: the functions, those of the question last, and the turns."""
    schemas = [*further, *offered_by(case)]
    turns = [Message(role, text) for role, text in case.turns]
    if task.offer is Offer.template:
        system = [Message("system", task.system)] if task.system else []
        return (Message.offering(schemas), *system, *turns)
    return (Message("system", tool_calls.in_system(schemas, form, task.system)), *turns)


def offered_by(case: Case) -> list[Mapping[str, Any]]:
    """Return the functions of a question as a model gets them."""
    if not case.is_of_bfcl:
        return [*case.functions]
    from runner.tasks.tools.bfcl import offered  # only where such files are read

    return [offered(function) for function in case.functions]
