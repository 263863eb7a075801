"""Adds functions to the prompt, through the chat template or the system message, and determines the
tool call format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.tasks import ResolvedJob, get_model_kind
from runner.tasks.tools.cases import Case
from runner.tasks.tools.keys import AUTO, OfferMethod, ToolsConfig
from runner_base.notes import Note, note
from runner_engine import Message, Prompt, tool_calls
from runner_engine.checkpoints import chat_templates


@dataclass(frozen=True)
class CallFormat:
    """Expected format of the model's tool calls, and why this format was chosen."""

    name: str
    reason: Note

    @property
    def form(self) -> tool_calls.ToolCallFormat:
        return tool_calls.import_tool_call_format(self.name)

    @property
    def note(self) -> Note:
        return note("calls_written_in", form=self.name, reason=self.reason)


class ToolSettings(Protocol):
    """Keys of a task that offers tools."""

    tool_call_format: str
    tool_placement: OfferMethod


def choose_tool_call_format(task: ToolSettings, resolved: ResolvedJob) -> CallFormat:
    """Return the expected tool call format of a model, chosen from the text of its chat template."""
    if task.tool_call_format != AUTO:
        return CallFormat(task.tool_call_format, note("form_by_key", form=task.tool_call_format))
    if task.tool_placement is OfferMethod.system:
        return CallFormat(tool_calls.USUAL, note("form_by_system"))
    shown = tool_calls.detect_tool_call_format(get_model_kind(resolved.config.model).chat_template(resolved))
    if shown is None:
        return CallFormat(tool_calls.USUAL, note("form_unknown"))
    return CallFormat(shown, note("form_by_template"))


def require_tool_support_in_template(task: ToolSettings, resolved: ResolvedJob) -> None:
    """Raise ConfigError if the chat template does not support tools. If the template is unknown,
    no error is raised.
    """
    template = get_model_kind(resolved.config.model).chat_template(resolved)
    if task.tool_placement is OfferMethod.template and template is not None:
        chat_templates.check_template_supports_tools(
            template, str(getattr(resolved.config.model, "name", ""))
        )


def build_case_prompt(
    task: ToolsConfig,
    case: Case,
    extra_functions: Sequence[Mapping[str, Any]],
    call_format: tool_calls.ToolCallFormat,
) -> Prompt:
    """Build a prompt: distractor functions, then the question's functions, then the messages."""
    schemas = [*extra_functions, *build_function_schemas_for_prompt(case)]
    turns = [Message(role, text) for role, text in case.turns]
    if task.tool_placement is OfferMethod.template:
        system = [Message("system", task.system)] if task.system else []
        return (Message.from_tool_schemas(schemas), *system, *turns)
    return (
        Message("system", tool_calls.append_tools_to_system_message(schemas, call_format, task.system)),
        *turns,
    )


def build_function_schemas_for_prompt(case: Case) -> list[Mapping[str, Any]]:
    """Return the question's functions as JSON Schema objects for the prompt."""
    if not case.is_of_bfcl:
        return [*case.functions]
    from runner.tasks.tools.bfcl import to_json_schema  # only where such files are read

    return [to_json_schema(function) for function in case.functions]
