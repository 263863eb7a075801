"""Verdicts on completions, for every task that asks questions with known answers. These names are
its door."""

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner.scorers.added import add_metrics as add_metrics
    from runner.scorers.base import Scorer as Scorer
    from runner.scorers.divergence import Divergence as Divergence
    from runner.scorers.divergence import diverge as diverge
    from runner.scorers.divergence import diverge_whole as diverge_whole
    from runner.scorers.divergence import diverge_with_drawn as diverge_with_drawn
    from runner.scorers.expressions import PACKAGE as PACKAGE
    from runner.scorers.expressions import require_package as require_package
    from runner.scorers.extracting import extract as extract
    from runner.scorers.extracting import extract_all as extract_all
    from runner.scorers.letters import LETTERS as LETTERS
    from runner.scorers.letters import gold_letter as gold_letter
    from runner.scorers.letters import plain_letter as plain_letter
    from runner.scorers.numbers import gold_number as gold_number
    from runner.scorers.numbers import plain_number as plain_number
    from runner.scorers.reading import scorer_of as scorer_of
    from runner.scorers.totals import cost_and_sides as cost_and_sides
    from runner.scorers.totals import count_completions as count_completions
    from runner.scorers.totals import score as score
    from runner.scorers.totals import score_without_left_out as score_without_left_out
    from runner.scorers.totals import token_counts as token_counts
    from runner.scorers.verdicts import WHY_NOT as WHY_NOT
    from runner.scorers.verdicts import Judgement as Judgement
    from runner.scorers.verdicts import judge as judge
    from runner.scorers.votes import Vote as Vote
    from runner.scorers.votes import elect as elect

PLACES = {
    # one answer
    "judge": "verdicts",  # judges one answer by every extractor, or by a scorer
    "Judgement": "verdicts",  # what was found in an answer, and the verdicts on it
    "WHY_NOT": "verdicts",  # the key in a sample of why an answer could not be compared
    "Scorer": "base",  # reads and compares answers that are neither numbers nor letters; plug-ins derive from it
    "scorer_of": "reading",  # a scorer by its name
    "extract": "extracting",  # the answer that one extractor finds in a text
    "extract_all": "extracting",  # the answers that all extractors find
    # several answers to a question
    "elect": "votes",  # counts the votes of a question's answers
    "Vote": "votes",  # the result: the answer that was elected, and estimates for fewer answers
    # right answers, and how they are written
    "gold_number": "numbers",  # the number of a worked answer
    "plain_number": "numbers",  # a number in the form that is compared
    "gold_letter": "letters",  # the letter of a worked answer
    "plain_letter": "letters",  # the letter that a text is, or begins with
    "LETTERS": "letters",  # of choices
    "PACKAGE": "expressions",  # what compares expressions
    "require_package": "expressions",  # its version; ConfigError if it is not installed
    # how a text's likelihoods differ from those of a reference
    "Divergence": "divergence",  # between two distributions of a token
    "diverge": "divergence",  # by the most likely tokens that a reference kept
    "diverge_with_drawn": "divergence",  # with some that were drawn of the others
    "diverge_whole": "divergence",  # by whole distributions
    # totals of a job
    "score": "totals",  # verdicts, tokens and accuracy with its interval
    "score_without_left_out": "totals",  # the same of the samples that count
    "count_completions": "totals",  # completions, tokens, and how they ended
    "token_counts": "totals",  # prompt tokens and new tokens
    "cost_and_sides": "totals",  # what the answers cost, and who gave them
    "add_metrics": "added",  # adds the metrics of plug-ins to a result
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)  # commands that answer at once need few of them
