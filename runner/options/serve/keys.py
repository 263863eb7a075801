"""Config keys of task=serve, which serves a model over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from runner.config.task import PromptReuse, TaskConfig
from runner_base import (
    NotInIdentity,
    at_least,
    check_value,
    config_field,
    format_unknown_choice_message,
    greater_than,
    in_range,
    not_blank,
)
from runner_engine import tool_calls

AUTO = "auto"
FORMS = (AUTO, *tool_calls.NAMES)
LIMITS = NotInIdentity("a limit of what is served")


class ToolOffer(StrEnum):
    """Where tools are described in the prompt: by the chat template, or in the system message."""

    template = "template"
    system = "system"


@dataclass
class ServeConfig(TaskConfig):
    """Config of task=serve: an HTTP server with OpenAI's API, a /generate endpoint, and a chat
    page.
    """

    module: ClassVar[str] = "runner.options.serve.task"
    name: ClassVar[str] = "serve"
    keeps_samples: ClassVar[bool] = False
    is_endless: ClassVar[bool] = True
    prompt_reuse: ClassVar[PromptReuse] = PromptReuse.blocks
    host: str = config_field(
        "127.0.0.1", constraint=not_blank("give an IP address of this machine, such as 127.0.0.1")
    )
    port: int = config_field(8000, constraint=in_range(0, 65535, "must be 0 (any free port) to 65535"))
    model_name: str | None = config_field(
        None,
        NotInIdentity("what clients call the model"),
        not_blank("give the name for clients, or null for the model's own name"),
    )
    tool_call_format: str = config_field(
        AUTO, NotInIdentity("how the server parses tool calls"), renamed_from="tool_form"
    )
    tool_placement: ToolOffer = config_field(
        ToolOffer.template, NotInIdentity("how functions are offered"), renamed_from="tool_offer"
    )
    max_open: int = config_field(256, LIMITS, at_least(1))
    max_new_tokens: int = config_field(4096, LIMITS, at_least(1))
    max_body_kib: int = config_field(1024, LIMITS, at_least(1))
    max_connections: int = config_field(512, LIMITS, at_least(1))
    timeout_s: float = config_field(600.0, LIMITS, greater_than(0, " seconds"))
    idle_timeout_s: float = config_field(
        75.0,
        NotInIdentity("answers do not depend on the idle timeout"),
        greater_than(0, " seconds"),
        renamed_from="idle_s",
    )
    write_timeout_s: float = config_field(
        30.0,
        NotInIdentity("answers do not depend on the timeout for slow clients"),
        greater_than(0, " seconds"),
        renamed_from="write_s",
    )
    drain_timeout_s: float = config_field(
        30.0,
        NotInIdentity("answers do not depend on the shutdown timeout"),
        at_least(0),
        renamed_from="drain_s",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        form = self.tool_call_format
        check_value(
            form in FORMS,
            "task.tool_call_format",
            form,
            format_unknown_choice_message("form", form, FORMS),
            code="unknown_choice",
        )

    @property
    def named_adapters(self) -> None:
        """Return None, because each client selects an adapter at run time."""

    @property
    def subject(self) -> str:
        """Short description of the job, made of the server's host and port."""
        return f"{self.host}:{self.port}"
