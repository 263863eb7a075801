"""Statistical tests and decisions. Names are imported lazily.

A statistic is a Test (effects.py), each in a module of `methods`; decisions.py decides
them. The other modules have the formulas.
"""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_compare.statistics.accuracy_intervals import accuracy_interval as accuracy_interval
    from runner_compare.statistics.accuracy_intervals import (
        compute_accuracy_bound_metrics as compute_accuracy_bound_metrics,
    )
    from runner_compare.statistics.accuracy_intervals import (
        compute_accuracy_metrics as compute_accuracy_metrics,
    )
    from runner_compare.statistics.decisions import RATIOS as RATIOS
    from runner_compare.statistics.decisions import Decision as Decision
    from runner_compare.statistics.decisions import Finding as Finding
    from runner_compare.statistics.decisions import RunComparison as RunComparison
    from runner_compare.statistics.decisions import (
        bound_wrong_finding_probability as bound_wrong_finding_probability,
    )
    from runner_compare.statistics.decisions import create_undecided_decision as create_undecided_decision
    from runner_compare.statistics.decisions import (
        decide_comparisons_with_holm as decide_comparisons_with_holm,
    )
    from runner_compare.statistics.effects import Effect as Effect
    from runner_compare.statistics.effects import Method as Method
    from runner_compare.statistics.effects import Test as Test
    from runner_compare.statistics.floor_effects import LIMIT as LIMIT
    from runner_compare.statistics.legacy_accuracy import (
        replace_vote_by_mean_accuracy as replace_vote_by_mean_accuracy,
    )
    from runner_compare.statistics.likelihoods import (
        sum_likelihoods_by_document as sum_likelihoods_by_document,
    )
    from runner_compare.statistics.margins import MarginVerdict as MarginVerdict
    from runner_compare.statistics.methods.fisher import FisherTest as FisherTest
    from runner_compare.statistics.methods.mcnemar import McNemarTest as McNemarTest
    from runner_compare.statistics.methods.mean_flips import MeanFlipTest as MeanFlipTest
    from runner_compare.statistics.methods.metric_flips import MetricFlipTest as MetricFlipTest
    from runner_compare.statistics.methods.pooled_texts import PooledLikelihoodTest as PooledLikelihoodTest
    from runner_compare.statistics.methods.pooled_verdicts import create_pooled_test as create_pooled_test
    from runner_compare.statistics.methods.seed_test import SeedTest as SeedTest
    from runner_compare.statistics.methods.sequential_test import SequentialTest as SequentialTest
    from runner_compare.statistics.methods.sign_flips import SignFlipTest as SignFlipTest
    from runner_compare.statistics.methods.student_t import Measurements as Measurements
    from runner_compare.statistics.methods.student_t import StudentTTest as StudentTTest
    from runner_compare.statistics.paired_means import MIN_CLUSTERS as MIN_CLUSTERS
    from runner_compare.statistics.planning import estimate_disagreement_rate as estimate_disagreement_rate
    from runner_compare.statistics.position_bias import QuestionInOrders as QuestionInOrders
    from runner_compare.statistics.position_bias import measure_position_bias as measure_position_bias
    from runner_compare.statistics.question_plans import (
        find_detectable_accuracy_loss as find_detectable_accuracy_loss,
    )
    from runner_compare.statistics.question_plans import (
        plan_questions_for_margin as plan_questions_for_margin,
    )
    from runner_compare.statistics.ratios import CAUTION as CAUTION
    from runner_compare.statistics.ratios import CAUTION_BELOW as CAUTION_BELOW
    from runner_compare.statistics.ratios import FLIPS as FLIPS
    from runner_compare.statistics.ratios import MIN_TEXTS as MIN_TEXTS
    from runner_compare.statistics.ratios import ratio_of_sums as ratio_of_sums
    from runner_compare.statistics.run_ratios import MIN_RUNS as MIN_RUNS
    from runner_compare.statistics.sequential import Side as Side
    from runner_compare.statistics.stats import ALPHA as ALPHA
    from runner_compare.statistics.stats import POWER as POWER
    from runner_compare.statistics.stats import (
        compute_clopper_pearson_interval as compute_clopper_pearson_interval,
    )
    from runner_compare.statistics.stats import compute_wilson_interval as compute_wilson_interval
    from runner_compare.statistics.stats import holm_adjust as holm_adjust
    from runner_compare.statistics.token_divergence import AT_MOST as AT_MOST
    from runner_compare.statistics.token_divergence import CHIEF as CHIEF
    from runner_compare.statistics.token_divergence import TextTokens as TextTokens
    from runner_compare.statistics.token_divergence import (
        compute_divergence_metrics as compute_divergence_metrics,
    )
    from runner_compare.statistics.unread_answers import ENDED as ENDED
    from runner_compare.statistics.unread_answers import EXTRACTOR as EXTRACTOR
    from runner_compare.statistics.unread_answers import FOUND as FOUND
    from runner_compare.statistics.unread_answers import SCORER as SCORER
    from runner_compare.statistics.votes import VoteCounts as VoteCounts
    from runner_compare.statistics.votes import estimate_majority_at_k as estimate_majority_at_k
    from runner_compare.statistics.votes import estimate_pass_at_k as estimate_pass_at_k
    from runner_compare.statistics.votes import estimate_pass_hat_k as estimate_pass_hat_k

