"""task=likelihood: scores given texts instead of generating, and measures the divergence from a
reference.

Scores gold answers after their questions, windows of documents, and multiple choice. Each
continuation is one line of samples.jsonl. The windows of a document, or the choices of a
question, are one sample of the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from runner.datasets.question_subsets import hash_cluster_names
from runner.datasets.scored_texts import (
    ScoredItem,
    TextContext,
    hash_categories,
    hash_scored_items,
    load_scored_items,
)
from runner.records.divergences import DivergenceFile, read_divergences
from runner.records.top_k import TopKFile
from runner.render.notes import render_notes
from runner.tasks import (
    Job,
    Policy,
    RepeatOrder,
    ResolvedJob,
    RunnerConfig,
    TaskContext,
    TaskInputs,
    Uses,
    collect_answers,
    context_length,
    describe_dataset,
    get_model_kind,
    typed_task_config,
)
from runner.tasks.likelihood import answers, comparison_methods, contexts, prompts
from runner.tasks.likelihood.continuations import (
    Continuation,
    build_answer_continuation,
    split_document_into_windows,
)
from runner.tasks.likelihood.keys import DRAWN, LikelihoodConfig
from runner.tasks.likelihood.lengths import check_windows_fit_before_load, require_answers_fit_context
from runner.tasks.likelihood.paired_engine import PairedEngine, estimate_continuation_tokens
from runner.tasks.likelihood.reference import TOP_K_HASH, ReferenceJob
from runner.tasks.likelihood.scoring import LikelihoodJudge, Reference
from runner.tasks.likelihood.token_divergences import (
    add_token_divergence_metrics,
    write_most_divergent_tokens,
)
from runner.tasks.named_job import describe_job_state, parse_named_overrides
from runner_base import Result, Sample
from runner_base.named_jobs import JobReference
from runner_base.notes import Note, note
from runner_compare import LOG_LIKELIHOOD, build_text_likelihood_records
from runner_compare.statistics.likelihoods import WINDOWS
from runner_engine import Capability, Engine, EngineReport, Request, require_capabilities

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True


@dataclass
class LikelihoodInputs(TaskInputs):
    """Inputs of task=likelihood: the texts to score, and the reference job."""

    task: LikelihoodConfig
    given: list[ScoredItem]
    # that must run first; None: there is none, or its model is loaded beside this one
    reference: Job | None
    why_kept: Note | None = None  # why whole distributions are not compared, where the user left that open


def prepare(config: RunnerConfig) -> LikelihoodInputs:
    """Read and hash the texts, and find the reference job."""
    task = typed_task_config(config, LikelihoodConfig)
    given = (
        load_scored_items(task)
        if task.answers is None
        else answers.load_selected_recorded_answers(config, task)
    )
    contexts.require_documents_for_context_lengths(task, given)
    task.text_bytes = [
        len(given_text.texts[0].encode()) for given_text in given if given_text.form is TextContext.text
    ]
    task.answer_tokens = answers.list_token_counts(given)
    needed = {Capability.logprobs} | (
        {Capability.token_ids}
        if any(given_text.form in (TextContext.text, TextContext.answer) for given_text in given)
        else set()
    )
    capabilities = get_model_kind(config.model).capabilities(config)
    require_capabilities(capabilities, "task=likelihood", needed)
    if task.keep_top_k or task.reference is not None:
        what = (
            f"task.keep_top_k={task.keep_top_k}"
            if task.reference is None
            else f"task.reference={task.reference}"
        )
        comparison_methods.require_token_scores(capabilities, what)
    # With task.only, the data are the rows that it names.
    hashes = {"data": hash_scored_items(given)} | hash_cluster_names(
        [given_text.cluster for given_text in given]
    )
    if task.keep_top_k:
        hashes[TOP_K_HASH] = str(task.keep_top_k)
    way = comparison_methods.choose_reference_comparison_method(
        config, VERSION, hashes, hash_categories(given)
    )
    if way.keep_top_k:
        comparison_methods.require_token_sampling(config, f"task.keep_top_k={way.keep_top_k}")
    after = way.reference.job_id if way.reference is not None else ""
    decided: dict[str, Any] = {"exact": way.is_exact, "keep_top_k": way.keep_top_k}
    return LikelihoodInputs(
        way.hashes,
        replace(task, **decided),
        given,
        way.reference,
        way.why,
        data=describe_dataset(task.answers or task.data, task.split, hashes["data"]),
        count=len(given),
        after=after,
        after_overrides=parse_named_overrides(task.reference, task) if after else [],
        second=way.second,
        decided={key: value for key, value in decided.items() if value != getattr(task, key)},
    )


def check_lengths(inputs: LikelihoodInputs, resolved: ResolvedJob) -> list[Note]:
    """Raise ConfigError for windows longer than the checkpoint's context length."""
    longest_answer = max(answers.list_token_counts(inputs.given) or [0])
    require_answers_fit_context(inputs.task, longest_answer, resolved)
    return check_windows_fit_before_load(inputs.task, list_windowed_documents(inputs), resolved)


