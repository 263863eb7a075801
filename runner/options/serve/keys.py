"""task – the keys of task=serve."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from runner.config.task import TaskConfig
from runner_base import Inert, above, check, filled, least, setting, unknown, within
from runner_engine import tool_calls

AUTO = "auto"
FORMS = (AUTO, *tool_calls.NAMES)
LIMITS = Inert("a limit of what is served")


class ToolOffer(StrEnum):
    """How functions are offered to the model."""

    template = "template"
    system = "system"


@dataclass
class ServeConfig(TaskConfig):
    """A server for many clients at once: OpenAI's API, the older tools' /generate, and a chat
    page."""

    module: ClassVar[str] = "runner.options.serve.task"
    name: ClassVar[str] = "serve"
    keeps_samples: ClassVar[bool] = False
    is_endless: ClassVar[bool] = True
    host: str = setting("127.0.0.1", takes=filled("give an address of this machine, e.g. 127.0.0.1"))
    port: int = setting(8000, takes=within(0, 65535, "must lie in 0..65535 (0: any that is free)"))
    model_name: str | None = setting(
        None, Inert("what clients call the model"), filled("give a name, or null for the model's own")
    )
    tool_form: str = setting(AUTO, Inert("how calls of functions are read"))
    tool_offer: ToolOffer = setting(ToolOffer.template, Inert("how functions are offered"))
    max_open: int = setting(256, LIMITS, least(1))
    max_new_tokens: int = setting(4096, LIMITS, least(1))
    max_body_kib: int = setting(1024, LIMITS, least(1))
    max_connections: int = setting(512, LIMITS, least(1))
    timeout_s: float = setting(600.0, LIMITS, above(0, " seconds"))
    idle_s: float = setting(75.0, Inert("how long a connection may wait for a request"), above(0, " seconds"))
    write_s: float = setting(
        30.0, Inert("how long a client may leave its answer unread"), above(0, " seconds")
    )
    drain_s: float = setting(30.0, Inert("how long shutting down may take"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        form = self.tool_form
        check(form in FORMS, "task.tool_form", form, unknown("form", form, FORMS), code="unknown_choice")

    @property
    def adapters_named(self) -> None:
        """Clients choose among all adapters."""

    @property
    def subject(self) -> str:
        """Return the address."""
        return f"{self.host}:{self.port}"
