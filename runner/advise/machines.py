"""Described machines: their memory and speed, and a guess of the time that a model takes there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.pass_memory import PREFILL_TOKENS
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, one_line, unknown
from runner.core.machine import MIB
from runner.estimates.speed import EstimateBasis, Speed

FILE = Path(__file__).with_name("machines.yaml")
SPREAD = 0.6  # relative uncertainty of a guess
REACHED = 0.6  # share of bandwidth and matrix rate that plain weights reach
# Memory traffic of unpacking weights in each pass, as a share of their size in 16 bits.
UNPACKED = {"cpu": {"int8": 1.0, "nf4": 1.5, "fp4": 1.5}, "cuda": {"int8": 2.0, "nf4": 0.5, "fp4": 0.5}}
READ_GB_S = 1.0  # reading a checkpoint from a disk
QUANTIZED_GB_S = 0.5  # quantizing a checkpoint
STEP_S = {"cpu": 0.001, "cuda": 0.015}  # per step, for any model: Python and kernel launches
ROWS = (1, 8, 32, 128, 512)


@dataclass(frozen=True)
class Machine:
    """A described machine; GB and TFLOP are powers of ten, GiB are not."""

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
                raise ConfigError(f"--machine {self.name}: {item.name}={value}: must be a number from 0 on")

    @property
    def device(self) -> str:
        """The device that a model runs on."""
        return "cuda" if self.gpu_memory_gib else "cpu"

    @property
    def room_mib(self) -> float:
        """The memory for a model."""
        return 1024 * (self.gpu_memory_gib or self.memory_gib)

    def guess(self, config: RunnerConfig, predicted: Footprint, parameters: float, place_bytes: int) -> Speed:
        """Guess the time of a model from the bytes that it moves and the products that it computes."""
        on_gpu = self.device == "cuda"
        bandwidth = 1e9 * REACHED * (self.gpu_bandwidth_gb_s if on_gpu else self.bandwidth_gb_s)
        rate = 1e12 * REACHED * (self.gpu_tflop_s if on_gpu else self.tflop_s)
        unpacked = UNPACKED[self.device].get(config.quantization.name, 0.0)
        weights_s = (predicted.weight_mib * MIB + unpacked * 2 * parameters) / bandwidth

        def pass_s(tokens: float) -> float:
            return STEP_S[self.device] + max(weights_s, 2 * parameters * tokens / rate)

        stored_gb = 2 * parameters / 1e9
        load_s = stored_gb / READ_GB_S + (stored_gb / QUANTIZED_GB_S if config.quantization.packed else 0.0)
        tokens = PREFILL_TOKENS[self.device]
        return Speed(
            prefill=[(float(size), pass_s(size)) for size in (8, 64, tokens)],
            decode=[(float(rows), pass_s(rows)) for rows in ROWS],
            place_s=place_bytes / bandwidth,
            load_s=load_s,
            import_s=5.0,
            pass_tokens=tokens,
            source=EstimateBasis.guessed,
            spread=SPREAD,
        )


def machine_of(name: str) -> Machine:
    """Return a described machine by its name, or from a YAML file."""
    known = _read(FILE)
    if name in known:
        return _machine(name, known[name])
    if not (file := Path(name).expanduser()).is_file():
        raise ConfigError(f"--machine {name}: {unknown('machine or file', name, known)}")
    values = _read(file)
    if all(isinstance(value, dict) for value in values.values()) and len(values) == 1:
        ((name, values),) = values.items()
    return _machine(name, values)


def _machine(name: str, values: dict[str, Any]) -> Machine:
    keys = [item.name for item in fields(Machine) if item.name != "name"]
    for key in values:
        if key not in keys:
            raise ConfigError(f"--machine {name}: {key}: {unknown('key', key, keys)}")
    missing = [key for key in keys[:3] if key not in values]
    if missing:
        raise ConfigError(f"--machine {name}: {', '.join(missing)} is missing (see {FILE.name})")
    return Machine(name, **values)


def _read(file: Path) -> dict[str, Any]:
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(file))
    except ConfigError as error:
        raise ConfigError(f"--machine {error}") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--machine {file}: cannot be read as YAML ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--machine {file}: must hold keys with values")
    return values
