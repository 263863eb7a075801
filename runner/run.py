"""Run one job from start to end: config → job → engine → task → result → MLflow."""

from __future__ import annotations

import time
from pathlib import Path

from runner.config.groups import plugin_packages
from runner.config.resolved import ResolvedJob, resolve_job
from runner.config.root import RunnerConfig
from runner.engines import open_engine
from runner.engines.kinds import RunsUnderTorchrun, model_kind
from runner.records import job_records, jobs
from runner.render.notes import note_text
from runner.scorers import add_plugin_metrics
from runner.tasks.base import Task, TaskContext, TaskInputs, Uses, apply_inputs, import_task
from runner.tracking.sink import MlflowSink, check_free_space, create_sink
from runner_base import Record, Status, announce, report_step, signals, write_text_atomically
from runner_base.errors import check_output_folder, exits_as_job_failed, memory_errors_as_job_failed
from runner_base.notes import Note
from runner_engine import BaseModelCache


def run(
    config: RunnerConfig, config_yaml: str = "", bases: BaseModelCache | None = None, wait: bool = True
) -> Record:
    """Run one job, or return its recorded result. `bases` keeps the loaded model for the next job of a
    grid.
    """
    task, resolved = import_task(config), resolve_job(config)
    inputs, job = identify_job(resolved)
    resolved = apply_inputs(resolved, inputs)
    config = resolved.config
    with jobs.lock_job(job, wait and not config.task.is_endless):
        anew, sink = must_ignore_earlier_results(config, task), create_sink(config, job)
        done = None if anew else job.read_finished_record() or sink.download_result()
        if done is not None:
            if hasattr(task, "deliver"):
                task.deliver(inputs, resolved, job, done.result)
            return sink.attach_recorded(job_records.reuse_record(config, job, done))
        if bases is None:  # the jobs of a grid were checked when it was planned
            for note in check_job(resolved, inputs):
                announce(f"note: {note_text(note)}")
        if anew:
            sink.check_store()  # the last check: only then earlier evidence is touched
            job.set_aside() if config.rerun else job.delete_earlier_files()
        return execute_job(task, resolved, inputs, job, sink, config_yaml, bases)


@report_step("reading the job's inputs")
def identify_job(resolved: ResolvedJob) -> tuple[TaskInputs, jobs.Job]:
    """Read and hash the task's inputs before anything is loaded. Their content determines the job id."""
    config, task = resolved.config, import_task(resolved.config)
    check_output_folder("output_dir", config.output_dir, needs_write=not config.plan)
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    of_model = model_kind(config.model).fingerprint(resolved, hashes) if Uses.weights in task.USES else {}
    inputs = task.prepare(config)
    input_hashes, is_measurement = of_model | inputs.hashes, Uses.machine in task.USES
    reuse = inputs.ignored_for_reuse, inputs.usual_for_reuse
    return inputs, jobs.identify(config, task.VERSION, input_hashes, is_measurement, *reuse)


def must_ignore_earlier_results(config: RunnerConfig, task: Task) -> bool:
    """Return whether the task or rerun=all makes the job ignore earlier results. rerun=failed keeps
    answers.
    """
    return not task.FROM_LEDGER or config.rerun in (True, "all")


@report_step("checking what the job needs")
def check_job(resolved: ResolvedJob, inputs: TaskInputs | None = None) -> list[Note | str]:
    """Reject an impossible job before anything is loaded, and return notes about limits that are
    close.
    """
    check_free_space(resolved.config)
    task = import_task(resolved.config)
    notes = model_kind(resolved.config.model).check_job(resolved) if Uses.weights in task.USES else []
    return [*resolved.notes, *notes] + (
        task.check_lengths(inputs, resolved) if inputs is not None and hasattr(task, "check_lengths") else []
    )


def execute_job(
    task: Task,
    resolved: ResolvedJob,
    inputs: TaskInputs,
    job: jobs.Job,
    sink: MlflowSink,
    config_yaml: str,
    bases: BaseModelCache | None,
) -> Record:
    """Run the task and record its status, also after an error."""
    config = resolved.config
    record = job_records.create_record(config, job, task.VERSION, inputs.data)
    needs_kernels = {Uses.engine, Uses.machine, Uses.fresh_process} & task.USES
    # before the job's time counts
    built_s = model_kind(config.model).build_kernels(resolved) if needs_kernels else 0.0
    goes_on = not must_ignore_earlier_results(config, task)
    # reads the samples of an interrupted run, and rejects damaged ones
    recorder = jobs.Recorder(job)
    with signals.deferred_signals():  # a signal takes effect when the end of the job is recorded
        sink.start_run(record, goes_on, in_background=Uses.engine in task.USES)
        engine = open_engine(resolved, bases, job.folder, before_loading=sink.wait_until_started)
        context = TaskContext(recorder, resolved, engine)
        started = time.perf_counter()
        try:
            with (
                signals.interruptible_block(),
                job_records.job_log_file(job.folder / "log.txt"),
                memory_errors_as_job_failed(),
                exits_as_job_failed(),
            ):
                write_text_atomically(
                    job.folder / "config.yaml", job_records.redact_store_uri(config, config_yaml)
                )
                with report_step(f"task={config.task.name}"):
                    record.result = task.run(inputs, context)
                add_plugin_metrics(config.metrics, recorder.done, record.result)
            record.status = Status.FAILED if record.result.problems else Status.FINISHED
            record.error = record.result.problem_message
        except KeyboardInterrupt as stop:
            record.status, record.error = Status.KILLED, signals.interruption_message(stop)
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
            if packages := plugin_packages(config):
                record.result.facts["plug_ins"] = ", ".join(
                    f"{key.removesuffix('.package')}: {package}" for key, package in packages.items()
                )
            with report_step("recording the result"):
                sink.finish(record)
    return record


def run_as_torchrun_worker(config: RunnerConfig) -> int | None:
    """Act as a torchrun worker and return the exit code. Returns None in the process that owns the
    job.
    """
    kind = model_kind(config.model)
    if not isinstance(kind, RunsUnderTorchrun) or Uses.engine not in import_task(config).USES:
        return None
    return kind.run_as_torchrun_worker(config)
