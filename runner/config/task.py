"""task – what all tasks have, and the keys of most."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from runner.config.wording import PromptStyle, WordingConfig, for_letters
from runner_base.bounds import Takes, check_keys, filled, least, within
from runner_base.errors import ConfigError, check
from runner_base.fields import HASHED, UNLESS_DEFAULT, DefaultAs, Inert, Text, setting
from runner_base.plugins import check_plug_in
from runner_engine.settings.generation import GenerationConfig


class Extractor(StrEnum):
    """Which number is the answer: after ####, the last of the text, in \\boxed{}, after `The answer is`; or math."""

    strict = "strict"
    flexible = "flexible"
    boxed = "boxed"
    the_answer_is = "the_answer_is"
    math = "math"  # the answer is a mathematical expression, and no other rule reads it


OF_NUMBERS = tuple(each for each in Extractor if each is not Extractor.math)


class Gold(StrEnum):
    """What a row's gold answer is: a number, the letter of a choice, or a mathematical expression."""

    number = "number"
    letter = "letter"
    expression = "expression"


MARGIN = Takes(
    lambda points: 0 < points < 100,
    "must be a number of percentage points between 0 and 100, such as 2, or null for no margin",
)
OF_EARLY_STOP = Inert("counts among the hashes of a job that is compared while it runs, and nowhere else")
SELECTS = Inert("selects questions; the SHA-256 of the selected ones counts instead")
READS_GOLD = Inert("says how a gold answer is read; the SHA-256 of the answers that were read counts instead")
OTHER_JOB = Inert("names another job; the id of that job counts instead")
WORDS_FOR_A_JOB = filled("give overrides such as quantization=none, a job's id, or null")
KEY_OF_ROWS = filled("name a key of the rows, or null for a known one")
FILE_OF_QUESTIONS = filled("name a file of questions, or null")
AUTO = "auto"
# task.check_invariance=auto asks one question of so many again, in jobs with at least MIN_QUESTIONS_CHECKED: fewer than
# five answers would show next to nothing, and a short job has no others to ask them beside
QUESTIONS_A_CHECK = 100
MIN_QUESTIONS_CHECKED = 500
MAX_CHOICES = 26  # of a question: a letter for each
MAX_SAMPLES = 10_000  # answers to one question, which decode together
TYPICAL_PROMPT_TOKENS = 512  # assumed while the prompts are not known yet
QUESTION_TOKENS = 128  # of a word problem in a chat template
EXAMPLE_TOKENS = 160  # of a worked example before it
FIXED_SHOTS = 5  # of task.prompt=lm_eval_5shot


def absolute(folder: str) -> str:
    """Return the absolute path of an output folder, so that the stored path is valid in every working directory."""
    return str(Path(folder).expanduser().absolute())


Workload = tuple[int, int, int]  # in memory at once: rows, prompt tokens and new tokens


@dataclass(frozen=True)
class Amount:
    """Completions that a job requests, as far as its config tells."""

    rows: int | None  # at once; None: the engine decides
    prompt_tokens: int
    new_tokens: int
    completions: int
    is_exact: bool = False  # no answer ends earlier, and no prompt is shorter
    shared_tokens: int = 0  # with which all prompts begin, and which are computed once


