"""lm-evaluation-harness' evaluations as runs: one for each task, metric and filter, whichever backend answered.

A metric that is 0 or 1 for each document is compared as a verdict is, a log-likelihood as one of ours. What is neither
(a share of matching words, a class to be counted over all documents) is left out, and said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner.compare.data import TEXT_END, Answers, Question, QuestionOutcome, Run, Table, TableRow, Texts, TextScore
from runner.compare.lm_eval_files import Document, Documents, Results, find, lines, read_documents, words_of
from runner.compare.lm_eval_keys import FOLDER_KEY, params_of
from runner.compare.runs import SampleReader, side_of
from runner.core.console import say
from runner.core.errors import DataError, few
from runner.core.metrics import LOG_LIKELIHOODS
from runner.core.ratios import ratio, ratio_interval
from runner.core.result import Likelihood, Verdict

METRIC = "task.metric"
ROWS = ("task.name", METRIC, "task.filter")  # what tells the runs of one evaluation apart
OF_TEXTS = ("perplexity",)  # metrics that hold a document's log-likelihood
OF_BYTES = ("bits_per_byte", "byte_perplexity", "word_perplexity")  # and, with it, what it is divided by
SAME = 1e-9  # by which a mean may differ from what was written: both are sums of zeros and ones
# Settings that make another run, under no key of ours
SETTINGS = ("limit", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


@dataclass
class Series:
    """One metric of one task behind one filter, document by document."""

    results: Results
    task: str
    metric: str
    filter: str
    documents: Documents

    @property
    def name(self) -> str:
        """What lm-eval calls it in its tables."""
        return f"{self.task} {self.metric},{self.filter}"

    @property
    def path(self) -> Path:
        """The file of its samples."""
        return self.results.samples(self.task)

    @property
    def is_of_texts(self) -> bool:
        """Whether it says how likely texts are."""
        kind = (self.results.of("configs", self.task) or {}).get("output_type")
        return self.metric in OF_BYTES or (self.metric in OF_TEXTS and kind == "loglikelihood")

    @property
    def is_of_verdicts(self) -> bool:
        """Whether every document is right or wrong by it, and right is better."""
        values = [document.values[self.metric] for document in self.documents.values()]
        return not self.results.is_lower_better(self.task, self.metric) and all(value in (0, 1) for value in values)

    def likelihood(self, document: Document) -> Likelihood:
        """Return how likely a document's text is."""
        value, size = document.values[self.metric], 1
        if self.metric in OF_BYTES and isinstance(value, list) and len(value) == 2:
            value, counted = value
            size = len(document.target.encode()) if self.metric == "word_perplexity" else counted
        if not isinstance(value, int | float) or not math.isfinite(value) or not isinstance(size, int) or size < 1:
            raise DataError(f"{self.path}, line {document.line}: {self.metric} is no log-likelihood: {value}")
        return Likelihood(document.doc_id, float(value), 0, size, len(document.target), 0)


def load(places: list[str]) -> tuple[list[Run], LmEvalSampleReader]:
    """Return the newest run of each evaluation below these folders, with what stands in their samples."""
    found = {place: find(place) for place in dict.fromkeys(places)}
    every = [results for of_place in found.values() for results in of_place]
    series = {id(results): list(_series(results)) for results in every}
    left_out = _left_out([it for of_results in series.values() for it in of_results])
    if left_out:
        what = "neither right or wrong for each document nor a log-likelihood"
        say(f"note: left out, {what}: {few(sorted(left_out), 6)}")
    roots = _roots(every)
    reader = LmEvalSampleReader()
    runs = []
    for place, of_place in found.items():
        mine = [(it, params_of(it.results, it.task)) for results in of_place for it in series[id(results)]]
        for it, params, folder in _newest(place, [one for one in mine if one[0].name not in left_out]):
            run = _run(it, params, folder, roots.get(it.task, it.task))
            reader.series[run.run_id] = it
            runs.append(run)
    if not runs:
        raise DataError(f"--lm-eval {' '.join(places)}: no metric in it can be compared")
    return runs, reader


