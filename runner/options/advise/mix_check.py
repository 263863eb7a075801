"""Verifies a mix of quantization formats with real jobs and a pairwise comparison.

A mix is chosen by losses measured one layer at a time on a few texts. It is an assumption
that their sum predicts the total loss. Therefore the jobs score other texts, and the
divergence of each text is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.override_quoting import quote_override_values
from runner.grid.grid_api import create_grid_sweeper
from runner.options.advise import knapsack
from runner.options.advise.candidates import Compose
from runner.options.advise.knapsack import FormatChoice, LayerOption
from runner.options.advise.mix import TEXTS, MixableModel, SizeLimit, load_or_measure_quantization_losses
from runner.records.jobs import read_samples
from runner_base import (
    MIB,
    ConfigError,
    JobFailed,
    Likelihood,
    Record,
    fixed_decimals_formatter,
    format_against_limit,
)
from runner_compare.statistics import (
    MIN_TEXTS,
    Decision,
    Finding,
    SignFlipTest,
    decide_comparisons_with_holm,
    ratio_of_sums,
    sum_likelihoods_by_document,
)

NEIGHBOURS = 2
in_mib = fixed_decimals_formatter(2)
KEPT = 64  # most probable tokens of the reference: enough for its divergences


@dataclass
class TestedChoice:
    """Assignment of a format to every layer, with its predicted and measured size and loss."""

    names: list[str]  # how it was found; several ways may find the same
    choice: FormatChoice
    weight_mib: float
    predicted: float  # the sum of single losses
    is_uniform: bool = False
    record: Record | None = None
    texts: Sequence[Likelihood] = ()
    effect: Decision | None = None  # the mix against it

    @property
    def name(self) -> str:
        return ", ".join(self.names)

    def measured_metric(self, metric_name: str) -> float:
        """Return a metric that the choice's job has measured, or 0 if no job ran."""
        return 0.0 if self.record is None else self.record.result.metrics.get(metric_name, 0.0)

    @property
    def kl_nats_per_token(self) -> float:
        """Measured KL divergence from the unquantized model, in nats per token. The unquantized model has
        0.
        """
        return ratio_of_sums(
            [text.kl_nats or 0.0 for text in self.texts], [float(text.tokens) for text in self.texts]
        )


@dataclass
class MixAdvice:
    """The recommended mix of formats within a size limit, and the alternatives that were tested against
    it.
    """

    model: MixableModel
    limit: SizeLimit
    mix: TestedChoice
    others: list[TestedChoice]
    texts: int
    scales: dict[str, float]  # of the single losses of each format

    @property
    def format_layer_and_block_counts(self) -> str:
        linear = sum(map(len, self.model.layers.values()))
        blocks = len(self.model.layers)
        return f"{linear} linear layers" + (f" in {blocks} blocks" if blocks < linear else "")

    @property
    def recommended(self) -> TestedChoice:
        lower = [
            tried
            for tried in self.better_choices
            if tried.measured_metric(self.limit.metric) <= self.limit.mib
        ]
        return min(lower, key=lambda tried: tried.kl_nats_per_token, default=self.mix)

    @property
    def better_choices(self) -> list[TestedChoice]:
        """Alternatives whose measured loss is significantly lower than the loss of the mix."""
        return [
            other
            for other in self.others
            if other.effect is not None and other.effect.finding is Finding.worse
        ]

    @property
    def best_uniform(self) -> TestedChoice | None:
        fits = [
            other
            for other in self.others
            if other.is_uniform and other.measured_metric(self.limit.metric) < self.limit.mib
        ]
        return min(fits, key=lambda fit: fit.kl_nats_per_token, default=None)


def recommend_and_verify_layer_formats(
    limit: SizeLimit, overrides: list[str], formats: Sequence[str], is_by_block: bool, compose: Compose
) -> MixAdvice:
    """Choose a format per layer within a size limit, and verify the choice with jobs. Raises
    ConfigError if no choice fits.
    """
    overrides = [
        *overrides,
        *(() if any(word.startswith("task=") for word in overrides) else ("task=likelihood",)),
    ]
    model = MixableModel.from_config(overrides, formats, is_by_block, compose)
    offset = next((int(word.partition("=")[2]) for word in overrides if word.startswith("task.offset=")), 0)
    shared = [
        *overrides,
        f"task.offset={offset + TEXTS}",
        f"task.keep_top_k={KEPT}",
        "task.exact=false",
        "task.reference=quantization=none",
    ]
    uniform = {
        name: TestedChoice([f"uniform {name}"], model.uniform_choice(name), 0.0, 0.0, is_uniform=True)
        for name in ("none", *model.names)
    }
    _measure_format_choices_in_grid(
        shared,
        list(uniform.values()),
        [[f"quantization={name}", "quantization.overrides={}"] for name in uniform],
    )
    rest_mib = 0.0
    if limit.metric == "model_mib":
        rest_mib = max(
            tried.measured_metric("model_mib") - tried.measured_metric("weight_mib")
            for tried in uniform.values()
        )
    allowed = int((limit.mib - rest_mib) * MIB) - model.other_bytes
    losses = load_or_measure_quantization_losses(model, compose)
    scales = {
        name: _compute_loss_scale(tried.kl_nats_per_token, sum(of.get(name, 0.0) for of in losses.values()))
        for name, tried in uniform.items()
    }
    options = model.layer_options(losses, scales)
    chosen = knapsack.solve_knapsack(options, allowed)
    if chosen is None:
        least = min(model.weight_mib(model.uniform_choice(name)) for name in model.names) + rest_mib
        raise ConfigError(
            (
                "no mix of these formats meets the limit, because the smallest format takes "
                f"{format_against_limit(least, limit.mib, in_mib)} MiB. Raise the limit"
            ),
            key="--mix",
            value=limit,
            code="too_large",
        )
    mix, *others = _list_choices_to_test(model, options, chosen, allowed)
    for tried in uniform.values():
        tried.weight_mib, tried.predicted = (
            model.weight_mib(tried.choice),
            knapsack.total_loss(options, tried.choice),
        )
    _measure_format_choices_in_grid(
        shared, [mix, *others], [model.build_quantization_overrides(tried.choice) for tried in (mix, *others)]
    )
    known = {tried.choice for tried in (mix, *others)}
    others += [tried for tried in uniform.values() if tried.choice not in known]
    return _compare_kl_with_alternative_formats(MixAdvice(model, limit, mix, others, len(mix.texts), scales))


