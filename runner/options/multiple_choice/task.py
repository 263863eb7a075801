"""task=multiple_choice: asks questions with given choices, and scores the choices by likelihood or by generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean

from runner.datasets.question_subsets import hash_cluster_names
from runner.options.multiple_choice.choice_engine import ChoiceScoringEngine, build_choice_requests
from runner.options.multiple_choice.judging import ChoiceJudge, LetterJudge, LikelihoodChoiceJudge
from runner.options.multiple_choice.keys import ChoiceMetric, ClusterKey, MultipleChoiceConfig, Scoring
from runner.options.multiple_choice.questions import (
    ChoiceQuestion,
    hash_choice_questions,
    hash_prompt_format,
    load_choice_questions,
)
from runner.options.multiple_choice.render.titles import (
    BY_SUBJECT,
    format_question_summary,
    format_scored_continuations,
)
from runner.options.multiple_choice.scores import (
    build_accuracy_rows_by_subject,
    compute_choice_metrics,
    count_letter_rules,
)
from runner.render.notes import render_notes
from runner.tasks import (
    ComparedInputs,
    Policy,
    PromptFacts,
    RepeatOrder,
    ResolvedJob,
    RunnerConfig,
    RunningAccuracy,
    TaskContext,
    Uses,
    build_chat_prompt,
    build_random_id,
    collect_answers,
    context_length,
    create_early_stop_policy,
    describe_dataset,
    get_model_kind,
    make_early_stopping_baseline_notes,
    render_prompts,
    score_included_samples,
    typed_task_config,
)
from runner.tasks import has_configured_baseline as has_configured_baseline  # for the plan of a grid
from runner_base import Result, check_value
from runner_compare import format_cut_off_message
from runner_compare.statistics import LIMIT
from runner_engine import Capability, Request, require_capabilities

VERSION = 2  # 2: an answer that was cut off in a loop is judged as if it were complete
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

# Jobs that ask more or fewer questions, or decide by another metric, reuse the answers.
IGNORED_FOR_REUSE = frozenset({"data", "clusters", "metric", "task.limit", "task.metric"})
# Jobs that are compared while they run send the same prompts and choose by the same rule.
ALIKE = ("scoring", "metric", "format", "shots", "shots_data", "instruction", "system")


@dataclass
class MultipleChoiceInputs(ComparedInputs):
    """Inputs of task=multiple_choice: the task's config, the questions, and the metric that decides."""

    task: MultipleChoiceConfig
    questions: dict[int, ChoiceQuestion]
    metric: ChoiceMetric


def prepare(config: RunnerConfig) -> MultipleChoiceInputs:
    """Read or generate the questions, and hash them with their prompts."""
    task = typed_task_config(config, MultipleChoiceConfig)
    needed = Capability.chat if task.scoring is Scoring.generation else Capability.logprobs
    capabilities = get_model_kind(config.model).capabilities(config)
    require_capabilities(capabilities, f"task.scoring={task.scoring.value}", {needed})
    loaded = load_choice_questions(task)
    questions = loaded.questions
    hashes = {
        "data": hash_choice_questions(questions),
        "format": hash_prompt_format(loaded.form, {"shots": task.shots}),
    }
    if task.cluster is ClusterKey.subject:
        hashes |= hash_cluster_names([question.subject for question in questions])
    metric = task.metric or loaded.form.metric
    if task.scoring is Scoring.likelihood:
        hashes["metric"] = metric.value
    inputs = MultipleChoiceInputs(
        hashes,
        task,
        dict(enumerate(questions)),
        metric,
        ignored_for_reuse=IGNORED_FOR_REUSE,
        count=len(questions),
        data=describe_dataset(loaded.data, loaded.split, hashes["data"]),
    )
    inputs.find_baseline_and_extend_hashes(config, VERSION)
    if task.early_stop_vs is not None:
        _reject_questions_sorted_by_subject([question.subject for question in questions])
    return inputs


