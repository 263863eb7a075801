"""task=gsm8k: send word problems to the engine, extract the number, compare it with the gold
answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from statistics import fmean

from runner.config.extractors import Extractor
from runner.core.finishing import Finishing, lengths_of
from runner.datasets.asking import build_prompt, load_shots, stop_texts, unlike_lm_eval
from runner.datasets.chosen import by_number, choice_notes, hashes_of_choice, numbers_of
from runner.datasets.rotations import rotated, same_letter_notes
from runner.datasets.twins import twins_of
from runner.records.left_to_ask import left_to_ask
from runner.render.notes import render_notes
from runner.scorers import PACKAGE, require_package, score_without_left_out, scorer_of
from runner.tasks import (
    Context,
    Inputs,
    Item,
    Job,
    OrderOfRepeat,
    Policy,
    ResolvedJob,
    RunnerConfig,
    Uses,
    collect,
    describe_questions,
    items_sha256,
    load_questions,
    look_at_prompts,
    own_config,
    positions,
    prompts_shown,
)
from runner.tasks.gsm8k.asking_again import AskingAgain
from runner.tasks.gsm8k.early_stop import HASHES as OF_EARLY_STOP
from runner.tasks.gsm8k.early_stop import EarlyStop, find_baseline, hashes_of, preview_baseline
from runner.tasks.gsm8k.early_stop import is_compared as is_compared  # for the plan of a grid
from runner.tasks.gsm8k.judging import Judge
from runner.tasks.gsm8k.keys import AUTO, Gsm8kConfig
from runner.tasks.gsm8k.orders import TITLE as BY_POSITION
from runner.tasks.gsm8k.orders import report as report_of_orders
from runner.tasks.gsm8k.trust import (
    CheckOutcome,
    by_number_of_answers,
    changed_answers,
    check_contamination,
    check_invariance,
    not_compared,
    trust_report,
    warnings,
)
from runner.tasks.named_job import overrides_of
from runner_base import Result, Sample, check
from runner_base.notes import note
from runner_compare import cut_off_words, unread_note
from runner_compare.statistics import EXTRACTOR, LIMIT, SCORER
from runner_engine import Engine, EngineReport, Request, RequestId

VERSION = (
    4  # 4: tags that a text speaks of are no thinking, and an answer that was cut off behind it is not right
)
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

log = logging.getLogger(__name__)


# Jobs that differ in these only have the same answers to the same questions, and reuse each
# other's.
OF_JUDGING = {"task.scorer", "task.scorer.package", PACKAGE}  # a reused text is judged anew
IGNORED_FOR_REUSE = frozenset(
    {"data", "only", "without", "twins", "clusters", *OF_EARLY_STOP, *OF_JUDGING}
    | {"task.limit", "task.check_invariance", "task.check_contamination"}
)
# The extractor is ignored, too; it counts as the usual one, as it did for the jobs that earlier
# versions have recorded.
USUAL_FOR_REUSE = {EXTRACTOR: Extractor.strict}
NO_QUESTION = Item("QUESTION", "", "")  # placeholder, to show the form of all prompts


@dataclass
class Problems(Inputs):
    """The questions of the job, the worked examples that go before each, the twins of some, and the
    baseline."""

    task: Gsm8kConfig
    items: list[Item]
    shots: dict[int, list[Item]]  # by the number of the question
    twins: dict[int, Item]  # by the number of the question
    baseline: Job | None  # that the job is compared with while it runs


def prepare(config: RunnerConfig) -> Problems:
    """Read and hash the questions and the worked examples."""
    task = own_config(config, Gsm8kConfig)
    items = rotated(load_questions(task), task.rotate)
    shots, shots_sha256 = load_shots(task, items)
    hashes = {"data": items_sha256(items), "shots": shots_sha256} | hashes_of_choice(task, items)
    if task.extractor is Extractor.math:
        hashes[PACKAGE] = require_package()
    first = items[: task.check_contamination]
    twins = twins_of(task.data, task.split, first)
    if first:
        why = f"{task.data}: none of its first {len(first)} questions has a worked answer that a twin can be made of"
        check(bool(twins), "task.check_contamination", task.check_contamination, why, code="unsupported")
        hashes["twins"] = items_sha256(list(twins.values()))
    baseline = find_baseline(config, VERSION, hashes)
    if baseline is not None:
        hashes |= hashes_of(task, baseline)
    source = describe_questions(task.data, task.split, hashes["data"])
    after = baseline.job_id if baseline is not None else ""
    return Problems(
        hashes,
        task,
        items,
        dict(zip(numbers_of(items), shots, strict=True)),
        twins,
        baseline,
        data=source,
        ignored_for_reuse=IGNORED_FOR_REUSE,
        usual_for_reuse=USUAL_FOR_REUSE,
        count=len(items),
        after=after,
        is_compared=bool(after),
        after_overrides=overrides_of(task.early_stop_vs, task) if after else [],
    )


def run(inputs: Problems, context: Context) -> Result:
    """Ask and judge; a scorer may have a process of its own, which ends with the job."""
    scorer = inputs.task.gold_scorer
    with closing(scorer_of(scorer)) if scorer is not None else nullcontext():
        return ask_and_judge(inputs, context)


def ask_and_judge(inputs: Problems, context: Context) -> Result:
    """Generate what is not on disk yet, judge each completion, add up, and report how far the score
    can be trusted."""
    task, items = inputs.task, by_number(inputs.items)
    if task.show_prompt:
        log.info("%s", prompts_shown(context.resolved, first_requests(inputs)))
    early_stop = None
    if inputs.baseline is not None:
        early_stop = EarlyStop.read(inputs.baseline, context.config, VERSION, inputs.items)
    requests = requests_for(inputs, items)
    positions.say_before_the_load(positions.of_questions(context.resolved, requests))
    again, judge = asking_again(inputs, requests, context), Judge(task, items)
    with closing(again) if again is not None else nullcontext():
        done = collect(requests, context, judge, policies_of(inputs, requests, context, early_stop, again))
    counted = [judge.judged(sample) for sample in done.samples if not sample.left_out]
    metrics = score_without_left_out(done.samples) | trust_report(counted, done.facts)
    facts = done.facts
    if early_stop is not None:
        metrics, facts = metrics | early_stop.metrics, facts | early_stop.facts
    by_answers, rows = by_number_of_answers(counted, task)
    metrics |= by_answers | done.metrics
    result = Result(metrics, rows, facts, problems=done.problems, tables=done.tables)
    notes = done.note_values
    if task.rotate > 1:
        of_orders, by_position = report_of_orders(counted, items, task)
        result.metrics |= of_orders.metrics
        notes += of_orders.notes
        result.tables[BY_POSITION] = by_position
    notes += same_letter_notes(inputs.items, task.rotate)
    notes += [*choice_notes(task, inputs.items), *unlike_lm_eval(task, context.config.generation)]
    limit = context.config.generation.max_new_tokens
    params = {LIMIT: str(limit), EXTRACTOR: task.extractor.value, SCORER: task.scorer or "null"}
    notes += filter(None, [cut_off_words(metrics, params), unread_note([("", metrics, params)])])
    if any(judged.sample.cut_off_answers for judged in counted) and metrics["stopped_by_length"]:
        has_budget = context.config.generation.thinking_tokens is not None
        finishing = Finishing.of(
            lengths_of((answer for judged in counted for answer in judged.sample.answers), has_budget)
        )
        result.metrics |= finishing.metrics
        notes.append(finishing.advice(limit, metrics.get("decode_tok_per_s")))
    notes += [*warnings(metrics, facts), *not_compared(counted)]
    notes += positions.needless_scaling_of(context.resolved, done.samples)
    for outcome in checks(inputs, requests, done.samples, context, again):
        result.metrics |= outcome.metrics
        notes += outcome.notes
        result.problems += outcome.problems
    result.notes = render_notes(notes)
    return result


def policies_of(
    inputs: Problems,
    requests: list[Request],
    context: Context,
    early_stop: EarlyStop | None,
    again: AskingAgain | None,
) -> list[Policy]:
    """Return what the job does beside asking each question once."""
    policies: list[Policy] = [
        PromptForm(inputs, requests[0]),
        OrderOfRepeat(inputs.task.repeat),
        Accuracy(context),
    ]
    policies += [policy for policy in (early_stop, again) if policy is not None]
    return policies


class PromptForm(Policy):
    """Facts about the prompts, as the model sees them."""

    def __init__(self, inputs: Problems, first: Request) -> None:
        self.inputs, self.first = inputs, first

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Add them to the report."""
        number = self.inputs.items[0].number
        (form,) = requests_for(self.inputs, {number: NO_QUESTION})
        examples = len(self.inputs.shots[number])
        plural = "" if examples == 1 else "s"
        description = [self.inputs.task.prompt.value, f"{examples} worked example{plural}"]
        look_at_prompts(description, form, self.first, engine, report)


