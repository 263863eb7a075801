"""Judges answers by comparing them with known right answers."""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner.scorers.answer_reading import load_scorer as load_scorer
    from runner.scorers.base import Scorer as Scorer
    from runner.scorers.divergence import Divergence as Divergence
    from runner.scorers.divergence import compute_divergence_lower_bound as compute_divergence_lower_bound
    from runner.scorers.divergence import compute_exact_divergence as compute_exact_divergence
    from runner.scorers.divergence import estimate_divergence_from_draws as estimate_divergence_from_draws
    from runner.scorers.expressions import PACKAGE as PACKAGE
    from runner.scorers.expressions import require_math_verify_package as require_math_verify_package
    from runner.scorers.extractors import extract_by_all_extractors as extract_by_all_extractors
    from runner.scorers.extractors import extract_canonical_answer as extract_canonical_answer
    from runner.scorers.letters import LETTERS as LETTERS
    from runner.scorers.letters import find_gold_letter as find_gold_letter
    from runner.scorers.letters import parse_choice_letter as parse_choice_letter
    from runner.scorers.numbers import find_gold_number as find_gold_number
    from runner.scorers.numbers import to_canonical_number as to_canonical_number
    from runner.scorers.plugin_metrics import add_plugin_metrics as add_plugin_metrics
    from runner.scorers.totals import cost_and_model_metrics as cost_and_model_metrics
    from runner.scorers.totals import count_completions_by_outcome as count_completions_by_outcome
    from runner.scorers.totals import score_included_samples as score_included_samples
    from runner.scorers.totals import score_samples as score_samples
    from runner.scorers.totals import total_token_counts as total_token_counts
    from runner.scorers.verdicts import WHY_NOT as WHY_NOT
    from runner.scorers.verdicts import Judgement as Judgement
    from runner.scorers.verdicts import judge_answer as judge_answer
    from runner.scorers.votes import VoteResult as VoteResult
    from runner.scorers.votes import count_majority_votes as count_majority_votes

PLACES = {
    # one answer
    "judge_answer": "verdicts",  # judges one answer by every extractor, or by a scorer
    "Judgement": "verdicts",  # what was found in an answer, and the verdicts on it
    "WHY_NOT": "verdicts",  # the key in a sample of why an answer could not be compared
    "Scorer": "base",  # reads and compares answers that are neither numbers nor letters; plug-ins derive from it
    "load_scorer": "answer_reading",  # a scorer by its name
    "extract_canonical_answer": "extractors",  # the answer that one extractor finds in a text
    "extract_by_all_extractors": "extractors",  # the answers that all extractors find
    # several answers to a question
    "count_majority_votes": "votes",  # counts the votes of a question's answers
    "VoteResult": "votes",  # the result: the answer that was elected, and estimates for fewer answers
    # right answers, and how they are written
    "find_gold_number": "numbers",  # the number of a worked answer
    "to_canonical_number": "numbers",  # a number in the form that is compared
    "find_gold_letter": "letters",  # the letter of a worked answer
    "parse_choice_letter": "letters",  # the letter that a text is, or begins with
    "LETTERS": "letters",  # of choices
    "PACKAGE": "expressions",  # what compares expressions
    "require_math_verify_package": "expressions",  # its version; ConfigError if it is not installed
    # how a text's likelihoods differ from those of a reference
    "Divergence": "divergence",  # between two distributions of a token
    "compute_divergence_lower_bound": "divergence",  # by the most likely tokens that a reference kept
    "estimate_divergence_from_draws": "divergence",  # with some that were drawn of the others
    "compute_exact_divergence": "divergence",  # by whole distributions
    # totals of a job
    "score_samples": "totals",  # verdicts, tokens and accuracy with its interval
    "score_included_samples": "totals",  # the same of the samples that count
    "count_completions_by_outcome": "totals",  # completions, tokens, and how they ended
    "total_token_counts": "totals",  # prompt tokens and new tokens
    "cost_and_model_metrics": "totals",  # what the answers cost, and who gave them
    "add_plugin_metrics": "plugin_metrics",  # adds the metrics of plug-ins to a result
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)  # commands that answer at once need few of them
