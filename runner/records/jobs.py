"""Identity and folder of a job: determines whether two jobs are the same, and which results exist.

A job's id is a hash of everything that can change its answer. Its folder
`OUTPUT_DIR/jobs/<job_id>/` has `config.yaml`, `samples.jsonl` (append-only), `log.txt` and,
once the job has ended, `result.json`. The same job again returns the recorded result; an
interrupted job resumes from its samples.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner.config.groups import list_used_plugin_packages
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.records.artifacts import find_changed_file
from runner.records.jsonl_files import (
    AppendOnlyFile,
    damaged_line_error,
    is_existing_regular_file,
    read_lines,
)
from runner.records.measurements import MEASUREMENTS
from runner.render.notes import format_note
from runner.render.progress_messages import held_elsewhere_message, waiting_message
from runner_base import (
    JobAlreadyRunning,
    Progress,
    Record,
    RunRecordError,
    Sample,
    Status,
    compute_short_json_hash,
    convert_write_error,
    lock_file,
    machine,
    print_message,
    report_step,
    write_text_atomically,
)
from runner_base.fields import get_identity_name
from runner_base.files import sync_to_disk
from runner_base.notes import Note
from runner_base.texts import is_partially_written
from runner_compare.statistics import replace_vote_by_mean_accuracy

log = logging.getLogger(__name__)

WORTH_SYNCING_S = 5.0  # waiting for the disk may take 0.1 s; the work of a shorter job is soon done again
MORE_MEMORY = 1.25  # a job that was short of memory runs again when so many times as much is free
LOCK = ".lock"  # in a job's folder: held by the process that is doing the job
SENT = ".sent"  # in a job's folder: what is arriving from another host, until it is whole
OLD = ".old-"  # jobs/<job_id>.old-N: evidence that rerun=... has set aside
SAMPLES = "samples.jsonl"
RESULT = "result.json"
# change what follows a thought, and not itself
OF_BUDGETS = ("generation.thinking_tokens", "generation.thinking_end")
IDENTITY_VERSION = 1  # raise it when the meaning of a job's id changes


@dataclass(frozen=True)
class Job:
    job_id: str
    folder: Path
    sibling_key: str = ""  # the hash of what sibling jobs have in common; empty: it has no siblings
    model_sha256: str = ""  # of the model's files, wherever they are
    thoughts_key: str = ""  # the hash of what jobs have in common that think alike; empty: it is not greedy

    @property
    def samples_path(self) -> Path:
        return self.folder / SAMPLES

    @property
    def has_partial_results(self) -> bool:
        return self.samples_path.exists() or (self.folder / MEASUREMENTS).exists()

    def read_finished_record(self) -> Record | None:
        """Return the record of a finished job. None if the job is incomplete or its result is invalid."""
        record = self.read_last_record()
        if record is None or record.status is not Status.FINISHED:
            return None
        if (changed := find_changed_file(record.result.artifacts)) is not None:
            log.warning(
                "%s has changed since %s wrote it, so the recorded result is invalid", changed, self.job_id
            )
            return None
        short_mib = record.result.ran_short_mib
        if short_mib is not None and machine.available_memory_mib() > MORE_MEMORY * short_mib:
            log.warning("%s had too little memory, and now more is free: the job runs again", self.job_id)
            return None
        return record

    def read_last_record(self) -> Record | None:
        """Return the record in result.json, with any status. None if the file is missing or
        incomplete.
        """
        path = self.folder / RESULT
        if not is_existing_regular_file(path):
            return None
        data = b""
        try:
            data = path.read_bytes()
            record = Record.from_json(data.decode())
            record.result.metrics = replace_vote_by_mean_accuracy(record.result.metrics)
            return record
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_partially_written(data) and not isinstance(error, OSError):
                log.warning(
                    (
                        "%s is incomplete, perhaps after a power failure: the runner rebuilds "
                        "the result from the saved answers"
                    ),
                    path,
                )
                return None
            raise RunRecordError(
                f"the result file {path} is damaged ({error}). Move the file, or replace it with rerun=all",
                code="damaged",
            ) from error

    def write_record(self, record: Record) -> None:
        """Replace result.json atomically, so that a crash leaves either the old or the new file."""
        durable = record.seconds >= WORTH_SYNCING_S
        try:
            if durable and self.samples_path.exists():
                sync_to_disk(self.samples_path)  # or a power cut could leave a result without its evidence
        except OSError as error:
            raise convert_write_error(self.samples_path, error) from error
        write_text_atomically(self.folder / RESULT, record.to_json(), durable=durable)

    def list_result_files(self) -> list[Path]:
        """Return the files in the job's folder, without hidden files."""
        return (
            [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            if self.folder.exists()
            else []
        )

    def delete_earlier_files(self) -> None:
        for name in (SAMPLES, "partial.jsonl", "completions.jsonl", "measured.json", RESULT, "log.txt"):
            (self.folder / name).unlink(missing_ok=True)

    def move_results_to_backup(self) -> None:
        try:
            if evidence := self.list_result_files():
                old = next(
                    old
                    for n in count(1)
                    if not (old := self.folder.with_name(f"{self.job_id}{OLD}{n}")).exists()
                )
                old.mkdir()
                for path in evidence:
                    path.rename(old / path.name)
        except OSError as error:
            raise convert_write_error(self.folder, error) from error

    def list_replaced_result_folders(self) -> list[Path]:
        """Return the folders with results that rerun=... has replaced, oldest first."""
        folders = self.folder.parent.glob(f"{self.job_id}{OLD}*")
        return sorted(folders, key=lambda old: (len(old.name), old.name))

    def delete_backup_folders(self) -> None:
        for old in self.list_replaced_result_folders():
            shutil.rmtree(old, ignore_errors=True)


def create_job_with_hashed_id(
    config: RunnerConfig,
    task_version: int,
    input_hashes: dict[str, str],
    is_measurement: bool,
    ignored_for_reuse: frozenset[str] = frozenset(),
    usual_for_reuse: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """Return the job of a config. The job id is a hash of config, inputs, task version and machine.

    Jobs that differ only in the keys and hashes `ignored_for_reuse`, and in the keys of
    `usual_for_reuse`, give the same answers to the same questions.
    """
    identity: dict[str, Any] = {
        "identity": IDENTITY_VERSION,
        "task_version": task_version,
        "config": dict(iterate_job_id_keys(config)) | list_used_plugin_packages(config),
        "evidence": input_hashes,
    }
    if is_measurement:
        identity |= {"machine": machine.describe_machine(), "versions": machine.library_versions()}
    job_id = f"{config.task.name}-{compute_short_json_hash(identity)}"
    names = {f"task.{item.name}": f"task.{get_identity_name(item)}" for item in fields(config.task)}
    ignored_for_reuse = frozenset(names.get(key, key) for key in ignored_for_reuse)
    for part in ("config", "evidence"):
        identity[part] = {key: value for key, value in identity[part].items() if key not in ignored_for_reuse}
    identity["config"] = {
        key: value for key, value in identity["config"].items() if key.partition(".")[0] != "metrics"
    }
    identity["config"] |= {names.get(key, key): value for key, value in usual_for_reuse.items()}
    sibling_key = compute_short_json_hash(identity) if ignored_for_reuse else ""
    folder = Path(config.output_dir).expanduser().absolute() / "jobs" / job_id
    identity["config"] = {key: value for key, value in identity["config"].items() if key not in OF_BUDGETS}
    thoughts_key = (
        compute_short_json_hash(identity) if ignored_for_reuse and not config.generation.temperature else ""
    )
    return Job(job_id, folder, sibling_key, input_hashes.get("model", ""), thoughts_key)


@contextmanager
def lock_job(job: Job, should_wait: bool = True) -> Iterator[None]:
    """Context manager that holds the job's lock.

    If another process holds the lock, waits with a message or raises JobHeld.
    """
    _reject_special_files(job.folder)
    message = held_elsewhere_message(job.job_id)
    try:
        try:
            lock = lock_file(job.folder / LOCK, should_wait=False)
        except BlockingIOError:
            if not should_wait:
                raise
            print_message(f"{message}: waiting until that process ends")
            with report_step(waiting_message(job.job_id)):
                lock = lock_file(job.folder / LOCK)
    except BlockingIOError as error:
        raise JobAlreadyRunning(message, code="busy") from error
    except OSError as error:
        raise convert_write_error(job.folder, error) from error
    with lock:
        shutil.rmtree(job.folder / SENT, ignore_errors=True)  # whoever was receiving it is dead
        yield


def _reject_special_files(folder: Path) -> None:
    """Raise an error if the folder contains a pipe or device, because reading from it could block forever."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RunRecordError(
                f"{path} is not a regular file. Move it out of the job's folder", code="unreadable"
            )


class Recorder:
    """Writes a job's samples and other files.

    Samples of another kind than the job's own go to a separate file, `name`.
    """

    def __init__(self, job: Job, display_name: str = SAMPLES) -> None:
        self.job, self.path = job, job.folder / display_name
        self.done: dict[int, Sample] = {}  # the answers, by index
        self.failed: dict[int, Sample] = {}  # those that ended in an error; the next start asks them again
        self._lines: dict[int, int] = {}  # index of an earlier sample -> its line number
        for index, (number, sample) in _read_numbered_samples(self.path, repair=True).items():
            self._store_sample(sample)
            self._lines[index] = number
        self._file = AppendOnlyFile(self.path)

    @property
    def folder(self) -> Path:
        """The job's folder, where the task may store its own files."""
        return self.job.folder

    def append_sample(self, sample: Sample) -> None:
        """Append a sample to the samples file immediately. A crash can damage only the last line."""
        self._file.append_line(sample.to_json())
        self._store_sample(sample)

    def _store_sample(self, sample: Sample) -> None:
        new, old = (self.failed, self.done) if sample.failed else (self.done, self.failed)
        old.pop(sample.index, None)
        new[sample.index] = sample

    @property
    def samples(self) -> dict[int, Sample]:
        return self.done | self.failed

    def raise_if_rejected(self, index: int, rejection_reason: Note | str | None) -> None:
        """Raise RunRecordError, with the sample's line number, if a rejection reason is given."""
        if rejection_reason is not None:
            raise damaged_line_error(self.path, self._lines[index], format_note(rejection_reason))

    def create_progress_bar(self, total: float | None, label: str, unit: str = "") -> Progress:
        return Progress(total, label, unit)

    def close(self) -> None:
        self._file.close()


def read_samples(path: Path, repair: bool = False) -> dict[int, Sample]:
    """Read samples.jsonl as samples by index. `repair` removes an incomplete last line after a crash."""
    return {index: sample for index, (_, sample) in _read_numbered_samples(path, repair).items()}


def _read_numbered_samples(path: Path, repair: bool) -> dict[int, tuple[int, Sample]]:
    """Return the last sample of each index, with its line number.

    Only a failed sample may have a later line.
    """
    samples: dict[int, tuple[int, Sample]] = {}
    for number, sample in read_lines(path, Sample.from_json, "sample", repair):
        first, earlier = samples.get(sample.index, (0, None))
        if earlier is not None and not earlier.failed and earlier != sample:
            raise damaged_line_error(
                path, number, f"sample {sample.index} differs from the same sample in line {first}"
            )
        samples[sample.index] = number, sample
    return samples
