"""Runs one job from start to end: config, job, engine, task, result, MLflow."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from runner.config.groups import list_used_plugin_packages
from runner.config.resolved import ResolvedJob, resolve_job
from runner.config.root import RunnerConfig
from runner.engines import create_lazy_engine
from runner.engines.kinds import RunsUnderTorchrun, get_model_kind
from runner.records import job_records, jobs
from runner.render.notes import format_note
from runner.scorers import add_plugin_metrics
from runner.tasks.base import (
    Task,
    TaskContext,
    TaskInputs,
    Uses,
    import_task_module,
    render_requested_prompts,
    update_job_with_task_inputs,
)
from runner.tracking.sink import MlflowSink, create_mlflow_sink, require_free_disk_space
from runner_base import Record, Status, announce, report_step, signals, write_text_atomically
from runner_base.errors import check_output_folder, exits_as_job_failed, memory_errors_as_job_failed
from runner_base.notes import Note
from runner_engine import BaseModelCache

log = logging.getLogger(__name__)


def run(
    config: RunnerConfig, config_yaml: str = "", base_models: BaseModelCache | None = None, wait: bool = True
) -> Record:
    """Run one job, or return its recorded result. `base_models` keeps the model loaded for later jobs."""
    task, resolved = import_task_module(config), resolve_job(config)
    inputs, job = read_inputs_and_identify_job(resolved)
    resolved = update_job_with_task_inputs(resolved, inputs)
    config = resolved.config
    with jobs.lock_job(job, wait and not config.task.is_endless):
        anew, sink = must_ignore_earlier_results(config, task), create_mlflow_sink(config, job)
        done = None if anew else job.read_finished_record() or sink.download_result()
        if done is not None:
            check_recorded_model(resolved, done)
            log_requested_prompts(task, inputs, resolved)
            if hasattr(task, "deliver"):
                task.deliver(inputs, resolved, job, done.result)
            return sink.log_recorded_result_or_raise(job_records.reuse_finished_record(config, job, done))
        if base_models is None:  # the jobs of a grid were checked when it was planned
            for note in check_job_before_model_loading(resolved, inputs):
                announce(f"note: {format_note(note)}")
        if anew and job.list_result_files():
            # opens MLflow, which takes seconds. It is the last check: only then earlier evidence is touched
            sink.check_store()
            job.move_results_to_backup() if config.rerun else job.delete_earlier_files()
        return execute_job(task, resolved, inputs, job, sink, config_yaml, base_models)


def log_requested_prompts(task: Task, inputs: TaskInputs, resolved: ResolvedJob) -> None:
    if shown := render_requested_prompts(task, inputs, resolved):
        log.info("%s", shown)


@report_step("reading the job's inputs")
def read_inputs_and_identify_job(resolved: ResolvedJob) -> tuple[TaskInputs, jobs.Job]:
    """Read and hash the task's inputs, whose content determines the job id, before a model is loaded."""
    config, task = resolved.config, import_task_module(resolved.config)
    check_output_folder("output_dir", config.output_dir, needs_write=not config.plan)
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    of_model = get_model_kind(config.model).fingerprint(resolved, hashes) if Uses.weights in task.USES else {}
    inputs = task.prepare(config)
    input_hashes, is_measurement = of_model | inputs.hashes, Uses.machine in task.USES
    reuse = inputs.ignored_for_reuse, inputs.usual_for_reuse
    return inputs, jobs.create_job_with_hashed_id(config, task.VERSION, input_hashes, is_measurement, *reuse)


def must_ignore_earlier_results(config: RunnerConfig, task: Task) -> bool:
    """Return whether the job must ignore recorded results, as with rerun=all. rerun=failed reuses answers."""
    return not task.FROM_LEDGER or config.rerun in (True, "all")


def check_recorded_model(resolved: ResolvedJob, record: Record) -> None:
    """Raise an error if the model of a finished job is known to have changed."""
    if Uses.weights in import_task_module(resolved.config).USES and not resolved.config.plan:
        kind = get_model_kind(resolved.config.model)
        kind.check_recorded_job(resolved, record.job_id, record.result.facts)


@report_step("checking what the job needs")
def check_job_before_model_loading(
    resolved: ResolvedJob, inputs: TaskInputs | None = None
) -> list[Note | str]:
    """Raise an error if the job cannot run. Returns notes about limits and settings."""
    require_free_disk_space(resolved.config)
    task = import_task_module(resolved.config)
    notes = get_model_kind(resolved.config.model).check_job(resolved) if Uses.weights in task.USES else []
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
    base_models: BaseModelCache | None,
) -> Record:
    """Run the task and record its status, even after an error."""
    config = resolved.config
    record = job_records.create_job_record(config, job, task.VERSION, inputs.data)
    needs_kernels = {Uses.engine, Uses.machine, Uses.fresh_process} & task.USES
    # before the job's time counts
    built_s = get_model_kind(config.model).build_kernels(resolved) if needs_kernels else 0.0
    goes_on = not must_ignore_earlier_results(config, task)
    # reads the samples of an interrupted run, and rejects damaged ones
    recorder = jobs.Recorder(job)
    with signals.defer_signals():  # a signal takes effect when the end of the job is recorded
        sink.start_run(record, goes_on, in_background=Uses.engine in task.USES)
        engine = create_lazy_engine(resolved, base_models, job.folder, check_others=sink.wait_until_started)
        context = TaskContext(recorder, resolved, engine, sink.log_progress)
        started = time.perf_counter()
        try:
            with (
                signals.interruptible_block(),
                job_records.attach_job_log_file(job.folder / "log.txt"),
                memory_errors_as_job_failed(),
                exits_as_job_failed(),
            ):
                write_text_atomically(
                    job.folder / "config.yaml", job_records.redact_store_uri_in_text(config, config_yaml)
                )
                log_requested_prompts(task, inputs, resolved)
                with report_step(f"task={config.task.name}"):
                    record.result = task.run(inputs, context)
                add_plugin_metrics(config.metrics, recorder.done, record.result)
            record.status = Status.FAILED if record.result.problems else Status.FINISHED
            record.error = record.result.found_problems_message
        except KeyboardInterrupt as stop:
            record.status, record.error = Status.KILLED, signals.format_interruption_message(stop)
            raise
        except BaseException as error:
            record.error = f"{type(error).__name__}: {error}"
            if base_models is not None:  # the next job of the grid loads it anew
                base_models.drop_after_error()
            raise
        finally:
            recorder.close()
            context.engine.close()
            record.seconds = time.perf_counter() - started
            record.result.metrics |= {"seconds": record.seconds} | (
                {"kernels_build_s": built_s} if built_s else {}
            )
            record.result.facts |= {"model_sha256": job.model_sha256} if job.model_sha256 else {}
            if packages := list_used_plugin_packages(config):
                record.result.facts["plug_ins"] = ", ".join(
                    f"{key.removesuffix('.package')}: {package}" for key, package in packages.items()
                )
            with report_step("recording the result"):
                sink.finish(record)
    return record


def run_as_torchrun_worker(config: RunnerConfig) -> int | None:
    """Run as a torchrun worker and return the exit code. Returns None if this process is not a worker."""
    kind = get_model_kind(config.model)
    if not isinstance(kind, RunsUnderTorchrun) or Uses.engine not in import_task_module(config).USES:
        return None
    return kind.run_as_torchrun_worker(config)