def usual_choice(places: list[str], runs: list[Run]) -> tuple[dict[str, str], list[str]]:
    """Return baseline and rows of one table where nothing else is asked for: the first folder against all others."""
    folders = {run.params[FOLDER_KEY] for run in runs}
    if len(folders) < 2 or places[0] not in folders:  # a folder with several kinds of runs is none to compare with
        return {}, []
    apart = [key for key in ROWS if key == METRIC or len({run.params[key] for run in runs}) > 1]
    return {FOLDER_KEY: places[0]}, [FOLDER_KEY, *apart]


def refuse_other_documents(tables: Iterable[Table], reader: LmEvalSampleReader) -> None:
    """Raise DataError, with file and line, where a row and its baseline were not asked for the same documents."""
    for row in (row for table in tables for row in table.rows):
        if row.note and row.baseline and not row.run.parts and not row.baseline.run.parts:
            reader.check_documents(row, row.baseline)


class LmEvalSampleReader(SampleReader):
    """What stands in lm-eval's files of samples."""

    def __init__(self) -> None:
        self._baselines = {}
        self.series: dict[str, Series] = {}  # by run

    def of_one(self, run: Run) -> Answers:
        """Return which documents were answered right."""
        it = self.series[run.run_id]
        return {
            _question(one): QuestionOutcome(one.values[it.metric] == 1, one.prompt_hash)
            for one in it.documents.values()
        }

    def texts(self, run: Run) -> Texts:
        """Return how likely each text was found."""
        it = self.series[run.run_id]
        return {
            one.doc_id: TextScore((one.doc_hash, one.target), one.prompt_hash, (), it.likelihood(one))
            for one in it.documents.values()
        }

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return what a run said to some documents, with the end of what it was asked."""
        found: dict[Question, dict[str, str]] = {}
        for part in run.parts or [run]:
            it = self.series[part.run_id]
            shown = {one.line: one for one in it.documents.values() if _question(one) in wanted}
            for number, values in lines(it.path) if shown else ():
                if number in shown:
                    asked, answer, text = words_of(values)
                    verdict = Verdict.correct if shown[number].values[it.metric] == 1 else Verdict.wrong
                    side = side_of(verdict, answer, text, most)
                    question = side_of(verdict, None, asked, most)["text"]
                    found[_question(shown[number])] = side | {"question": question}
        return found

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield nothing: lm-eval writes none of our files."""
        return iter(())

    def fetch(self, runs: Iterable[Run]) -> None:
        """Do nothing: all of it lies here."""

    def check_documents(self, row: TableRow, baseline: TableRow) -> None:
        """Raise DataError where two runs have not the same documents."""
        ours, theirs = self.series[row.run.run_id], self.series[baseline.run.run_id]
        fix = "only the same documents can be paired: give both the same --limit and data, or compare with --unpaired"
        for one, other in ((ours, theirs), (theirs, ours)):
            for document in one.documents.values():
                there = other.documents.get(document.doc_id)
                where = f"{one.path}, line {document.line}: document {document.doc_id}"
                if there is None:
                    raise DataError(f"{where} is not in {other.path}; {fix}")
                if _question(document) != _question(there):
                    what = "document" if document.doc_hash != there.doc_hash else "gold answer"
                    raise DataError(f"{where} has another {what} than in {other.path}, line {there.line}; {fix}")


def _question(document: Document) -> Question:
    return document.doc_id, document.doc_hash, document.target


def _series(results: Results) -> Iterator[Series]:
    """Yield what a results file holds; of the ways to write one log-likelihood, one."""
    for task in results.tasks:
        metrics = results.metrics(task)
        documents = read_documents(results, task)
        for name, of_filter in metrics.items():
            by_bytes = [metric for metric in OF_BYTES if metric in of_filter]
            for metric, value in of_filter.items():
                if metric not in by_bytes[1:]:
                    scored = {key: one for key, one in documents[name].items() if metric in one.values}
                    it = Series(results, task, metric, name, scored)
                    _check_mean(it, value)
                    yield it


