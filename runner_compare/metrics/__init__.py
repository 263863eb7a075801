"""Metrics: what one is (kinds.py), and a module for each family of them. These names are its
door."""

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_compare.metrics.answers import ACCURACY as ACCURACY
    from runner_compare.metrics.answers import BOUNDS as BOUNDS
    from runner_compare.metrics.answers import BY_ANSWERS as BY_ANSWERS
    from runner_compare.metrics.answers import OF_CALLS as OF_CALLS
    from runner_compare.metrics.answers import OF_GUESSES as OF_GUESSES
    from runner_compare.metrics.answers import OF_PREFILL as OF_PREFILL
    from runner_compare.metrics.answers import OF_QUESTION as OF_QUESTION
    from runner_compare.metrics.kinds import ENDS as ENDS
    from runner_compare.metrics.kinds import SPREADS as SPREADS
    from runner_compare.metrics.kinds import UNITS as UNITS
    from runner_compare.metrics.kinds import Better as Better
    from runner_compare.metrics.kinds import Metric as Metric
    from runner_compare.metrics.kinds import Pooling as Pooling
    from runner_compare.metrics.kinds import counts as counts
    from runner_compare.metrics.kinds import metric as metric
    from runner_compare.metrics.kinds import number as number
    from runner_compare.metrics.known import described as described
    from runner_compare.metrics.known import known_metrics as known_metrics
    from runner_compare.metrics.known import of_all_answers as of_all_answers
    from runner_compare.metrics.known import of_plug_ins as of_plug_ins
    from runner_compare.metrics.likelihoods import DELTA_P_SHARES as DELTA_P_SHARES
    from runner_compare.metrics.likelihoods import KL_SHARES as KL_SHARES
    from runner_compare.metrics.likelihoods import LOG_LIKELIHOOD as LOG_LIKELIHOOD
    from runner_compare.metrics.likelihoods import LOG_LIKELIHOODS as LOG_LIKELIHOODS
    from runner_compare.metrics.pooling import pool as pool
    from runner_compare.metrics.pooling import score as score

# each name's module, imported at its first use
PLACES = {
    # what a metric is
    "Metric": "kinds",  # one number: its key, label, unit, form, and how it is pooled
    "Better": "kinds",  # which direction is better
    "Pooling": "kinds",  # how the values of several runs become one
    "UNITS": "kinds",  # the unit that the end of a key names
    "SPREADS": "kinds",  # the ends of the keys of the lowest and the highest of several repeats
    "ENDS": "kinds",  # the ends of the keys of a number and its interval
    "metric": "kinds",  # describes one; what is not given follows from the unit
    "counts": "kinds",  # describes counts that add up over runs
    "number": "kinds",  # a number with as many digits as help
    # those that are known
    "described": "known",  # the metric of a key
    "known_metrics": "known",  # all of them, by their keys
    "of_all_answers": "known",  # the keys of pass@k and maj@k that jobs have
    "of_plug_ins": "known",  # the keys of plug-ins' metrics that jobs have
    "score": "pooling",  # right answers, of all
    "pool": "pooling",  # the metrics of several runs together
    # keys that belong together
    "ACCURACY": "answers",  # the accuracy and its interval
    "BOUNDS": "answers",  # the accuracy if all that was cut off is wrong, or right, with an interval
    "BY_ANSWERS": "answers",  # with several answers to each question: pass@k, maj@k
    "OF_CALLS": "answers",  # the tokens of calls
    "OF_QUESTION": "answers",  # the tokens of a question
    "OF_PREFILL": "answers",  # prompt tokens that were computed, or shared
    "OF_GUESSES": "answers",  # guessed tokens
    "LOG_LIKELIHOOD": "likelihoods",  # the log-likelihood of a token
    "LOG_LIKELIHOODS": "likelihoods",  # that of a token, a byte or a text
    "KL_SHARES": "likelihoods",  # percentiles of the divergence from the reference
    "DELTA_P_SHARES": "likelihoods",  # percentiles of the change of tokens' probabilities
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)
