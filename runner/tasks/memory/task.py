"""task=memory: predicted and measured memory of import, load, prefill and decode, each repeat in a
fresh process.

This process uses no engine, so it never imports torch. The probe is a fresh process, so it
measures from the start. A point that runs out of memory is recorded; if it kills the process,
another one measures the rest.
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

from runner.records.measurements import make_measurement_notes
from runner.render.notes import render_notes
from runner.speed.synthetic import check_context_length
from runner.tasks import (
    Job,
    Recorder,
    ResolvedJob,
    RunnerConfig,
    TaskContext,
    TaskInputs,
    Uses,
    exceed_context_hint,
    get_model_kind,
    report_saved_on_interrupt,
    typed_task_config,
)
from runner.tasks.memory.keys import MemoryConfig
from runner.tasks.memory.memory_metrics import AT_START, IN_POINTS, MemoryRepeat, summarize_memory_repeats
from runner.tasks.memory.pictures import MODULE, POINTS
from runner.tasks.memory.recorded_points import RecordedPoints
from runner_base import (
    ConfigError,
    JobFailed,
    Progress,
    Result,
    child_process,
    errors,
    machine,
    short_model_name,
    write_text_atomically,
)
from runner_base.drawing import draw_missing_plots, draw_plots_in_child_process
from runner_base.repeats import RepeatLog
from runner_engine import Capability, Workload, require_capabilities

VERSION = 2
USES = frozenset({Uses.weights, Uses.machine, Uses.fresh_process})
FROM_LEDGER = True

PROBE = "runner.tasks.memory.probe"


def prepare(config: RunnerConfig) -> TaskInputs:  # noqa: ARG001
    """Return inputs without hashes, because the config alone determines the job id. Raises ConfigError
    if the system does not report memory.
    """
    if not machine.rss_mib():
        raise ConfigError(
            (
                "this system does not report the memory of a process (/proc/self/status on Linux). "
                "Choose another task; every task records peak_rss_mib"
            ),
            key="task",
            value="memory",
            code="unsupported",
        )
    return TaskInputs({})


def check_lengths(inputs: TaskInputs, resolved: ResolvedJob) -> list[str]:  # noqa: ARG001
    """Raise ConfigError if a context length to be measured exceeds the model's."""
    room = get_model_kind(resolved.config.model).positions(resolved).room
    for _, prompt_tokens, new_tokens in typed_task_config(resolved.config, MemoryConfig).measured_workloads:
        check_context_length(room, prompt_tokens, new_tokens, exceed_context_hint(resolved))
    return []


def run(inputs: TaskInputs, context: TaskContext) -> Result:  # noqa: ARG001
    """Predict the memory, then measure it `repeats` times in fresh processes."""
    config, recorder = context.config, context.recorder
    task = typed_task_config(config, MemoryConfig)
    kind = get_model_kind(config.model)
    needs = (Capability.token_ids, Capability.fixed_length, Capability.own_memory)
    require_capabilities(kind.capabilities(config), "task=memory", needs)
    predicted = [kind.predict_memory(context.resolved, point) for point in task.measured_workloads]
    runs: list[MemoryRepeat] = []
    kept, total = RecordedPoints(recorder.folder), task.repeats * len(task.measured_workloads)
    with closing(kept), report_saved_on_interrupt(kept.done, f" of {total} measurements"):
        _measure_unrecorded_memory_workloads(config, task, kept, runs, recorder)
    result, drawn = summarize_memory_repeats(runs, task.measured_workloads, predicted)
    result.notes += render_notes(make_measurement_notes(kept.count, total, kept.outdated))
    write_text_atomically(
        recorder.folder / POINTS, json.dumps(drawn | {"title": _picture_title(config)}, indent=1) + "\n"
    )
    if task.pictures:
        draw_plots_in_child_process(MODULE, recorder.folder)
    return result