def _check_mean(it: Series, written: Any) -> None:
    """Raise DataError where zeros and ones do not come to what the results file says."""
    if it.documents and it.results.is_mean(it.task, it.metric) and it.is_of_verdicts:
        found = sum(one.values[it.metric] for one in it.documents.values()) / len(it.documents)
        if not isinstance(written, int | float) or not math.isclose(found, written, abs_tol=SAME):
            comes = f"{it.metric} of filter {it.filter} comes to {found:.6g} over its lines"
            raise DataError(f"{it.path}: {comes}, and {it.results.path.name} says {written}: one of them was changed")


def _left_out(every: list[Series]) -> set[str]:
    """Return what cannot be compared in every run that has it."""
    return {it.name for it in every if not it.documents or not (it.is_of_texts or it.is_of_verdicts)}


def _roots(every: list[Results]) -> dict[str, str]:
    """Return of each task in a group the outermost group: its tasks stand in one table."""
    parents: dict[str, str] = {}
    for results in every:
        for group, members in (results.content.get("group_subtasks") or {}).items():
            for member in members:
                parents.setdefault(member, group)

    def root(name: str) -> str:
        seen = {name}
        while name in parents and parents[name] not in seen:
            name = parents[name]
            seen.add(name)
        return name

    return {name: root(name) for name in parents}


def _newest(place: str, mine: list[tuple[Series, dict[str, str]]]) -> Iterator[tuple[Series, dict[str, str], str]]:
    """Yield the newest of equal runs, and what their folder is called: by its file where one holds several kinds."""
    found: dict[tuple[str, str], tuple[Series, dict[str, str]]] = {}
    for it, params in mine:  # the newest first
        config = it.results.content["config"]
        settings = json.dumps([params, [config.get(key) for key in SETTINGS]], default=str)
        found.setdefault((it.name, settings), (it, params))
    names = sorted(name for name, _ in found)
    has_several = any(one == other for one, other in pairwise(names))
    for it, params in found.values():
        yield it, params, str(it.results.path) if has_several else place


def _run(it: Series, params: dict[str, str], folder: str, table: str) -> Run:
    content = it.results.content
    own = dict(zip(ROWS, (it.task, it.metric, it.filter), strict=True))
    versions = ["lm_eval_version", "transformers_version"]
    facts = {key: str(content[key]) for key in versions if key in content}
    return Run(
        run_id=f"{folder}#{it.results.path}#{it.name}",
        job_id=f"{folder.rstrip('/')}:{it.task}:{it.metric},{it.filter}",
        task=f"{table}:likelihood" if it.is_of_texts else table,
        task_version=str(it.results.of("versions", it.task)),
        folder=str(it.results.path.parent),
        params={**params, **own, FOLDER_KEY: folder},
        metrics=_likelihoods(it) if it.is_of_texts else _counts(it),
        facts=facts,
    )


def _counts(it: Series) -> dict[str, float]:
    n = len(it.documents)
    correct = sum(document.values[it.metric] == 1 for document in it.documents.values())
    return {"n": float(n), "correct": float(correct), "accuracy": correct / n}


def _likelihoods(it: Series) -> dict[str, float]:
    """Return the log-likelihood for a byte or a text, with its interval, and what lm-eval makes of it."""
    unit = "byte" if it.metric in OF_BYTES else "text"
    parts = [it.likelihood(document) for document in it.documents.values()]
    nats, sizes = [one.nats for one in parts], [float(one.bytes) if unit == "byte" else 1.0 for one in parts]
    key, mean = LOG_LIKELIHOODS[unit], ratio(nats, sizes)
    found = {"n": float(len(parts)), key: mean}
    if len(parts) > 1:
        found |= dict(zip((f"{key}_low", f"{key}_high"), ratio_interval(nats, sizes), strict=True))
    return found | ({"bits_per_byte": -mean / math.log(2)} if unit == "byte" else {"perplexity": math.exp(-mean)})
