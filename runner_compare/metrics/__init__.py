"""Definitions of metrics, grouped by topic."""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_compare.metrics.answers import ACCURACY as ACCURACY
    from runner_compare.metrics.answers import BOUNDS as BOUNDS
    from runner_compare.metrics.answers import BY_ANSWERS as BY_ANSWERS
    from runner_compare.metrics.answers import OF_CALLS as OF_CALLS
    from runner_compare.metrics.answers import OF_GUESSES as OF_GUESSES
    from runner_compare.metrics.answers import OF_PREFILL as OF_PREFILL
    from runner_compare.metrics.answers import OF_QUESTION as OF_QUESTION
    from runner_compare.metrics.likelihoods import DELTA_P_SHARES as DELTA_P_SHARES
    from runner_compare.metrics.likelihoods import KL_SHARES as KL_SHARES
    from runner_compare.metrics.likelihoods import LOG_LIKELIHOOD as LOG_LIKELIHOOD
    from runner_compare.metrics.likelihoods import LOG_LIKELIHOODS as LOG_LIKELIHOODS
    from runner_compare.metrics.metric_registry import find_metric as find_metric
    from runner_compare.metrics.metric_registry import known_metrics as known_metrics
    from runner_compare.metrics.metric_registry import (
        list_max_k_vote_metric_keys as list_max_k_vote_metric_keys,
    )
    from runner_compare.metrics.metric_registry import plug_in_metric_keys as plug_in_metric_keys
    from runner_compare.metrics.metric_types import ENDS as ENDS
    from runner_compare.metrics.metric_types import SPREADS as SPREADS
    from runner_compare.metrics.metric_types import UNITS as UNITS
    from runner_compare.metrics.metric_types import BetterDirection as BetterDirection
    from runner_compare.metrics.metric_types import Metric as Metric
    from runner_compare.metrics.metric_types import PoolingRule as PoolingRule
    from runner_compare.metrics.metric_types import define_counts as define_counts
    from runner_compare.metrics.metric_types import define_metric as define_metric
    from runner_compare.metrics.metric_types import format_number as format_number
    from runner_compare.metrics.pooling import correct_and_total as correct_and_total
    from runner_compare.metrics.pooling import pool_metrics as pool_metrics

# each name's module, imported at its first use
PLACES = {
    # what a metric is
    "Metric": "metric_types",  # one number: its key, label, unit, form, and how it is pooled
    "BetterDirection": "metric_types",  # which direction is better
    "PoolingRule": "metric_types",  # how the values of several runs become one
    "UNITS": "metric_types",  # the unit that the end of a key names
    "SPREADS": "metric_types",  # the ends of the keys of the lowest and the highest of several repeats
    "ENDS": "metric_types",  # the ends of the keys of a number and its interval
    "define_metric": "metric_types",  # describes one; what is not given follows from the unit
    "define_counts": "metric_types",  # describes counts that add up over runs
    "format_number": "metric_types",  # a number with as many digits as help
    # those that are known
    "find_metric": "metric_registry",  # the metric of a key
    "known_metrics": "metric_registry",  # all of them, by their keys
    "list_max_k_vote_metric_keys": "metric_registry",  # the keys of pass@k and maj@k that jobs have
    "plug_in_metric_keys": "metric_registry",  # the keys of plug-ins' metrics that jobs have
    "correct_and_total": "pooling",  # right answers, of all
    "pool_metrics": "pooling",  # the metrics of several runs together
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

__getattr__ = create_lazy_getattr(__name__, PLACES)
