"""MLflow's runs: open the store, list finished runs and grids, fetch and log files, and read a run's answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from runner.compare.data import (
    EXTRACTOR,
    JOB_ID,
    TEXT_END,
    Answers,
    NotPaired,
    Question,
    QuestionOutcome,
    Run,
    Texts,
    TextScore,
    question_of,
    side_of,
)
from runner.compare.sample_numbers import read_numbers
from runner.compare.seed_answers import mean_answers
from runner.core.console import say
from runner.core.errors import ConfigError, EvidenceError, one_line, refuse_password, unknown
from runner.core.metrics import LOG_LIKELIHOOD
from runner.core.progress import Progress
from runner.core.ratios import ratio
from runner.core.result import Sample, Verdict
from runner.core.texts import parse_json
from runner.core.uris import sqlite_path, without_secrets
from runner.scorers.likelihoods import units
from runner.store import moved
from runner.store.jobs import read_samples
from runner.store.mlflow_store import (
    Store,
    clear_errors,
    one_message,
    open_client,
    probe,
    set_mlflow_variables,
    store_from_options,
)
from runner.store.stored_runs import PAGE, PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient as Client

Content = TypeVar("Content")

LAST = "last"
FOLDER = "comparison"  # among the artifacts of the grid's run
SAMPLES = "samples.jsonl"
FETCHED_AT_ONCE = 8  # most of the time is waiting; more would crowd out the server's other users
TOLERANCE = 1e-9  # nats per token by which a file may differ from what was logged: MLflow stores numbers exactly


def store_to_read(output_dir: Path, uri: str | None, experiment: str | None) -> Store:
    """Return the store to read, by the rule of all commands; MLflow would create a missing sqlite file."""
    if uri:
        refuse_password("--tracking-uri", uri)
    store = store_from_options(output_dir, uri, experiment)
    file = sqlite_path(store.uri)
    if file is not None and not file.exists():
        if uri or not store.is_own:
            raise ConfigError(f"tracking uri {store.shown}: there is no such file")
        raise ConfigError(
            f"no MLflow database at {file}: run something first, or say where it is with --output-dir or --tracking-uri"
        )
    if file is not None and not file.is_file():  # MLflow would try to open it for minutes
        raise ConfigError(f"tracking uri {store.shown}: {file} is not a file, but a database is expected there")
    if store.is_own and (output_dir / moved.PLACE).exists():
        moved.mend(output_dir)
    return store


def open_store(uri: str) -> Client:
    """Return a client for the store."""
    set_mlflow_variables()
    if sqlite_path(uri) is None:  # a read-only database is good enough here
        with clear_errors(uri):
            probe(uri)
    with one_message(lambda text: f"cannot open {without_secrets(uri)}: {text}"):
        client: Client = open_client(uri, "--tracking-uri")
        return client


def load_runs(client: Client, experiment: str) -> list[Run]:
    """Return the finished runs, newest first, then runs with errors of jobs that have never finished.

    A job that ran twice occurs twice, and each run has its earlier runs.
    """
    finished_items = search(client, experiment, "attributes.status = 'FINISHED'")
    runs = [_run(item) for item in finished_items if JOB_ID in item.data.tags]  # a grid's parent run has none
    finished = {run.job_id for run in runs}
    failed = search(client, experiment, "attributes.status = 'FAILED' and metrics.errors > 0")
    erred = [_run(item) for item in failed if item.data.tags.get(JOB_ID, "") not in ("", *finished)]
    runs += [replace(run, errors=int(run.metrics["errors"])) for run in erred]
    if not runs:
        raise ConfigError(f"--experiment {experiment}: no finished run in it yet")
    by_job: dict[str, list[Run]] = {}
    for run in reversed(runs):  # from the oldest on
        older = by_job.setdefault(run.job_id, [])
        run.earlier = older[::-1]
        older.append(run)
    return runs


def search(client: Client, experiment: str, query: str) -> list[Any]:
    """Return the runs of an experiment that match a query of MLflow, newest first."""
    with one_message(lambda text: f"cannot read the MLflow store: {text}"):
        the_experiment = client.get_experiment_by_name(experiment)
        if the_experiment is None:
            names = [item.name for item in client.search_experiments()]
            raise ConfigError(f"--experiment {experiment}: {unknown('experiment', experiment, names)}")
        runs, token = list[Any](), None
        while True:
            newest = ["attributes.start_time DESC"]
            page = client.search_runs(
                [the_experiment.experiment_id], query, max_results=PAGE, order_by=newest, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs


def _run(item: Any) -> Run:
    tags = item.data.tags
    return Run(
        run_id=item.info.run_id,
        job_id=tags[JOB_ID],
        task=tags.get("task", "unknown"),
        task_version=tags.get("task_version", ""),
        folder=tags.get("output_dir", ""),
        params=item.data.params,
        metrics=item.data.metrics,
        grid=tags.get(PARENT, ""),
        artifacts=item.info.artifact_uri or "",
        facts={key.removeprefix("fact."): value for key, value in tags.items() if key.startswith("fact.")},
    )


def download(client: Client, run_id: str, name: str, target: Path) -> Path | None:
    """Fetch one artifact of a run into a folder; None if the run has no such artifact."""
    target.mkdir(parents=True, exist_ok=True)
    with one_message(lambda text: f"cannot fetch {name} of run {run_id}: {text}"):
        try:
            return Path(client.download_artifacts(run_id, name, str(target)))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def log(client: Client, run_id: str, folder: Path, names: list[str], target: str) -> None:
    """Copy files to a run's artifacts, and replace those with the same names."""
    with one_message(lambda text: f"cannot log the comparison to run {run_id}: {text}"):
        for name in names:
            client.log_artifact(run_id, str(folder / name), target)