def _reject_questions_sorted_by_subject(subjects: Sequence[str | None]) -> None:
    """Raise ConfigError if each subject is one block, as in MMLU: a job would stop after the first subjects."""
    num_blocks = sum(1 for _ in groupby(subjects))
    is_sorted = 1 < num_blocks == len({*subjects}) < len(subjects)
    need = (
        "the questions are sorted by subject, and task.early_stop_vs stops after the first ones. "
        "Set task.shuffle_seed=0, or omit task.early_stop_vs"
    )
    check_value(not is_sorted, "task.shuffle_seed", "null", need, code="conflict")


def run(inputs: MultipleChoiceInputs, context: TaskContext) -> Result:
    """Score the choices or generate the answers, judge them and compute metrics."""
    task, resolved, questions = inputs.task, context.resolved, inputs.questions
    requests = build_requests(task, questions)
    judge: ChoiceJudge = LetterJudge(questions, task.cluster)
    if task.scoring is Scoring.likelihood:
        judge = LikelihoodChoiceJudge(questions, task.cluster, inputs.metric)
        context = replace(context, engine=ChoiceScoringEngine(context.engine, questions))
    asked = {number: (question.text, question.gold_letters) for number, question in questions.items()}
    early_stop = create_early_stop_policy(inputs, context, VERSION, asked, ALIKE)
    policies: list[Policy] = [
        PromptFacts("chat" if task.uses_chat_template else "text", requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context),
        *filter(None, [early_stop]),
    ]
    done = collect_answers(requests, context, judge, policies)
    scores = score_included_samples(done.samples)
    metrics = scores | compute_choice_metrics(done.samples, questions) | done.metrics
    if task.scoring is Scoring.generation:
        metrics |= count_letter_rules(done.samples)
    else:
        metrics.pop("decode_tok_per_s", None)  # nothing is decoded
    result = Result(metrics, facts=done.facts, problems=done.problems, tables=done.tables)
    if rows := build_accuracy_rows_by_subject(done.samples):
        result.tables[BY_SUBJECT] = rows
    limit = {LIMIT: str(context.config.generation.max_new_tokens)}
    notes = [*done.note_values, *filter(None, [format_cut_off_message(scores, limit)])]
    notes += context_length.build_rope_notes_for_samples(resolved, done.samples)
    result.notes = render_notes(notes)
    if early_stop is not None:
        early_stop.add_to_result(result)
    return result


def build_requests(task: MultipleChoiceConfig, questions: Mapping[int, ChoiceQuestion]) -> list[Request]:
    return [_build_request(task, number, question) for number, question in questions.items()]


def _build_request(task: MultipleChoiceConfig, number: int, question: ChoiceQuestion) -> Request:
    if task.scoring is Scoring.likelihood:
        # the completions are those of the choices: ChoiceScoringEngine sends a request for each
        prompt = build_choice_requests(question, number)[0].prompt
        return Request(number, prompt, n=len(question.choices))
    text = f"{question.text}\n\n{task.instruction}" if task.instruction else question.text
    return Request(
        number, build_chat_prompt(text, task.system), random_id=build_random_id(number, task.repeat_index)
    )


def preview(inputs: MultipleChoiceInputs, resolved: ResolvedJob) -> str:
    """Return a summary of the questions and the baseline for plan=true."""
    questions = [*inputs.questions.values()]
    subjects = {question.subject for question in questions}
    chance = fmean(question.chance for question in questions)
    by = "letter" if inputs.task.uses_chat_template else inputs.metric.value
    summary = format_question_summary(len(questions), len(subjects), chance, by)
    return "\n".join([summary, *render_notes(make_early_stopping_baseline_notes(resolved.config, inputs))])


def render_shown_prompts(inputs: MultipleChoiceInputs, resolved: ResolvedJob) -> str:
    """Return the first prompts in the form that the model sees, with the texts that are scored after them."""
    first = dict([*inputs.questions.items()][: inputs.task.show_prompt])
    prompts = render_prompts(resolved, build_requests(inputs.task, first))
    if inputs.task.uses_chat_template:
        return prompts
    return "\n".join([prompts, *map(format_scored_continuations, first.values())])
