"""Config keys of models whose server the runner starts, and validation of the user's server options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner_base import HASHED, NotInIdentity, check_value, config_field, greater_than, in_range
from runner_engine import ModelConfig, to_local_model_config


@dataclass
class StartedConfig(ModelConfig):
    """Base config of models whose server the runner starts. The local model files are hashed."""

    publishes_settings: ClassVar[bool] = True
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]]  # options that a key says, and which one
    OWN_OPTIONS: ClassVar[Collection[str]]  # that the runner gives to its own server
    # with which the record would name other weights, prompts or numbers than those that answered
    UNRECORDED_OPTIONS: ClassVar[Collection[str]]
    revision: str | None = config_field(None, HASHED)
    cache_dir: str | None = config_field(None, HASHED)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    port: int | None = config_field(
        None, NotInIdentity("the port does not affect answers"), in_range(1, 65535, "must lie in 1..65535")
    )
    start_timeout_s: float = config_field(
        1800.0,
        NotInIdentity("answers do not depend on the server's start timeout"),
        greater_than(0, " seconds"),
        renamed_from="start_s",
    )
    request_timeout_s: float = config_field(
        3600.0,
        NotInIdentity("answers do not depend on the request timeout"),
        greater_than(0, " seconds"),
        renamed_from="answer_s",
    )
    compare: bool = config_field(
        True, NotInIdentity("the comparison rejects servers with wrong results, but does not change answers")
    )
    check_memory: bool = config_field(
        True, NotInIdentity("the memory check rejects models that are too large, but does not change answers")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        to_local_model_config(self)  # checks the keys that it shares with a local model

    def reject_disallowed_server_option(self, key: str, full_argument: str, option: str) -> None:
        """Raise ConfigError for a server option that a config key controls, or that would make the run
        record wrong.
        """
        if option in self.OPTIONS_BY_KEY:
            need = f"{option} is set by the config key {self.OPTIONS_BY_KEY[option]}. Use that key instead"
        elif option in self.OWN_OPTIONS:
            need = f"the runner sets {option} itself. Omit it"
        elif option in self.UNRECORDED_OPTIONS:
            need = f"{option} would make the run record differ from the server's actual settings. Omit it"
        else:
            need = ""
        check_value(
            not need,
            key,
            full_argument,
            need,
            code="refused" if option in self.UNRECORDED_OPTIONS else "conflict",
        )
