"""Which settings there are to choose among, what each takes, and which of them keep to the limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.advise.machines import Machine
from runner.checkpoints.pass_memory import most_rows, place_bytes
from runner.checkpoints.random_weights import SHAPES_DIR, list_tensors
from runner.checkpoints.resolve import Resolved, no_downloads, resolve
from runner.config.model import has_weights, local_model
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, RunnerError
from runner.estimates.fit import PROCESS_MIB, Fit, fit, rooms
from runner.estimates.jobs import estimate, time_of, without_download
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speed import Estimate
from runner.quantization.base import CheckpointSource as Checkpoint

QUANTIZATIONS = ("none", "int8", "nf4")  # from the most faithful to the smallest
COSTS = {
    "none": "the model as it is",
    "int8": "known of int8: no loss in published tests (LLM.int8(), 2022)",
    "nf4": "known of nf4: little in published tests (QLoRA, 2023), more for small models",
}
MOST = 5  # recommendations
OTHER_MODELS = 3  # smaller ones that are looked at, where the model itself has few ways to fit

Compose = Callable[[list[str]], RunnerConfig]


@dataclass
class UserLimits:
    """What the user allows."""

    memory_mib: float | None = None
    seconds: float | None = None  # for each question, on the average of a job


@dataclass
class Candidate:
    """Some settings, and what they take."""

    overrides: list[str]
    config: RunnerConfig
    model: str  # the choice of the group model, or its name
    is_asked: bool  # the model that the user asks about
    allowed_mib: float = 0.0
    fit: Fit | None = None
    time: Estimate | None = None
    accuracy: str = ""
    problem: str = ""  # why it is out

    @property
    def each_s(self) -> float | None:
        """Seconds for each question, on the average of the whole job."""
        asked = sum(amount.completions for amount in self.config.task.amounts(self.config.generation))
        return None if self.time is None or not asked else self.time.seconds / asked

    @property
    def memory_mib(self) -> float:
        """What the process takes at its peak."""
        return self.fit.predicted.total_mib + PROCESS_MIB if self.fit else 0.0

    @property
    def quantization(self) -> str:
        """The name of its choice."""
        return self.config.quantization.name


@dataclass
class Advice:
    """What is recommended, the best first, and why the others are not."""

    chosen: list[Candidate] = field(default_factory=list)
    out: list[Candidate] = field(default_factory=list)


def advise(
    asked: list[str],
    compose: Compose,
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None],
) -> Advice:
    """Judge the candidates of a model, and of smaller ones where few of its own keep to the limits."""
    found = judge(list(ways(asked, compose, True)), limits, machine, output_dir, calibrate, on_line)
    if sum(not it.problem for it in found) < 2 and not any(word.startswith("model.name=") for word in asked):
        for smaller in smaller_models(found[0]):
            others = [word for word in asked if not word.startswith(("model=", "model.shape="))]
            more = list(ways([f"model={smaller}", *others], compose, False))
            judged = judge(more, limits, machine, output_dir, calibrate, on_line)
            found += [it for it in judged if not it.problem][:1] or judged[-1:]  # one of each
    good = [it for it in found if not it.problem]
    good.sort(key=lambda it: (not it.is_asked, found.index(it)))  # as they were tried: the most faithful first
    return Advice(good[:MOST], [it for it in found if it.problem])


def ways(asked: list[str], compose: Compose, is_asked: bool) -> Iterator[Candidate]:
    """Yield the settings that are to be tried; what the user has said stays."""
    said = {word.partition("=")[0] for word in asked}
    base = compose(asked)
    if not has_weights(base.model):
        raise ConfigError(f"model={base.model.name}: it has no weights here, so there is nothing to choose")
    model = next((word.partition("=")[2] for word in asked if word.startswith("model=")), base.model.name)
    stored = base.quantization.source is not Checkpoint.plain
    for quantization in [base.quantization.name] if stored or "quantization" in said else QUANTIZATIONS:
        overrides = asked if "quantization" in said else [*asked, f"quantization={quantization}"]
        try:
            yield Candidate(overrides, compose(overrides), model, is_asked)
        except RunnerError:  # it does not go together with what else is asked for
            continue


def judge(
    candidates: list[Candidate],
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None],
) -> list[Candidate]:
    """Give each the most rows that it has room for, and its time; say why it is out where it breaks a limit."""
    records = FinishedJobs(output_dir)
    known: dict[int, tuple[RunnerConfig, Resolved]] = {}
    with no_downloads(True):
        for number, it in enumerate(candidates):
            there = it.config if machine is None else _on(it.config, machine.device)
            found = without_download(there, resolve(there))
            if found is None:
                it.problem = "its sizes are not known without a download: give model.name=FOLDER or a preset"
                continue
            known[number] = found
            most_mib = limits.memory_mib
            if machine is not None:
                place, room = machine.device, machine.room_mib
            else:
                place, room = found[1].model.device, sum(rooms(found[1].model.device).values()) + PROCESS_MIB
            allowed_mib = min(room, most_mib or room)
            it.allowed_mib = allowed_mib
            _with_rows(it, found[1], {place: allowed_mib - PROCESS_MIB})
            if machine is None and it.fit is not None and (scored := records.accuracy(it.config)):
                correct, n, job = scored
                it.accuracy = f"accuracy {correct / n:.1%} of {n:.0f} recorded ({job})"
            if it.fit is None or not it.fit.fits:
                needed = it.fit.needed_mib + PROCESS_MIB if it.fit else 0.0
                it.problem = f"needs {needed:,.0f} MiB, one question at a time; {allowed_mib:,.0f} are allowed"
    fitting = {number: it for number, it in known.items() if not candidates[number].problem}
    if machine is None:
        timed = {number: (candidates[number].config, resolved) for number, (_, resolved) in fitting.items()}
        for number, taken in estimate(timed, output_dir, calibrate, on_line).items():
            candidates[number].time = taken.time
    else:
        for number, (_, resolved) in fitting.items():
            candidates[number].time = _guess(candidates[number], resolved, machine)
    for it in candidates:
        each_s = it.each_s
        if not it.problem and limits.seconds is not None and each_s is not None and each_s > limits.seconds:
            it.problem = f"takes about {each_s:,.1f} s a question; {limits.seconds:g} are allowed"
    return candidates


def _on(config: RunnerConfig, device: str) -> RunnerConfig:
    """Return the config with its model on a device of another machine: what is predicted follows from where it runs."""
    return replace(config, model=replace(local_model(config.model), device=device))


def _with_rows(it: Candidate, resolved: Resolved, rooms_mib: dict[str, float]) -> None:
    """Set the most rows at once for which there is room, unless the user has set them."""
    sizes = [it.config.generation.batch_size]
    asked = it.config.task.amounts(it.config.generation)
    if sizes[0] is None and all(amount.rows is None for amount in asked):
        most = most_rows("cuda" if "cuda" in rooms_mib else "cpu", resolved.dtype_bytes)
        completions = max((amount.completions for amount in asked), default=most)
        most = min(most, 1 << (completions - 1).bit_length())
        sizes = [size for size in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1) if size <= most]
    for size in sizes:
        changed = it.config
        if size is not None:
            changed = replace(it.config, generation=replace(it.config.generation, batch_size=size))
        it.fit = fit(changed, resolved, rooms_mib, fixes=False)
        if it.fit is not None and it.fit.predicted.total_mib <= sum(rooms_mib.values()):
            if size is not None and size != it.config.generation.batch_size:
                it.overrides = [*it.overrides, f"generation.batch_size={size}"]
            it.config = changed
            return


def _guess(it: Candidate, resolved: Resolved, machine: Machine) -> Estimate | None:
    assert it.fit is not None
    parameters = float(sum(tensor.params for tensor in resolved.tensors))
    place = place_bytes(resolved.settings, resolved.dtype_bytes)
    speed = machine.guess(it.config, it.fit.predicted, parameters, place)
    return time_of(it.config, speed, it.config.generation.batch_size or it.fit.rows)


def smaller_models(than: Candidate) -> list[str]:
    """Return the largest presets that are smaller than a model, by their shapes."""
    sizes = {file.stem: _parameters(json.loads(file.read_text())) for file in SHAPES_DIR.glob("*.json")}
    own = sizes.get(than.model, 0)
    below = [name for name in sizes if sizes[name] < 0.8 * own]
    return sorted(below, key=lambda name: -sizes[name])[:OTHER_MODELS]


def _parameters(shape: dict[str, Any]) -> int:
    return sum(tensor.params for tensor in list_tensors(shape))
