"""Machines by description: what one has, and a guess of how long a model takes there."""

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
SPREAD = 0.6  # of a guess
REACHED = 0.6  # of bandwidth and matrix rate, by plain weights
# What is read and written besides the weights when they are unpacked for each pass, as a share of their 16 bits.
UNPACKED = {"cpu": {"int8": 1.0, "nf4": 1.5, "fp4": 1.5}, "cuda": {"int8": 2.0, "nf4": 0.5, "fp4": 0.5}}
READ_GB_S = 1.0  # of a checkpoint, from a disk
QUANTIZED_GB_S = 0.5  # of it, while it is quantized
STEP_S = {"cpu": 0.001, "cuda": 0.015}  # of a step, whatever the model: Python and the start of kernels
ROWS = (1, 8, 32, 128, 512)


@dataclass(frozen=True)
class Machine:
    """A machine that is only described; GB and TFLOP are powers of ten, GiB are not."""

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
                raise ConfigError(f"--machine {self.name}: {item.name}={value}: a number from 0 is needed")

    @property
    def device(self) -> str:
        """Where a model goes."""
        return "cuda" if self.gpu_memory_gib else "cpu"

    @property
    def room_mib(self) -> float:
        """The memory for a model there."""
        return 1024 * (self.gpu_memory_gib or self.memory_gib)

    def guess(self, config: RunnerConfig, predicted: Footprint, parameters: float, place_bytes: int) -> Speed:
        """Guess how long a model takes here: by bytes that pass through memory, and by products."""
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
    """Return a machine by its name, or the one that a YAML file describes."""
    known = _read(FILE)
    if name in known:
        return _machine(name, known[name])
    if not (file := Path(name).expanduser()).is_file():
        raise ConfigError(f"--machine {name}: {unknown('machine or file', name, known)}")
    own = _read(file)
    if all(isinstance(value, dict) for value in own.values()) and len(own) == 1:
        ((name, own),) = own.items()
    return _machine(name, own)


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
        raise ConfigError(f"--machine {file}: keys with values are needed")
    return values
