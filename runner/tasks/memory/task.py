"""Memory of import, load, prefill and decode, each repeat in a fresh process, predicted next to
measured.

This process never uses an engine, so it never imports torch. The probe is a fresh process, so it
measures from the start. A point that runs out of memory is recorded; if it took the process with
it, another one measures the rest.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from runner.records.measurements import notes_on
from runner.render.notes import render_notes
from runner.speed.synthetic import check_room
from runner.tasks import (
    Context,
    Inputs,
    Job,
    Recorder,
    ResolvedJob,
    RunnerConfig,
    Uses,
    beyond_words,
    kept_words,
    kind_of,
    own_config,
)
from runner.tasks.memory.figures import AT_START, IN_POINTS, MemoryRepeat, summarize
from runner.tasks.memory.kept_points import KeptPoints
from runner.tasks.memory.keys import MemoryConfig
from runner.tasks.memory.pictures import MODULE, POINTS
from runner_base import (
    ConfigError,
    JobFailed,
    Progress,
    Result,
    child,
    errors,
    machine,
    short_name,
    write_atomically,
)
from runner_base.drawing import draw_in_process, draw_missing
from runner_base.repeats import RepeatLog
from runner_engine import Capability, Workload, require

VERSION = 2
USES = frozenset({Uses.weights, Uses.machine, Uses.fresh_process})
FROM_LEDGER = True

PROBE = "runner.tasks.memory.probe"


def prepare(config: RunnerConfig) -> Inputs:  # noqa: ARG001
    """Read nothing: the model is part of the job's identity already. Refuse a system that does not
    count."""
    if not machine.rss_mib():
        raise ConfigError(
            "this system does not say how much memory a process has (/proc/self/status, Linux), so that "
            "no stage can be measured. All other tasks work here, and record their peak_rss_mib",
            key="task",
            value="memory",
            code="unsupported",
        )
    return Inputs({})


def check_lengths(inputs: Inputs, resolved: ResolvedJob) -> list[str]:  # noqa: ARG001
    """Reject points that the model has no room for."""
    room = kind_of(resolved.config.model).positions(resolved).room
    for _, prompt_tokens, new_tokens in own_config(resolved.config, MemoryConfig).points:
        check_room(room, prompt_tokens, new_tokens, beyond_words(resolved))
    return []


def run(inputs: Inputs, context: Context) -> Result:  # noqa: ARG001
    """Predict, then measure in `repeats` fresh processes."""
    config, recorder = context.config, context.recorder
    task = own_config(config, MemoryConfig)
    kind = kind_of(config.model)
    needs = (Capability.token_ids, Capability.fixed_length, Capability.own_memory)
    require(kind.capabilities(config), "task=memory", needs)
    predicted = [kind.predict(context.resolved, point) for point in task.points]
    runs: list[MemoryRepeat] = []
    kept, total = KeptPoints(recorder.folder), task.repeats * len(task.points)
    with closing(kept), kept_words(kept.done, f" of {total} measurements"):
        _measure(config, task, kept, runs, recorder)
    result, drawn = summarize(runs, task.points, predicted)
    result.notes += render_notes(notes_on(kept.count, total, kept.outdated))
    write_atomically(recorder.folder / POINTS, json.dumps(drawn | {"title": _title(config)}, indent=1) + "\n")
    if task.pictures:
        draw_in_process(MODULE, recorder.folder)
    return result


def _measure(
    config: RunnerConfig, task: MemoryConfig, kept: KeptPoints, runs: list[MemoryRepeat], recorder: Recorder
) -> None:
    """Measure each repeat, or what earlier starts have left of it."""
    repeats = RepeatLog(recorder.folder)
    stages = len(AT_START) + len(IN_POINTS) * len(task.points)
    with recorder.progress(task.repeats * stages, "memory") as bar:
        for number in range(1, task.repeats + 1):
            which = f"repeat {number} of {task.repeats}"
            repeat = Repeat(config, task.points, recorder.folder / "memory_probe.log", which, bar)
            repeat.keep = partial(kept.keep, number)
            for event in kept.events(number):
                repeat.take(event, is_earlier=True)
            runs.append(repeat.measure())
            if not runs[-1].speeds:
                raise JobFailed(f"no point could be measured. The first: {runs[-1].failed[0]}", code="failed")
            repeats.add(number, runs[-1].metrics())


def deliver(inputs: Inputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Draw the pictures if the recorded job has none."""
    if own_config(resolved.config, MemoryConfig).pictures:
        draw_missing(MODULE, job.folder, POINTS)


def _title(config: RunnerConfig) -> str:
    return f"{short_name(config.model.name)}, quantization={config.quantization.label}"


@dataclass
class Repeat:
    """One measurement of all points, in as many fresh processes as are needed."""

    config: RunnerConfig
    points: list[Workload]
    log: Path
    which: str
    bar: Progress
    stage: str = "start"
    point: int | None = None  # that the child measures now
    measured: MemoryRepeat = field(default_factory=MemoryRepeat)
    # called with each event, once it is taken
    keep: Callable[[dict[str, Any]], None] = lambda _: None

    def measure(self) -> MemoryRepeat:
        """Measure; if a process dies at a point, another one measures the rest, except for points
        at least as large."""
        left = self._left()
        while left:
            death = self._run(left)
            if death is None:
                return self.measured
            at, why = death
            self.measured.failed[at] = why
            large = self.points[at]
            for number, point in left:
                if number > at and all(map(int.__le__, large, point)):
                    self.measured.failed[number] = f"not tried: a smaller point {why}"
            left = self._left()
        return self.measured

    def _left(self) -> list[tuple[int, Workload]]:
        return [(number, point) for number, point in enumerate(self.points) if not self.measured.has(number)]

    def _run(self, left: list[tuple[int, Workload]]) -> tuple[int, str] | None:
        """Measure in a fresh process; if it dies, return at which point, and how."""
        is_done = False
        self._at("start", None)
        with self.log.open("a", encoding="utf-8") as stderr:
            offset = stderr.tell()
            process = child.start("-m", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
        with process:
            try:
                assert process.stdout is not None
                child.send_input(process, (self.config, left))
                for line in process.stdout:
                    is_done = self._take(json.loads(line)) or is_done
                code = process.wait()
            finally:
                process.kill()  # Ctrl-C here must not leave a model loaded there
                process.wait()
        if code == 0 and is_done:
            return None
        if code < 0 and self.point is not None:
            return self.point, f"{child.describe_exit(code)}, in stage {self.stage}"
        lines = child.last_lines(self.log, 8, offset)
        log = (
            f"Its last lines, in {self.log}:\n" + "\n".join(lines)
            if lines
            else f"Its log, {self.log}, is empty"
        )
        raise JobFailed(
            f"the memory probe, {self.which}, {child.describe_exit(code)}, in stage {self.stage}. {log}",
            code="failed",
        )

    def take(self, event: dict[str, Any], is_earlier: bool = False) -> None:
        """Take a measured stage or point, of this start or of an earlier one."""
        self.measured.take(event)
        step = self.bar.skip if is_earlier else self.bar.advance
        step(1 if "stage" in event else 0)

    def _at(self, stage: str, point: int | None) -> None:
        self.stage, self.point = stage, point

    def _take(self, event: dict[str, Any]) -> bool:
        """Handle an event of the child; return whether it is done."""
        if "begin" in event:
            self._at(event["begin"], event["point"])
            self.bar.describe(f"memory: {self.stage}, {self.which}")
        elif "error" in event:
            raise getattr(errors, event["error"], JobFailed)(**event["details"])
        elif "done" not in event:
            self.take(event)
            self.keep(event)
        return "done" in event
