"""Defines the interface of tasks. Task modules must not import each other.

base.py defines the Task protocol, and CONTRIBUTING.md shows an example task. Names are imported
at first use, because a plan needs few.
"""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner.config.resolved import ResolvedJob as ResolvedJob
    from runner.config.resolved import resolve_job as resolve_job
    from runner.config.root import PrintMode as PrintMode
    from runner.config.root import RunnerConfig as RunnerConfig
    from runner.datasets.items import Item as Item
    from runner.datasets.one_prompt import parse_prompt_file_path as parse_prompt_file_path
    from runner.datasets.prompts import BranchedPrompt as BranchedPrompt
    from runner.datasets.prompts import GivenPrompt as GivenPrompt
    from runner.datasets.prompts import convert_prompt_to_task_format as convert_prompt_to_task_format
    from runner.datasets.prompts import describe_prompts as describe_prompts
    from runner.datasets.prompts import format_completions_as_jsonl as format_completions_as_jsonl
    from runner.datasets.prompts import hash_prompts as hash_prompts
    from runner.datasets.prompts import load_user_prompts as load_user_prompts
    from runner.datasets.questions import describe_dataset as describe_dataset
    from runner.datasets.questions import hash_questions as hash_questions
    from runner.datasets.questions import load_questions as load_questions
    from runner.datasets.stdin import STDIN as STDIN
    from runner.engines import create_lazy_engine as create_lazy_engine
    from runner.engines.engine_wrapper import EngineWrapper as EngineWrapper
    from runner.engines.kinds import get_model_kind as get_model_kind
    from runner.records.jobs import Job as Job
    from runner.records.jobs import Recorder as Recorder
    from runner.records.jobs import read_samples as read_samples
    from runner.scorers import count_completions_by_outcome as count_completions_by_outcome
    from runner.scorers import score_included_samples as score_included_samples
    from runner.tasks.answer_collection import collect_answers as collect_answers
    from runner.tasks.base import TaskContext as TaskContext
    from runner.tasks.base import TaskInputs as TaskInputs
    from runner.tasks.base import Uses as Uses
    from runner.tasks.base import typed_task_config as typed_task_config
    from runner.tasks.chat_prompts import build_chat_prompt as build_chat_prompt
    from runner.tasks.chat_prompts import build_random_id as build_random_id
    from runner.tasks.collecting import CollectedAnswers as CollectedAnswers
    from runner.tasks.collecting import Judge as Judge
    from runner.tasks.collecting import NoJudge as NoJudge
    from runner.tasks.collecting import Policy as Policy
    from runner.tasks.collecting import PromptFacts as PromptFacts
    from runner.tasks.collecting import QuestionJudge as QuestionJudge
    from runner.tasks.collecting import RepeatOrder as RepeatOrder
    from runner.tasks.collecting import RunningAccuracy as RunningAccuracy
    from runner.tasks.collecting import StoredAnswers as StoredAnswers
    from runner.tasks.collecting import build_sample_from_completions as build_sample_from_completions
    from runner.tasks.collecting import collect_extra_answers as collect_extra_answers
    from runner.tasks.collecting import (
        describe_failures_unless_all_failed as describe_failures_unless_all_failed,
    )
    from runner.tasks.collecting import report_saved_on_interrupt as report_saved_on_interrupt
    from runner.tasks.context_length import build_rope_notes_for_samples as build_rope_notes_for_samples
    from runner.tasks.context_length import exceed_context_hint as exceed_context_hint
    from runner.tasks.early_stop import ComparedInputs as ComparedInputs
    from runner.tasks.early_stop import create_early_stop_policy as create_early_stop_policy
    from runner.tasks.early_stop import has_configured_baseline as has_configured_baseline
    from runner.tasks.early_stop import (
        make_early_stopping_baseline_notes as make_early_stopping_baseline_notes,
    )
    from runner.tasks.rendered_prompts import add_prompt_facts_to_report as add_prompt_facts_to_report
    from runner.tasks.rendered_prompts import render_prompts as render_prompts

