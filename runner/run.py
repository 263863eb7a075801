"""The story on one page: config → job → engine → task → result → MLflow."""

from __future__ import annotations

import time
from pathlib import Path

from runner.config.groups import packages_of
from runner.config.resolved import ResolvedJob, resolve
from runner.config.root import RunnerConfig
from runner.engines import open_engine
from runner.engines.kinds import RunsUnderTorchrun, kind_of
from runner.records import jobs, ledger
from runner.render.notes import note_text
from runner.scorers import add_metrics
from runner.tasks.base import Context, Inputs, Task, Uses, task_of, with_inputs
from runner.tracking.sink import MlflowSink, check_free_space, open_sink
from runner_base import Record, Status, doing, signals, tell, write_atomically
from runner_base.errors import check_output_folder, exits_as_job_failed, memory_errors_as_job_failed
from runner_base.notes import Note
from runner_engine import BaseCache


def run(
    config: RunnerConfig, config_yaml: str = "", bases: BaseCache | None = None, wait: bool = True
) -> Record:
    """Run one job, or return its recorded result; `bases` keeps the loaded base for the next job of
    a grid."""
    task, resolved = task_of(config), resolve(config)
    inputs, job = identify(resolved)
    resolved = with_inputs(resolved, inputs)
    config = resolved.config
    with jobs.claim(job, wait and not config.task.is_endless):
        anew, sink = must_start_anew(config, task), open_sink(config, job)
        done = None if anew else job.recorded() or sink.fetch()
        if done is not None:
            if hasattr(task, "deliver"):
                task.deliver(inputs, resolved, job, done.result)
            return sink.attach(ledger.reuse(config, job, done))
        if bases is None:  # the jobs of a grid were checked when it was planned
            for note in check(resolved, inputs):
                tell(f"note: {note_text(note)}")
        if anew:
            sink.check()  # the last check: only then earlier evidence is touched
            job.set_aside() if config.rerun else job.forget()
        return execute(task, resolved, inputs, job, sink, config_yaml, bases)


@doing("reading the job's inputs")
def identify(resolved: ResolvedJob) -> tuple[Inputs, jobs.Job]:
    """Read and hash the task's inputs, and identify the job by their content, before anything is
    loaded."""
    config, task = resolved.config, task_of(resolved.config)
    check_output_folder("output_dir", config.output_dir, is_written=not config.plan)
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    of_model = kind_of(config.model).fingerprint(resolved, hashes) if Uses.weights in task.USES else {}
    inputs = task.prepare(config)
    input_hashes, is_measurement = of_model | inputs.hashes, Uses.machine in task.USES
    reuse = inputs.ignored_for_reuse, inputs.usual_for_reuse
    return inputs, jobs.identify(config, task.VERSION, input_hashes, is_measurement, *reuse)


def must_start_anew(config: RunnerConfig, task: Task) -> bool:
    """Return whether earlier results are ignored: by the task's nature, or with rerun=all (failed
    keeps answers)."""
    return not task.FROM_LEDGER or config.rerun in (True, "all")


@doing("checking what the job needs")
def check(resolved: ResolvedJob, inputs: Inputs | None = None) -> list[Note | str]:
    """Reject a job that cannot work before anything is loaded; return notes about limits that are
    close."""
    check_free_space(resolved.config)
    task = task_of(resolved.config)
    notes = kind_of(resolved.config.model).check(resolved) if Uses.weights in task.USES else []
    return [*resolved.notes, *notes] + (
        task.check_lengths(inputs, resolved) if inputs is not None and hasattr(task, "check_lengths") else []
    )


def execute(
    task: Task,
    resolved: ResolvedJob,
    inputs: Inputs,
    job: jobs.Job,
    sink: MlflowSink,
    config_yaml: str,
    bases: BaseCache | None,
) -> Record:
    """Run the task, and record how it ended in any case."""
    config = resolved.config
    record = ledger.new_record(config, job, task.VERSION, inputs.data)
    needs_kernels = {Uses.engine, Uses.machine, Uses.fresh_process} & task.USES
    # before the job's time counts
    built_s = kind_of(config.model).build_kernels(resolved) if needs_kernels else 0.0
    goes_on = not must_start_anew(config, task)
    # reads the samples of an interrupted run, and rejects damaged ones
    recorder = jobs.Recorder(job)
    with signals.deferred():  # a signal takes effect when the end of the job is recorded
        sink.start(record, goes_on, beside=Uses.engine in task.USES)
        engine = open_engine(resolved, bases, job.folder, before_loading=sink.wait)
        context = Context(recorder, resolved, engine)
        started = time.perf_counter()
        try:
            with (
                signals.interruptible(),
                ledger.log_file(job.folder / "log.txt"),
                memory_errors_as_job_failed(),
                exits_as_job_failed(),
            ):
                write_atomically(job.folder / "config.yaml", ledger.without_token(config, config_yaml))
                with doing(f"task={config.task.name}"):
                    record.result = task.run(inputs, context)
                add_metrics(config.metrics, recorder.done, record.result)
            record.status = Status.FAILED if record.result.problems else Status.FINISHED
            record.error = record.result.complaint
        except KeyboardInterrupt as stop:
            record.status, record.error = Status.KILLED, signals.interruption_text(stop)
            raise
        except BaseException as error:
            record.error = f"{type(error).__name__}: {error}"
            if bases is not None:  # the next job of the grid loads it anew
                bases.drop_after_error()
            raise
        finally:
            recorder.close()
            context.engine.close()
            record.seconds = time.perf_counter() - started
            record.result.metrics |= {"seconds": record.seconds} | (
                {"kernels_build_s": built_s} if built_s else {}
            )
            record.result.facts |= {"model_sha256": job.model_sha256} if job.model_sha256 else {}
            if packages := packages_of(config):
                record.result.facts["plug_ins"] = ", ".join(
                    f"{key.removesuffix('.package')}: {package}" for key, package in packages.items()
                )
            with doing("recording the result"):
                sink.finish(record)
    return record


def run_as_torchrun_worker(config: RunnerConfig) -> int | None:
    """Work for the process that has the job and return the exit code; None if this process has the
    job itself."""
    kind = kind_of(config.model)
    if not isinstance(kind, RunsUnderTorchrun) or Uses.engine not in task_of(config).USES:
        return None
    return kind.run_as_torchrun_worker(config)