@dataclass
class TaskConfig:
    """The base of every task's config."""

    module: ClassVar[str]  # does the work; a string, so that a job imports its own task only
    name: ClassVar[str]
    gives_verdicts: ClassVar[bool] = False  # right or wrong, on each question
    keeps_samples: ClassVar[bool] = True  # one for each prompt, of which metrics can be computed
    comparisons_key: ClassVar[str] = (
        ""  # the key that says how many comparisons share 5 %; if it is null, a grid counts
    )
    is_endless: ClassVar[bool] = False  # it runs until somebody stops it, so that a grid would never finish

    def __post_init__(self) -> None:
        check_keys("task", self)

    @property
    def subject(self) -> str:
        """Return what the name of a run says about the task, for people."""
        return ""

    @property
    def gold_scorer(self) -> str | None:
        """Return the scorer that reads gold answers and judges; None: numbers or letters."""
        return None

    @property
    def of_questions(self) -> QuestionsConfig | None:
        """Return itself if it asks questions with right answers, chosen by data, split and limit; else None."""
        return None

    @property
    def has_independent_verdicts(self) -> bool:
        """Whether it gives one verdict on each question, and no two questions belong together."""
        return False

    @property
    def compared_with(self) -> str | None:
        """Return the words for the job that it is compared with while it runs; None: it is not compared."""
        return None

    @property
    def without_asking_again(self) -> TaskConfig:
        """Return what it does where the rows of its engine depend on each other, so that none is asked again."""
        return self

    @property
    def asks_in_chat(self) -> bool:
        """Whether it surely needs the model's chat template."""
        return False

    @property
    def reads_stdin(self) -> bool:
        """Whether the input comes from stdin, which the workers of a grid do not have."""
        return False

    @property
    def questions(self) -> int:
        """Roughly how many completions are requested: a grid starts long jobs first."""
        return 100

    @property
    def delivers_to(self) -> str | None:
        """Return the file outside the job's folder that it writes, even when the job is done already."""
        return None

    def check_beside(self, generation: GenerationConfig) -> None:
        """Raise ConfigError where the task cannot work with these generation settings."""

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return the least that the job must have in memory at once; `rows` if the batch size is left to the engine."""
        return generation.batch_size or rows, TYPICAL_PROMPT_TOKENS, generation.most_new_tokens

    @property
    def loads(self) -> int:
        """Return how many processes load the model, one after another."""
        return 1

    @property
    def limit_measurements(self) -> int:
        """Return how often it measures the machine's limits."""
        return 0

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the requested completions, to estimate their time; unknown prompts count as typical ones.

        `read` is the number of questions or prompts, once they have been read. The list is empty if the number of
        completions is not known either.
        """
        _, prompt_tokens, new_tokens = self.workload(generation)
        return [] if self.is_endless else [Amount(generation.batch_size, prompt_tokens, new_tokens, self.questions)]


def with_possible_batch(task: TaskConfig, generation: GenerationConfig, read: int | None = None) -> GenerationConfig:
    """Return the generation settings with a batch size that is no larger than the number of completions."""
    most = max((amount.completions for amount in task.amounts(generation, read)), default=generation.batch_size or 1)
    is_larger = generation.batch_size is not None and generation.batch_size > most
    return replace(generation, batch_size=most) if is_larger else generation


@dataclass
class QuestionsConfig(TaskConfig):
    """Shared keys of the tasks that ask a data set's questions: which ones."""

    data: str = setting("embedded", HASHED, filled("give embedded, a JSONL file or a dataset id"))
    subset: str | None = setting(None, SELECTS, filled("name a configuration of the hub's data set, or null"))
    question_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    answer_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    choices_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    gold: Gold = setting(Gold.number, READS_GOLD)
    gold_after: Text | None = setting(None, READS_GOLD, filled("give the words before the answer, or null for ####"))
    cluster: str | None = setting(
        None,
        Inert("names families of questions; the SHA-256 of the families counts instead"),
        filled("name a key of the rows, or null for no families"),
    )
    split: str = "test"
    choices_seed: int | None = setting(None, SELECTS, least(0, ", or null for the order of the data"))
    shuffle_seed: int | None = setting(None, SELECTS, least(0, ", or null for the order of the data"))
    offset: int = setting(0, SELECTS, least(0))
    limit: int | None = setting(200, takes=least(1, ", or null for all"))
    only: str | None = setting(None, HASHED, FILE_OF_QUESTIONS)
    without: str | None = setting(None, HASHED, FILE_OF_QUESTIONS)

    @property
    def of_questions(self) -> QuestionsConfig:
        """Return itself."""
        return self

    @property
    def has_independent_verdicts(self) -> bool:
        """Whether it judges one answer to each question, and has no families of questions."""
        is_asked_once = getattr(self, "samples", 1) == getattr(self, "rotate", 1) == 1
        return self.gives_verdicts and self.cluster is None and is_asked_once

    @property
    def has_letters(self) -> bool:
        """Whether the gold answers are letters of choices."""
        return self.gold is Gold.letter or self.choices_key is not None

    @property
    def gold_scorer(self) -> str | None:
        """Return the scorer of expressions, if the gold answers are some."""
        return Extractor.math.value if self.gold is Gold.expression else None

    def take_choices(self, key: str) -> None:
        """Take over the key of the choices that the data show, as if it had been given."""
        self.choices_key = key
        usual = {it.name: it.default for it in fields(self)}.get("instruction")
        if usual is not None and getattr(self, "instruction") == usual:  # noqa: B009 – only some tasks have it
            setattr(self, "instruction", for_letters(str(usual)))  # noqa: B010

    @property
    def subject(self) -> str:
        """Return the split: which questions."""
        return self.split

    @property
    def questions(self) -> int:
        """Return the limit."""
        return self.limit or super().questions

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the questions, if their number is known."""
        if self.limit is None and read is None:
            return []
        completions = (self if read is None else replace(self, limit=read)).questions
        return [Amount(generation.batch_size, QUESTION_TOKENS, generation.most_new_tokens, completions)]


@dataclass
class Gsm8kConfig(WordingConfig, QuestionsConfig):
    """Grade-school word problems: generate, extract the number, compare."""

    module: ClassVar[str] = "runner.tasks.gsm8k.task"
    name: ClassVar[str] = "gsm8k"
    gives_verdicts: ClassVar[bool] = True
    comparisons_key: ClassVar[str] = "early_stop_comparisons"
    shots: int = setting(0, takes=least(0))
    shots_data: str | None = setting(None, HASHED)
    shots_split: str = setting("train", SELECTS, filled("name a split of the data"))
    extractor: Extractor = Extractor.strict
    scorer: str | None = setting(None, UNLESS_DEFAULT)
    samples: int = setting(1, takes=within(1, MAX_SAMPLES))
    repeat: int = setting(0, UNLESS_DEFAULT, least(0))
    rotate: int = setting(1, SELECTS, within(1, MAX_CHOICES))
    check_invariance: int | str = setting(AUTO, DefaultAs(0))  # the check adds metrics and changes no answer
    check_contamination: int = setting(0, takes=least(0))
    early_stop_vs: str | None = setting(None, OTHER_JOB, WORDS_FOR_A_JOB)
    early_stop_margin: float | None = setting(None, OF_EARLY_STOP, MARGIN)
    early_stop_comparisons: int | None = setting(None, OF_EARLY_STOP, least(1, ", or null: the grid counts them"))
    show_prompt: int = setting(0, Inert("how many prompts are shown"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extractor is Extractor.math and self.gold is Gold.number:
            self.gold = Gold.expression
        self._check_scorer()
        again = self.check_invariance
        is_count = isinstance(again, int) and not isinstance(again, bool) and again >= 0
        need = "give auto (one question of a hundred is asked again), 0 for none, or how many"
        check(again == AUTO or is_count, "task.check_invariance", again, need)
        for key in ("check_invariance", "check_contamination"):
            need = "it checks a score, and task.early_stop_vs may end before all are scored: leave one of the two out"
            is_asked = getattr(self, key) not in (0, AUTO)
            check(self.early_stop_vs is None or not is_asked, f"task.{key}", getattr(self, key), need)
        self._check_early_stop()
        need = "task.early_stop_vs takes each question as independent of all others: leave one of the two out"
        check(self.early_stop_vs is None or self.rotate == 1, "task.rotate", self.rotate, need)
        need = "a rotated question has no twin with other numbers: leave one of the two out"
        check(not self.check_contamination or self.rotate == 1, "task.rotate", self.rotate, need)
        need = "it asks in another order, and task.early_stop_vs needs that of its baseline: leave one of the two out"
        check(self.early_stop_vs is None or not self.repeat, "task.repeat", self.repeat, need)
        if self.prompt is PromptStyle.lm_eval_5shot:
            fixed = f"task.prompt={self.prompt.value} is what lm-evaluation-harness sends"
            check(self.shots == 0, "task.shots", self.shots, f"{fixed}, with five of its own: leave it out")
            check(self.template is None, "task.template", repr(self.template), f"{fixed}: use task.prompt=text or chat")
        self.check_wording()

    def _check_scorer(self) -> None:
        """Reject a scorer that no plug-in has, keys that it would ignore, and an extractor that reads no expression."""
        is_math, is_expression = self.extractor is Extractor.math, self.gold is Gold.expression
        need = "only task.extractor=math reads expressions: give it, or another kind of gold answer"
        check(is_math or self.scorer is not None or not is_expression, "task.gold", self.gold.value, need)
        if self.scorer is None and not is_math:
            return
        if self.scorer is not None:
            check_plug_in("task.scorer", "scorer", self.scorer)
            need = "an extractor has this name, too: the plug-in needs another"
            check(self.scorer not in Extractor.__members__, "task.scorer", self.scorer, need)
        ignored = {"gold": self.gold is not (Gold.expression if is_math else Gold.number)}
        ignored |= {"gold_after": self.gold_after is not None, "choices_key": self.choices_key is not None}
        ignored |= {"extractor": self.scorer is not None and self.extractor is not Extractor.strict}
        ignored |= {"check_contamination": self.check_contamination > 0}
        judge = f"task.scorer={self.scorer}" if self.scorer else "task.extractor=math"
        need = f"it is for numbers and letters, and {judge} judges: leave one of the two out"
        for key, is_set in ignored.items():
            check(not is_set, f"task.{key}", getattr(self, key), need)

    @property
    def compared_with(self) -> str | None:
        """Return task.early_stop_vs."""
        return self.early_stop_vs

    @property
    def without_asking_again(self) -> Gsm8kConfig:
        """Return it without the check that would change the answers; one that was asked for stays."""
        return replace(self, check_invariance=0) if self.check_invariance == AUTO else self

    @property
    def gold_scorer(self) -> str | None:
        """Return task.scorer, or that of expressions."""
        return self.scorer or super().gold_scorer

    @property
    def judged_by(self) -> str:
        """Return the extractor or scorer whose verdict counts."""
        return self.scorer or self.extractor.value

    @property
    def ways_to_judge(self) -> list[str]:
        """Return the extractors, or the scorer, that answers are kept of."""
        return [self.judged_by] if self.gold_scorer else [each.value for each in OF_NUMBERS]

    def _check_early_stop(self) -> None:
        """Reject a margin or a share that nothing is compared by."""
        need = (
            "there is nothing to decide about without a job to compare with: give task.early_stop_vs, or leave it out"
        )
        for key in ("early_stop_margin", "early_stop_comparisons"):
            value = getattr(self, key)
            check(value is None or self.early_stop_vs is not None, f"task.{key}", value, need)
        need = "task.early_stop_vs takes each question as independent of all others: leave one of the two out"
        check(self.early_stop_vs is None or self.cluster is None, "task.cluster", self.cluster, need)

    @property
    def asks_in_chat(self) -> bool:
        """Whether questions are turns of a chat."""
        return self.prompt is PromptStyle.chat

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the questions, if their number is known; all begin with the same worked examples."""
        shots = FIXED_SHOTS if self.prompt is PromptStyle.lm_eval_5shot else self.shots
        read = None if read is None else read // self.rotate  # what was read are prompts
        return [replace(it, shared_tokens=shots * EXAMPLE_TOKENS) for it in super().amounts(generation, read)]

    @property
    def questions(self) -> int:
        """Return the number of answers, with those of the checks."""
        questions = super().questions * self.rotate
        return (questions + self.asked_again(questions) + self.check_contamination) * self.samples

    def asked_again(self, questions: int) -> int:
        """Return how many of so many questions are asked a second time; auto: none if the job may stop early."""
        if isinstance(self.check_invariance, int):
            return self.check_invariance
        is_checked = self.early_stop_vs is None and questions >= MIN_QUESTIONS_CHECKED
        return questions // QUESTIONS_A_CHECK if is_checked else 0

    def check_beside(self, generation: GenerationConfig) -> None:
        """Raise ConfigError where several answers would all be the same."""
        if self.samples > 1:
            check_answers_differ(f"task.samples={self.samples}", generation)