def _compute_loss_scale(measured_loss: float, predicted_loss: float) -> float:
    """Return the ratio of the quantized model's measured loss to the sum of its layer losses.

    The job's kernels may round activations, too, and it scores other texts.
    """
    return measured_loss / predicted_loss if predicted_loss > 0 and measured_loss > 0 else 1.0


def _list_choices_to_test(
    model: MixableModel, options: Sequence[Sequence[LayerOption]], best_choice: FormatChoice, max_nbytes: int
) -> list[TestedChoice]:
    ways = [("mix", best_choice), ("greedy", knapsack.choose_formats_greedily(options, max_nbytes))]
    ways += [
        ("in the order of the layers", knapsack.assign_largest_fitting_formats_greedily(options, max_nbytes))
    ]
    ways += [
        ("neighbour", neighbour)
        for neighbour in knapsack.find_best_layer_format_swaps(options, best_choice, max_nbytes, NEIGHBOURS)
    ]
    found: dict[FormatChoice, TestedChoice] = {}
    for name, choice in ways:
        if choice is None:
            continue
        new = TestedChoice([], choice, model.weight_mib(choice), knapsack.total_loss(options, choice))
        found.setdefault(choice, new).names.append(name)
    return list(found.values())


def _measure_format_choices_in_grid(
    shared_overrides: list[str], choices: Sequence[TestedChoice], quantizations: Sequence[list[str]]
) -> None:
    """Run one job per format choice in a grid, and read the metrics that the jobs measure."""
    pairs = [dict(word.partition("=")[::2] for word in some) for some in quantizations]
    sweeper, arguments = create_grid_sweeper(quote_override_values(shared_overrides), None)
    sweeper.zip = [{key: ",".join(pair[key] for pair in pairs) for key in pairs[0]}]
    grid = sweeper.plan_grid(arguments)
    if sweeper.run_unfinished_jobs(grid):
        raise KeyboardInterrupt
    for number, (choice, planned) in enumerate(zip(choices, grid.plan, strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = grid.outcomes.get(source)
        choice.record = outcome.record if outcome else grid.plan[source].record
        if choice.record is None or choice.record.error or planned.job is None:
            problem = outcome.message if outcome else planned.problem
            raise JobFailed(
                f"the job {choice.name} failed: {problem or (choice.record and choice.record.error)}",
                code="failed",
            )
        samples = read_samples(planned.job.samples_path)
        choice.texts = sum_likelihoods_by_document(
            [sample.likelihood for _, sample in sorted(samples.items()) if sample.likelihood is not None]
        )
    if len(choices[0].texts) < MIN_TEXTS:
        raise ConfigError(
            (
                f"the comparison needs {MIN_TEXTS} documents, but only {len(choices[0].texts)} are left, because "
                f"{TEXTS} documents measure the losses of the layers. Give task.data with more documents, or "
                "raise task.limit"
            ),
            code="missing",
        )


def _compare_kl_with_alternative_formats(advice: MixAdvice) -> MixAdvice:
    mix, limit = advice.mix, advice.limit
    tests: list[tuple[TestedChoice, SignFlipTest]] = []
    for tried in advice.others:
        if tried.measured_metric(limit.metric) >= limit.mib:
            continue  # larger than allowed
        both = list(zip(tried.texts, mix.texts, strict=True))
        lost = [(other_text.kl_nats or 0.0) - (mix_text.kl_nats or 0.0) for other_text, mix_text in both]
        tests.append((tried, SignFlipTest(lost, [float(mix_text.tokens) for _, mix_text in both], "token")))
    for (tried, _), decision in zip(
        tests, decide_comparisons_with_holm([test for _, test in tests]), strict=True
    ):
        tried.effect = decision
    return advice
