"""Reads environment variables and the `.env` file. A blank variable counts as unset.

`.env` sets only variables that are not set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runner_base.console import print_message
from runner_base.errors import ConfigError, join_first_names
from runner_base.uris import parse_sqlite_path

FILE = ".env"
NAMES = (  # what `.env` may set, as .env.example lists it
    "STUDENT_BASE_MODEL",
    "STUDENT_LORA_DIR",
    "STUDENT_LOAD_IN_4BIT",
    "STUDENT_FORCE_CPU",
    "STUDENT_MAX_NEW_TOKENS",
    "FORCE_STUDENT_STUB",
    "ENABLE_HYBRID",
    "BASE_URL",
    "HF_TOKEN",
    "PGPASSWORD",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
KEYS_END = "_KEY"  # API_KEY, RUNNER_API_KEY, and what model.key_variable names
RUNS_NOTHING = {"-h", "--help", "--hydra-help", "--version", "-i", "--info", "-sc", "--shell-completion"}


def get_variable(name: str, default: str | None = None) -> str | None:
    """Return an environment variable, or the default if it is blank or not set."""
    return os.environ.get(name, "").strip() or default


def load_dotenv() -> None:
    """Load `.env` into the environment, without overwriting variables or printing values.

    The folder may belong to somebody else. So only names in NAMES and names of keys are loaded:
    others could start programs (CC) or send results to a server. A message lists ignored names.
    """
    path = Path(FILE)
    if not path.is_file():  # some virtual environments are folders of this name
        return
    from dotenv import dotenv_values

    try:
        # without ${NAME}: it would put the environment's secrets into addresses
        values = dotenv_values(path.absolute(), interpolate=False)
    except OSError as error:
        raise ConfigError(f"{FILE} cannot be read: {error.strerror}", code="unreadable") from None
    except ValueError:  # its text may quote a key
        raise ConfigError(
            f"{FILE} cannot be read: give UTF-8 text with lines NAME=VALUE", code="damaged"
        ) from None
    ignored = []
    for name, value in values.items():
        if name in os.environ or value is None:
            continue
        if _is_allowed_variable(name, value):
            os.environ[name] = value
        elif value.strip():
            ignored.append(f"{name} (of a server)" if name in NAMES else name)
    if ignored and not RUNS_NOTHING & set(sys.argv):
        fix = "Set it in the environment" if len(ignored) == 1 else "Set them in the environment"
        print_message(
            f"{FILE}: ignored {join_first_names(ignored, 8)}. "
            f"This file may set only the variables listed in .env.example. {fix}"
        )


def _is_allowed_variable(name: str, value: str) -> bool:
    if name == "MLFLOW_TRACKING_URI":  # a server that somebody else names would get the results
        return parse_sqlite_path(value) is not None
    return name in NAMES or name.endswith(KEYS_END)
