"""Short runs of the simulations in bench/: what is said of runs is rarely wrong, and differences
are found."""

from __future__ import annotations

import statistics
import sys
from itertools import combinations

import numpy as np
import pytest

from runner_compare.statistics import Measurements

THOROUGH = pytest.mark.thorough


def test_intervals_of_equal_files_overlap(generator: np.random.Generator) -> None:
    """KLs in advice: equal files are seldom apart, and far ones are."""
    from closer_null import are_apart, intervals
    from files_null import Line

    equal = [intervals(generator, Line("", (0.001,) * 4, 60, "mixed")) for _ in range(30)]
    assert sum(any(are_apart(*pair) for pair in combinations(ends, 2)) for ends in equal) <= 3
    far = [intervals(generator, Line("", (0.001, 0.01), 60, "even")) for _ in range(5)]
    assert all(are_apart(*ends) for ends in far)


def test_equal_jobs_are_rarely_told_apart_and_others_soon(generator: np.random.Generator) -> None:
    """Jobs that stop by themselves: equal ones are rarely told apart, others soon."""
    from early_stop_null import covered, simulate
    from simulation import Rate

    null, _, _ = simulate(generator, (0.5, 0.5), 0.8, 150)
    assert Rate(null.better + null.worse, 150).low <= 0.05
    apart, _, found = simulate(generator, (0.6, 0.4), 0.8, 30)
    assert (apart.better, found) == (30, 30)
    assert statistics.median(apart.asked) < 200
    assert all(rate.low <= 0.05 for rate in covered(generator, 10))


@pytest.mark.thorough
def test_runs_hold_the_level_and_repeats_of_one_process_do_not(generator: np.random.Generator) -> None:
    """Runs: over them equal jobs are rarely told apart, by repeats of one process often."""
    from runs_null import covered, jobs, named

    for shape in ("normal", "two modes", "unequal"):
        sides = jobs(generator, shape, 5, 300), jobs(generator, shape, 3, 300, side=1)
        assert named(*sides).low <= 0.05
        assert covered(*sides).high >= 0.95
        as_runs = [[Measurements(it.repeats, it.repeats) for it in side] for side in sides]
        assert named(*as_runs).low > 0.3, "the control: a repeat counts as a run"
        assert covered(*as_runs).high < 0.7


def test_the_interval_of_a_mean_over_answers_holds_and_that_of_the_majority_is_of_another_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An accuracy's interval where each question was answered several times."""
    import answer_means_null

    few = {kind: answer_means_null.KINDS[kind] for kind in ("spread evenly", "nearly none known")}
    monkeypatch.setattr(answer_means_null, "KINDS", few)
    monkeypatch.setattr(answer_means_null, "SIZES", [(150, 10)])
    monkeypatch.setattr(sys, "argv", ["answer_means_null.py", "--pairs", "100"])
    assert answer_means_null.main() == 0
    lines = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["150", "10"]
    ]
    assert len(lines) == 2
    for words in lines:
        as_questions, majority = float(words[-4]), float(words[-2])
        assert max(as_questions, majority) < 90, "the controls"


def test_intervals_by_families_hold_and_those_of_independent_questions_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An accuracy's interval over families of questions."""
    import cluster_accuracy

    monkeypatch.setattr(cluster_accuracy, "SETTINGS", [(20, 10, False, 0.7)])
    monkeypatch.setattr(cluster_accuracy, "FURTHER", [])
    monkeypatch.setattr(sys, "argv", ["cluster_accuracy.py", "--pairs", "60"])
    assert cluster_accuracy.main() == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["20", "10"])
    by_families, independent = float(line.split()[3]), float(line.split()[-3])
    assert by_families >= 90
    assert independent <= 85


