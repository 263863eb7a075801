"""task=agents: a team of agents answers each question; a graph says who hears whom, and training
can prune it first."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from contextlib import closing

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.core.sides import answered_by, sides
from runner.datasets.chosen import choice_notes, with_recorded_cluster
from runner.datasets.items import Item
from runner.options.agents import assignment, graph_file
from runner.options.agents.assignment import Assignment, team_of
from runner.options.agents.calls import CallFile
from runner.options.agents.graph import Edges, Kind
from runner.options.agents.keys import Domain
from runner.options.agents.methods import learner_of, settings_of
from runner.options.agents.outcome import sample_of, why
from runner.options.agents.play import Player
from runner.options.agents.render import picture
from runner.options.agents.render.notes import NOTES
from runner.options.agents.render.sandbox import describe_protections
from runner.options.agents.sandbox import Sandbox, SandboxLimits
from runner.options.agents.tally import Tally
from runner.options.agents.team import Discussion, SampledDiscussion
from runner.records.measured import Measured, Measuring
from runner.render.engine_notes import engine_notes
from runner.render.notes import render_notes
from runner.scorers import score_without_left_out
from runner.tasks.base import Context, Uses
from runner.tasks.collecting import kept_words, problems
from runner.tasks.named_adapters import adapter_notes
from runner_base import Call, JobFailed, Progress, Result, Sample, Verdict, machine, write_atomically
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_base.result import CALLS, GRAPH, GRAPH_PICTURE
from runner_compare import cut_off_words
from runner_compare.statistics import LIMIT
from runner_engine import Capability, Session, require

# 2: a program's `answer` that is no number, or too long, is no answer; 3: learned graphs are not
# drawn
VERSION = (
    5  # 5: tags that a text speaks of are no thinking, and an answer that was cut off behind it is not right
)
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

OF_TRAINING = {"calls", "prompt_tokens", "new_tokens", "cost_usd"}
TEAM_ADAPTER = "embedded_team"  # shipped: teaches the embedded model the roles, in their brief wording
PROGRAMS_AT_ONCE = 4  # at most; the engine needs cores, too


def prepare(config: RunnerConfig) -> Assignment:
    """Read and hash questions and graph."""
    return assignment.prepare(config)


def run(inputs: Assignment, context: Context) -> Result:
    """Train the graph if requested, discuss all questions, judge and count."""
    recorder, questions = context.recorder, inputs.task.train_questions + len(inputs.items)
    calls = CallFile(recorder.folder, context.engine, retry_permanent=context.config.rerun == "failed")
    with closing(calls), recorder.progress(questions, "agents") as bar:
        with kept_words(recorder.done, " questions and all answered calls"):
            result = _Work(inputs, context, calls, bar).result()
        calls.partial.delete()
        return result


def preview(inputs: Assignment, resolved: ResolvedJob) -> str:
    """Say for a plan which questions count, if files choose them, and what adapters take."""
    return "\n".join(render_notes(choice_notes(inputs.task, inputs.items) + adapter_notes(resolved)))


class _Work:
    """One running job."""

    def __init__(self, inputs: Assignment, context: Context, calls: CallFile, bar: Progress) -> None:
        self.inputs, self.task, self.graph = inputs, inputs.task, inputs.graph
        self.context, self.calls, self.bar = context, calls, bar
        limits = SandboxLimits(self.task.code_timeout_s, math.ceil(self.task.code_timeout_s))
        self.sandbox = Sandbox(limits, letters=self.task.has_letters)
        self.team = team_of(self.task, self.graph)
        self.measuring: Measuring | None = None
        self.loading_s = 0.0
        self.ended, self.news = 0, dict[str, str]()
        self.verdicts: Counter[Verdict | None] = Counter()
        self.tally, self.training = Tally(), Tally()
        self.scored_calls: list[Call] = []  # of the questions that are scored

    def result(self) -> Result:
        task, folder = self.task, self.context.recorder.folder
        edges = self.edges("before")
        # checked before the model is loaded: without a sandbox, no program is run
        writes_code = any(role.writes_code for role in self.team.roles)
        protections = self.sandbox.protections() if writes_code else None
        at_once = min(PROGRAMS_AT_ONCE, machine.cores())
        more = self.open_session, self.show, at_once, task.adapter_of
        with Player(self.calls, self.sandbox, *more) as player:
            solved = self.train(player) if task.is_trained else []
            edges |= self.edges("after")
            graph = graph_file.to_json(self.graph, self.team.titles, self.learned(solved))
            write_atomically(folder / GRAPH, graph, durable=task.is_trained)
            write_atomically(folder / GRAPH_PICTURE, self.drawn())
            started, loading_s = time.perf_counter(), self.loading_s
            samples = self.play_all(player)
            play_s = time.perf_counter() - started - (self.loading_s - loading_s)
        measured = self.measuring.keep() if self.measuring else Measured.read(folder)
        result = Result(
            score_without_left_out(samples) | self.tally.metrics(len(samples)) | edges,
            self.tally.rows() + ([self.training.row("training")] if task.is_trained else []),
            self.tally.facts(),
        )
        result.metrics |= sides(self.scored_calls)
        if task.is_sampled:
            result.metrics["samples_per_question"] = self.tally.calls_of(self.team.titles[0]) / len(samples)
        result.problems = problems("agents", samples)
        if not self.calls.reused:  # else it would be the time of some of the questions only
            result.metrics["play_s"] = play_s
        if task.is_trained:
            costs = self.training.metrics(len(solved))
            result.metrics |= {f"train_{key}": costs[key] for key in costs.keys() & OF_TRAINING}
            result.metrics |= {"train_questions": len(solved), "train_solved": sum(solved)}
            result.facts["trained_on"] = f"{len(solved)} questions of {task.train_split}"
        if protections is not None:
            result.facts["sandbox"], missing = describe_protections(protections, self.sandbox.limits)
            if missing:
                result.notes.append(render_note(note("not_sandboxed", "warning", missing=missing), NOTES))
        if measured is not None:
            result.metrics |= measured.metrics
            result.facts |= measured.facts
            result.tables |= measured.tables
            if models := answered_by(self.scored_calls):
                result.facts["answered_by"] = models
            result.notes += engine_notes(measured.stats, measured.report)
        limit = str(self.context.config.generation.max_new_tokens)
        result.notes += [*render_notes(choice_notes(self.task, self.inputs.items))]
        result.notes += [render_note(each, NOTES) for each in self.notes()]
        result.notes += filter(None, [cut_off_words(result.metrics, {LIMIT: limit})])
        return result

    def edges(self, when: str) -> dict[str, float]:
        """Count the edges that a round can take; with a single round, there are no temporal
        ones."""
        return {f"{kind}_edges_{when}": edges.count for kind, edges in self.used_kinds.items()}

    @property
    def used_kinds(self) -> dict[Kind, Edges]:
        """The kinds of edges that this many rounds have."""
        return self.graph.kinds if self.task.num_rounds > 1 else {"spatial": self.graph.spatial}

    def notes(self) -> list[Note]:
        """Return the notes that a reader of the numbers needs."""
        notes, failures, questions = [], self.tally.failures(), len(self.inputs.train)
        if failures is not None and (advice := self.advice()) is not None:
            notes.append(note("programs_failed_without_roles", "warning", failures=failures, advice=advice))
        elif failures is not None and 2 * self.tally.programs[""] < self.tally.programs.total():
            notes.append(failures)
        if self.calls.reused:
            notes.append(note("calls_on_disk", calls=self.calls.reused))
        if self.calls.asked_again:
            notes.append(note("calls_asked_again", calls=self.calls.asked_again))
        if self.inputs.left_out:
            split = self.task.train_split
            notes.append(note("scored_left_out", questions=self.inputs.left_out, split=split))
        if self.task.is_trained and questions < self.task.train_questions:
            needed = self.task.train_questions
            notes.append(note("questions_repeated", "warning", needed=needed, questions=questions))
        return notes

    def advice(self) -> Note | None:
        """Return which keys the shipped model needs for a team; None if they are set, and for any
        other model."""
        config, adapter = self.context.config, self.context.config.lora.adapter
        has_roles = adapter is not None and adapter.path == TEAM_ADAPTER
        if config.model.name != "embedded" or (has_roles and self.task.domain is Domain.brief):
            return None
        keys = ["task.domain=brief"] * (self.task.domain is not Domain.brief) + [f"lora={TEAM_ADAPTER}"] * (
            not has_roles
        )
        return note("needs_roles", keys=keys)

    def open_session(self) -> Session:
        """Load the engine, at the first call that is not on disk."""
        started = time.perf_counter()
        engine, folder = self.context.engine, self.context.recorder.folder
        require(engine.capabilities, "task=agents", {Capability.chat})
        what = self.bar.what
        self.bar.describe("loading")
        earlier = Measured.read(folder) if self.calls.reused else None
        self.measuring = Measuring(engine, folder, earlier, self.context.config.model.is_on_server)
        self.bar.describe(what)
        session = engine.open()
        self.loading_s = time.perf_counter() - started
        return session

    def show(self) -> None:
        """Show the progress."""
        if self.measuring is not None:
            self.measuring.keep_now_and_then()
        self.bar.show(self.ended, **self.news, **(self.measuring.live() if self.measuring else {}))

    def train(self, player: Player) -> list[bool]:
        """Train the graph, one batch of questions after the other; return which were solved."""
        task, solved = self.task, list[bool]()
        learner = learner_of(task, self.graph)
        self.bar.describe("training")
        for iteration in range(task.iterations):
            numbers = range(iteration * task.batch_size, (iteration + 1) * task.batch_size)
            items = [self.inputs.train[number % len(self.inputs.train)] for number in numbers]
            named = zip(numbers, items, strict=True)
            discussions = [self.discussion(f"train/{number}", item, draws=True) for number, item in named]
            player.play(discussions, self.count)
            for discussion in discussions:
                if discussion.failed and not discussion.failed.call.permanent:
                    raise JobFailed(
                        f"a training question ended in an error: {why(discussion)}. All recorded calls are kept; run "
                        "the same command to resume",
                        code="failed",
                    )
                self.training.add(discussion)
            results = [
                discussion.answer == item.gold for discussion, item in zip(discussions, items, strict=True)
            ]
            step = learner.step(
                [(discussion.rounds, result) for discussion, result in zip(discussions, results, strict=True)]
            )
            solved += results
            live = [str(step.live[kind]) for kind in self.used_kinds]
            self.news = {"loss": f"{step.loss:.3f}", "edges": " + ".join(live)}
        self.bar.describe("agents")
        self.news = {}
        return solved

    def play_all(self, player: Player) -> list[Sample]:
        """Discuss the questions that are scored, and record a sample of each."""
        items, recorder = self.inputs.items, self.context.recorder
        for index in [sample for sample in recorder.samples if sample >= len(items)]:
            recorder.verify(index, f"is sample {index}, and this job has {len(items)} questions")
        samples: dict[int, Sample] = {}

        def ended(discussion: Discussion) -> None:
            index = int(discussion.key.partition("/")[2])
            sample = sample_of(index, items[index], discussion)
            recorded = recorder.samples.get(index)
            if recorded is not None and not recorded.failed:
                sample = with_recorded_cluster(self.task, sample, recorded)
                recorder.verify(
                    index, None if recorded == sample else f"is inconsistent with its calls in {CALLS}"
                )
            elif recorded != sample:
                recorder.sample(sample)
            samples[index] = sample
            self.tally.add(discussion)
            self.scored_calls += [answered.call for answered in discussion.answered.values()]
            self.verdicts[sample.answer.verdict] += not sample.left_out
            self.news = {"accuracy": f"{self.verdicts[Verdict.correct] / max(self.verdicts.total(), 1):.1%}"}
            self.count(discussion)

        draws = self.task.draws
        player.play(
            [self.discussion(f"test/{index}", item, draws) for index, item in enumerate(items)], ended
        )
        return [samples[index] for index in range(len(items))]

    def learned(self, solved: list[bool]) -> graph_file.Learned | None:
        """Describe how the graph was learned, for its file."""
        if not self.task.is_trained:
            return None
        seed, settings = self.context.config.seed, settings_of(self.task)
        return graph_file.Learned(self.task.iterations, len(solved), seed, settings)

    def drawn(self) -> str:
        """Draw the graph as it is used."""
        shown = self.task.subject, self.team.titles, self.task.num_rounds
        return picture.svg(self.graph, *shown, is_drawn=self.task.draws)

    def discussion(self, key: str, item: Item, draws: bool) -> Discussion:
        """Draw a question's rounds by seed and key, so that restarts draw the same, or take the
        learned ones."""
        if self.task.is_sampled:
            return SampledDiscussion(self.team, key, item.question, self.task.samples)
        rng, numbers = (random.Random(f"{self.context.config.seed}/{key}"), range(self.task.num_rounds))
        rounds = [self.graph.draw(rng, number) if draws else self.graph.settled(number) for number in numbers]
        return Discussion(self.team, key, item.question, rounds)

    def count(self, _: Discussion) -> None:
        """Count a question that has ended."""
        self.ended += 1
        self.show()
