"""The direct check of a mix: jobs of it, of the formats alone and of mixes beside it, compared pair
by pair.

A mix is chosen by losses that were measured one layer at a time, on a few texts. That their sum
tells the loss of the whole is an assumption, so it is tested: the jobs read other texts, and the
divergence of each text is compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.plain_text import quote_texts
from runner.grid.rows import sweeper_of
from runner.options.advise import knapsack
from runner.options.advise.candidates import Compose
from runner.options.advise.knapsack import Choice, Option
from runner.options.advise.mix import TEXTS, Limit, MixableModel, losses_of
from runner.store.jobs import read_samples
from runner_base import MIB, ConfigError, JobFailed, Likelihood, Record, plain
from runner_compare.statistics import MIN_TEXTS, Decision, Finding, SignFlips, judge, ratio, units

NEIGHBOURS = 2
OF_SIZE = (
    0.25  # by which share a sum of single losses may miss the measured loss before that is said
)
KEPT = 64  # most probable tokens of the reference: enough for its divergences


@dataclass
class Tried:
    """One choice for all layers, what was predicted of it, and the job that measured it."""

    names: list[str]  # how it was found; several ways may find the same
    choice: Choice
    weight_mib: float
    predicted: float  # the sum of single losses
    record: Record | None = None
    texts: Sequence[Likelihood] = ()
    effect: Decision | None = None  # the mix against it

    @property
    def name(self) -> str:
        """All its names."""
        return ", ".join(self.names)

    def metric(self, name: str) -> float:
        """Return a measured figure."""
        return 0.0 if self.record is None else self.record.result.metrics.get(name, 0.0)

    @property
    def kl(self) -> float:
        """The measured divergence in nats a token; 0 of the model as it is."""
        return ratio(
            [text.kl_nats or 0.0 for text in self.texts],
            [float(text.tokens) for text in self.texts],
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
        lower = [it for it in self.better if it.metric(self.limit.metric) <= self.limit.mib]
        return min(lower, key=lambda it: it.kl, default=self.mix)

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
            if "uniform" in other.name and other.metric(self.limit.metric) < self.limit.mib
        ]
        return min(fits, key=lambda fit: fit.kl, default=None)


def advise(
    limit: Limit, words: list[str], names: Sequence[str], by_block: bool, compose: Compose
) -> MixAdvice:
    """Choose a mix within a limit and check it by jobs; ConfigError if no mix fits."""
    words = [
        *words,
        *(() if any(word.startswith("task=") for word in words) else ("task=likelihood",)),
    ]
    model = MixableModel.of(words, names, by_block, compose)
    offset = next(
        (int(word.partition("=")[2]) for word in words if word.startswith("task.offset=")), 0
    )
    shared = [
        *words,
        f"task.offset={offset + TEXTS}",
        f"task.keep_top_k={KEPT}",
        "task.exact=false",
        "task.reference=quantization=none",
    ]
    uniform = {
        name: Tried([f"uniform {name}"], model.uniform(name), 0.0, 0.0)
        for name in ("none", *model.names)
    }
    _run(
        shared,
        list(uniform.values()),
        [[f"quantization={name}", "quantization.overrides={}"] for name in uniform],
    )
    rest_mib = 0.0
    if limit.metric == "model_mib":
        rest_mib = max(it.metric("model_mib") - it.metric("weight_mib") for it in uniform.values())
    allowed = int((limit.mib - rest_mib) * MIB) - model.other_bytes
    losses = losses_of(model, compose)
    scales = {
        name: _scale(it.kl, sum(of.get(name, 0.0) for of in losses.values()))
        for name, it in uniform.items()
    }
    options = model.options(losses, scales)
    chosen = knapsack.best(options, allowed)
    if chosen is None:
        least = min(model.weight_mib(model.uniform(name)) for name in model.names) + rest_mib
        raise ConfigError(
            f"--mix {limit}: the smallest of these formats takes {least:,.2f} MiB: allow more"
        )
    mix, *others = _candidates(model, options, chosen, allowed)
    for it in uniform.values():
        it.weight_mib, it.predicted = (
            model.weight_mib(it.choice),
            knapsack.loss_of(options, it.choice),
        )
    _run(shared, [mix, *others], [model.quantization(it.choice) for it in (mix, *others)])
    known = {it.choice for it in (mix, *others)}
    others += [it for it in uniform.values() if it.choice not in known]
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
        ("neighbour", neighbour)
        for neighbour in knapsack.neighbours(options, chosen, allowed, NEIGHBOURS)
    ]
    found: dict[Choice, Tried] = {}
    for name, choice in ways:
        if choice is None:
            continue
        new = Tried([], choice, model.weight_mib(choice), knapsack.loss_of(options, choice))
        found.setdefault(choice, new).names.append(name)
    return list(found.values())


def _run(shared: list[str], tried: Sequence[Tried], words: Sequence[list[str]]) -> None:
    """Run the jobs of some choices as one grid, and read what they have measured."""
    pairs = [dict(word.partition("=")[::2] for word in some) for some in words]
    sweeper, arguments = sweeper_of(quote_texts(shared), None)
    sweeper.zip = [{key: ",".join(pair[key] for pair in pairs) for key in pairs[0]}]
    grid = sweeper.plan(arguments)
    if sweeper.do(grid):
        raise KeyboardInterrupt
    for number, (it, planned) in enumerate(zip(tried, grid.plan, strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = grid.outcomes.get(source)
        it.record = outcome.record if outcome else grid.plan[source].record
        if it.record is None or it.record.error or planned.job is None:
            problem = outcome.message if outcome else planned.problem
            raise JobFailed(
                f"the job of {it.name} failed: {problem or (it.record and it.record.error)}"
            )
        samples = read_samples(planned.job.samples_path)
        it.texts = units(
            [one.likelihood for _, one in sorted(samples.items()) if one.likelihood is not None]
        )
    if len(tried[0].texts) < MIN_TEXTS:
        raise ConfigError(
            f"{len(tried[0].texts)} texts are left after the {TEXTS} for single losses, and a comparison needs "
            f"{MIN_TEXTS}: give task.data with more texts, or a larger task.limit"
        )


def _compared(advice: MixAdvice) -> MixAdvice:
    """Compare the mix with all else that fits the limit, text by text; the errors of all tests are
    shared (Holm)."""
    mix, limit = advice.mix, advice.limit
    tests: list[tuple[Tried, SignFlips]] = []
    for it in advice.others:
        if it.metric(limit.metric) >= limit.mib:
            continue  # larger than allowed
        both = list(zip(it.texts, mix.texts, strict=True))
        lost = [(theirs.kl_nats or 0.0) - (ours.kl_nats or 0.0) for theirs, ours in both]
        tests.append((it, SignFlips(lost, [float(ours.tokens) for _, ours in both], "token")))
    for (it, _), decision in zip(tests, judge([test for _, test in tests]), strict=True):
        it.effect = decision
    return advice


# -------------------------------------------------------------------------------------------------------
# what is said


def show(advice: MixAdvice) -> None:
    """Print the mix, what was tried beside it, and what the comparison shows."""
    model, limit = advice.model, advice.limit
    texts = f"{TEXTS} texts for single losses, {advice.texts} others for the check"
    print(plain(f"{limit}, {', '.join(model.names)}: {advice.what}; {texts}; KL in nats a token"))
    wide = max(len(it.name) for it in (advice.mix, *advice.others))
    head = f"{limit.metric:>10}  {'predicted KL':>12}  {'measured KL, 95 % interval':>32}  less than the mix by"
    print(plain(f"\n{'':{wide}}  {head}"))
    for it in (advice.mix, *sorted(advice.others, key=lambda other: other.predicted)):
        print(plain(_line(it, limit, wide)))
    print()
    for sentence in verdicts(advice):
        print(plain(sentence))
    print(plain(f"\n{command(advice)}"))


def command(advice: MixAdvice) -> str:
    """Return the command of a job with what is recommended."""
    words = [word for word in advice.model.words if not word.startswith("task")]
    return shlex.join(["runner", *words, *advice.model.quantization(advice.written.choice)])


def _line(it: Tried, limit: Limit, wide: int) -> str:
    known = it.record is not None and "kl_nats_per_token_low" in it.record.result.metrics
    ends = (
        f" [{it.metric('kl_nats_per_token_low'):.3g}, {it.metric('kl_nats_per_token_high'):.3g}]"
        if known
        else ""
    )
    less = "too large" if it.metric(limit.metric) >= limit.mib else ""
    if it.effect is not None:
        value, low, high = -it.effect.value, *sorted((-it.effect.low, -it.effect.high))
        less = f"{value:+.3g} [{low:+.3g}, {high:+.3g}], p {it.effect.p_holm:.2g}"
    size = f"{it.metric(limit.metric):,.2f}"
    return f"{it.name:{wide}}  {size:>10}  {it.predicted:>12.4g}  {f'{it.kl:.4g}{ends}':>32}  {less}".rstrip()


def verdicts(advice: MixAdvice) -> list[str]:
    """Say how the limit is met, whether the mix is better than one format, and whether the sum of
    losses misled."""
    limit, mix, best = advice.limit, advice.mix, advice.uniform
    size = mix.metric(limit.metric)
    lines = [
        f"size: {limit.metric} {size:,.2f} measured, {size / limit.mib:.1%} of the limit; weights "
        f"{mix.metric('weight_mib'):,.2f} MiB measured, {mix.weight_mib:,.2f} predicted; layers: "
        f"{advice.model.counts(mix.choice)}"
    ]
    if best is None:
        lines.append("one format: none fits the limit for all layers")
    else:
        finding = Finding.open if best.effect is None else best.effect.finding
        words = {Finding.better: "better than", Finding.worse: "worse than"}.get(
            finding, "not shown to be better than"
        )
        lines.append(
            f"one format: the mix is {words} {best.name}, the best that fits: KL {mix.kl:.3g} and {best.kl:.3g}"
        )
    scaled = ", ".join(
        f"{name} × {scale:.2g}" for name, scale in advice.scales.items() if scale != 1
    )
    lines.append(
        f"sum: single losses are scaled to the job of each format alone: {scaled or 'none'}"
    )
    if mix.kl and abs(mix.predicted / mix.kl - 1) > OF_SIZE:
        lines.append(
            f"sum: single losses add up to {mix.predicted / mix.kl:.2f} times the loss of the mix: they do not say how "
            "large it is"
        )
    if advice.better:
        names = "; ".join(f"{it.name} (KL {it.kl:.3g})" for it in advice.better)
        lines.append(
            f"sum: it misled. Shown to lose less than the mix: {names}. Written is {advice.written.name}"
        )
    else:
        compared = sum(other.effect is not None for other in advice.others)
        lines.append(
            f"sum: it did not mislead. None of {compared} others within the limit is shown to lose less"
        )
    return lines


def as_data(advice: MixAdvice) -> dict[str, object]:
    """Return everything as plain data."""
    model = advice.model

    def data(it: Tried) -> dict[str, object]:
        effect = it.effect
        compared = effect and {
            "less_by": -effect.value,
            "low": -effect.high,
            "high": -effect.low,
            "p_holm": effect.p_holm,
        }
        return {
            "found_by": it.names,
            "weight_mib": it.metric("weight_mib"),
            "model_mib": it.metric("model_mib"),
            "predicted_weight_mib": it.weight_mib,
            "kl_nats_per_token": it.kl,
            "predicted_kl_nats_per_token": it.predicted,
            "job_id": it.record and it.record.job_id,
            "against_the_mix": compared,
        }

    return {
        "limit": str(advice.limit),
        "formats": {
            path: model.names[number]
            for path, number in zip(model.layers, advice.written.choice, strict=True)
        },
        "command": command(advice),
        "mix": data(advice.mix),
        "others": [data(other) for other in advice.others],
        "sentences": verdicts(advice),
    }
