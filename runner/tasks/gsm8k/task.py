"""task=gsm8k: sends word problems to the engine, extracts the number, and compares it with the gold
answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass

from runner.config.extractors import Extractor
from runner.core.finishing import FinishingCurve, measure_answer_lengths
from runner.datasets.perturbed_questions import perturb_questions
from runner.datasets.question_prompts import (
    build_question_prompt,
    get_few_shot_stop_strings,
    load_few_shot_examples,
    make_lm_eval_difference_notes,
)
from runner.datasets.question_subsets import (
    hash_question_subset,
    index_questions_by_number,
    list_question_numbers,
    make_question_subset_notes,
)
from runner.datasets.rotations import make_constant_gold_letter_notes, rotate_choices
from runner.records.unanswered_count import count_unanswered_questions
from runner.render.notes import render_notes
from runner.scorers import PACKAGE, load_scorer, require_math_verify_package, score_included_samples
from runner.tasks import (
    ComparedInputs,
    Item,
    Job,
    Policy,
    RepeatOrder,
    ResolvedJob,
    RunnerConfig,
    RunningAccuracy,
    TaskContext,
    Uses,
    add_prompt_facts_to_report,
    build_random_id,
    collect_answers,
    context_length,
    create_early_stop_policy,
    describe_dataset,
    hash_questions,
    load_questions,
    make_early_stopping_baseline_notes,
    render_prompts,
    typed_task_config,
)
from runner.tasks import has_configured_baseline as has_configured_baseline  # for the plan of a grid
from runner.tasks.gsm8k.judging import Judge
from runner.tasks.gsm8k.keys import AUTO, Gsm8kConfig
from runner.tasks.gsm8k.position_bias import TITLE as BY_POSITION
from runner.tasks.gsm8k.position_bias import compute_position_bias_report as report_of_orders
from runner.tasks.gsm8k.reliability import (
    CheckOutcome,
    build_reliability_warnings,
    build_uncompared_answer_notes,
    check_contamination,
    check_invariance,
    compute_pass_at_k_metrics,
    compute_reliability_metrics,
    count_changed_answers,
)
from runner.tasks.gsm8k.repeated_questions import RepeatedQuestions
from runner_base import Result, Sample, check_value
from runner_base.notes import note
from runner_compare import format_cut_off_message, format_unextracted_answers_message
from runner_compare.statistics import EXTRACTOR, LIMIT, SCORER
from runner_engine import Engine, EngineReport, Request

# 4: tags that a text speaks of are no thinking, and an answer that was cut off behind it is not right
VERSION = 4
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True


# Jobs that differ in these only have the same answers to the same questions, and reuse each
# other's.
OF_JUDGING = {"task.scorer", "task.scorer.package", PACKAGE}  # a reused text is judged anew
IGNORED_FOR_REUSE = frozenset(
    {"data", "only", "without", "twins", "clusters", *OF_JUDGING}
    | {"task.limit", "task.check_invariance", "task.check_contamination"}
)
# The extractor is ignored, too; it counts as the usual one, as it did for the jobs that earlier
# versions have recorded.
USUAL_FOR_REUSE = {EXTRACTOR: Extractor.strict}
# Both jobs of a comparison must have these in common: what is asked, and how answers are scored.
ALIKE = ("prompt", "template", "shots", "system", "instruction", "extractor")
NO_QUESTION = Item("QUESTION", "", "")  # placeholder, to show the form of all prompts


@dataclass
class Gsm8kInputs(ComparedInputs):
    """Inputs of task=gsm8k: questions, worked examples and perturbed questions."""

    task: Gsm8kConfig
    items: list[Item]
    shots: dict[int, list[Item]]  # by the number of the question
    twins: dict[int, Item]  # by the number of the question


def prepare(config: RunnerConfig) -> Gsm8kInputs:
    """Read and hash the questions and the worked examples."""
    task = typed_task_config(config, Gsm8kConfig)
    items = rotate_choices(load_questions(task), task.rotate)
    shots, shots_sha256 = load_few_shot_examples(task, items)
    hashes = {"data": hash_questions(items), "shots": shots_sha256} | hash_question_subset(task, items)
    if task.extractor is Extractor.math:
        hashes[PACKAGE] = require_math_verify_package()
    first = items[: task.check_contamination]
    twins = perturb_questions(task.data, task.split, first)
    if first:
        why = (
            f"the first {len(first)} questions of {task.data} have no worked answers, so "
            "their numbers cannot be changed"
        )
        check_value(
            bool(twins), "task.check_contamination", task.check_contamination, why, code="unsupported"
        )
        hashes["twins"] = hash_questions(list(twins.values()))
    inputs = Gsm8kInputs(
        hashes,
        task,
        items,
        dict(zip(list_question_numbers(items), shots, strict=True)),
        twins,
        data=describe_dataset(task.data, task.split, hashes["data"]),
        ignored_for_reuse=IGNORED_FOR_REUSE,
        usual_for_reuse=USUAL_FOR_REUSE,
        count=len(items),
    )
    inputs.find_baseline_and_extend_hashes(config, VERSION)
    return inputs


def run(inputs: Gsm8kInputs, context: TaskContext) -> Result:
    """Run the job, then end the scorer's process if there is one."""
    scorer = inputs.task.gold_scorer
    with closing(load_scorer(scorer)) if scorer is not None else nullcontext():
        return generate_and_judge(inputs, context)


