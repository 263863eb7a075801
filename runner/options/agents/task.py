"""Runs task=agents, in which a team of agents answers each question. A graph defines who reads whose
replies.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from contextlib import closing

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.core.answer_sources import count_answers_by_model, describe_answering_models
from runner.datasets.items import Item
from runner.datasets.question_subsets import make_question_subset_notes, restore_recorded_cluster
from runner.options.agents import graph_file, task_inputs
from runner.options.agents.call_costs import CostTally
from runner.options.agents.call_log import CallLogFile
from runner.options.agents.discussion import Discussion, SampledDiscussion
from runner.options.agents.discussion_player import DiscussionPlayer
from runner.options.agents.discussion_sample import describe_failure, make_sample
from runner.options.agents.graph import Edges, Kind
from runner.options.agents.keys import PromptStyle
from runner.options.agents.render import graph_picture
from runner.options.agents.render.notes import NOTES
from runner.options.agents.task_inputs import AgentsInputs, make_team
from runner.options.agents.training_methods import collect_training_settings, make_graph_trainer
from runner.records.engine_measurements import EngineMeasurements, MeasurementRecorder
from runner.render.engine_notes import render_engine_notes
from runner.render.notes import render_notes
from runner.sandbox.render import describe_sandbox_protections
from runner.sandbox.sandbox import Sandbox, SandboxLimits
from runner.scorers import score_included_samples
from runner.tasks.base import TaskContext, Uses
from runner.tasks.collecting import describe_failures_unless_all_failed, report_saved_on_interrupt
from runner.tasks.named_adapters import build_adapter_memory_notes
from runner_base import Call, JobFailed, Progress, Result, Sample, Verdict, machine, write_text_atomically
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_base.result import CALLS, GRAPH, GRAPH_PICTURE
from runner_compare import format_cut_off_message
from runner_compare.statistics import LIMIT
from runner_engine import Capability, Session, require_capabilities

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


def prepare(config: RunnerConfig) -> AgentsInputs:
    """Read and hash the questions and the team's graph."""
    return task_inputs.prepare(config)


def run(inputs: AgentsInputs, context: TaskContext) -> Result:
    """Train the team's graph if requested, let the team answer all questions, and score the answers."""
    recorder, questions = context.recorder, inputs.task.num_training_questions + len(inputs.items)
    calls = CallLogFile(recorder.folder, context.engine, retry_permanent=context.config.rerun == "failed")
    with closing(calls), recorder.create_progress_bar(questions, "agents", "questions") as bar:
        with report_saved_on_interrupt(recorder.done, " questions and all answered calls"):
            result = _AgentsJob(inputs, context, calls, bar).run()
        calls.partial.delete()
        return result


def preview(inputs: AgentsInputs, resolved: ResolvedJob) -> str:
    """Return notes about the selected questions and adapters, for plan=true."""
    return "\n".join(
        render_notes(
            make_question_subset_notes(inputs.task, inputs.items) + build_adapter_memory_notes(resolved)
        )
    )


