"""The direct check of a mix: jobs of it, of the formats alone and of mixes beside it, compared pair
by pair.

A mix is chosen by losses that were measured one layer at a time, on a few texts. That their sum
tells the loss of the whole is an assumption, so it is tested: the jobs read other texts, and the
divergence of each text is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.plain_text import quote_texts
from runner.grid.rows import sweeper_of
from runner.options.advise import knapsack
from runner.options.advise.candidates import Compose
from runner.options.advise.knapsack import Choice, Option
from runner.options.advise.mix import TEXTS, Limit, MixableModel, losses_of
from runner.records.jobs import read_samples
from runner_base import MIB, ConfigError, JobFailed, Likelihood, Record, beside_limit, decimals
from runner_compare.statistics import MIN_TEXTS, Decision, Finding, SignFlips, judge, ratio, units

NEIGHBOURS = 2
in_mib = decimals(2)
KEPT = 64  # most probable tokens of the reference: enough for its divergences


@dataclass
class Tried:
    """One choice for all layers, what was predicted of it, and the job that measured it."""

    names: list[str]  # how it was found; several ways may find the same
    choice: Choice
    weight_mib: float
    predicted: float  # the sum of single losses
    is_uniform: bool = False
    record: Record | None = None
    texts: Sequence[Likelihood] = ()
    effect: Decision | None = None  # the mix against it

    @property
    def name(self) -> str:
        return ", ".join(self.names)

    def metric(self, name: str) -> float:
        """Return a measured figure."""
        return 0.0 if self.record is None else self.record.result.metrics.get(name, 0.0)

    @property
    def kl(self) -> float:
        """The measured divergence in nats a token; 0 of the model as it is."""
        return ratio(
            [text.kl_nats or 0.0 for text in self.texts], [float(text.tokens) for text in self.texts]
        )


@dataclass
class MixAdvice:
    """A mix within a limit, and what was tried beside it."""

    model: MixableModel
    limit: Limit
    mix: Tried
    others: list[Tried]
    texts: int
    scales: dict[str, float]  # of the single losses of each format

    @property
    def what(self) -> str:
        """What is chosen for."""
        linear = sum(map(len, self.model.layers.values()))
        blocks = len(self.model.layers)
        return f"{linear} linear layers" + (f" in {blocks} blocks" if blocks < linear else "")

    @property
    def written(self) -> Tried:
        """What is recommended: the mix, or what is shown to lose less within the same limit."""
        lower = [tried for tried in self.better if tried.metric(self.limit.metric) <= self.limit.mib]
        return min(lower, key=lambda tried: tried.kl, default=self.mix)

    @property
    def better(self) -> list[Tried]:
        """What is shown to lose less than the mix."""
        return [
            other
            for other in self.others
            if other.effect is not None and other.effect.finding is Finding.worse
        ]

    @property
    def uniform(self) -> Tried | None:
        """The best format for all layers that fits; None if none does."""
        fits = [
            other
            for other in self.others
            if other.is_uniform and other.metric(self.limit.metric) < self.limit.mib
        ]
        return min(fits, key=lambda fit: fit.kl, default=None)


def advise(
    limit: Limit, overrides: list[str], names: Sequence[str], by_block: bool, compose: Compose
) -> MixAdvice:
    """Choose a mix within a limit and check it by jobs; ConfigError if no mix fits."""
    overrides = [
        *overrides,
        *(() if any(word.startswith("task=") for word in overrides) else ("task=likelihood",)),
    ]
    model = MixableModel.of(overrides, names, by_block, compose)
    offset = next((int(word.partition("=")[2]) for word in overrides if word.startswith("task.offset=")), 0)
    shared = [
        *overrides,
        f"task.offset={offset + TEXTS}",
        f"task.keep_top_k={KEPT}",
        "task.exact=false",
        "task.reference=quantization=none",
    ]
    uniform = {
        name: Tried([f"uniform {name}"], model.uniform(name), 0.0, 0.0, is_uniform=True)
        for name in ("none", *model.names)
    }
    _run(
        shared,
        list(uniform.values()),
        [[f"quantization={name}", "quantization.overrides={}"] for name in uniform],
    )
    rest_mib = 0.0
    if limit.metric == "model_mib":
        rest_mib = max(tried.metric("model_mib") - tried.metric("weight_mib") for tried in uniform.values())
    allowed = int((limit.mib - rest_mib) * MIB) - model.other_bytes
    losses = losses_of(model, compose)
    scales = {
        name: _scale(tried.kl, sum(of.get(name, 0.0) for of in losses.values()))
        for name, tried in uniform.items()
    }
    options = model.options(losses, scales)
    chosen = knapsack.best(options, allowed)
    if chosen is None:
        least = min(model.weight_mib(model.uniform(name)) for name in model.names) + rest_mib
        raise ConfigError(
            f"the smallest of these formats takes {beside_limit(least, limit.mib, in_mib)} MiB: allow more",
            key="--mix",
            value=limit,
            code="too_large",
        )
    mix, *others = _candidates(model, options, chosen, allowed)
    for tried in uniform.values():
        tried.weight_mib, tried.predicted = (
            model.weight_mib(tried.choice),
            knapsack.loss_of(options, tried.choice),
        )
    _run(shared, [mix, *others], [model.quantization(tried.choice) for tried in (mix, *others)])
    known = {tried.choice for tried in (mix, *others)}
    others += [tried for tried in uniform.values() if tried.choice not in known]
    return _compared(MixAdvice(model, limit, mix, others, len(mix.texts), scales))


def _scale(measured: float, predicted: float) -> float:
    """Return the factor that makes a format's single losses add up to what the job of it alone has
    measured.

    The job's kernels may round activations, too, and it reads other texts.
    """
    return measured / predicted if predicted > 0 and measured > 0 else 1.0


def _candidates(
    model: MixableModel, options: Sequence[Sequence[Option]], chosen: Choice, allowed: int
) -> list[Tried]:
    """Return the mix, and what may lose less if the sum of single losses misleads; each choice
    once."""
    ways = [("mix", chosen), ("greedy", knapsack.greedy(options, allowed))]
    ways += [("in the order of the layers", knapsack.in_order(options, allowed))]
    ways += [
        ("neighbour", neighbour) for neighbour in knapsack.neighbours(options, chosen, allowed, NEIGHBOURS)
    ]
    found: dict[Choice, Tried] = {}
    for name, choice in ways:
        if choice is None:
            continue
        new = Tried([], choice, model.weight_mib(choice), knapsack.loss_of(options, choice))
        found.setdefault(choice, new).names.append(name)
    return list(found.values())


def _run(shared: list[str], tried: Sequence[Tried], quantizations: Sequence[list[str]]) -> None:
    """Run the jobs of some choices as one grid, and read what they have measured."""
    pairs = [dict(word.partition("=")[::2] for word in some) for some in quantizations]
    sweeper, arguments = sweeper_of(quote_texts(shared), None)
    sweeper.zip = [{key: ",".join(pair[key] for pair in pairs) for key in pairs[0]}]
    grid = sweeper.plan(arguments)
    if sweeper.do(grid):
        raise KeyboardInterrupt
    for number, (choice, planned) in enumerate(zip(tried, grid.plan, strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = grid.outcomes.get(source)
        choice.record = outcome.record if outcome else grid.plan[source].record
        if choice.record is None or choice.record.error or planned.job is None:
            problem = outcome.message if outcome else planned.problem
            raise JobFailed(
                f"the job of {choice.name} failed: {problem or (choice.record and choice.record.error)}",
                code="failed",
            )
        samples = read_samples(planned.job.samples_path)
        choice.texts = units(
            [sample.likelihood for _, sample in sorted(samples.items()) if sample.likelihood is not None]
        )
    if len(tried[0].texts) < MIN_TEXTS:
        raise ConfigError(
            f"{len(tried[0].texts)} texts are left after the {TEXTS} for single losses, and a comparison needs "
            f"{MIN_TEXTS}: give task.data with more texts, or a larger task.limit",
            code="missing",
        )


def _compared(advice: MixAdvice) -> MixAdvice:
    """Compare the mix with all else that fits the limit, text by text; the errors of all tests are
    shared (Holm)."""
    mix, limit = advice.mix, advice.limit
    tests: list[tuple[Tried, SignFlips]] = []
    for tried in advice.others:
        if tried.metric(limit.metric) >= limit.mib:
            continue  # larger than allowed
        both = list(zip(tried.texts, mix.texts, strict=True))
        lost = [(other_text.kl_nats or 0.0) - (mix_text.kl_nats or 0.0) for other_text, mix_text in both]
        tests.append((tried, SignFlips(lost, [float(mix_text.tokens) for _, mix_text in both], "token")))
    for (tried, _), decision in zip(tests, judge([test for _, test in tests]), strict=True):
        tried.effect = decision
    return advice
