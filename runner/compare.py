"""`runner-compare`: what the runs in MLflow say, side by side, and which differences are real.

The way through: load the runs → select → find each run's baseline → pair on the same questions → say it.
A side door to the program: reads MLflow and samples.jsonl, writes nothing, never imports torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.compare_table import (
    Comparison,
    Finding,
    Format,
    Row,
    Table,
    arrange,
    differing_keys,
    label,
    render,
    telling_keys,
)
from runner.errors import ConfigError, RunnerError, TrackingError, unknown
from runner.progress import Progress
from runner.stats import detectable_difference, holm, mcnemar_exact, paired_difference_interval

if TYPE_CHECKING:  # importing mlflow takes a second that --help need not wait for
    from mlflow import MlflowClient

ALPHA = 0.05
JOB_ID = "job_id"  # not a config key, but a way to name one run in --where and --baseline

Question = tuple[int, str, str]  # index, question, gold: what has to agree for two answers to be a pair


class NotPaired(Exception):
    """Two runs cannot be compared in pairs; the message says why."""


@dataclass
class Run:
    """One finished run as MLflow has it."""

    run_id: str
    job_id: str
    task: str
    task_version: str
    folder: str
    params: dict[str, str]
    metrics: dict[str, float]

    def value(self, key: str) -> str | None:
        """Return a config key's value, or None where this run has no such key."""
        return self.job_id if key == JOB_ID else self.params.get(key)


def entry() -> None:
    """Console script: print the comparison and exit, 0 done, 2 when the user's input is wrong."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `runner-compare | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tables = compare(options, Path(scratch))
        render(tables, Format(options.format), sys.stdout)
        sys.stdout.flush()
    except RunnerError as error:
        print(f"runner-compare: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    epilog = "example: runner-compare --task gsm8k --where seed=0 --baseline quantization=none"
    it = argparse.ArgumentParser("runner-compare", description=(__doc__ or "").split("\n\n")[0], epilog=epilog)
    pairs = "KEY=VALUE[,KEY=VALUE]"
    it.add_argument("--output-dir", default="outputs", help="folder that holds mlflow.db (default: %(default)s)")
    it.add_argument("--tracking-uri", help="MLflow store to read instead; or set MLFLOW_TRACKING_URI")
    it.add_argument("--experiment", default="runner", help="MLflow experiment (default: %(default)s)")
    it.add_argument("--task", help="only this task, e.g. gsm8k (default: one table a task)")
    it.add_argument("--where", action="append", default=[], metavar=pairs, help="only runs with these values")
    it.add_argument("--baseline", default="", metavar=pairs, help="compare with the runs that have these values")
    it.add_argument("--format", default="table", choices=list(map(str, Format)), help="default: %(default)s")
    return it


def compare(options: argparse.Namespace, scratch: Path) -> list[Table]:
    """Load, select, pair: one table for each task."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    client = open_store(tracking_uri(output_dir, options.tracking_uri, dict(os.environ)))
    runs = load_runs(client, options.experiment)
    tasks = sorted({run.task for run in runs})
    if options.task:
        if options.task not in tasks:
            raise ConfigError(f"--task {options.task}: {unknown('task with finished runs', options.task, tasks)}")
        runs = [run for run in runs if run.task == options.task]
    for text in options.where:
        runs = select(runs, parse_pairs(text, runs, "--where"), f"--where {text}")
    baseline = parse_pairs(options.baseline, runs, "--baseline") if options.baseline else {}
    if baseline:
        select(runs, baseline, f"--baseline {options.baseline}")
    evidence = Evidence(client, output_dir, scratch)
    shown = [task for task in tasks if any(run.task == task for run in runs)]
    return [tabulate([run for run in runs if run.task == task], baseline, evidence) for task in shown]


# ------------------------------------------------------------------------------------------ load


def tracking_uri(output_dir: Path, given: str | None, environment: dict[str, str]) -> str:
    """Return the store to read: the one given, else the database in output_dir, else MLflow's own setting."""
    database = output_dir / "mlflow.db"
    uri = given or (f"sqlite:///{database}" if database.exists() else environment.get("MLFLOW_TRACKING_URI"))
    if not uri:
        raise ConfigError(
            f"no MLflow database at {database}: run something first, or say where it is with --output-dir or "
            "--tracking-uri"
        )
    file = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and not Path(file).exists():  # MLflow would create an empty one
        raise ConfigError(f"tracking uri {uri}: there is no such file")
    return uri


