"""How the answers to a job's questions are collected: the steps of completing.py, and what tasks
use of them."""

# what the engine has measured, kept beside the answers
from runner.records.measured import Measured as Measured

# the answers that an interrupted start has begun
from runner.records.partial import PartialFile as PartialFile

# loads the engine, asks, and records each answer at once
from runner.tasks.collecting.asking import ask as ask

# answers besides those to the questions
from runner.tasks.collecting.beside import collect_beside as collect_beside

# the answers that there are, and the requests that have none
from runner.tasks.collecting.kept import Kept as Kept

# the samples in order, with notes and costs
from runner.tasks.collecting.outcome import Collected as Collected

# makes it of what was kept, reused and asked
from runner.tasks.collecting.outcome import collected as collected

# says which questions have no answer
from runner.tasks.collecting.outcome import problems as problems
from runner.tasks.collecting.policy import Policies as Policies  # all policies of a job as one

# what a job does beside asking each question once
from runner.tasks.collecting.policy import Policy as Policy

# another order for each repeat
from runner.tasks.collecting.repeat import OrderOfRepeat as OrderOfRepeat

# the judge of a task that judges nothing
from runner.tasks.collecting.samples import UNJUDGED as UNJUDGED

# gives a sample its verdict, and knows the job's own ones
from runner.tasks.collecting.samples import Judge as Judge
from runner.tasks.collecting.samples import Unjudged as Unjudged  # what judges derive from

# completions of a request as a sample
from runner.tasks.collecting.samples import sample_of as sample_of

# sends requests, and takes what comes
from runner.tasks.collecting.sending import each_request as each_request

# says at an interrupt what is kept
from runner.tasks.collecting.sending import kept_words as kept_words

# those of jobs with the same questions
from runner.tasks.collecting.siblings import ReuseOfAnswers as ReuseOfAnswers

# those of a job with a larger budget
from runner.tasks.collecting.thoughts import ReuseOfThoughts as ReuseOfThoughts