@pytest.mark.thorough
def test_bounds_hold_where_answers_are_cut_off_and_what_counts_them_as_wrong_does_not(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were cut off: intervals, verdicts and the suggested limit, each beside its
    control."""
    import bounds_null
    from simulation import Limits

    monkeypatch.setattr(bounds_null, "SETTINGS", [(200, 0.5), (200, 0.9)])
    limits = Limits()
    usual = bounds_null.bounds(generator, 60, limits)
    assert all(rate.times > 30 for rate in usual[-2:]), "the control: half of the answers cut off"
    counted = bounds_null.verdicts(generator, 30, limits)
    assert all(rate.times > 15 for rate in counted[-2:]), "the control"
    naive = bounds_null.limits_that_let_finish(generator, 30, limits)
    assert naive[1] > 0.05, "the control: a fifth cut off"
    assert limits.conclude(0.0) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["F1, 5 % differ", "F1, 40 % differ", "length, all differ"])
def test_numbers_of_equal_runs_rarely_differ_and_lost_ones_are_found(kind: str) -> None:
    """Numbers: equal runs are rarely called different, and intervals hold the truth."""
    from numbers_null import KINDS, rates

    (false, *missed), least, found = rates(np.random.default_rng(1), KINDS[kind], 50, 60)
    assert false.low <= 0.05
    assert all(rate.low <= 0.06 for rate in missed)
    assert least > 0
    assert all(rate.high >= 0.77 for rate in found)
    assert any(rate.times for rate in found)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["normal", "skewed", "lopsided", "heavy", "longer"])
def test_equal_runs_are_rarely_found_to_differ_and_moved_ones_often(kind: str) -> None:
    """Compared likelihoods: few equal pairs are called different, and true ones are."""
    from likelihood_null import rates

    null, least, power = rates(np.random.default_rng(1), 50, kind, 100, 1)
    assert null.low <= 0.05, null
    assert power.times >= 60, power
    assert 0 < least < 0.01


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["the same", "50 % longer", "8 points less"])
def test_intervals_at_equal_tokens_hold_the_truth_and_equal_settings_rarely_differ(case: str) -> None:
    """Accuracy at equal tokens: the truth is known from many questions."""
    from equal_tokens_null import CASES, rates

    found, missed, missed_at = rates(np.random.default_rng(1), case, 100, 60)
    assert missed.low <= 0.05
    assert missed_at.times <= 0.06 * missed_at.of
    if CASES[case][0] == CASES[case][1]:
        assert found.low <= 0.05
    else:
        assert found.times >= 20


@THOROUGH
def test_too_few_texts_have_no_verdict_and_enough_rarely_a_false_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import likelihood_null

    monkeypatch.setattr(likelihood_null, "FEW", (20, 50))
    monkeypatch.setattr(likelihood_null, "real_texts", dict)  # the real texts take a model
    nulls, missed = likelihood_null.few_and_skewed(np.random.default_rng(1), 100)
    assert [rate.times for rate in nulls[:4] + missed[:4]] == [0] * 8
    assert all(rate.low <= 0.05 for rate in nulls + missed)
    assert any(rate.times for rate in nulls)


@THOROUGH
def test_intervals_of_kl_hold_where_students_does_not_and_lognormal_differences_seldom_deceive(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import likelihood_null

    monkeypatch.setattr(likelihood_null, "TAILS", (50, 60, 100))
    few, many = generator.lognormal(0, 1, 200), np.ones(200)
    missed = likelihood_null.kl_intervals(generator, 100, {"drawn": (few, many)})
    assert len(missed) == 9
    assert all(rate.low <= 0.06 for rate in missed)
    by_student = [likelihood_null.kl_misses(generator.lognormal(0, 1.5, 50), np.ones(50), np.exp(1.5**2 / 2))[1]
                  for _ in range(100)]  # fmt: skip
    assert sum(by_student) > 6, "the control can fail"
    assert all(rate.low <= 0.05 for rate in likelihood_null.lognormal_differences(generator, 200))


@THOROUGH
def test_families_are_rarely_found_to_differ_and_questions_alone_often() -> None:
    """Families of questions."""
    from cluster_null import answers, verdict

    generator = np.random.default_rng(0)
    different = {"families": 0, "independent": 0}
    for _ in range(60):
        solved, family = answers(generator, 20, 10, True, [0.7, 0.7])
        for name, of in (("families", family), ("independent", None)):
            it = verdict(solved, of)
            assert it is not None
            different[name] += it.finding != "no difference shown"
    assert different["families"] <= 6
    assert different["independent"] >= 10
    solved, family = answers(generator, 5, 10, False, [0.7, 0.7])
    assert verdict(solved, family) is None


@THOROUGH
def test_few_families_with_all_the_losses_deceive_flips_alone_and_not_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cluster_null

    generator = np.random.default_rng(0)
    of_families = [
        cluster_null.wrong(*cluster_null.families_that_lose(generator, 10, True)) for _ in range(100)
    ]
    of_answers = [
        cluster_null.wrong(cluster_null.questions_that_lose(generator, 20, 16), None, 16) for _ in range(100)
    ]
    for found in (of_families, of_answers):
        different, missed, by_flips = (sum(which) for which in zip(*found, strict=True))
        assert max(different, missed) <= 5 < by_flips
    monkeypatch.setattr(cluster_null, "SKEWED", (10,))
    monkeypatch.setattr(cluster_null, "ANSWERED", ((20, 4),))
    monkeypatch.setattr(cluster_null, "RARE_AMONG", (20,))
    assert [rate.of for rate in cluster_null.skewed(generator, 20)] == [20] * 6, (
        "rare families are not counted"
    )


@THOROUGH
def test_a_plan_decides_and_too_few_families_have_none() -> None:
    from cluster_null import planned

    generator = np.random.default_rng(0)
    plan = planned(generator, 100, 3, False, 0.9, 0.1)
    assert plan is not None
    assert plan[1]
    assert planned(generator, 20, 10, True, 0.9, 0.1) is None


@THOROUGH
def test_tables_keep_the_verdicts_of_their_jobs_and_did_not_before(generator: np.random.Generator) -> None:
    """Grids that stop early: tables repeat what jobs have said, and are rarely wrong."""
    from early_stop_tables import tables
    from simulation import Rate

    now, _ = tables(generator, 40, 2, (0.5, 0.5), 0.5)
    assert Rate(sum(now.wrong), 40).low <= 0.05
    now, before = tables(generator, 6, 2, (0.6, 0.4), 0.8)
    assert (now.kept, now.decided) == (12, 12)
    assert (before.kept, before.decided) == (0, 12)


@THOROUGH
def test_a_job_with_a_margin_is_called_as_good_if_it_is_and_seldom_at_the_margin(
    generator: np.random.Generator,
) -> None:
    from early_stop_tables import about_margin

    at_the_margin, _, _, other_words = about_margin(generator, 20, 0.05, 500, (0.85, 0.9), 0.95)
    assert (at_the_margin.low <= 0.05, other_words) == (True, 0)
    equal, asked, _, other_words = about_margin(generator, 20, 0.05, 500, (0.9, 0.9), 0.95)
    assert (equal.times >= 16, other_words) == (True, 0)
    assert asked < 400


@THOROUGH
def test_ranks_and_sentences_are_true(generator: np.random.Generator) -> None:
    """Ranks: equal files are seldom ranked, different ones are, and no sentence contradicts."""
    from files_null import Line, rates, steps

    equal, _, width = rates(generator, Line("equal", (0.001,) * 4, 60, "mixed"), 20)
    assert equal["rank"].times <= 2
    assert equal["front"].times <= 2
    assert equal["control"].times == 20, "an order of equal files is wrong"
    assert width > 3.8
    near, told_apart, _ = rates(generator, Line("near", steps(5, 1.2), 100, "even"), 10)
    assert near["sentence"].times == 0, (
        "ranges overlap, and a sentence may only name files that no test tells apart"
    )
    assert 0.1 < told_apart < 0.95
    far, told_apart, width = rates(generator, Line("far", steps(4, 2), 100, "even"), 10)
    assert far["rank"].times == 0
    assert told_apart > 0.95
    assert width < 1.2


@THOROUGH
def test_wrong_rows_are_rare_and_dominated_ones_are_found(generator: np.random.Generator) -> None:
    """The front: noise dominates nothing, a worse row hides no better one, a bad one is found."""
    from front_null import IN_FAMILIES, QUIET, Setting, fallen, table_of

    none, nf4 = Setting("none", 0.9), Setting("nf4", 0.9, memory=33.0)
    for noise, runs in ((0.08, 1), (0.06, 3), (0.03, 5)):
        tables = [table_of(generator, [none] * 5, 200, 0.95, noise, runs) for _ in range(20)]
        assert sum(any(row.dominated_by for row in rows) for rows in tables) <= 1
    tables = [table_of(generator, [Setting("same", 0.7)] * 3, 200, IN_FAMILIES, 0.08, 1) for _ in range(15)]
    assert sum(any(row.dominated_by for row in rows) for rows in tables) <= 2, (
        "of the questions of families, 3 to 8"
    )
    worse, slower = Setting("nf4", 0.87, memory=33.0), Setting("nf4", 0.9, memory=33.0, speed=40.0)
    assert fallen(generator, 40, ("", none, worse), 200, 0.05, 1).low <= 0.05
    assert fallen(generator, 40, ("", none, slower), 1319, 0.05, 3).low <= 0.05
    assert fallen(generator, 20, ("", none, nf4), 1319, QUIET, 1).high > 0.8
    assert fallen(generator, 20, ("", none, nf4), 1319, QUIET, 5).high > 0.8


@THOROUGH
def test_the_mean_finds_more_than_the_vote_and_little_among_equals() -> None:
    """Several answers to each question: the mean finds more than the vote."""
    from mean_of_samples import drawn, rates

    generator = np.random.default_rng(0)
    null = rates(generator, 40, lambda n: drawn(generator, n, 0.5, 0.0), 100, 0.0)
    assert null["mean"][0].low <= 0.05
    apart = rates(generator, 40, lambda n: drawn(generator, n, 0.5, 0.1), 100, 0.09)
    assert apart["mean"][0].times > apart["vote"][0].times > 0


@THOROUGH
def test_a_loss_stands_beyond_the_noise_and_a_repeat_rarely() -> None:
    """The noise floor: what changes nothing rarely stands beyond it, and a loss does."""
    from noise_floor_null import rates

    generator, setting = np.random.default_rng(1), (200, 0.7, 0.8)
    _, plain, _ = rates(generator, 100, setting, 1, 0.0, 0.0)
    assert plain.low <= 0.05
    found, plain, within = rates(generator, 60, setting, 1, 0.0, 0.15)
    assert min(found.times, plain.times) >= 50
    assert within.low <= 0.05
    drifting, plain, within = rates(generator, 100, setting, 1, 0.08, 0.0)
    assert drifting.low > 0.05, "the control: runs that drift as a whole are found to differ"
    assert plain.times < drifting.times / 2
    assert within.times > 0


@THOROUGH
def test_intervals_that_count_seeds_hold_and_those_of_questions_only_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A team's tokens and seeds."""
    import team_tokens

    monkeypatch.setattr(team_tokens, "SETTINGS", [(5, 100, 0.7, 0.4, "more")])
    monkeypatch.setattr(team_tokens, "PAIRS", [(5, 100, 0.4)])
    monkeypatch.setattr(sys, "argv", ["team_tokens.py", "--pairs", "60"])
    assert team_tokens.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    5  ")]
    *_, only_questions, _ = lines[0].split()
    assert float(only_questions) < 80
    assert float(lines[1].split("]")[2].split("%")[0]) > 20, "equal teams, called different by questions only"


def test_two_broken_runs_pass_no_margin_and_healthy_ones_do(generator: np.random.Generator) -> None:
    """Nobody solves anything, or each solves a few questions by luck."""
    from floor_null import rates

    for luck in (0.0, 0.005, 0.02):
        without_rule, _, now = rates(generator, luck, 0.0, 1000, 0.02, 60)
        assert without_rule.times > 40, "the control"
        assert now.low <= 0.05
    without_rule, _, now = rates(generator, 0.5, 0.95, 1000, 0.05, 60)
    assert now.times == without_rule.times > 50