def find_grid(client: Client, experiment: str, wanted: str) -> str:
    """Return the MLflow run of the grid with this id, or of the last grid that was started."""
    grids = search(client, experiment, "tags.grid LIKE '%'")  # the id of the grid's process
    if not grids:
        raise ConfigError(f"--grid {wanted}: no grid in experiment {experiment} yet")
    matching = [it for it in grids if it.info.run_id.startswith(wanted) or it.data.tags["grid"].startswith(wanted)]
    if wanted == LAST:
        matching = grids[:1]
    if len(matching) != 1:
        count = "several grids begin with it" if matching else "no grid has this run id"
        listed = ", ".join(f"{it.info.run_id} ({it.info.run_name})" for it in (matching or grids)[:6])
        raise ConfigError(f"--grid {wanted}: {count}. Newest first: {listed}")
    run_id: str = matching[0].info.run_id
    return run_id


def runs_of(client: Client, grid: str, runs: list[Run], scratch: Path) -> list[Run]:
    """Return a grid's runs: those that it ran, and earlier runs of jobs that were already done."""
    mine = [run for run in runs if run.grid == grid]
    plan = download(client, grid, "plan.json", scratch / grid)
    try:
        jobs = parse_json(plan.read_text(encoding="utf-8"))["jobs"] if plan is not None else []
        earlier = {job["job_id"] for job in jobs} - {run.job_id for run in mine}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"plan.json of the grid's run in MLflow is damaged ({one_line(error, limit=100)})"
        raise ConfigError(f"--grid {grid}: {what}: name its jobs with --runs or --where") from error
    chosen = mine + [run for run in runs if run.job_id in earlier]
    if not chosen:
        raise ConfigError(f"--grid {grid}: none of its jobs has finished")
    return chosen


def grid_to_log_to(runs: list[Run]) -> str:
    """Return the one grid that all these runs belong to."""
    grids = sorted({run.grid for run in runs if run.grid})
    if len(grids) == 1:
        return grids[0]
    if not grids:
        raise ConfigError("--log: these runs belong to no grid; --save FOLDER keeps the comparison in a folder")
    raise ConfigError(
        f"--log: these runs belong to {len(grids)} grids ({', '.join(grids[:4])}): choose one with --grid"
    )


