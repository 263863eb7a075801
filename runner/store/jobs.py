"""Job identity and the ledger: what makes two jobs the same, and what is already done.

A job's id is a hash of everything that can change its answer. Its folder `OUTPUT_DIR/jobs/<job_id>/` is the
ledger: `config.yaml`, `samples.jsonl` (append-only), `log.txt` and, once the job has ended, `result.json`.
Whoever asks for the same job again gets the recorded result; whoever was interrupted goes on from the samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig, semantic_keys
from runner.core import machine
from runner.core.console import say
from runner.core.errors import EvidenceError, JobHeld, cannot_write
from runner.core.files import hold, write_atomically
from runner.core.progress import Progress
from runner.core.result import Record, Sample, Status
from runner.store.artifacts import first_changed
from runner.store.lines import GrowingFile, damaged, read_evidence, there

log = logging.getLogger(__name__)

MORE_MEMORY = 1.25  # times what was free when it was too short: worth another try
LOCK = ".lock"  # in a job's folder: held by who is doing it
OLD = ".old-"  # jobs/<job_id>.old-N: evidence that rerun=... has set aside
SAMPLES = "samples.jsonl"
IDENTITY_VERSION = 1  # raise it when the meaning of a job's id changes


@dataclass(frozen=True)
class Job:
    """One job: its id and its folder."""

    job_id: str
    folder: Path
    sibling_key: str = ""  # the hash of what sibling jobs have in common; empty: it has no siblings

    @property
    def samples_path(self) -> Path:
        """Where the samples are, one a line."""
        return self.folder / SAMPLES

    def recorded(self) -> Record | None:
        """Return the finished record, or None when the job has to run (again)."""
        record = self.last_record()
        if record is None or record.status is not Status.FINISHED:
            return None
        if (changed := first_changed(record.result.artifacts)) is not None:
            log.warning("%s is not as %s has left it: the recorded result no longer counts", changed, self.job_id)
            return None
        short_mib = record.result.ran_short_mib
        if short_mib is not None and machine.available_mib() > MORE_MEMORY * short_mib:
            log.warning("%s was short of memory, and now there is more: the job is done again", self.job_id)
            return None
        return record

    def last_record(self) -> Record | None:
        """Return what result.json says, however the job ended."""
        path = self.folder / "result.json"
        if not there(path):
            return None
        try:
            return Record.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvidenceError(
                f"{path} is not a readable result ({error}). Move it away, or run with rerun=all to replace it"
            ) from error

    def write_record(self, record: Record) -> None:
        """Replace result.json in one step, so that a crash leaves the old one or the new one."""
        write_atomically(self.folder / "result.json", record.to_json())

    def evidence(self) -> list[Path]:
        """Return what runs of this job have left in its folder; hidden files are the ledger's own."""
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")] if self.folder.exists() else []

    def forget(self) -> None:
        """Drop what an earlier run of this job left, of a task that looks again every time."""
        for name in (SAMPLES, "completions.jsonl", "measured.json", "result.json", "log.txt"):
            (self.folder / name).unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Move what an earlier run of this job left out of the way, until the job is done again."""
        try:
            if evidence := self.evidence():
                old = next(
                    old for n in count(1) if not (old := self.folder.with_name(f"{self.job_id}{OLD}{n}")).exists()
                )
                old.mkdir()
                for path in evidence:
                    path.rename(old / path.name)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def aside(self) -> list[Path]:
        """Return the folders of evidence that was set aside, the oldest first."""
        found = self.folder.parent.glob(f"{self.job_id}{OLD}*")
        return sorted(found, key=lambda old: (len(old.name), old.name))

    def drop_aside(self) -> None:
        """Delete what was set aside: the job is done anew."""
        for old in self.aside():
            shutil.rmtree(old, ignore_errors=True)


def identify(
    config: RunnerConfig,
    task_version: int,
    evidence: dict[str, str],
    measures: bool,
    ignored_for_reuse: frozenset[str] = frozenset(),
) -> Job:
    """Name the job by what can change its answer: config, hashes of what it reads, scoring, machine.

    Jobs that differ only in the keys and hashes `ignored_for_reuse` have the same answers to the same questions.
    """
    identity: dict[str, Any] = {
        "identity": IDENTITY_VERSION,
        "task_version": task_version,
        "config": dict(semantic_keys(config)),
        "evidence": evidence,
    }
    if measures:
        identity |= {"machine": machine.describe(), "versions": machine.versions()}
    job_id = f"{config.task.name}-{_short_hash(identity)}"
    for part in ("config", "evidence"):
        identity[part] = {key: value for key, value in identity[part].items() if key not in ignored_for_reuse}
    sibling_key = _short_hash(identity) if ignored_for_reuse else ""
    return Job(job_id, Path(config.output_dir).expanduser().absolute() / "jobs" / job_id, sibling_key)


def _short_hash(identity: dict[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def claim(job: Job, wait: bool = True) -> Iterator[None]:
    """Hold the job against other processes; while another one has it, say so and wait for it, or raise JobHeld."""
    _refuse_pipes(job.folder)
    held = f"{job.job_id} is being done by another process"
    try:
        try:
            lock = hold(job.folder / LOCK, wait=False)
        except BlockingIOError:
            if not wait:
                raise
            say(f"{held}: waiting for it to finish")
            lock = hold(job.folder / LOCK)
    except BlockingIOError as error:
        raise JobHeld(held) from error
    except OSError as error:
        raise cannot_write(job.folder, error) from error
    with lock:
        yield


def _refuse_pipes(folder: Path) -> None:
    """Refuse a folder with what would be waited for, or read, without end where a file is expected."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise EvidenceError(f"{path} is no file, and this folder holds a job's files: move it away")