# each name's module, imported at its first use
PLACES = {
    # what a statistic is
    "Effect": "effects",  # by how much two runs differ, with the p of a test
    "Test": "effects",  # a method on the data of two runs; it has their Effect
    "Method": "effects",  # the methods whose names others ask for
    # the methods, each with its data
    "McNemarTest": "methods.mcnemar",  # verdicts on the same questions
    "FisherTest": "methods.fisher",  # verdicts by their counts alone
    "SequentialTest": "methods.sequential_test",  # verdicts that a run looked at while it ran
    "MeanFlipTest": "methods.mean_flips",  # means of verdicts: of families of questions, or of several answers each
    "SignFlipTest": "methods.sign_flips",  # log-likelihoods of the same texts
    "MetricFlipTest": "methods.metric_flips",  # a number of each question
    "StudentTTest": "methods.student_t",  # a figure over runs
    "Measurements": "methods.student_t",  # what one side has measured of it
    "SeedTest": "methods.seed_test",  # means over questions and seeds
    "create_pooled_test": "methods.pooled_verdicts",  # verdicts of several tasks
    "PooledLikelihoodTest": "methods.pooled_texts",  # log-likelihoods of several tasks
    # what is decided about them
    "RunComparison": "decisions",  # a test, and what else is known about the two runs
    "Decision": "decisions",  # an Effect and what is decided about it
    "Finding": "decisions",  # better, worse, larger, smaller, or no difference shown
    "MarginVerdict": "margins",  # as good within a margin, worse by more, undecided …
    "RATIOS": "decisions",  # the name of the margin of all ratios
    "decide_comparisons_with_holm": "decisions",  # decides on all comparisons of a table
    "create_undecided_decision": "decisions",  # an effect about which nothing is decided
    "bound_wrong_finding_probability": "decisions",  # the share of tables with a wrong finding, at most
    # numbers that words name
    "ALPHA": "stats",  # the error of all claims of a table
    "POWER": "stats",  # the power that is promised
    "MIN_RUNS": "run_ratios",  # a side, for a test of measurements
    "MIN_TEXTS": "ratios",  # or questions, for a test of sums
    "FLIPS": "ratios",  # how many signs are flipped
    "CAUTION": "ratios",  # by how much a p of flips is raised
    "CAUTION_BELOW": "ratios",  # the same of fewer samples
    # what a job records of its own answers, with intervals
    "compute_accuracy_metrics": "accuracy_intervals",  # an accuracy with its interval, over families if these are known
    "compute_accuracy_bound_metrics": "accuracy_intervals",  # the same with what was cut off wrong, or right
    "accuracy_interval": "accuracy_intervals",  # the interval of a share of right answers
    "compute_wilson_interval": "stats",  # the same of independent questions
    "compute_clopper_pearson_interval": "stats",  # the same, exact
    "replace_vote_by_mean_accuracy": "legacy_accuracy",  # the figures of jobs of earlier versions as this one has them
    "VoteCounts": "votes",  # how several answers vote: the chances that k have, all have or elect a right one
    "sum_likelihoods_by_document": "likelihoods",  # texts as they are compared: the choices of a question are one
    "ratio_of_sums": "ratios",  # a ratio of sums
    "TextTokens": "token_divergence",  # the tokens of a text under a model and its reference
    "compute_divergence_metrics": "token_divergence",  # the divergence token by token
    "CHIEF": "token_divergence",  # the key that jobs with such figures have
    "AT_MOST": "token_divergence",  # the ending of the key of an upper bound
    "QuestionInOrders": "position_bias",  # a question that was asked with its choices in several orders
    "measure_position_bias": "position_bias",  # whether a place is preferred
    # what is said about them
    "LIMIT": "floor_effects",  # the key of the limit of tokens
    "EXTRACTOR": "unread_answers",  # the key of the rule that reads answers
    "SCORER": "unread_answers",  # the key of the scorer in its place
    "ENDED": "unread_answers",  # the metric of answers that ended
    "FOUND": "unread_answers",  # the metric of those that were read
    # what will be shown
    "find_detectable_accuracy_loss": "question_plans",  # the smallest loss that so many questions detect
    "plan_questions_for_margin": "question_plans",  # how many questions show a margin
    "estimate_disagreement_rate": "planning",  # how often two runs will disagree
    "Side": "sequential",  # which side of a value bets have decided for
    "MIN_CLUSTERS": "paired_means",  # families, for a test of means
    "holm_adjust": "stats",  # adjusts p for several tests
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)
