"""Policy that records the form of the prompts."""

from __future__ import annotations

from runner.tasks.collecting.policy import Policy
from runner.tasks.rendered_prompts import add_prompt_facts_to_report
from runner_engine import Engine, EngineReport, Request


class PromptFacts(Policy):
    """Policy that records the chat template and special tokens of the prompts in the engine report.

    `prompt_style` is `chat`, or the name of another form.
    """

    def __init__(self, prompt_style: str, first_request: Request) -> None:
        self._prompt_style, self._first_request = prompt_style, first_request

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        add_prompt_facts_to_report(
            [self._prompt_style], self._first_request, self._first_request, engine, report
        )