def open_store(uri: str) -> MlflowClient:
    """Return a client for the store, with MLflow's own output and calls home turned off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a wrong address must not take minutes
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return MlflowClient(uri)
    except (MlflowException, SQLAlchemyError) as error:  # the latter where a file is no database at all
        raise TrackingError(f"cannot open {uri}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """Return an error of MLflow or SQLAlchemy on one line: theirs run to whole paragraphs."""
    return " ".join(str(error).partition("(Background on")[0].split())[:300]


def load_runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Return the finished runs, of each job only the newest."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = [item.name for item in client.search_experiments()]
            raise ConfigError(f"--experiment {experiment}: {unknown('experiment', experiment, names)}")
        newest: dict[str, Run] = {}
        token = None
        while True:
            page = client.search_runs(
                [found.experiment_id],
                "attributes.status = 'FINISHED'",
                max_results=50_000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            for item in page:
                tags = item.data.tags
                if JOB_ID in tags:  # a grid's parent run has none
                    run = Run(
                        run_id=item.info.run_id,
                        job_id=tags[JOB_ID],
                        task=tags.get("task", "unknown"),
                        task_version=tags.get("task_version", ""),
                        folder=tags.get("output_dir", ""),
                        params=item.data.params,
                        metrics=item.data.metrics,
                    )
                    newest.setdefault(run.job_id, run)
            token = page.token
            if not token:
                break
    except MlflowException as error:
        raise TrackingError(f"cannot read the MLflow store: {brief(error)}") from error
    if not newest:
        raise ConfigError(f"--experiment {experiment}: no finished run in it yet")
    return list(newest.values())


# ---------------------------------------------------------------------------------------- select


def parse_pairs(text: str, runs: list[Run], option: str) -> dict[str, str]:
    """Read KEY=VALUE[,KEY=VALUE]; a bare group name stands for group.name."""
    known = {JOB_ID}.union(*(run.params for run in runs))
    pairs = {}
    for part in re.split(r",(?=[\w.]+=)", text):  # a comma inside a value, as in [1,4], parts nothing
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: give KEY=VALUE, e.g. quantization=none")
        full = key if key in known else f"{key}.name"
        if full not in known:
            raise ConfigError(f"{option} {text}: {unknown('config key', key, map(label, known))}")
        pairs[full] = value
    return pairs


def select(runs: list[Run], wanted: dict[str, str], option: str) -> list[Run]:
    """Return the runs that have all wanted values; says which values there are when none has."""
    chosen = [run for run in runs if matches(run, wanted)]
    if not chosen:
        there = (f"{label(key)} has {listed(run.value(key) for run in runs)}" for key in wanted)
        raise ConfigError(f"{option}: no finished run matches; {'; '.join(there)}")
    return chosen


def matches(run: Run, wanted: dict[str, str]) -> bool:
    """Whether the run has all wanted values; numbers are compared as numbers."""
    return all(_same(run.value(key), value) for key, value in wanted.items())


def _same(value: str | None, wanted: str) -> bool:
    try:
        return value is not None and (value == wanted or float(value) == float(wanted))
    except ValueError:
        return False


def listed(values: Iterable[str | None], most: int = 12) -> str:
    """Return the distinct values in words, cut after `most`."""
    distinct = sorted({value for value in values if value is not None})
    rest = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return (", ".join(distinct[:most]) or "no value in any run") + rest


# ------------------------------------------------------------------------------------------ pair


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the one candidate that differs from the run in nothing but the baseline's keys.

    nf4 has keys that `none` lacks: within a group that the baseline names, a key that only one of the two
    runs has comes with the choice and does not count.
    """
    groups = {key.removesuffix("name") for key in baseline if key.endswith(".name")}

    def differences(other: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline
            and run.value(key) != other.value(key)
            and not (None in (run.value(key), other.value(key)) and f"{key.partition('.')[0]}." in groups)
        ]

    if not candidates:
        raise NotPaired("no baseline in this task")
    found = [(differences(other), other) for other in candidates]
    same = [other for differing, other in found if not differing]
    if not same:
        differing, other = min(found, key=lambda item: len(item[0]))
        what = ", ".join(f"{label(key)} ({other.value(key)}, here {run.value(key)})" for key in differing)
        raise NotPaired(f"no baseline: the nearest one differs in {what}")
    extractor = "task.extractor"
    scored_alike = [
        other
        for other in same
        if (other.task_version, other.value(extractor)) == (run.task_version, run.value(extractor))
    ]
    if not scored_alike:
        versions = listed(f"version {other.task_version} {other.value(extractor) or ''}".strip() for other in same)
        here = f"version {run.task_version} {run.value(extractor) or ''}".strip()
        raise NotPaired(f"scored differently: the baseline with {versions}, this run with {here}")
    if len(scored_alike) > 1:
        several = ", ".join(sorted(other.job_id for other in scored_alike)[:3])
        raise NotPaired(f"{len(scored_alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return scored_alike[0]


class Evidence:
    """Reads which questions a run solved; keeps the baselines, which many runs are compared with."""

    def __init__(self, client: MlflowClient, output_dir: Path, scratch: Path) -> None:
        self.client, self.output_dir, self.scratch = client, output_dir, scratch
        self._baselines: dict[str, dict[Question, bool]] = {}

    def of_baseline(self, run: Run) -> dict[Question, bool]:
        """Return the baseline's answers, read once."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.of(run)
        return self._baselines[run.run_id]

    def of(self, run: Run) -> dict[Question, bool]:
        """Return whether each question was solved, as the first source that agrees with the log says."""
        n, correct = run.metrics.get("n"), run.metrics.get("correct")
        why = "is neither in its folder nor in MLflow"
        for path in self._sources(run):
            solved = read_solved(path)
            if solved is not None and len(solved) == n and sum(solved.values()) == correct:
                return solved
            why = "disagrees with its logged n and correct"
        raise NotPaired(f"no evidence: samples.jsonl of {run.job_id} {why}")

    def _sources(self, run: Run) -> Iterator[Path]:
        """Yield the run's own folder, the one that was moved along with the database, the artifact."""
        from mlflow.exceptions import MlflowException

        for folder in dict.fromkeys((Path(run.folder), self.output_dir / "jobs" / run.job_id)):
            if (folder / "samples.jsonl").is_file():
                yield folder / "samples.jsonl"
        target = self.scratch / run.run_id
        target.mkdir(exist_ok=True)
        try:
            yield Path(self.client.download_artifacts(run.run_id, "samples.jsonl", str(target)))
        except (MlflowException, OSError):
            return


def read_solved(path: Path) -> dict[Question, bool] | None:
    """Return whether each scored question was solved; None when a line is not a sample."""
    solved: dict[int, tuple[Question, bool]] = {}  # by index: of two lines with one index the later counts
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                sample = json.loads(line)
                if "verdict" in sample:
                    index = sample["index"]
                    question = (index, sample["question"], sample["gold"])
                    solved[index] = question, sample["verdict"] == "correct"
    except (ValueError, KeyError, TypeError):
        return None
    return dict(solved.values())


def compare_pair(run: Run, base: Run, evidence: Evidence) -> Comparison:
    """Compare two runs question by question."""
    ours, theirs = evidence.of(run), evidence.of_baseline(base)
    if ours.keys() != theirs.keys():
        shared = len(ours.keys() & theirs.keys())
        same_text = {key[:2] for key in ours} == {key[:2] for key in theirs}
        what = "the gold answers differ" if same_text else f"{shared} are the same"
        raise NotPaired(f"other questions: {len(ours)} here, {len(theirs)} in the baseline, {what}")
    wins = sum(solved and not theirs[question] for question, solved in ours.items())
    losses = sum(not solved and theirs[question] for question, solved in ours.items())
    low, high = paired_difference_interval(wins, losses, len(ours))
    difference = (wins - losses) / len(ours) if ours else 0.0
    return Comparison(base.job_id, wins, losses, difference, low, high, mcnemar_exact(wins, losses))


# ------------------------------------------------------------------------------------------- say


def tabulate(runs: list[Run], baseline: dict[str, str], evidence: Evidence) -> Table:
    """Return one task's table, compared with the baseline where the task has right and wrong answers."""
    varying = differing_keys([run.params for run in runs])
    keys = telling_keys(varying, [run.params for run in runs])
    by_id = {run.job_id: run for run in runs}
    rows = [Row(run.job_id, run.run_id, run.folder, {key: run.value(key) for key in keys}, run.metrics) for run in runs]
    table = Table(runs[0].task, keys, rows)
    if baseline and table.scored:
        table.baseline = baseline
        candidates = [run for run in runs if matches(run, baseline)]
        baseline_ids = {run.job_id for run in candidates}
        with Progress(len(rows), "comparing") as bar:
            for row in rows:
                bar.advance(1)
                run = by_id[row.job_id]
                row.is_baseline = row.job_id in baseline_ids
                if row.is_baseline:
                    continue
                try:
                    base = find_baseline(run, candidates, baseline, varying)
                    row.comparison = compare_pair(run, base, evidence)
                except NotPaired as reason:
                    row.note = str(reason)
        judge(rows)
    arrange(table)
    return table


def judge(rows: list[Row]) -> None:
    """Adjust p over all comparisons of a table and decide what each one shows."""
    compared = [(row, row.comparison) for row in rows if row.comparison]
    adjusted = holm([it.p for _, it in compared])
    for (row, it), p_holm in zip(compared, adjusted, strict=True):
        it.p_holm = p_holm
        if p_holm < ALPHA:
            it.finding = Finding.better if it.difference > 0 else Finding.worse
        n = int(row.metrics["n"])
        # ALPHA / comparisons is the strictest level that Holm can ask for: the promise holds at any rank.
        rate = (it.wins + it.losses) / n if n else 0.0
        it.detectable_difference = detectable_difference(n, rate, alpha=ALPHA / len(compared))


if __name__ == "__main__":
    entry()
