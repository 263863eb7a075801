"""The keys that all models have whose server the runner starts and ends, and which words of its
command line a user may give."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner_base import HASHED, Inert, above, check, setting, within
from runner_engine import ModelConfig, local_model


@dataclass
class StartedConfig(ModelConfig):
    """A model whose files are hashed as those of a local one, and that a server of another program
    runs."""

    publishes_settings: ClassVar[bool] = True
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]]  # options that a key says, and which one
    OWN_OPTIONS: ClassVar[Collection[str]]  # that the runner gives to its own server
    # with which the record would name other weights, prompts or numbers than those that answered
    UNRECORDED_OPTIONS: ClassVar[Collection[str]]
    revision: str | None = setting(None, HASHED)
    cache_dir: str | None = setting(None, HASHED)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    port: int | None = setting(
        None, Inert("where the server listens"), within(1, 65535, "must lie in 1..65535")
    )
    start_s: float = setting(1800.0, Inert("limits the time of the start"), above(0, " seconds"))
    answer_s: float = setting(3600.0, Inert("limits the time of an answer"), above(0, " seconds"))
    compare: bool = setting(True, Inert("rejects a server that computes something else"))
    check_memory: bool = setting(True, Inert("rejects a model that would not fit"))

    def __post_init__(self) -> None:
        super().__post_init__()
        local_model(self)  # checks the keys that it shares with a local model

    def check_option(self, key: str, word: str, option: str) -> None:
        """Reject a word with an option that a key says, or that would make the record wrong."""
        if option in self.OPTIONS_BY_KEY:
            need = f"{self.OPTIONS_BY_KEY[option]} says it"
        elif option in self.OWN_OPTIONS:
            need = "the runner gives it to its own server: leave it out"
        elif option in self.UNRECORDED_OPTIONS:
            need = f"{option} would make the record wrong: leave it out"
        else:
            need = ""
        check(not need, key, word, need, code="refused" if option in self.UNRECORDED_OPTIONS else "conflict")
