"""`python -m runner`, also installed as `runner`: compose the config, run the job, show the result, exit."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra

from runner.config import GROUPS, RunnerConfig, register
from runner.errors import ConfigError, RunnerError, unknown
from runner.hydra_errors import explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

WANTS_TRACE = "HYDRA_FULL_ERROR" in os.environ  # for those who debug the runner itself
HERE = Path(__file__).resolve().parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, or in a checkout


exit_codes: list[int] = [0]  # one for each job that failed; a grid goes on after a failure


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(composed: DictConfig) -> None:
    """Run one composed job and print its result, or why there is none."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from runner.report import show, show_line
    from runner.run import run

    hydra_config = HydraConfig.get()
    try:
        config = to_config(composed)
        record = run(config, OmegaConf.to_yaml(composed))
    except Exception as error:
        message = explain(error, CONF)
        if message is None or WANTS_TRACE:
            raise
        print(f"error: {message}", file=sys.stderr)
        exit_codes.append(exit_code(error))
        return
    if hydra_config.mode is RunMode.MULTIRUN:
        show_line(record, list(hydra_config.overrides.task), config.print)
    else:
        choices = {group: hydra_config.runtime.choices[group] for group in GROUPS if group != "tracking"}
        show(record, choices, config.print)


def entry() -> NoReturn:
    """Run, and turn every error that a user can cause into one message and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us instead of Hydra's own printing
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # a polite kill is a Ctrl-C
    register()
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: what was done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = explain(error, CONF)
        if message is None or WANTS_TRACE:
            raise
        print(f"error: {message}", file=sys.stderr)
        exit_codes.append(exit_code(error))
    sys.exit(max(exit_codes))


def to_config(composed: DictConfig) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is refused here."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    _refuse_extra("", composed, config)
    return config


def _refuse_extra(prefix: str, composed: DictConfig, checked: object) -> None:
    known = checked.__dataclass_fields__  # type: ignore[attr-defined]  # only called on dataclasses
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(f"{prefix}{key}: {unknown('key', prefix + key, (prefix + name for name in known))}")
        if is_dataclass(getattr(checked, key)):
            _refuse_extra(f"{prefix}{key}.", composed[key], getattr(checked, key))


def exit_code(error: BaseException) -> int:
    """Return 1 when the work failed, 2 when the input was wrong."""
    return error.exit_code if isinstance(error, RunnerError) else ConfigError.exit_code


if __name__ == "__main__":
    entry()