class SampleReader:
    """Reads which questions a run solved; keeps the answers of baselines, because many runs are compared with them."""

    def __init__(self, client: Client, output_dir: Path, scratch: Path) -> None:
        self.client, self.output_dir, self.scratch = client, output_dir, scratch
        self._baselines: dict[str, Answers] = {}
        self.sources: dict[str, Path] = {}  # by run id: the file that its answers were read from
        self._fetched: dict[tuple[str, str], Path | None] = {}  # by run id and file name; None: not in MLflow

    def of_baseline(self, run: Run) -> Answers:
        """Return the baseline's answers, read once."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.of(run)
        return self._baselines[run.run_id]

    def of(self, run: Run) -> Answers:
        """Return which questions a run, or the pooled runs, solved."""
        parts = [self.of_one(part) for part in run.parts or [run]]
        return mean_answers(parts) if run.over_seeds else {key: it for part in parts for key, it in part.items()}

    def of_one(self, run: Run) -> Answers:
        """Return which questions one run solved, from the first intact file that agrees with the logged counts."""
        read = partial(read_answers, stopped_after=run.stopped_after)
        return self.first_intact(run, read, lambda found: _counts(found) == run.score, "n and correct")

    def texts(self, run: Run) -> Texts:
        """Return each text's log-likelihood, from the first intact file that agrees with the logged mean."""

        def agrees(scores: Texts) -> bool:
            likelihoods = units([one.likelihood for one in scores.values()])
            logged = run.metrics[LOG_LIKELIHOOD]
            return bool(likelihoods) and math.isclose(
                ratio([it.nats for it in likelihoods], [it.tokens for it in likelihoods]), logged, abs_tol=TOLERANCE
            )

        return self.first_intact(run, read_texts, agrees, LOG_LIKELIHOOD)

    def numbers(self, run: Run) -> Answers:
        """Return the number of each question that is compared instead of its verdict."""
        return self.first_intact(run, partial(read_numbers, name=run.number or ""), bool, "answers")

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some questions: verdict, extracted answer, and the end of the text."""
        answers: dict[Question, dict[str, str]] = {}
        for part in run.parts or [run]:
            extractor = part.value(EXTRACTOR) or ""
            for sample in read_samples(self.sources[part.run_id]).values():
                question = question_of(sample)
                if question in wanted and sample.verdict is not None:
                    extracted = sample.extracted or {}
                    answer = extracted.get(extractor, next(iter(extracted.values()), None))
                    answers[question] = side_of(sample.verdict, answer, sample.text, most)
        return answers

    def first_intact(
        self, run: Run, read: Callable[[Path], Content], agrees: Callable[[Content], bool], logged: str
    ) -> Content:
        """Return the content of the first intact file of samples that agrees with the log, or raise NotPaired."""
        why, damage = "is neither in its folder nor in MLflow", ""
        for path in self.files(run, SAMPLES):
            try:
                content = read(path)
            except EvidenceError as error:
                why, damage = f"is damaged: {error}", str(error)
                continue
            if agrees(content):
                self.sources[run.run_id] = path
                if damage:
                    say(f"note: {damage}. {run.job_id} is compared using {path}")
                return content
            why = f"is damaged: {damage}" if damage else f"disagrees with its logged {logged}"
        raise NotPaired(f"no samples: {SAMPLES} of {run.job_id} {why}")

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield the file from the run's folder, from the folder beside a moved database, and from MLflow."""
        yield from self._here(run, name)
        fetched = self._download(run, name)
        if fetched is not None:
            yield fetched

    def fetch(self, runs: Iterable[Run]) -> None:
        """Fetch the samples that no local folder has from MLflow, several at a time."""
        missing = [run for run in runs if (run.score or run.unit) and not any(self._here(run, SAMPLES))]
        if missing:
            with Progress(len(missing), "fetching") as bar, ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
                for _ in pool.map(lambda run: self._download(run, SAMPLES), missing):
                    bar.advance(1)

    def _download(self, run: Run, name: str) -> Path | None:
        key = run.run_id, name
        if key not in self._fetched:
            self._fetched[key] = download(self.client, run.run_id, name, self.scratch / run.run_id)
        return self._fetched[key]

    def _here(self, run: Run, name: str) -> Iterator[Path]:
        folders = [Path(run.folder)] if run.folder else []
        folders.append(self.output_dir / "jobs" / run.job_id)
        place = urlsplit(run.artifacts)
        if place.scheme in ("", "file") and place.path:  # a local folder, perhaps on another machine
            folders.append(Path(unquote(place.path)))
        yield from (folder / name for folder in dict.fromkeys(folders) if (folder / name).is_file())


def _counts(answers: Answers) -> tuple[int, int]:
    return sum(it.solved for it in answers.values()), len(answers)


def read_answers(path: Path, stopped_after: int | None = None) -> Answers:
    """Return whether each scored question was solved; EvidenceError with file and line if a sample was changed.

    Only the first `stopped_after` questions count if a job stopped early, and none that task.without leaves out.
    """
    scored = sorted((it for it in _samples_in(path) if it.verdict is not None), key=lambda it: it.index)
    return {
        question_of(one): QuestionOutcome(
            one.verdict is Verdict.correct, one.prompt_sha256, one.cluster, one.right_answers
        )
        for one in scored[:stopped_after]
        if not one.left_out
    }


def _samples_in(path: Path) -> Iterable[Sample]:
    try:
        return read_samples(path).values()
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read ({error.strerror})") from error


def read_texts(path: Path) -> Texts:
    """Return each text's score from a file of samples; EvidenceError with file and line if a sample was changed."""
    return {
        one.index: TextScore(
            (one.question, one.gold), one.prompt_sha256, tuple(one.token_ids), one.likelihood, one.cluster
        )
        for one in _samples_in(path)
        if one.likelihood is not None
    }
