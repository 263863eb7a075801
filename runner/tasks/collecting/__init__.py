"""Collects the answers to a job's questions. Tasks implement the interfaces of this package."""

# what the engine has measured, kept beside the answers
from runner.records.engine_measurements import EngineMeasurements as EngineMeasurements

# the answers that an interrupted start has begun
from runner.records.partial_answers import PartialAnswersFile as PartialAnswersFile

# those of jobs with the same questions
from runner.tasks.collecting.answer_reuse import AnswerReuse as AnswerReuse

# the samples in order, with notes and costs
from runner.tasks.collecting.collected_answers import CollectedAnswers as CollectedAnswers

# makes it of what was kept, reused and asked
from runner.tasks.collecting.collected_answers import build_collected_answers as build_collected_answers

# says which questions have no answer
from runner.tasks.collecting.collected_answers import (
    describe_failures_unless_all_failed as describe_failures_unless_all_failed,
)

# answers besides those to the questions
from runner.tasks.collecting.extra_requests import collect_extra_answers as collect_extra_answers
from runner.tasks.collecting.policy import CombinedPolicy as CombinedPolicy  # all policies of a job as one

# what a job does beside asking each question once
from runner.tasks.collecting.policy import Policy as Policy

# the accuracy so far, of a job that is running
from runner.tasks.collecting.prompt_facts import PromptFacts as PromptFacts

# another order for each repeat
from runner.tasks.collecting.repeat import RepeatOrder as RepeatOrder

# loads the engine, asks, and records each answer at once
from runner.tasks.collecting.request_runner import send_unanswered_requests as send_unanswered_requests
from runner.tasks.collecting.running_accuracy import RunningAccuracy as RunningAccuracy

# the judge of a task that judges nothing
from runner.tasks.collecting.samples import UNJUDGED as UNJUDGED

# gives a sample its verdict, and knows the job's own ones
from runner.tasks.collecting.samples import Judge as Judge
from runner.tasks.collecting.samples import NoJudge as NoJudge  # what judges derive from

# judges a stored sample again to find out whether it belongs to the job
from runner.tasks.collecting.samples import QuestionJudge as QuestionJudge

# completions of a request as a sample
from runner.tasks.collecting.samples import build_sample_from_completions as build_sample_from_completions

# says at an interrupt what is kept
from runner.tasks.collecting.sending import report_saved_on_interrupt as report_saved_on_interrupt

# sends requests, and takes what comes
from runner.tasks.collecting.sending import send_requests as send_requests

# the answers that there are, and the requests that have none
from runner.tasks.collecting.stored_answers import StoredAnswers as StoredAnswers

# those of a job with a larger budget
from runner.tasks.collecting.thinking_reuse import ThinkingReuse as ThinkingReuse