class _AgentsJob:
    """A running job of task=agents."""

    def __init__(self, inputs: AgentsInputs, context: TaskContext, calls: CallLogFile, bar: Progress) -> None:
        self.inputs, self.task, self.graph = inputs, inputs.task, inputs.graph
        self.context, self.calls, self.bar = context, calls, bar
        limits = SandboxLimits(self.task.code_timeout_s, math.ceil(self.task.code_timeout_s))
        self.sandbox = Sandbox(limits, expects_letter=self.task.has_letters)
        self.team = make_team(self.task, self.graph)
        self.measuring: MeasurementRecorder | None = None
        self.loading_s = 0.0
        self.ended, self.news = 0, dict[str, str]()
        self.verdicts: Counter[Verdict | None] = Counter()
        self.tally, self.training = CostTally(), CostTally()
        self.scored_calls: list[Call] = []  # of the questions that are scored

    def run(self) -> Result:
        task, folder = self.task, self.context.recorder.folder
        edges = self.count_edges("before")
        # checked before the model is loaded: without a sandbox, no program is run
        writes_code = any(role.writes_code for role in self.team.roles)
        protections = self.sandbox.detect_protections() if writes_code else None
        at_once = min(PROGRAMS_AT_ONCE, machine.count_available_cpu_cores())
        more = self.open_session, self.show_progress, at_once, task.role_adapter
        with DiscussionPlayer(self.calls, self.sandbox, *more) as player:
            solved = self.train_communication_graph(player) if task.is_trained else []
            edges |= self.count_edges("after")
            graph = graph_file.format_graph_json(
                self.graph, self.team.role_titles, self.make_training_record(solved)
            )
            write_text_atomically(folder / GRAPH, graph, durable=task.is_trained)
            write_text_atomically(folder / GRAPH_PICTURE, self.draw_graph())
            started, loading_s = time.perf_counter(), self.loading_s
            samples = self.run_scored_questions(player)
            play_s = time.perf_counter() - started - (self.loading_s - loading_s)
        measured = (
            self.measuring.write_measurements()
            if self.measuring
            else EngineMeasurements.read_from_folder(folder)
        )
        result = Result(
            score_included_samples(samples) | self.tally.compute_metrics(len(samples)) | edges,
            self.tally.build_token_cost_rows()
            + ([self.training.total_row("training")] if task.is_trained else []),
            self.tally.build_token_count_facts(),
        )
        result.metrics |= count_answers_by_model(self.scored_calls)
        if task.has_several_samples:
            result.metrics["samples_per_question"] = self.tally.count_calls(self.team.role_titles[0]) / len(
                samples
            )
        result.problems = describe_failures_unless_all_failed("agents", samples)
        if not self.calls.reused:  # else it would be the time of some of the questions only
            result.metrics["play_s"] = play_s
        if task.is_trained:
            costs = self.training.compute_metrics(len(solved))
            result.metrics |= {f"train_{key}": costs[key] for key in costs.keys() & OF_TRAINING}
            result.metrics |= {"train_questions": len(solved), "train_solved": sum(solved)}
            result.facts["trained_on"] = f"{len(solved)} questions of {task.train_split}"
        if protections is not None:
            result.facts["sandbox"], missing = describe_sandbox_protections(protections, self.sandbox.limits)
            if missing:
                result.notes.append(render_note(note("not_sandboxed", "warning", missing=missing), NOTES))
        if measured is not None:
            result.metrics |= measured.metrics
            result.facts |= measured.facts
            result.tables |= measured.tables
            if models := describe_answering_models(self.scored_calls):
                result.facts["answered_by"] = models
            result.notes += render_engine_notes(measured.stats, measured.report)
        limit = str(self.context.config.generation.max_new_tokens)
        result.notes += [*render_notes(make_question_subset_notes(self.task, self.inputs.items))]
        result.notes += [render_note(each, NOTES) for each in self.make_notes()]
        result.notes += filter(None, [format_cut_off_message(result.metrics, {LIMIT: limit})])
        return result

    def count_edges(self, stage: str) -> dict[str, float]:
        """Return how many edges of each kind a round can use. With a single round, there are no temporal
        edges.
        """
        return {f"{kind}_edges_{stage}": edges.num_live for kind, edges in self.used_kinds.items()}

    @property
    def used_kinds(self) -> dict[Kind, Edges]:
        return self.graph.edges_by_kind if self.task.num_rounds > 1 else {"spatial": self.graph.spatial}

    def make_notes(self) -> list[Note]:
        notes, failures, questions = [], self.tally.make_failed_programs_note(), len(self.inputs.train)
        if failures is not None and (advice := self.make_missing_team_overrides_note()) is not None:
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
        if self.task.is_trained and questions < self.task.num_training_questions:
            needed = self.task.num_training_questions
            notes.append(note("questions_repeated", "warning", needed=needed, questions=questions))
        return notes

    def make_missing_team_overrides_note(self) -> Note | None:
        """Return a note on overrides that the built-in model needs to act as a team, or None if nothing is
        missing.
        """
        config, adapter = self.context.config, self.context.config.lora.single_adapter
        has_roles = adapter is not None and adapter.path == TEAM_ADAPTER
        if config.model.name != "embedded" or (has_roles and self.task.domain is PromptStyle.brief):
            return None
        keys = ["task.domain=brief"] * (self.task.domain is not PromptStyle.brief) + [
            f"lora={TEAM_ADAPTER}"
        ] * (not has_roles)
        return note("needs_roles", keys=keys)

    def open_session(self) -> Session:
        started = time.perf_counter()
        engine, folder = self.context.engine, self.context.recorder.folder
        require_capabilities(engine.capabilities, "task=agents", {Capability.chat})
        what = self.bar.what
        self.bar.set_title("loading")
        earlier = EngineMeasurements.read_from_folder(folder) if self.calls.reused else None
        self.measuring = MeasurementRecorder(engine, folder, earlier, self.context.config.model.is_on_server)
        self.bar.set_title(what)
        session = engine.open()
        self.loading_s = time.perf_counter() - started
        return session

    def show_progress(self) -> None:
        if self.measuring is not None:
            self.measuring.write_if_due()
        self.bar.set_position(
            self.ended, **self.news, **(self.measuring.format_progress_fields() if self.measuring else {})
        )

    def train_communication_graph(self, player: DiscussionPlayer) -> list[bool]:
        """Train the team's graph batch by batch. Returns whether each training question was
        solved.
        """
        task, solved = self.task, list[bool]()
        learner = make_graph_trainer(task, self.graph)
        self.bar.set_title("training")
        for iteration in range(task.num_training_iterations):
            numbers = range(iteration * task.batch_size, (iteration + 1) * task.batch_size)
            items = [self.inputs.train[number % len(self.inputs.train)] for number in numbers]
            named = zip(numbers, items, strict=True)
            discussions = [
                self.make_discussion(f"train/{number}", item, should_draw_edges=True)
                for number, item in named
            ]
            player.run_discussions(discussions, self.count_question)
            for discussion in discussions:
                if discussion.failed and not discussion.failed.call.permanent:
                    raise JobFailed(
                        (
                            f"a training question failed: {describe_failure(discussion)}. All "
                            "recorded calls are saved. Run the same command to resume"
                        ),
                        code="failed",
                    )
                self.training.add_discussion(discussion)
            results = [
                discussion.answer == item.gold for discussion, item in zip(discussions, items, strict=True)
            ]
            step = learner.update_edges_from_answers(
                [(discussion.rounds, result) for discussion, result in zip(discussions, results, strict=True)]
            )
            solved += results
            live = [str(step.live[kind]) for kind in self.used_kinds]
            self.news = {"loss": f"{step.loss:.3f}", "edges": " + ".join(live)}
        self.bar.set_title("agents")
        self.news = {}
        return solved

    def run_scored_questions(self, player: DiscussionPlayer) -> list[Sample]:
        """Let the team answer the scored questions, and record one sample per question."""
        items, recorder = self.inputs.items, self.context.recorder
        for index in [sample for sample in recorder.samples if sample >= len(items)]:
            recorder.raise_if_rejected(
                index, f"sample {index} does not exist in this job, which has {len(items)} questions"
            )
        samples: dict[int, Sample] = {}

        def record_sample(discussion: Discussion) -> None:
            index = int(discussion.key.partition("/")[2])
            sample = make_sample(index, items[index], discussion)
            recorded = recorder.samples.get(index)
            if recorded is not None and not recorded.failed:
                sample = restore_recorded_cluster(self.task, sample, recorded)
                recorder.raise_if_rejected(
                    index, None if recorded == sample else f"the sample does not match the calls in {CALLS}"
                )
            elif recorded != sample:
                recorder.append_sample(sample)
            samples[index] = sample
            self.tally.add_discussion(discussion)
            self.scored_calls += [answered.call for answered in discussion.answered.values()]
            self.verdicts[sample.answer.verdict] += not sample.left_out
            self.news = {"accuracy": f"{self.verdicts[Verdict.correct] / max(self.verdicts.total(), 1):.1%}"}
            self.count_question(discussion)

        draws = self.task.draws_edges
        player.run_discussions(
            [self.make_discussion(f"test/{index}", item, draws) for index, item in enumerate(items)],
            record_sample,
        )
        return [samples[index] for index in range(len(items))]

    def make_training_record(self, solved_questions: list[bool]) -> graph_file.TrainingRecord | None:
        """Return the training settings and results for the graph file, or None if the graph was not
        trained.
        """
        if not self.task.is_trained:
            return None
        seed, settings = self.context.config.seed, collect_training_settings(self.task)
        return graph_file.TrainingRecord(
            self.task.num_training_iterations, len(solved_questions), seed, settings
        )

    def draw_graph(self) -> str:
        shown = self.task.subject, self.team.role_titles, self.task.num_rounds
        return graph_picture.draw_graph_svg(self.graph, *shown, is_random=self.task.draws_edges)

    def make_discussion(self, key: str, item: Item, should_draw_edges: bool) -> Discussion:
        """Create the discussion of a question, with randomly drawn edges or with the most probable edges.

        The draw depends only on seed and key, so that a restart draws the same edges.
        """
        if self.task.has_several_samples:
            return SampledDiscussion(self.team, key, item.question, self.task.samples)
        rng, numbers = (random.Random(f"{self.context.config.seed}/{key}"), range(self.task.num_rounds))
        rounds = [
            self.graph.draw_round_edges(rng, number)
            if should_draw_edges
            else self.graph.get_most_likely_round_edges(number)
            for number in numbers
        ]
        return Discussion(self.team, key, item.question, rounds)

    def count_question(self, _discussion: Discussion) -> None:
        self.ended += 1
        self.show_progress()