def check_answers_differ(words: str, generation: GenerationConfig) -> None:
    """Raise ConfigError if several answers to one question would all be the same; `words` ask for them."""
    if generation.temperature == 0:
        raise ConfigError(
            f"{words} needs answers that differ, and generation.temperature=0 is greedy: all would be the same. "
            f"Use generation=sampling, generation.temperature=0.7, or leave out {words.partition('=')[0]}"
        )


class Framing(StrEnum):
    """How a prompt reaches the model: as a user's turn in its chat template, or as raw text."""

    chat = "chat"
    raw = "raw"


@dataclass
class PromptsConfig(TaskConfig):
    """Shared keys of the tasks that complete the user's own prompts."""

    prompt: Text | None = setting(None, Inert("the SHA-256 of the prompts counts, however they were given"))
    prompts: str | None = setting(None, HASHED, filled("give a file, or -"))
    format: Framing = Framing.chat
    system: Text | None = None
    stop: list[Text] = field(default_factory=list)
    show: int = setting(20, Inert("how many completions are printed"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt is None) == (self.prompts is None):
            given = "neither is given" if self.prompt is None else "both are given"
            raise ConfigError(
                f"task={self.name} needs either task.prompt=TEXT or task.prompts=FILE (.txt, .jsonl, or - for stdin): "
                f"{given}"
            )
        check(self.prompt is None or bool(self.prompt), "task.prompt", repr(self.prompt), "give a text")
        check(all(self.stop), "task.stop", self.stop, "an empty text would end every completion at once")
        if self.format is Framing.raw and self.system:
            raise ConfigError("task.system needs task.format=chat: a raw prompt has no system message")

    @property
    def common_branches(self) -> list[Text] | None:
        """Return the texts that a branch of each prompt begins with; None: prompts have none, or their own."""
        return None

    @property
    def asks_in_chat(self) -> bool:
        """Whether prompts are turns of a chat."""
        return self.format is Framing.chat

    @property
    def reads_stdin(self) -> bool:
        """Whether the prompts come from stdin."""
        return "-" in (self.prompt, self.prompts)

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the one prompt, or those of a file once it has been read."""
        count = 1 if self.prompt is not None else read
        return (
            [] if count is None else [Amount(generation.batch_size, QUESTION_TOKENS, generation.most_new_tokens, count)]
        )


@dataclass
class GenerateConfig(PromptsConfig):
    """Completions of the user's own prompts."""

    module: ClassVar[str] = "runner.tasks.generate"
    name: ClassVar[str] = "generate"
    branches: list[Text] | None = setting(
        None, Inert("the SHA-256 of the prompts counts, and these are a part of them")
    )
    output: str | None = setting(
        None, Inert("names a copy of the completions, and changes nothing in them"), filled("give a file, or null")
    )
    overwrite: bool = setting(False, Inert("whether another file may be replaced"))
    debug: bool = setting(False, Inert("says more about the first prompt"))

    @property
    def common_branches(self) -> list[Text] | None:
        """Return task.branches."""
        return self.branches

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "give the text that each branch begins with, or null for no branches"
        check(self.branches is None or bool(self.branches), "task.branches", self.branches, need)

    @property
    def delivers_to(self) -> str | None:
        """Return the user's file that the completions go to."""
        return None if self.output is None else absolute(self.output)


@dataclass
class ChatConfig(TaskConfig):
    """A conversation in the terminal."""

    module: ClassVar[str] = "runner.tasks.chat"
    name: ClassVar[str] = "chat"
    keeps_samples: ClassVar[bool] = False
    system: Text | None = None
    load: str | None = setting(
        None, Inert("every conversation is a job of its own"), filled("give a file that /save wrote, or null")
    )

    @property
    def reads_stdin(self) -> bool:
        """Return True: the user types there."""
        return True

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return nothing: the user decides how long it takes."""
        return []