def _measure_unrecorded_memory_workloads(
    config: RunnerConfig,
    task: MemoryConfig,
    recorded_points: RecordedPoints,
    repeat_results: list[MemoryRepeat],
    recorder: Recorder,
) -> None:
    repeats = RepeatLog(recorder.folder)
    stages = len(AT_START) + len(IN_POINTS) * len(task.measured_workloads)
    with recorder.create_progress_bar(task.repeats * stages, "memory", "stages") as bar:
        for number in range(1, task.repeats + 1):
            which = f"repeat {number} of {task.repeats}"
            repeat = RepeatRunner(
                config, task.measured_workloads, recorder.folder / "memory_probe.log", which, bar
            )
            repeat.keep = partial(recorded_points.append_measurement_event, number)
            for event in recorded_points.stored_events(number):
                repeat.add_measurement_to_repeat(event, is_recorded=True)
            repeat_results.append(repeat.measure_all_workloads())
            if not repeat_results[-1].speeds:
                raise JobFailed(
                    "no combination of batch size and context length could be measured. "
                    f"The first error: {repeat_results[-1].failed[0]}",
                    code="failed",
                )
            repeats.add_repeat(number, repeat_results[-1].compute_metrics())


def deliver(inputs: TaskInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Draw the plots of a finished job if they are missing."""
    if typed_task_config(resolved.config, MemoryConfig).pictures:
        draw_missing_plots(MODULE, job.folder, POINTS)


def _picture_title(config: RunnerConfig) -> str:
    return f"{short_model_name(config.model.name)}, quantization={config.quantization.label}"


@dataclass
class RepeatRunner:
    """Measures memory in a fresh process. If the process crashes, another process measures the
    remaining combinations.
    """

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

    def measure_all_workloads(self) -> MemoryRepeat:
        """Measure each combination of batch size and context length. After a crash, larger combinations
        are skipped.
        """
        left = self._remaining_points()
        while left:
            death = self._measure_memory_in_fresh_process(left)
            if death is None:
                return self.measured
            at, why = death
            self.measured.failed[at] = why
            large = self.points[at]
            for number, point in left:
                if number > at and all(map(int.__le__, large, point)):
                    self.measured.failed[number] = f"not tried: a smaller point {why}"
            left = self._remaining_points()
        return self.measured

    def _remaining_points(self) -> list[tuple[int, Workload]]:
        return [
            (number, point)
            for number, point in enumerate(self.points)
            if not self.measured.is_measured(number)
        ]

    def _measure_memory_in_fresh_process(
        self, remaining_points: list[tuple[int, Workload]]
    ) -> tuple[int, str] | None:
        """Measure the remaining combinations in a fresh process. If it crashes, return the
        combination's index and the reason.
        """
        is_done = False
        self._set_current_stage("start", None)
        with self.log.open("a", encoding="utf-8") as stderr:
            offset = stderr.tell()
            process = child_process.start_python_child_process(
                "-m", PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        with process:
            try:
                assert process.stdout is not None
                child_process.send_pickled_input(process, (self.config, remaining_points))
                for line in process.stdout:
                    is_done = self._handle_probe_event(json.loads(line)) or is_done
                code = process.wait()
            finally:
                process.kill()  # Ctrl-C here must not leave a model loaded there
                process.wait()
        if code == 0 and is_done:
            return None
        if code < 0 and self.point is not None:
            return self.point, f"{child_process.describe_exit_code(code)}, in stage {self.stage}"
        lines = child_process.read_last_lines(self.log, 8, offset)
        log = (
            f"Its last lines, in {self.log}:\n" + "\n".join(lines)
            if lines
            else f"Its log, {self.log}, is empty"
        )
        raise JobFailed(
            (
                f"the memory probe process of {self.which} "
                f"{child_process.describe_exit_code(code)} during stage {self.stage}. {log}"
            ),
            code="failed",
        )

    def add_measurement_to_repeat(self, event: dict[str, Any], is_recorded: bool = False) -> None:
        """Add a finished stage or measurement to the repeat, and advance the progress bar."""
        self.measured.add_event(event)
        step = self.bar.skip if is_recorded else self.bar.advance
        step(1 if "stage" in event else 0)

    def _set_current_stage(self, stage: str, point: int | None) -> None:
        self.stage, self.point = stage, point

    def _handle_probe_event(self, event: dict[str, Any]) -> bool:
        """Handle an event of the memory probe process. Returns whether the process has finished."""
        if "begin" in event:
            self._set_current_stage(event["begin"], event["point"])
            self.bar.set_title(f"memory: {self.stage}, {self.which}")
        elif "error" in event:
            raise getattr(errors, event["error"], JobFailed)(**event["details"])
        elif "done" not in event:
            self.add_measurement_to_repeat(event)
            self.keep(event)
        return "done" in event
