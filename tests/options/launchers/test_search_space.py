"""What a search varies, which commands are the same search, and what an interrupted one
proposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from raising import raises

from runner.options.launchers.search_space import (
    SearchSettings,
    SearchSpace,
    get_first_value_per_distribution,
    make_study_name,
)
from runner_base.errors import Code, ConfigError

optuna = pytest.importorskip("optuna", reason="pip install 'runner-llm[dev]'")


def space(*arguments: str, **params: str) -> dict[str, Any]:
    return SearchSpace.parse(arguments, params).make_distributions()


def test_sweeps_become_distributions() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert space("a=interval(0.1,1.5)")["a"] == FloatDistribution(0.1, 1.5)
    assert space("a=tag(log,interval(0.001,1))")["a"] == FloatDistribution(0.001, 1.0, log=True)
    assert space("a=interval(1,8)")["a"] == FloatDistribution(1, 8), "as in Hydra"
    assert space("a=int(interval(1,8))")["a"] == IntDistribution(1, 8)
    assert space("a=range(1,8,2)")["a"] == IntDistribution(1, 7, step=2), "without its end, as in a grid"
    assert space("a=range(0,1,0.5)")["a"] == CategoricalDistribution([0.0, 0.5])
    assert space("a=shuffle(range(1,4))")["a"] == IntDistribution(1, 3), "in one order, whenever it starts"
    assert space("a=shuffle(x,y,z)")["a"].choices == ("x", "y", "z")
    assert space("a=x,y")["a"] == CategoricalDistribution(["x", "y"])
    assert space("b=1,2", **{"generation.temperature": "interval(0,1)"}).keys() == {
        "b",
        "generation.temperature",
    }


def test_the_command_line_wins_and_what_is_fixed_stays() -> None:
    both = SearchSpace.parse(["a=1,2", "c=5", "+d=x"], {"a": "interval(0,1)", "b": "choice(3,4)", "e": "6"})
    assert both.make_distributions()["a"] == optuna.distributions.CategoricalDistribution([1, 2])
    assert both.trial_overrides({"a": 2, "b": 4}) == ["e=6", "c=5", "+d=x", "a=2", "b=4"]


@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        (["a=1"], "missing", "hydra/sweeper"),
        (["a=interval(2,1)"], "bad_value", "a=interval(2,1)"),
        (["a=tag(log,interval(0,1))"], "bad_value", "a=tag(log,interval(0,1))"),
        (["a=glob(*)"], "unsupported", "a=glob(*)"),
    ],
)
def test_spaces_that_cannot_be(arguments: list[str], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        space(*arguments)


def settings(**changes: Any) -> SearchSettings:
    usual: dict[str, Any] = {
        "n_trials": 4,
        "n_jobs": 1,
        "direction": "maximize",
        "sampler": "tpe",
        "seed": 1,
        "max_failure_rate": 0.0,
    }
    return SearchSettings(**usual | changes)


def test_which_commands_are_the_same_search() -> None:
    one = SearchSpace.parse(["a=1,2", "b=interval(0,1)", "c=3"], {})
    name = make_study_name(one, settings(), "gsm8k-1")
    assert (
        make_study_name(SearchSpace.parse(["c=3", "b=interval(0,1)", "a=1,2"], {}), settings(), "gsm8k-1")
        == name
    )
    assert make_study_name(one, settings(n_trials=99, n_jobs=7, max_failure_rate=0.5), "gsm8k-1") == name
    changes: list[dict[str, Any]] = [{"seed": 2}, {"sampler": "random"}, {"direction": "minimize"}]
    others = [make_study_name(one, settings(**it), "gsm8k-1") for it in changes]
    others.append(make_study_name(SearchSpace.parse(["a=1,3", "b=interval(0,1)"], {}), settings(), "gsm8k-1"))
    others.append(make_study_name(one, settings(), "gsm8k-2"))
    assert len({name, *others}) == 6
    assert get_first_value_per_distribution(one.make_distributions()) == {"a": 1, "b": 0.0}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "qmc"])
def test_an_interrupted_search_proposes_what_an_uninterrupted_one_does(sampler: str) -> None:
    """A sampler with a fixed seed that begins anew would draw the same values again; in Optuna
    itself it does."""
    distributions = space("x=interval(0.0,1.0)", "y=interval(0.0,1.0)")
    chosen = settings(sampler=sampler)

    def search(starts: list[int], proposing: Callable[[int], Any]) -> list[tuple[float, ...]]:
        study = optuna.create_study(direction="maximize")
        for trials in starts:
            kept: Any = proposing(len(study.trials))
            for _ in range(trials):
                study.sampler = (
                    kept if kept is not None else chosen.make_sampler(distributions, len(study.trials))
                )
                trial = study.ask(distributions)
                study.tell(trial, -((trial.params["x"] - 0.3) ** 2) - trial.params["y"])
        return [tuple(trial.params.values()) for trial in study.trials]

    whole = search([12], lambda _: None)
    assert len({*whole}) == 12
    assert search([3, 4, 1, 4], lambda _: None) == whole
    if (
        sampler == "random"
    ):  # the control: a start that seeds its sampler anew repeats what the first one drew
        again = search([6, 6], lambda _: optuna.samplers.RandomSampler(seed=1))
        assert len({*again}) == 6