def generate_and_judge(inputs: Gsm8kInputs, context: TaskContext) -> Result:
    """Generate the missing answers, judge them, compute metrics and check the score's reliability."""
    task, items = inputs.task, index_questions_by_number(inputs.items)
    questions = {number: (item.question, item.gold) for number, item in items.items()}
    early_stop = create_early_stop_policy(inputs, context, VERSION, questions, ALIKE)
    requests = build_question_requests(inputs, items)
    context_length.print_notes_early(context_length.build_rope_notes_for_requests(context.resolved, requests))
    again, judge = create_repeated_questions_policy(inputs, requests, context), Judge(task, items)
    with closing(again) if again is not None else nullcontext():
        done = collect_answers(
            requests,
            context,
            judge,
            create_answer_collection_policies(inputs, requests, context, early_stop, again),
        )
    counted = [judge.judge_sample(sample) for sample in done.samples if not sample.left_out]
    metrics = score_included_samples(done.samples) | compute_reliability_metrics(counted, done.facts)
    facts = done.facts
    if early_stop is not None:
        metrics, facts = metrics | early_stop.metrics, facts | early_stop.facts
    by_answers, rows = compute_pass_at_k_metrics(counted, task)
    metrics |= by_answers | done.metrics
    result = Result(metrics, rows, facts, problems=done.problems, tables=done.tables)
    notes = done.note_values
    if task.rotate > 1:
        of_orders, by_position = report_of_orders(counted, items, task)
        result.metrics |= of_orders.metrics
        notes += of_orders.notes
        result.tables[BY_POSITION] = by_position
    notes += make_constant_gold_letter_notes(inputs.items, task.rotate)
    notes += [
        *make_question_subset_notes(task, inputs.items),
        *make_lm_eval_difference_notes(task, context.config.generation),
    ]
    limit = context.config.generation.max_new_tokens
    params = {LIMIT: str(limit), EXTRACTOR: task.extractor.value, SCORER: task.scorer or "null"}
    notes += filter(
        None,
        [
            format_cut_off_message(metrics, params),
            format_unextracted_answers_message([("", metrics, params)]),
        ],
    )
    if any(judged.sample.num_cut_off_answers for judged in counted) and metrics["stopped_by_length"]:
        has_budget = context.config.generation.thinking_tokens is not None
        finishing = FinishingCurve.estimate_from_answer_lengths(
            measure_answer_lengths(
                (answer for judged in counted for answer in judged.sample.answers), has_budget
            )
        )
        result.metrics |= finishing.metrics
        notes.append(finishing.make_token_limit_advice_note(limit, metrics.get("decode_tok_per_s")))
    notes += build_reliability_warnings(metrics, facts)
    notes += early_stop.make_stopped_early_notes() if early_stop is not None else []
    notes += build_uncompared_answer_notes(counted)
    notes += context_length.build_rope_notes_for_samples(context.resolved, done.samples)
    for outcome in run_reliability_checks(inputs, requests, done.samples, context, again):
        result.metrics |= outcome.metrics
        notes += outcome.notes
        result.problems += outcome.problems
    result.notes = render_notes(notes)
    return result


