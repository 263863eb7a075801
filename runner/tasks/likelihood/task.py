"""task=likelihood: score given texts instead of generating any, and measure the divergence from
another model.

Gold answers after their questions, texts in windows, multiple choice. Each continuation is one line
of samples.jsonl; the windows of a text, or the choices of a question, are one sample of the
statistics.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from runner.datasets.chosen import cluster_hashes
from runner.datasets.given import Form, Given, category_hashes, given_sha256, load_given
from runner.records.divergences import DivergenceFile, read_divergences
from runner.records.top_k import TopKFile
from runner.render.notes import render_notes
from runner.tasks import (
    Context,
    Inputs,
    Job,
    OrderOfRepeat,
    Policy,
    ResolvedJob,
    RunnerConfig,
    Uses,
    collect,
    describe_questions,
    kind_of,
    own_config,
    positions,
)
from runner.tasks.likelihood import contexts, prompts, ways
from runner.tasks.likelihood.continuations import Continuation, windows
from runner.tasks.likelihood.exact import SideBySide, token_counts
from runner.tasks.likelihood.keys import DRAWN, LikelihoodConfig
from runner.tasks.likelihood.lengths import check_before_the_load
from runner.tasks.likelihood.reference import TOP_K_HASH, ReferenceJob
from runner.tasks.likelihood.scoring import Reference, Scoring
from runner.tasks.likelihood.tokens import add_token_figures, write_worst
from runner.tasks.named_job import overrides_of, state
from runner_base import Result, Sample
from runner_base.named_jobs import NamedJob
from runner_base.notes import Note, note
from runner_compare import LOG_LIKELIHOOD, of_texts
from runner_compare.statistics.likelihoods import WINDOWS
from runner_engine import Capability, Engine, EngineReport, Request, require

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True
log = logging.getLogger(__name__)


@dataclass
class Texts(Inputs):
    """The texts of the job, and the job that it is compared with."""

    task: LikelihoodConfig
    given: list[Given]
    # that must run first; None: there is none, or its model is loaded beside this one
    reference: Job | None
    why_kept: Note | None = None  # why whole distributions are not compared, where the user left that open


def prepare(config: RunnerConfig) -> Texts:
    """Read and hash the texts, and find the job that this one is compared with."""
    task = own_config(config, LikelihoodConfig)
    given = load_given(task)
    contexts.check_forms(task, given)
    task.text_bytes = [
        len(given_text.texts[0].encode()) for given_text in given if given_text.form is Form.text
    ]
    needed = {Capability.logprobs} | (
        {Capability.token_ids} if any(given_text.form is Form.text for given_text in given) else set()
    )
    capabilities = kind_of(config.model).capabilities(config)
    require(capabilities, "task=likelihood", needed)
    if task.keep_top_k or task.reference is not None:
        what = (
            f"task.keep_top_k={task.keep_top_k}"
            if task.reference is None
            else f"task.reference={task.reference}"
        )
        ways.check_scores(capabilities, what)
    # With task.only, the data are the rows that it names.
    hashes = {"data": given_sha256(given)} | cluster_hashes([given_text.cluster for given_text in given])
    if task.keep_top_k:
        hashes[TOP_K_HASH] = str(task.keep_top_k)
    way = ways.chosen(config, VERSION, hashes, category_hashes(given))
    if way.keep_top_k:
        ways.check_draws(config, f"task.keep_top_k={way.keep_top_k}")
    after = way.reference.job_id if way.reference is not None else ""
    decided: dict[str, Any] = {"exact": way.is_exact, "keep_top_k": way.keep_top_k}
    return Texts(
        way.hashes,
        replace(task, **decided),
        given,
        way.reference,
        way.why,
        data=describe_questions(task.data, task.split, hashes["data"]),
        count=len(given),
        after=after,
        after_overrides=overrides_of(task.reference, task) if after else [],
        second=way.second,
        decided={key: value for key, value in decided.items() if value != getattr(task, key)},
    )


def check_lengths(inputs: Texts, resolved: ResolvedJob) -> list[Note]:
    """Reject windows that are longer than what the model can read, as far as its files tell."""
    return check_before_the_load(inputs.task, texts_of(inputs), resolved)


def run(inputs: Texts, context: Context) -> Result:
    """Score what is not on disk yet, and add up."""
    task, named = inputs.task, inputs.task.reference or ""
    if task.show_prompt:
        log.info("%s", prompts.shown(task, inputs.given, context.resolved))
    reference = None if inputs.reference is None else ReferenceJob.read(inputs.reference, named)
    pieces = [
        replace(piece, request=_keeping(piece.request, task.keep_top_k)) for piece in cut(inputs, context)
    ]
    compared_with: Reference | None = reference
    pair: SideBySide | None = None
    if reference is not None:
        pieces = [
            replace(piece, request=reference.beside(piece.request, piece.question, piece.gold))
            for piece in pieces
        ]
    elif inputs.second is not None:
        counts = token_counts([piece.request for piece in pieces], texts_of(inputs), context, named)
        compared_with = pair = both = SideBySide(context, named, counts)
        context = replace(context, engine=both)
    prompts.check(task, inputs.given, context.resolved)
    positions.say_before_the_load(positions.of_given(context.resolved, inputs.given, task.most_tokens))
    folder = context.recorder.folder
    kept = TopKFile(folder) if task.keep_top_k else None
    apart = DivergenceFile(folder) if compared_with is not None else None
    scoring = Scoring({piece.index: piece for piece in pieces}, task, compared_with, kept, apart)

    try:
        watching = Watching(inputs, scoring, pair)
        requests = [piece.request for piece in pieces]
        policies = [watching, OrderOfRepeat(task.repeat)]
        done = collect(requests, context, scoring, policies, questions=inputs.count)
        found = None if apart is None else read_divergences(apart.path)
        if found is not None:
            by_index = {piece.index: piece.request for piece in pieces}
            # all may be on disk, and nothing loaded
            decode = kind_of(context.config.model).decoder(context.resolved)
            write_worst(
                folder, [sample for sample in done.samples if not sample.failed], found, by_index, decode
            )
    finally:
        for file in (kept, apart, pair):
            if file is not None:
                file.close()
    failed = {pieces[sample.index].unit for sample in done.samples if sample.failed}
    parts = [sample.likelihood for sample in done.samples if sample.likelihood is not None]
    whole = [part for part in parts if part.unit not in failed]
    families = {pieces[sample.index].unit: sample.cluster for sample in done.samples}
    errors = {"errors": float(sum(sample.failed for sample in done.samples))}
    facts = done.facts | ({"samples": WINDOWS} if is_one_text(inputs) else {})
    if reference is not None:
        facts["reference"] = NamedJob(reference.named_as, reference.job.job_id).to_fact()
    # nothing is decoded
    spent = {name: value for name, value in done.metrics.items() if name != "decode_tok_per_s"}
    found_of_texts = of_texts(whole, families)
    result = Result(
        found_of_texts.metrics | errors | spent,
        facts=facts | found_of_texts.facts,
        tables=found_of_texts.tables,
        series=found_of_texts.series,
    )
    if found is not None:
        done.note_values += add_token_figures(result, done.samples, found)
    result.problems = done.problems
    done.note_values += [
        *([] if inputs.why_kept is None else [inputs.why_kept]),
        *notes(inputs),
        *contexts.left_out(task, inputs.given, pieces),
    ]
    done.note_values += positions.needless_scaling_of(context.resolved, done.samples)
    result.notes = done.notes
    return result


def deliver(inputs: Texts, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Show the prompts of a recorded job if requested."""
    if inputs.task.show_prompt:
        log.info("%s", prompts.shown(inputs.task, inputs.given, resolved))


