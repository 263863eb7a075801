"""The statistics of a comparison: data in, effects and decisions out. These names are its door.

A statistic is a Test (effects.py), each in a module of `methods`; decisions.py judges them. The
other modules have the formulas.
"""

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_compare.statistics.choice_positions import AskedInOrders as AskedInOrders
    from runner_compare.statistics.choice_positions import position_bias as position_bias
    from runner_compare.statistics.clustered_share import accuracy_figures as accuracy_figures
    from runner_compare.statistics.clustered_share import bounds_of_accuracy as bounds_of_accuracy
    from runner_compare.statistics.clustered_share import share_interval as share_interval
    from runner_compare.statistics.decisions import RATIOS as RATIOS
    from runner_compare.statistics.decisions import Compared as Compared
    from runner_compare.statistics.decisions import Decision as Decision
    from runner_compare.statistics.decisions import Finding as Finding
    from runner_compare.statistics.decisions import judge as judge
    from runner_compare.statistics.decisions import most_wrong as most_wrong
    from runner_compare.statistics.decisions import undecided as undecided
    from runner_compare.statistics.earlier_votes import with_means as with_means
    from runner_compare.statistics.effects import Effect as Effect
    from runner_compare.statistics.effects import Method as Method
    from runner_compare.statistics.effects import Test as Test
    from runner_compare.statistics.floor_effects import LIMIT as LIMIT
    from runner_compare.statistics.likelihoods import units as units
    from runner_compare.statistics.margins import MarginVerdict as MarginVerdict
    from runner_compare.statistics.methods.bets import Bets as Bets
    from runner_compare.statistics.methods.fisher import Fisher as Fisher
    from runner_compare.statistics.methods.mcnemar import McNemar as McNemar
    from runner_compare.statistics.methods.mean_flips import MeanFlips as MeanFlips
    from runner_compare.statistics.methods.number_flips import NumberFlips as NumberFlips
    from runner_compare.statistics.methods.over_seeds import OverSeeds as OverSeeds
    from runner_compare.statistics.methods.pooled_texts import PooledTexts as PooledTexts
    from runner_compare.statistics.methods.pooled_verdicts import pooled_accuracies as pooled_accuracies
    from runner_compare.statistics.methods.runs import Measured as Measured
    from runner_compare.statistics.methods.runs import StudentT as StudentT
    from runner_compare.statistics.methods.sign_flips import SignFlips as SignFlips
    from runner_compare.statistics.over_runs import MIN_RUNS as MIN_RUNS
    from runner_compare.statistics.paired_means import MIN_CLUSTERS as MIN_CLUSTERS
    from runner_compare.statistics.planning import expected_disagreement as expected_disagreement
    from runner_compare.statistics.question_plans import detectable_loss as detectable_loss
    from runner_compare.statistics.question_plans import questions_for_margin as questions_for_margin
    from runner_compare.statistics.ratios import CAUTION as CAUTION
    from runner_compare.statistics.ratios import CAUTION_BELOW as CAUTION_BELOW
    from runner_compare.statistics.ratios import FLIPS as FLIPS
    from runner_compare.statistics.ratios import MIN_TEXTS as MIN_TEXTS
    from runner_compare.statistics.ratios import ratio as ratio
    from runner_compare.statistics.sequential import Side as Side
    from runner_compare.statistics.stats import ALPHA as ALPHA
    from runner_compare.statistics.stats import POWER as POWER
    from runner_compare.statistics.stats import exact_interval as exact_interval
    from runner_compare.statistics.stats import holm as holm
    from runner_compare.statistics.stats import wilson_interval as wilson_interval
    from runner_compare.statistics.token_divergence import AT_MOST as AT_MOST
    from runner_compare.statistics.token_divergence import CHIEF as CHIEF
    from runner_compare.statistics.token_divergence import TextTokens as TextTokens
    from runner_compare.statistics.token_divergence import token_figures as token_figures
    from runner_compare.statistics.unread_answers import ENDED as ENDED
    from runner_compare.statistics.unread_answers import EXTRACTOR as EXTRACTOR
    from runner_compare.statistics.unread_answers import FOUND as FOUND
    from runner_compare.statistics.unread_answers import SCORER as SCORER
    from runner_compare.statistics.votes import VoteCounts as VoteCounts
    from runner_compare.statistics.votes import all_at as all_at
    from runner_compare.statistics.votes import majority_at as majority_at
    from runner_compare.statistics.votes import pass_at as pass_at