class Accuracy(Policy):
    """The accuracy so far, which the progress bar shows."""

    def __init__(self, context: Context) -> None:
        self._shares = [
            sample.right_share() for sample in context.recorder.done.values() if not sample.left_out
        ]

    def answered(self, sample: Sample) -> None:
        """Count an answer."""
        if not sample.left_out:
            self._shares.append(sample.right_share())

    def news(self) -> dict[str, str]:
        """Return the share of the right answers."""
        return {"accuracy": f"{fmean(self._shares):.1%}"} if self._shares else {}


def asking_again(inputs: Problems, requests: list[Request], context: Context) -> AskingAgain | None:
    """Return what asks some questions a second time beside the others; None if none is asked in
    this way."""
    task = inputs.task
    count = task.asked_again(len(requests)) if task.check_invariance == AUTO else 0
    return AskingAgain(requests[:count], context, Judge(task, by_number(inputs.items))) if count else None


def deliver(inputs: Problems, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Show the prompts of a recorded job if requested."""
    if inputs.task.show_prompt:
        log.info("%s", prompts_shown(resolved, first_requests(inputs)))


def preview(inputs: Problems, resolved: ResolvedJob) -> str:
    """Say which questions count, with which job this one is compared, and show the first prompts if
    requested."""
    notes = choice_notes(inputs.task, inputs.items)
    notes += positions.of_questions(resolved, requests_for(inputs, by_number(inputs.items)))
    if inputs.baseline is not None:
        notes.append(preview_baseline(inputs.task, inputs.baseline, len(inputs.items)))
    shown = prompts_shown(resolved, first_requests(inputs))
    return "\n".join(filter(None, (*render_notes(notes), shown)))


def questions_left(inputs: Problems, job: Job) -> int:
    """Return how many questions no job on disk has answered yet; at least one where checks ask
    further ones."""
    task = inputs.task
    has_checks = bool(inputs.twins) or task.check_invariance not in (0, AUTO)
    left = left_to_ask(job, {item.number: item.question for item in inputs.items}, task.samples)
    return max(left, int(has_checks))


def first_requests(inputs: Problems) -> list[Request]:
    return requests_for(inputs, by_number(inputs.items[: inputs.task.show_prompt]))


def checks(
    inputs: Problems,
    requests: list[Request],
    samples: list[Sample],
    context: Context,
    again: AskingAgain | None,
) -> Iterator[CheckOutcome]:
    """Yield the outcomes of the checks that are requested."""
    task, twins = inputs.task, inputs.twins
    if again is not None:
        yield changed_answers(samples, again.answers(), "beside other ones")
        yield CheckOutcome(notes=[note("not_asked_again")] * again.depends_on_others)
    elif isinstance(task.check_invariance, int) and task.check_invariance:
        first, items = requests[: task.check_invariance], by_number(inputs.items)
        yield check_invariance(first, samples, context, Judge(task, items))
    if task.check_contamination:
        wanted = min(task.check_contamination, len(inputs.items))
        yield check_contamination(requests_for(inputs, twins), samples, context, Judge(task, twins), wanted)


def requests_for(inputs: Problems, items: Mapping[int, Item]) -> list[Request]:
    """Return the request for each question, by its number."""
    task = inputs.task
    prompts = {number: build_prompt(task, item, inputs.shots[number]) for number, item in items.items()}
    return [
        Request(number, prompt, stop_texts(task), n=task.samples, random_id=random_id(task, number))
        for number, prompt in prompts.items()
    ]


def random_id(task: Gsm8kConfig, number: int) -> RequestId | None:
    """Return what decides a question's random numbers: a repeat has others than the first job."""
    return f"{number}, repeat {task.repeat}" if task.repeat else None