def preview(inputs: Texts, resolved: ResolvedJob) -> str:
    """Say what this job will be compared with, whether a scaling of RoPE can help, and show prompts
    if requested."""
    lines = positions.of_given(resolved, inputs.given, inputs.task.most_tokens)
    if inputs.second is not None:
        lines.append(note("reference_beside", named_as=inputs.task.reference))
    elif (job := inputs.reference) is not None:
        lines.append(note("reference", named_as=inputs.task.reference, job=job.job_id, state=state(job)))
        lines += [] if inputs.why_kept is None else [inputs.why_kept]
    shown = prompts.shown(inputs.task, inputs.given, resolved)
    return "\n".join(filter(None, (*render_notes(lines), shown)))


def notes(inputs: Texts) -> list[Note]:
    """Return the notes that a reader of the numbers needs."""
    texts = [given for given in inputs.given if given.form is Form.text]
    if not texts:
        return []
    if inputs.task.contexts:
        return contexts.notes(inputs.task)
    window, step = inputs.task.window_tokens, inputs.task.step
    return [
        note("windows", window=window, step=step),
        *([note("one_text", "warning")] if is_one_text(inputs) else []),
    ]


# ------------------------------------------------------------------------------------ continuations


def cut(inputs: Texts, context: Context) -> list[Continuation]:
    """Return every continuation of the job in order: answers, choices, and the windows of texts."""
    texts = ["", *texts_of(inputs)]  # the empty one gives the special tokens
    kind = kind_of(context.config.model)
    encoded = iter([ids for _, ids in kind.encoded(context.resolved, texts)] if texts[1:] else [[]])
    special = next(encoded)
    pieces: list[Continuation] = []
    for unit, given in enumerate(inputs.given):
        if given.form is Form.text:
            of_text = given.texts[0], next(encoded), special, unit, len(pieces)
            if inputs.task.contexts:
                cut_text = contexts.after_contexts(inputs.task, *of_text)
            else:
                cut_text = windows(inputs.task, *of_text, is_one_text(inputs))
            pieces += [replace(piece, cluster=given.cluster, category=given.category) for piece in cut_text]
            continue
        prompt = prompts.prompt_of(inputs.task, given)
        for number, text in enumerate(given.texts):
            continuation = prompts.continuation_of(prompt, given, text)
            request = Request(len(pieces), prompt, continuation=continuation)
            size, is_other = len(continuation.encode()), number != given.gold
            kinds = given.cluster, given.category
            pieces.append(
                Continuation(request, unit, size, len(text), given.question, text, is_other, *kinds)
            )
    contexts.check_any(inputs.task, pieces)
    return pieces