def create_answer_collection_policies(
    inputs: Gsm8kInputs,
    requests: list[Request],
    context: TaskContext,
    early_stop: Policy | None,
    repeated_questions: RepeatedQuestions | None,
) -> list[Policy]:
    policies: list[Policy] = [
        PromptFacts(inputs, requests[0]),
        RepeatOrder(inputs.task.repeat_index),
        RunningAccuracy(context),
    ]
    policies += [policy for policy in (early_stop, repeated_questions) if policy is not None]
    return policies


class PromptFacts(Policy):
    """Policy that records the chat template and special tokens of the prompts in the engine report."""

    def __init__(self, inputs: Gsm8kInputs, first_request: Request) -> None:
        self.inputs, self.first = inputs, first_request

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        number = self.inputs.items[0].number
        (form,) = build_question_requests(self.inputs, {number: NO_QUESTION})
        examples = len(self.inputs.shots[number])
        plural = "" if examples == 1 else "s"
        description = [self.inputs.task.prompt.value, f"{examples} worked example{plural}"]
        add_prompt_facts_to_report(description, form, self.first, engine, report)


def create_repeated_questions_policy(
    inputs: Gsm8kInputs, requests: list[Request], context: TaskContext
) -> RepeatedQuestions | None:
    """Return the policy that asks some questions twice. None unless task.check_invariance=auto."""
    task = inputs.task
    count = task.count_questions_to_repeat(len(requests)) if task.check_invariance == AUTO else 0
    return (
        RepeatedQuestions(requests[:count], context, Judge(task, index_questions_by_number(inputs.items)))
        if count
        else None
    )


def preview(inputs: Gsm8kInputs, resolved: ResolvedJob) -> str:
    """Return the notes on questions and baseline for plan=true."""
    notes = make_question_subset_notes(inputs.task, inputs.items)
    notes += context_length.build_rope_notes_for_requests(
        resolved, build_question_requests(inputs, index_questions_by_number(inputs.items))
    )
    notes += make_early_stopping_baseline_notes(resolved.config, inputs)
    return "\n".join(render_notes(notes))


def questions_left(inputs: Gsm8kInputs, job: Job) -> int:
    """Return the number of questions without a stored answer, or 1 if only reliability checks are missing."""
    task = inputs.task
    has_checks = bool(inputs.twins) or task.check_invariance not in (0, AUTO)
    left = count_unanswered_questions(
        job, {item.number: item.question for item in inputs.items}, task.samples
    )
    return max(left, int(has_checks))


def render_shown_prompts(inputs: Gsm8kInputs, resolved: ResolvedJob) -> str:
    shown = index_questions_by_number(inputs.items[: inputs.task.show_prompt])
    return render_prompts(resolved, build_question_requests(inputs, shown))


def run_reliability_checks(
    inputs: Gsm8kInputs,
    requests: list[Request],
    samples: list[Sample],
    context: TaskContext,
    repeated_questions: RepeatedQuestions | None,
) -> Iterator[CheckOutcome]:
    task, twins = inputs.task, inputs.twins
    if repeated_questions is not None:
        yield count_changed_answers(
            samples, repeated_questions.recorded_answers(), "together with other questions"
        )
        yield CheckOutcome(notes=[note("not_asked_again")] * repeated_questions.depends_on_others)
    elif isinstance(task.check_invariance, int) and task.check_invariance:
        first, items = requests[: task.check_invariance], index_questions_by_number(inputs.items)
        yield check_invariance(first, samples, context, Judge(task, items))
    if task.check_contamination:
        wanted = min(task.check_contamination, len(inputs.items))
        yield check_contamination(
            build_question_requests(inputs, twins), samples, context, Judge(task, twins), wanted
        )


def build_question_requests(inputs: Gsm8kInputs, items: Mapping[int, Item]) -> list[Request]:
    task = inputs.task
    prompts = {
        number: build_question_prompt(task, item, inputs.shots[number]) for number, item in items.items()
    }
    return [
        Request(
            number,
            prompt,
            get_few_shot_stop_strings(task),
            n=task.samples,
            random_id=build_random_id(number, task.repeat_index),
        )
        for number, prompt in prompts.items()
    ]


def build_job_requests(inputs: Gsm8kInputs) -> list[Request]:
    return build_question_requests(inputs, index_questions_by_number(inputs.items))