PLACES = {
    # what every task has
    "TaskInputs": "runner.tasks.base",  # what a task has read before it runs, with hashes; derive from it
    "TaskContext": "runner.tasks.base",  # what a task gets while it runs: the recorder, the resolved job, the engine
    "Uses": "runner.tasks.base",  # what a task works on: weights, an engine, the machine
    "typed_task_config": "runner.tasks.base",  # the group `task` of a config, as the task's own class
    "RunnerConfig": "runner.config.root",  # a job's config
    "PrintMode": "runner.config.root",  # how a result is shown: the key `print`
    "ResolvedJob": "runner.config.resolved",  # a config with the files of its model
    "resolve_job": "runner.config.resolved",  # finds these files
    # asking: requests in, judged and recorded samples out
    "collect_answers": "runner.tasks.answer_collection",  # all answers of a job: stored, reused or new
    "CollectedAnswers": "runner.tasks.collecting",  # samples, metrics, facts, notes and problems
    "Judge": "runner.tasks.collecting",  # gives a sample its verdict, and knows which samples are the job's own
    "NoJudge": "runner.tasks.collecting",  # judges nothing; derive from it
    "QuestionJudge": "runner.tasks.collecting",  # judges a stored sample again; derive from it
    "Policy": "runner.tasks.collecting",  # base class for reuse, early stopping, repeats and the like
    "RepeatOrder": "runner.tasks.collecting",  # the policy of task.repeat_index
    "PromptFacts": "runner.tasks.collecting",  # the policy that records the form of the prompts
    "RunningAccuracy": "runner.tasks.collecting",  # the policy that reports the accuracy so far
    "StoredAnswers": "runner.tasks.collecting",  # the requests of a file of answers, and those that have none
    "collect_extra_answers": "runner.tasks.collecting",  # further answers, in a file of their own
    "build_sample_from_completions": "runner.tasks.collecting",  # the completions of a request as a sample
    "describe_failures_unless_all_failed": "runner.tasks.collecting",  # messages about questions without an answer
    "report_saved_on_interrupt": "runner.tasks.collecting",  # the message that an interrupted job prints
    # early stopping (task.early_stop_vs)
    "ComparedInputs": "runner.tasks.early_stop",  # inputs with the baseline job; derive from it
    "create_early_stop_policy": "runner.tasks.early_stop",  # the policy that stops a job at the first verdict
    "has_configured_baseline": "runner.tasks.early_stop",  # whether the keys name a baseline; a task module has it
    "make_early_stopping_baseline_notes": "runner.tasks.early_stop",  # with what the job is compared, for `preview`
    # the engine and the model, before and besides asking
    "get_model_kind": "runner.engines.kinds",  # properties of a kind of model: prompts, positions, tokens
    "create_lazy_engine": "runner.engines",  # opens another engine than the job's
    "build_chat_prompt": "runner.tasks.chat_prompts",  # a user message, after a system message if there is one
    "build_random_id": "runner.tasks.chat_prompts",  # the id that determines a request's random numbers
    "EngineWrapper": "runner.engines.engine_wrapper",  # base class of engines on top of the job's engine
    "add_prompt_facts_to_report": "runner.tasks.rendered_prompts",  # facts about the form of prompts, for the report
    "render_prompts": "runner.tasks.rendered_prompts",  # prompts as the model sees them
    "build_rope_notes_for_samples": "runner.tasks.context_length",  # texts that need no RoPE scaling, or exceed it
    "exceed_context_hint": "runner.tasks.context_length",  # how to allow longer texts, for an error message
    # data: the user's own prompts, and questions with right answers
    "load_user_prompts": "runner.datasets.prompts",  # the prompts of a job: a key's, a file's or those of stdin
    "convert_prompt_to_task_format": "runner.datasets.prompts",  # a prompt as the model gets it: a chat, or unchanged
    "hash_prompts": "runner.datasets.prompts",  # the hash of prompts, for `Inputs.hashes`
    "describe_prompts": "runner.datasets.prompts",  # where they come from, for `Inputs.data`
    "format_completions_as_jsonl": "runner.datasets.prompts",  # the text of completions.jsonl
    "GivenPrompt": "runner.datasets.prompts",  # a text, a conversation, or a prompt with branches
    "BranchedPrompt": "runner.datasets.prompts",  # a prompt with the beginnings of its branches
    "parse_prompt_file_path": "runner.datasets.one_prompt",  # the file that a prompt names by @FILE
    "STDIN": "runner.datasets.stdin",  # the name of stdin
    "load_questions": "runner.datasets.questions",  # the questions of task.data, by all keys that choose some
    "Item": "runner.datasets.items",  # a question with its right answer
    "hash_questions": "runner.datasets.questions",  # the hash of questions, for `Inputs.hashes`
    "describe_dataset": "runner.datasets.questions",  # where they come from, for `Inputs.data`
    # what is kept, and totals of it
    "Job": "runner.records.jobs",  # a job's id and folder
    "Recorder": "runner.records.jobs",  # writes samples line by line, and knows those of earlier starts
    "read_samples": "runner.records.jobs",  # the samples of a job's file, by number
    "count_completions_by_outcome": "runner.scorers.totals",  # completions, tokens, and how they ended
    "score_included_samples": "runner.scorers.totals",  # verdicts, and accuracy with its interval
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES, prefix="")
