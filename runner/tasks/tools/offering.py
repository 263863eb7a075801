"""Offers functions by the chat template or as JSON in the system message, and determines the call
format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.tasks import ResolvedJob, model_kind
from runner.tasks.tools.cases import Case
from runner.tasks.tools.keys import AUTO, OfferMethod, ToolsConfig
from runner_base.notes import Note, note
from runner_engine import Message, Prompt, tool_calls
from runner_engine.checkpoints import chat_templates


@dataclass(frozen=True)
class CallFormat:
    """The format in which a model writes calls, and the reason for this choice."""

    name: str
    reason: Note

    @property
    def form(self) -> tool_calls.ToolCallFormat:
        return tool_calls.import_format(self.name)

    @property
    def note(self) -> Note:
        return note("calls_written_in", form=self.name, reason=self.reason)


def choose_call_format(task: ToolsConfig, resolved: ResolvedJob) -> CallFormat:
    """Return the format in which calls are expected. Only the template's text is read."""
    if task.form != AUTO:
        return CallFormat(task.form, note("form_by_key", form=task.form))
    if task.offer is OfferMethod.system:
        return CallFormat(tool_calls.USUAL, note("form_by_system"))
    shown = tool_calls.detect_format_name(model_kind(resolved.config.model).chat_template(resolved))
    if shown is None:
        return CallFormat(tool_calls.USUAL, note("form_unknown"))
    return CallFormat(shown, note("form_by_template"))


def check_template(task: ToolsConfig, resolved: ResolvedJob) -> None:
    """Reject a template that would omit the functions, if its text is known before the load."""
    template = model_kind(resolved.config.model).chat_template(resolved)
    if task.offer is OfferMethod.template and template is not None:
        chat_templates.check_supports_tools(template, str(getattr(resolved.config.model, "name", "")))


def build_case_prompt(
    task: ToolsConfig,
    case: Case,
    extra_functions: Sequence[Mapping[str, Any]],
    call_format: tool_calls.ToolCallFormat,
) -> Prompt:
    """Return a case's prompt: extra functions, the question's own functions last, and the turns."""
    schemas = [*extra_functions, *offered_functions(case)]
    turns = [Message(role, text) for role, text in case.turns]
    if task.offer is OfferMethod.template:
        system = [Message("system", task.system)] if task.system else []
        return (Message.from_tool_schemas(schemas), *system, *turns)
    return (Message("system", tool_calls.add_tools_to_system(schemas, call_format, task.system)), *turns)


def offered_functions(case: Case) -> list[Mapping[str, Any]]:
    """Return the functions of a question in the form that a model receives."""
    if not case.is_of_bfcl:
        return [*case.functions]
    from runner.tasks.tools.bfcl import to_json_schema  # only where such files are read

    return [to_json_schema(function) for function in case.functions]