def run(inputs: LikelihoodInputs, context: TaskContext) -> Result:
    """Score all texts that have no stored sample, and compute the metrics."""
    task, named = inputs.task, inputs.task.reference or ""
    reference = None if inputs.reference is None else ReferenceJob.load(inputs.reference, named)
    answers.require_unchanged_prompts_and_tokens(task, inputs.given, context.resolved)
    pieces = [
        replace(piece, request=_request_top_k_and_samples(piece.request, task.keep_top_k))
        for piece in build_scored_continuations(inputs, context)
    ]
    compared_with: Reference | None = reference
    pair: PairedEngine | None = None
    if reference is not None:
        pieces = [
            replace(
                piece,
                request=reference.add_reference_tokens_to_request(piece.request, piece.question, piece.gold),
            )
            for piece in pieces
        ]
    elif inputs.second is not None:
        counts = estimate_continuation_tokens(
            [piece.request for piece in pieces], list_windowed_documents(inputs), context, named
        )
        compared_with = pair = both = PairedEngine(context, named, counts)
        context = replace(context, engine=both)
    prompts.reject_answers_inside_thinking(task, inputs.given, context.resolved)
    context_length.print_notes_early(
        context_length.build_document_rope_scaling_notes(
            context.resolved, inputs.given, task.max_tokens_per_pass
        )
    )
    folder = context.recorder.folder
    kept = TopKFile(folder) if task.keep_top_k else None
    apart = DivergenceFile(folder) if compared_with is not None else None
    scoring = LikelihoodJudge(
        {piece.sample_index: piece for piece in pieces}, task, compared_with, kept, apart
    )

    try:
        watching = LikelihoodProgress(inputs, scoring, pair)
        requests = [piece.request for piece in pieces]
        policies = [watching, RepeatOrder(task.repeat_index)]
        done = collect_answers(requests, context, scoring, policies, inputs.count, "documents")
        found = None if apart is None else read_divergences(apart.path)
        if found is not None:
            by_index = {piece.sample_index: piece.request for piece in pieces}
            # all may be on disk, and nothing loaded
            decode = get_model_kind(context.config.model).create_decoder(context.resolved)
            write_most_divergent_tokens(
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
    facts = done.facts | ({"samples": WINDOWS} if is_single_windowed_document(inputs) else {})
    if reference is not None:
        facts["reference"] = JobReference(reference.named_as, reference.job.job_id).to_fact()
    # nothing is decoded
    spent = {name: value for name, value in done.metrics.items() if name != "decode_tok_per_s"}
    found_of_texts = build_text_likelihood_records(whole, families)
    result = Result(
        found_of_texts.metrics | errors | spent,
        facts=facts | found_of_texts.facts,
        tables=found_of_texts.tables,
        series=found_of_texts.series,
    )
    if found is not None:
        done.note_values += add_token_divergence_metrics(result, done.samples, found)
    result.problems = done.problems
    done.note_values += [
        *([] if inputs.why_kept is None else [inputs.why_kept]),
        *build_result_notes(inputs),
        *contexts.build_short_document_notes(task, inputs.given, pieces),
        *answers.make_retokenization_notes(inputs.given, done.samples, context.resolved),
    ]
    done.note_values += context_length.build_rope_notes_for_samples(context.resolved, done.samples)
    result.notes = done.notes
    return result


def render_shown_prompts(inputs: LikelihoodInputs, resolved: ResolvedJob) -> str:
    return prompts.render_first_prompts(inputs.task, inputs.given, resolved)


def preview(inputs: LikelihoodInputs, resolved: ResolvedJob) -> str:
    """Return the notes on reference and RoPE scaling for plan=true."""
    lines = context_length.build_document_rope_scaling_notes(
        resolved, inputs.given, inputs.task.max_tokens_per_pass
    )
    if inputs.second is not None:
        lines.append(note("reference_beside", named_as=inputs.task.reference))
    elif (job := inputs.reference) is not None:
        lines.append(
            note("reference", named_as=inputs.task.reference, job=job.job_id, state=describe_job_state(job))
        )
        lines += [] if inputs.why_kept is None else [inputs.why_kept]
    return "\n".join(render_notes(lines))


def build_result_notes(inputs: LikelihoodInputs) -> list[Note]:
    texts = [given for given in inputs.given if given.form is TextContext.text]
    if not texts:
        return []
    if inputs.task.context_lengths:
        return contexts.context_notes(inputs.task)
    window, step = inputs.task.window_tokens, inputs.task.step
    return [
        note("windows", window=window, step=step),
        *([note("one_text", "warning")] if is_single_windowed_document(inputs) else []),
    ]


# ------------------------------------------------------------------------------------ continuations


def build_scored_continuations(inputs: LikelihoodInputs, context: TaskContext) -> list[Continuation]:
    """Return all continuations of the job in order: answers, choices, and windows of documents."""
    texts = ["", *list_windowed_documents(inputs)]  # the empty one gives the special tokens
    kind = get_model_kind(context.config.model)
    encoded = iter([ids for _, ids in kind.encode_prompts(context.resolved, texts)] if texts[1:] else [[]])
    special = next(encoded)
    pieces: list[Continuation] = []
    for unit, given in enumerate(inputs.given):
        if given.form is TextContext.text:
            of_text = given.texts[0], next(encoded), special, unit, len(pieces)
            if inputs.task.context_lengths:
                cut_text = contexts.split_document_by_context_length(inputs.task, *of_text)
            else:
                cut_text = split_document_into_windows(
                    inputs.task, *of_text, is_single_windowed_document(inputs)
                )
            pieces += [replace(piece, cluster=given.cluster, category=given.category) for piece in cut_text]
            continue
        if given.answer is not None:
            pieces.append(build_answer_continuation(given, unit, len(pieces)))
            continue
        prompt = prompts.build_item_prompt(inputs.task, given)
        for number, text in enumerate(given.texts):
            continuation = prompts.format_scored_text(prompt, given, text)
            request = Request(len(pieces), prompt, continuation=continuation)
            size, is_other = len(continuation.encode()), number != given.gold
            kinds = given.cluster, given.category
            pieces.append(
                Continuation(request, unit, size, len(text), given.question, text, is_other, *kinds)
            )
    contexts.require_continuations(inputs.task, pieces)
    return pieces


def _request_top_k_and_samples(request: Request, keep_top_k: int) -> Request:
    return replace(request, top_logprobs=keep_top_k, drawn_tokens=DRAWN) if keep_top_k else request


def is_single_windowed_document(inputs: LikelihoodInputs) -> bool:
    return (
        len(inputs.given) == 1
        and inputs.given[0].form is TextContext.text
        and not inputs.task.context_lengths
    )


def list_windowed_documents(inputs: LikelihoodInputs) -> list[str]:
    return [given.texts[0] for given in inputs.given if given.form is TextContext.text]


class LikelihoodProgress(Policy):
    """Policy that checks windows and prompts after the load, and shows the current log-likelihood."""

    def __init__(
        self, inputs: LikelihoodInputs, judge: LikelihoodJudge, paired_engine: PairedEngine | None
    ) -> None:
        self.inputs, self.scoring, self.pair = inputs, judge, paired_engine
        self._nats, self._tokens = 0.0, 0

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        """Check that the windows fit the context length, and add facts about the prompts to the engine
        report.
        """
        for loaded in [report] if self.pair is None else self.pair.reports:
            self.scoring.check_windows_fit_context(loaded)
        prompts.add_question_prompt_facts(self.inputs.task, self.inputs.given, engine, report)

    def on_answer(self, sample: Sample) -> None:
        if sample.likelihood is not None and not sample.likelihood.is_other:
            self._nats += sample.likelihood.nats
            self._tokens += sample.likelihood.tokens

    def progress_fields(self) -> dict[str, str]:
        """Return the mean log-likelihood per token of the samples scored until now."""
        return {key: f"{value:.4f}" for key, value in self.progress_metrics().items()}

    def progress_metrics(self) -> dict[str, float]:
        return {LOG_LIKELIHOOD: self._nats / self._tokens} if self._tokens else {}
