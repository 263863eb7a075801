"""The work: one file or folder for each task, which never imports another's. These names are what a
task needs.

base.py has the contract, and CONTRIBUTING.md shows a task. Each name is imported at its first use:
a plan needs few.
"""

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner.config.resolved import ResolvedJob as ResolvedJob
    from runner.config.resolved import resolve as resolve
    from runner.config.root import Print as Print
    from runner.config.root import RunnerConfig as RunnerConfig
    from runner.datasets.gsm8k import describe_questions as describe_questions
    from runner.datasets.gsm8k import items_sha256 as items_sha256
    from runner.datasets.gsm8k import load_questions as load_questions
    from runner.datasets.items import Item as Item
    from runner.datasets.one_prompt import file_of as file_of
    from runner.datasets.prompts import Branched as Branched
    from runner.datasets.prompts import GivenPrompt as GivenPrompt
    from runner.datasets.prompts import build_prompt as build_prompt
    from runner.datasets.prompts import completion_lines as completion_lines
    from runner.datasets.prompts import describe_prompts as describe_prompts
    from runner.datasets.prompts import load_prompts as load_prompts
    from runner.datasets.prompts import prompts_sha256 as prompts_sha256
    from runner.datasets.stdin import STDIN as STDIN
    from runner.engines import open_engine as open_engine
    from runner.engines.kinds import kind_of as kind_of
    from runner.records.jobs import Job as Job
    from runner.records.jobs import Recorder as Recorder
    from runner.records.jobs import read_samples as read_samples
    from runner.scorers import count_completions as count_completions
    from runner.scorers import score_without_left_out as score_without_left_out
    from runner.tasks.asked_prompts import look_at_prompts as look_at_prompts
    from runner.tasks.asked_prompts import prompts_shown as prompts_shown
    from runner.tasks.base import Context as Context
    from runner.tasks.base import Inputs as Inputs
    from runner.tasks.base import Uses as Uses
    from runner.tasks.base import own_config as own_config
    from runner.tasks.collecting import Collected as Collected
    from runner.tasks.collecting import Judge as Judge
    from runner.tasks.collecting import Kept as Kept
    from runner.tasks.collecting import OrderOfRepeat as OrderOfRepeat
    from runner.tasks.collecting import Policy as Policy
    from runner.tasks.collecting import Unjudged as Unjudged
    from runner.tasks.collecting import collect_beside as collect_beside
    from runner.tasks.collecting import kept_words as kept_words
    from runner.tasks.collecting import problems as problems
    from runner.tasks.collecting import sample_of as sample_of
    from runner.tasks.completing import collect as collect
    from runner.tasks.positions import beyond_words as beyond_words
    from runner.tasks.positions import needless_scaling_of as needless_scaling_of

PLACES = {
    # what every task has
    "Inputs": "runner.tasks.base",  # what a task has read before it runs, with hashes; derive from it
    "Context": "runner.tasks.base",  # what a task gets while it runs: the recorder, the resolved job, the engine
    "Uses": "runner.tasks.base",  # what a task works on: weights, an engine, the machine
    "own_config": "runner.tasks.base",  # the group `task` of a config, as the task's own class
    "RunnerConfig": "runner.config.root",  # a job's config
    "Print": "runner.config.root",  # how a result is shown: the key `print`
    "ResolvedJob": "runner.config.resolved",  # a config with the files of its model
    "resolve": "runner.config.resolved",  # finds these files
    # asking: requests in, judged and recorded samples out
    "collect": "runner.tasks.completing",  # the answers to all requests of a job: kept, reused or new
    "Collected": "runner.tasks.collecting",  # what it returns: samples, metrics, facts, notes, problems
    "Judge": "runner.tasks.collecting",  # gives a sample its verdict, and knows which samples are the job's own
    "Unjudged": "runner.tasks.collecting",  # judges nothing; derive from it
    "Policy": "runner.tasks.collecting",  # what a job does beside asking each question once; derive from it
    "OrderOfRepeat": "runner.tasks.collecting",  # the policy of task.repeat
    "Kept": "runner.tasks.collecting",  # the requests of a file of answers, and those that have none
    "collect_beside": "runner.tasks.collecting",  # answers besides those to the questions, in a file of their own
    "sample_of": "runner.tasks.collecting",  # the completions of a request as a sample
    "problems": "runner.tasks.collecting",  # says which questions have no answer
    "kept_words": "runner.tasks.collecting",  # says at an interrupt how much is kept
    # the engine and the model, before and besides asking
    "kind_of": "runner.engines.kinds",  # what is known of a model's kind: prompts as it sees them, positions, tokens
    "open_engine": "runner.engines",  # opens another engine than the job's
    "look_at_prompts": "runner.tasks.asked_prompts",  # facts about the form of prompts, for the report
    "prompts_shown": "runner.tasks.asked_prompts",  # prompts as the model sees them
    "needless_scaling_of": "runner.tasks.positions",  # the notes on texts that need no scaling of RoPE, or exceed it
    "beyond_words": "runner.tasks.positions",  # how texts can exceed the model's room, for a message that refuses them
    # data: the user's own prompts, and questions with right answers
    "load_prompts": "runner.datasets.prompts",  # the prompts of a job: a key's, a file's or those of stdin
    "build_prompt": "runner.datasets.prompts",  # a prompt as it is asked: as a chat, or unchanged
    "prompts_sha256": "runner.datasets.prompts",  # the hash of prompts, for `Inputs.hashes`
    "describe_prompts": "runner.datasets.prompts",  # where they come from, for `Inputs.data`
    "completion_lines": "runner.datasets.prompts",  # the text of completions.jsonl
    "GivenPrompt": "runner.datasets.prompts",  # a text, a conversation, or a prompt with branches
    "Branched": "runner.datasets.prompts",  # a prompt with the beginnings of its branches
    "file_of": "runner.datasets.one_prompt",  # the file that a prompt names by @FILE
    "STDIN": "runner.datasets.stdin",  # the name of stdin
    "load_questions": "runner.datasets.gsm8k",  # the questions of task.data, by all keys that choose some
    "Item": "runner.datasets.items",  # a question with its right answer
    "items_sha256": "runner.datasets.gsm8k",  # the hash of questions, for `Inputs.hashes`
    "describe_questions": "runner.datasets.gsm8k",  # where they come from, for `Inputs.data`
    # what is kept, and totals of it
    "Job": "runner.records.jobs",  # a job's id and folder
    "Recorder": "runner.records.jobs",  # writes samples line by line, and knows those of earlier starts
    "read_samples": "runner.records.jobs",  # the samples of a job's file, by number
    "count_completions": "runner.scorers.totals",  # completions, tokens, and how they ended
    "score_without_left_out": "runner.scorers.totals",  # verdicts, and accuracy with its interval
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES, prefix="")
