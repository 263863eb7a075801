"""Config keys of task=gsm8k."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from runner.config.early_stop import EarlyStopConfig
from runner.config.examples import ExamplesConfig
from runner.config.extractors import OF_NUMBERS, Extractor, GoldKind
from runner.config.questions import MAX_SAMPLES, SELECTS
from runner.config.task import RequestedCompletions, TaskConfig
from runner.config.wording import PromptStyle
from runner_base import UNLESS_DEFAULT, NotInIdentity, at_least, check_value, config_field, in_range
from runner_base.fields import DefaultCountsAs
from runner_base.plugins import check_plug_in_exists
from runner_engine import GenerationConfig

AUTO = "auto"
# task.check_invariance=auto asks one question of so many again, in jobs with at least
# MIN_QUESTIONS_CHECKED: fewer than five answers would show next to nothing, and a short job has no
# others to ask them beside
QUESTIONS_A_CHECK = 100
MIN_QUESTIONS_CHECKED = 500
MAX_CHOICES = 26  # of a question: a letter for each
EXAMPLE_TOKENS = 160  # of a worked example before it
FIXED_SHOTS = 5  # of task.prompt=lm_eval_5shot


@dataclass
class Gsm8kConfig(EarlyStopConfig, ExamplesConfig):
    """Config of task=gsm8k: generate answers to word problems, extract the number, compare it with the
    gold answer.
    """

    module: ClassVar[str] = "runner.tasks.gsm8k.task"
    name: ClassVar[str] = "gsm8k"
    gives_verdicts: ClassVar[bool] = True
    early_stop_needs: ClassVar[Mapping[str, Any]] = {"cluster": None, "rotate": 1, "repeat_index": 0}
    extractor: Extractor = Extractor.strict
    scorer: str | None = config_field(None, UNLESS_DEFAULT)
    samples: int = config_field(1, constraint=in_range(1, MAX_SAMPLES))
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0), renamed_from="repeat")
    rotate: int = config_field(1, SELECTS, in_range(1, MAX_CHOICES))
    # the check adds metrics and changes no answer
    check_invariance: int | str = config_field(AUTO, DefaultCountsAs(0))
    check_contamination: int = config_field(0, constraint=at_least(0))
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extractor is Extractor.math and self.answer_type is GoldKind.number:
            self.answer_type = GoldKind.expression
        self._check_scorer_keys()
        again = self.check_invariance
        is_count = isinstance(again, int) and not isinstance(again, bool) and again >= 0
        need = "give auto (repeats 1 % of the questions), 0, or a number of questions"
        check_value(again == AUTO or is_count, "task.check_invariance", again, need)
        for key in ("check_invariance", "check_contamination"):
            need = (
                "the repeats check a score, but task.early_stop_vs may stop before all questions "
                "are scored. Omit this key or task.early_stop_vs"
            )
            is_asked = getattr(self, key) not in (0, AUTO)
            check_value(
                self.early_stop_vs is None or not is_asked,
                f"task.{key}",
                getattr(self, key),
                need,
                code="conflict",
            )
        need = "task.check_contamination cannot change questions with rotated choices. Omit one of these keys"
        check_value(
            not self.check_contamination or self.rotate == 1,
            "task.rotate",
            self.rotate,
            need,
            code="conflict",
        )
        if self.prompt is PromptStyle.lm_eval_5shot:
            fixed = f"task.prompt={self.prompt.value} reproduces the prompt of lm-evaluation-harness"
            check_value(
                self.shots == 0,
                "task.shots",
                self.shots,
                f"{fixed}, which has five examples. Omit this key",
                code="conflict",
            )
            check_value(
                self.template is None,
                "task.template",
                repr(self.template),
                f"{fixed}: use task.prompt=text or chat",
                code="conflict",
            )
        self.reject_conflicting_prompt_keys()

    def _check_scorer_keys(self) -> None:
        is_math, is_expression = self.extractor is Extractor.math, self.answer_type is GoldKind.expression
        need = "expressions need task.extractor=math. Use that extractor, or change task.answer_type"
        check_value(
            is_math or self.scorer is not None or not is_expression,
            "task.answer_type",
            self.answer_type.value,
            need,
            code="conflict",
        )
        if self.scorer is None and not is_math:
            return
        if self.scorer is not None:
            check_plug_in_exists("task.scorer", "scorer", self.scorer)
            need = "an extractor already has this name. Rename the plug-in's scorer"
            check_value(
                self.scorer not in Extractor.__members__, "task.scorer", self.scorer, need, code="conflict"
            )
        ignored = {
            "answer_type": self.answer_type is not (GoldKind.expression if is_math else GoldKind.number)
        }
        ignored |= {
            "answer_marker": self.answer_marker is not None,
            "choices_key": self.choices_key is not None,
        }
        ignored |= {"extractor": self.scorer is not None and self.extractor is not Extractor.strict}
        ignored |= {"check_contamination": self.check_contamination > 0}
        judge = f"task.scorer={self.scorer}" if self.scorer else "task.extractor=math"
        need = f"this key needs answers that are numbers or letters. Omit this key or {judge}"
        for key, is_set in ignored.items():
            check_value(not is_set, f"task.{key}", getattr(self, key), need, code="conflict")

    @property
    def without_auto_repeats(self) -> Gsm8kConfig:
        """Copy of this config that repeats no questions if check_invariance is auto."""
        return replace(self, check_invariance=0) if self.check_invariance == AUTO else self

    @property
    def gold_scorer(self) -> str | None:
        return self.scorer or super().gold_scorer

    @property
    def judged_by(self) -> str:
        """Name of the extractor or scorer that determines the verdict."""
        return self.scorer or self.extractor.value

    @property
    def verdict_sources(self) -> list[str]:
        """Names of the extractors, or of the scorer, that judge each answer."""
        return [self.judged_by] if self.gold_scorer else [each.value for each in OF_NUMBERS]

    @property
    def uses_chat_template(self) -> bool:
        return self.prompt is PromptStyle.chat

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions that the job requests. Empty if the number of questions is unknown."""
        shots = FIXED_SHOTS if self.prompt is PromptStyle.lm_eval_5shot else self.shots
        # what was read are prompts
        num_questions = None if num_questions is None else num_questions // self.rotate
        return [
            replace(amount, shared_tokens=shots * EXAMPLE_TOKENS)
            for amount in super().list_requested_completions(generation, num_questions)
        ]

    @property
    def expected_completions(self) -> int:
        """The number of answers to generate, including those of the reliability checks."""
        questions = super().expected_completions * self.rotate
        return (
            questions + self.count_questions_to_repeat(questions) + self.check_contamination
        ) * self.samples

    def count_questions_to_repeat(self, num_questions: int) -> int:
        """Return the number of repeated questions. With `auto`, jobs with early stopping repeat none."""
        if isinstance(self.check_invariance, int):
            return self.check_invariance
        is_checked = self.early_stop_vs is None and num_questions >= MIN_QUESTIONS_CHECKED
        return num_questions // QUESTIONS_A_CHECK if is_checked else 0

    def adapt_to_generation(self, generation: GenerationConfig) -> tuple[TaskConfig, str]:
        """Return the config with one answer per question if decoding is greedy, and a message about
        this change.
        """
        if self.samples == 1 or generation.temperature != 0:
            return self, ""
        once = copy(self)
        once.samples = 1
        why = "greedy decoding always gives the same answer, so each question is asked once"
        return once, f"task.samples={self.samples}: {why}"