# each name's module, imported at its first use
PLACES = {
    # what a statistic is
    "Effect": "effects",  # by how much two runs differ, with the p of a test
    "Test": "effects",  # a method on the data of two runs; it has their Effect
    "Method": "effects",  # the methods whose names others ask for
    # the methods, each with its data
    "McNemar": "methods.mcnemar",  # verdicts on the same questions
    "Fisher": "methods.fisher",  # verdicts by their counts alone
    "Bets": "methods.bets",  # verdicts that a run looked at while it ran
    "MeanFlips": "methods.mean_flips",  # means of verdicts: of families of questions, or of several answers each
    "SignFlips": "methods.sign_flips",  # log-likelihoods of the same texts
    "NumberFlips": "methods.number_flips",  # a number of each question
    "StudentT": "methods.runs",  # a figure over runs
    "Measured": "methods.runs",  # what one side has measured of it
    "OverSeeds": "methods.over_seeds",  # means over questions and seeds
    "pooled_accuracies": "methods.pooled_verdicts",  # verdicts of several tasks
    "PooledTexts": "methods.pooled_texts",  # log-likelihoods of several tasks
    # what is decided about them
    "Compared": "decisions",  # a test, and what else is known about the two runs
    "Decision": "decisions",  # an Effect and what is decided about it
    "Finding": "decisions",  # better, worse, larger, smaller, or no difference shown
    "MarginVerdict": "margins",  # as good within a margin, worse by more, undecided …
    "RATIOS": "decisions",  # the name of the margin of all ratios
    "judge": "decisions",  # decides on all comparisons of a table
    "undecided": "decisions",  # an effect about which nothing is decided
    "most_wrong": "decisions",  # the share of tables with a wrong finding, at most
    # numbers that words name
    "ALPHA": "stats",  # the error of all claims of a table
    "POWER": "stats",  # the power that is promised
    "MIN_RUNS": "over_runs",  # a side, for a test of measurements
    "MIN_TEXTS": "ratios",  # or questions, for a test of sums
    "FLIPS": "ratios",  # how many signs are flipped
    "CAUTION": "ratios",  # by how much a p of flips is raised
    "CAUTION_BELOW": "ratios",  # the same of fewer samples
    # what a job records of its own answers, with intervals
    "accuracy_figures": "clustered_share",  # an accuracy with its interval, over families if these are known
    "bounds_of_accuracy": "clustered_share",  # the same with what was cut off wrong, or right
    "share_interval": "clustered_share",  # the interval of a share of right answers
    "wilson_interval": "stats",  # the same of independent questions
    "exact_interval": "stats",  # the same, exact
    "with_means": "earlier_votes",  # the figures of jobs of earlier versions as this one has them
    "VoteCounts": "votes",  # how several answers vote: the chances that k have, all have or elect a right one
    "units": "likelihoods",  # texts as they are compared: the choices of a question are one
    "ratio": "ratios",  # a ratio of sums
    "TextTokens": "token_divergence",  # the tokens of a text under a model and its reference
    "token_figures": "token_divergence",  # the divergence token by token
    "CHIEF": "token_divergence",  # the key that jobs with such figures have
    "AT_MOST": "token_divergence",  # the ending of the key of an upper bound
    "AskedInOrders": "choice_positions",  # a question that was asked with its choices in several orders
    "position_bias": "choice_positions",  # whether a place is preferred
    # what is said about them
    "LIMIT": "floor_effects",  # the key of the limit of tokens
    "EXTRACTOR": "unread_answers",  # the key of the rule that reads answers
    "SCORER": "unread_answers",  # the key of the scorer in its place
    "ENDED": "unread_answers",  # the metric of answers that ended
    "FOUND": "unread_answers",  # the metric of those that were read
    # what will be shown
    "detectable_loss": "question_plans",  # the smallest loss that so many questions detect
    "questions_for_margin": "question_plans",  # how many questions show a margin
    "expected_disagreement": "planning",  # how often two runs will disagree
    "Side": "sequential",  # which side of a value bets have decided for
    "MIN_CLUSTERS": "paired_means",  # families, for a test of means
    "holm": "stats",  # adjusts p for several tests
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)
