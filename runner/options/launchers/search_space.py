"""Search space and settings of a hyperparameter search: Optuna distributions, samplers, and study
name.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer

from runner.config.override_quoting import format_sweep_override
from runner_base import (
    ConfigError,
    at_least,
    check_config_values,
    check_value,
    compute_short_json_hash,
    config_field,
    format_unknown_choice_message,
    in_range,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

SAMPLERS = ("tpe", "random", "grid", "cmaes", "gp", "qmc")
DIRECTIONS = ("maximize", "minimize")
LOG = "log"  # the tag of an interval whose values are drawn on a logarithmic scale


@dataclass(frozen=True)
class SearchSpace:
    """Search space of a study: the keys that vary, and the overrides that all trials share."""

    varied: dict[str, Override]
    fixed: list[str]

    @classmethod
    def parse(cls, arguments: Sequence[str], params: Mapping[str, Any]) -> SearchSpace:
        """Parse sweeps from the command line and from hydra.sweeper.params. The command line takes
        precedence.
        """
        parser = OverridesParser.create()
        given = [format_sweep_override(str(key), value) for key, value in params.items()]
        overrides = {
            override.key_or_group: override for override in parser.parse_overrides([*given, *arguments])
        }
        varied = {key: override for key, override in overrides.items() if override.is_sweep_override()}
        if not varied:
            need = "give a sweep, e.g. generation.temperature=interval(0.1,1.5) or quantization=none,nf4"
            raise ConfigError(
                f"no key is varied, so the search has nothing to try: {need}",
                key="hydra/sweeper",
                value="optuna",
                code="missing",
            )
        return cls(
            varied, [str(override.input_line) for key, override in overrides.items() if key not in varied]
        )

    def make_distributions(self) -> dict[str, BaseDistribution]:
        return {key: _make_distribution(key, override) for key, override in self.varied.items()}

    def trial_overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.varied)]


def _make_distribution(key: str, override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, line = override.value(), override.input_line
    if isinstance(value, IntervalSweep):
        start, end, is_log = value.start, value.end, LOG in value.tags
        assert start is not None
        assert end is not None
        if start >= end or (is_log and start <= 0):
            raise ConfigError(
                "the start of an interval must be smaller than its end, and above 0 on a logarithmic scale",
                key=line,
                code="bad_value",
            )
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=is_log)
        return FloatDistribution(start, end, log=is_log)
    if isinstance(value, ChoiceSweep | RangeSweep):
        value.shuffle = False  # a study needs the same order in each start, and draws in its own
    if isinstance(value, RangeSweep):
        steps = [float(step) for step in value.range()]
        if len(steps) > 1 and all(step % 1 == 0 for step in steps):
            return IntDistribution(int(min(steps)), int(max(steps)), step=int(abs(steps[1] - steps[0])))
    if isinstance(value, ChoiceSweep | RangeSweep):
        choices = [*override.sweep_iterator(transformer=Transformer.encode)]
        return CategoricalDistribution(
            [choice if isinstance(choice, (int, float)) else str(choice) for choice in choices]
        )
    raise ConfigError(
        f"{key}: this sweep is not supported. Use choice(...), range(...) or interval(...)",
        key=line,
        code="unsupported",
    )


@dataclass(frozen=True)
class SearchSettings:
    """Validated settings of a hyperparameter search, read from hydra.sweeper."""

    n_trials: int = config_field(20, constraint=at_least(1))
    n_jobs: int = config_field(2, constraint=at_least(1))
    direction: str = "maximize"
    sampler: str = "tpe"
    seed: int | None = None
    max_failure_rate: float = config_field(0.0, constraint=in_range(0, 1, "from 0 to 1"))

    def __post_init__(self) -> None:
        check_config_values("hydra.sweeper", self)
        need = (
            "a search has one objective. For two objectives run a grid and read the Pareto "
            "front of runner-compare"
        )
        check_value(isinstance(self.direction, str), "hydra.sweeper.direction", self.direction, need)
        for key, value, known in (
            ("direction", self.direction, DIRECTIONS),
            ("sampler.name", self.sampler, SAMPLERS),
        ):
            if value not in known:
                raise ConfigError(
                    format_unknown_choice_message(key.split(".")[0], str(value), known),
                    key=f"hydra.sweeper.{key}",
                    value=value,
                    code="unknown_choice",
                )

    def num_trials(self, distributions: Mapping[str, BaseDistribution]) -> int:
        """Return the number of trials. A grid search stops after trying every combination of values."""
        most = (
            math.prod(len(_list_grid_search_values(key, override)) for key, override in distributions.items())
            if self.sampler == "grid"
            else self.n_trials
        )
        return min(self.n_trials, most)

    def make_sampler(self, distributions: Mapping[str, BaseDistribution], trial_number: int) -> BaseSampler:
        """Return Optuna's sampler for one trial.

        Its random numbers depend on seed and trial number, so an interrupted search continues
        unchanged and repeats no draw.
        """
        import optuna
        from optuna import samplers

        # said of two samplers each time
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

        digest = hashlib.sha256(f"{self.seed}, trial {trial_number}".encode()).digest()
        seed = None if self.seed is None else int.from_bytes(digest[:4])
        match self.sampler:
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                return samplers.GridSampler(
                    {key: _list_grid_search_values(key, override) for key, override in distributions.items()},
                    seed=self.seed or 0,
                )
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "gp":
                return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
            case "qmc":
                return samplers.QMCSampler(seed=self.seed, scramble=True, warn_independent_sampling=False)
            case _:
                return samplers.TPESampler(seed=seed, constant_liar=True)


def _list_grid_search_values(key: str, distribution: BaseDistribution) -> list[Any]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return [*distribution.choices]
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return [*range(distribution.low, distribution.high + 1, distribution.step)]
    raise ConfigError(
        f"a grid search cannot vary the continuous interval of {key}. Give choice(...) or range(...)",
        key="hydra.sweeper.sampler.name",
        value="grid",
        code="conflict",
    )


def get_first_value_per_distribution(distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution

    def first_value(values: Any) -> Any:
        if isinstance(values, CategoricalDistribution):
            return values.choices[0]
        return values.low

    return {key: first_value(values) for key, values in distributions.items()}


def make_study_name(space: SearchSpace, settings: SearchSettings, job_id: str) -> str:
    """Return a study name derived from the search space, but not from the number of trials or parallel jobs.

    `job_id` is the job at the first values of all keys, which covers the settings that all
    trials share.
    """
    varied = sorted(str(override.input_line) for override in space.varied.values())
    return f"search-{compute_short_json_hash([varied, job_id, [settings.direction, settings.sampler, settings.seed]])}"