def _keeping(request: Request, keep_top_k: int) -> Request:
    """Return the request with the tokens that it asks for, to be kept: the most probable ones, and
    some others."""
    return replace(request, top_logprobs=keep_top_k, drawn_tokens=DRAWN) if keep_top_k else request


def is_one_text(inputs: Texts) -> bool:
    """Whether the windows of a single text are the samples of the statistics."""
    return len(inputs.given) == 1 and inputs.given[0].form is Form.text and not inputs.task.contexts


def texts_of(inputs: Texts) -> list[str]:
    """Return the texts that are cut into windows."""
    return [given.texts[0] for given in inputs.given if given.form is Form.text]


class Watching(Policy):
    """Looks at the windows and prompts before any is scored, and shows the log-likelihood so
    far."""

    def __init__(self, inputs: Texts, scoring: Scoring, pair: SideBySide | None) -> None:
        self.inputs, self.scoring, self.pair = inputs, scoring, pair
        self._nats, self._tokens = 0.0, 0

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Reject windows that are too long for a loaded model, and add facts about the prompts to
        the report."""
        for loaded in [report] if self.pair is None else self.pair.reports:
            self.scoring.look(loaded)
        prompts.look(self.inputs.task, self.inputs.given, engine, report)

    def answered(self, sample: Sample) -> None:
        """Add a sample."""
        if sample.likelihood is not None and not sample.likelihood.is_other:
            self._nats += sample.likelihood.nats
            self._tokens += sample.likelihood.tokens

    def news(self) -> dict[str, str]:
        """Return the log-likelihood so far."""
        return {LOG_LIKELIHOOD: f"{self._nats / self._tokens:.4f}"} if self._tokens else {}
