"""Config keys common to models whose server the runner starts, and the server options that users
may set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner_base import HASHED, NotInIdentity, check_value, config_field, greater_than, in_range
from runner_engine import ModelConfig, to_local_model_config


@dataclass
class StartedConfig(ModelConfig):
    """Base config of models on another program's server that the runner starts. The model files are
    hashed like a local model's.
    """

    publishes_settings: ClassVar[bool] = True
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]]  # options that a key says, and which one
    OWN_OPTIONS: ClassVar[Collection[str]]  # that the runner gives to its own server
    # with which the record would name other weights, prompts or numbers than those that answered
    UNRECORDED_OPTIONS: ClassVar[Collection[str]]
    revision: str | None = config_field(None, HASHED)
    cache_dir: str | None = config_field(None, HASHED)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    port: int | None = config_field(
        None, NotInIdentity("where the server listens"), in_range(1, 65535, "must lie in 1..65535")
    )
    start_s: float = config_field(
        1800.0, NotInIdentity("limits the time of the server's start"), greater_than(0, " seconds")
    )
    answer_s: float = config_field(
        3600.0, NotInIdentity("limits the time of an answer"), greater_than(0, " seconds")
    )
    compare: bool = config_field(True, NotInIdentity("rejects a server that computes something else"))
    check_memory: bool = config_field(True, NotInIdentity("rejects a model that would not fit"))

    def __post_init__(self) -> None:
        super().__post_init__()
        to_local_model_config(self)  # checks the keys that it shares with a local model

    def check_option(self, key: str, argument: str, option: str) -> None:
        """Raise ConfigError for a server option that a config key already sets, or that would make the run
        record wrong.
        """
        if option in self.OPTIONS_BY_KEY:
            need = f"{self.OPTIONS_BY_KEY[option]} says it"
        elif option in self.OWN_OPTIONS:
            need = "the runner sets this option of its own server. Omit it"
        elif option in self.UNRECORDED_OPTIONS:
            need = f"{option} would make the run record wrong. Omit it"
        else:
            need = ""
        check_value(
            not need, key, argument, need, code="refused" if option in self.UNRECORDED_OPTIONS else "conflict"
        )
