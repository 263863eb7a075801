"""The statistics of a comparison: data in, effects and decisions out. These names are its door.

A statistic is a Test (effects.py), each in a module of `methods`; decisions.py judges them. The other modules have the
formulas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner_compare.statistics.decisions import RATIOS as RATIOS
    from runner_compare.statistics.decisions import Compared as Compared
    from runner_compare.statistics.decisions import Decision as Decision
    from runner_compare.statistics.decisions import Finding as Finding
    from runner_compare.statistics.decisions import judge as judge
    from runner_compare.statistics.decisions import most_wrong as most_wrong
    from runner_compare.statistics.decisions import undecided as undecided
    from runner_compare.statistics.effects import Effect as Effect
    from runner_compare.statistics.effects import Method as Method
    from runner_compare.statistics.effects import Test as Test
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
    from runner_compare.statistics.ratios import CAUTION as CAUTION
    from runner_compare.statistics.ratios import CAUTION_BELOW as CAUTION_BELOW
    from runner_compare.statistics.ratios import FLIPS as FLIPS
    from runner_compare.statistics.ratios import MIN_TEXTS as MIN_TEXTS
    from runner_compare.statistics.stats import ALPHA as ALPHA
    from runner_compare.statistics.stats import POWER as POWER

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
}
__all__ = [*PLACES]


def __getattr__(name: str) -> Any:
    """Import a name at its first use."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    globals()[name] = value
    return value