class Recorder:
    """What a task writes through: samples on disk line by line, files in the job folder, a progress bar.

    Samples of another kind than those that the job is asked for have a file of their own, by its name.
    """

    def __init__(self, job: Job, name: str = SAMPLES) -> None:
        self.job, self.path = job, job.folder / name
        self.done: dict[int, Sample] = {}  # the answers, by index
        self.failed: dict[int, Sample] = {}  # what ended in an error, and is asked again by the next start
        self._lines: dict[int, int] = {}  # of the samples that were there: where they stand in the file
        for index, (number, sample) in _numbered(self.path, repair=True).items():
            self._keep(sample)
            self._lines[index] = number
        self._file = GrowingFile(self.path)

    @property
    def folder(self) -> Path:
        """The job's folder, for a task's own files."""
        return self.job.folder

    def sample(self, sample: Sample) -> None:
        """Append one sample at once, so that a kill loses at most the line being written."""
        self._file.append(sample.to_json())
        self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        """Have the newest line of an index count."""
        mine, other = (self.failed, self.done) if sample.failed else (self.done, self.failed)
        other.pop(sample.index, None)
        mine[sample.index] = sample

    @property
    def samples(self) -> dict[int, Sample]:
        """All that came of the job's questions, errors too."""
        return self.done | self.failed

    def verify(self, index: int, rejection_reason: str | None) -> None:
        """Refuse a sample that an earlier start has left, by its line, where there is a reason to."""
        if rejection_reason is not None:
            raise damaged(self.path, self._lines[index], rejection_reason)

    def progress(self, total: float | None, what: str, unit: str = "") -> Progress:
        """Return a progress bar to use in a `with`."""
        return Progress(total, what, unit)

    def close(self) -> None:
        """Close the samples file."""
        self._file.close()


def read_samples(path: Path, repair: bool = False) -> dict[int, Sample]:
    """Read samples.jsonl by index; with repair, cut off a last line that a crash left torn."""
    return {index: sample for index, (_, sample) in _numbered(path, repair).items()}


def _numbered(path: Path, repair: bool) -> dict[int, tuple[int, Sample]]:
    """Return the line that counts of each index, with its number: a line may follow only after one with an error."""
    samples: dict[int, tuple[int, Sample]] = {}
    for number, sample in read_evidence(path, Sample.from_json, "sample", repair):
        first, earlier = samples.get(sample.index, (0, None))
        if earlier is not None and not earlier.failed and earlier != sample:
            raise damaged(path, number, f"gives sample {sample.index} another content than line {first}")
        samples[sample.index] = number, sample
    return samples
