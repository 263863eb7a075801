"""Machine descriptions (memory and speed) from machines.yaml or from a user's YAML file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.config.yaml_files import guard_yaml_loading
from runner.estimates.rough_speed import MachineRates
from runner_base import ConfigError, format_unknown_choice_message, to_one_line

FILE = Path(__file__).with_name("machines.yaml")
REACHED = 0.6  # share of bandwidth and matrix rate that plain weights reach


@dataclass(frozen=True)
class Machine:
    """Memory and speed of a machine. GB and TFLOP are powers of ten, GiB is a power of two."""

    name: str
    memory_gib: float
    bandwidth_gb_s: float
    tflop_s: float
    gpu_memory_gib: float = 0.0
    gpu_bandwidth_gb_s: float = 0.0
    gpu_tflop_s: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "name" and not (isinstance(value, int | float) and value >= 0):
                raise ConfigError(
                    f"{item.name}={value}: must be a non-negative number",
                    key="--machine",
                    value=self.name,
                    code="bad_value",
                )

    @property
    def device(self) -> str:
        """Device that a model runs on: cuda or cpu."""
        return "cuda" if self.gpu_memory_gib else "cpu"

    @property
    def memory_mib(self) -> float:
        """Memory available for a model, in MiB."""
        return 1024 * (self.gpu_memory_gib or self.memory_gib)

    @property
    def achieved_bandwidth_and_matmul_rate(self) -> MachineRates:
        """Memory bandwidth and matmul rate that unquantized models achieve on this machine."""
        on_gpu = self.device == "cuda"
        bandwidth_gb_s = self.gpu_bandwidth_gb_s if on_gpu else self.bandwidth_gb_s
        tflop_s = self.gpu_tflop_s if on_gpu else self.tflop_s
        return MachineRates(self.device, 1e9 * REACHED * bandwidth_gb_s, 1e12 * REACHED * tflop_s)


def load_machine(name: str) -> Machine:
    """Return a machine's description by its name, or from a YAML file."""
    known = _read_yaml(FILE)
    if name in known:
        return _parse_machine_yaml(name, known[name])
    if not (file := Path(name).expanduser()).is_file():
        raise ConfigError(
            format_unknown_choice_message("machine or file", name, known),
            key="--machine",
            value=name,
            code="unknown_choice",
        )
    values = _read_yaml(file)
    if all(isinstance(value, dict) for value in values.values()) and len(values) == 1:
        ((name, values),) = values.items()
    return _parse_machine_yaml(name, values)


def _parse_machine_yaml(name: str, yaml_values: dict[str, Any]) -> Machine:
    keys = [item.name for item in fields(Machine) if item.name != "name"]
    for key in yaml_values:
        if key not in keys:
            raise ConfigError(
                f"{key}: {format_unknown_choice_message('key', key, keys)}",
                key="--machine",
                value=name,
                code="unknown_choice",
            )
    missing = [key for key in keys[:3] if key not in yaml_values]
    if missing:
        raise ConfigError(
            f"the machine needs {', '.join(missing)}. See the examples in {FILE.name}",
            key="--machine",
            value=name,
            code="missing",
        )
    return Machine(name, **yaml_values)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        with guard_yaml_loading(file):
            values: Any = OmegaConf.to_container(OmegaConf.load(file))
    except ConfigError as error:
        raise ConfigError(f"--machine {error}", code=error.code) from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"cannot be read as YAML ({to_one_line(error)})", key="--machine", value=file, code="unreadable"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("must hold keys with values", key="--machine", value=file, code="damaged")
    return values
