"""Text and JSON output of `runner-advise --mix`: the chosen format per layer and its verification."""

from __future__ import annotations

import shlex

from runner.options.advise.mix import TEXTS, SizeLimit
from runner.options.advise.mix_check import MixAdvice, TestedChoice, in_mib
from runner.options.advise.mix_recipe import format_quantize_command
from runner_base import count_digits_to_distinguish_limit, escape_control_characters, format_against_limit
from runner_compare import format_p_value
from runner_compare.statistics import Finding

OF_SIZE = 0.25  # by which share a sum of single losses may miss the measured loss before that is said
MINUS_MIX = "difference from the mix (positive: higher KL than the mix; p-values are Holm-adjusted)"


def print_mix_advice(advice: MixAdvice) -> None:
    """Print the chosen mix of formats, the tested alternatives, and the result of the comparison."""
    model, limit = advice.model, advice.limit
    texts = f"layer losses use {TEXTS} documents, the comparison uses {advice.texts} other documents"
    print(
        escape_control_characters(
            f"{limit}, {', '.join(model.names)}: {advice.format_layer_and_block_counts}; {texts}; KL in nats per token"
        )
    )
    wide = max(len(tried.name) for tried in (advice.mix, *advice.others))
    head = f"{limit.metric:>10}  {'predicted KL':>12}  {'measured KL, 95 % interval':>32}  {MINUS_MIX}"
    print(escape_control_characters(f"\n{'':{wide}}  {head}"))
    rows = [advice.mix, *sorted(advice.others, key=lambda other: other.predicted)]
    more = count_digits_to_distinguish_limit(
        [row.measured_metric(limit.metric) for row in rows], limit.mib, in_mib
    )
    for tried in rows:
        print(escape_control_characters(_format_quantization_choice_line(tried, limit, wide, more)))
    print()
    for sentence in describe_mix_size_and_loss(advice):
        print(escape_control_characters(sentence))
    print(escape_control_characters(f"\n{format_recommended_command(advice)}"))
    if (of_file := format_quantize_command(advice.model, advice.recommended.choice)) is not None:
        print(
            escape_control_characters(
                f"\nas a recipe for other tools, with integers of the same number of bits:\n{of_file}"
            )
        )


def format_recommended_command(advice: MixAdvice) -> str:
    overrides = [word for word in advice.model.overrides if not word.startswith("task")]
    return shlex.join(
        ["runner", *overrides, *advice.model.build_quantization_overrides(advice.recommended.choice)]
    )


def _format_quantization_choice_line(
    tested_choice: TestedChoice, limit: SizeLimit, name_width: int, extra_decimals: int
) -> str:
    known = (
        tested_choice.record is not None and "kl_nats_per_token_low" in tested_choice.record.result.metrics
    )
    ends = (
        (
            f" [{tested_choice.measured_metric('kl_nats_per_token_low'):.3g}, "
            f"{tested_choice.measured_metric('kl_nats_per_token_high'):.3g}]"
        )
        if known
        else ""
    )
    beside = "too large" if tested_choice.measured_metric(limit.metric) >= limit.mib else ""
    if tested_choice.effect is not None:
        more = tested_choice.effect
        lost = f"{more.value:+.3g} [{more.simultaneous_low:+.3g}, {more.simultaneous_high:+.3g}]"
        beside = f"{lost}, p {format_p_value(more.p_holm)}"
    size = in_mib(tested_choice.measured_metric(limit.metric), extra_decimals)
    measured = f"{tested_choice.kl_nats_per_token:.4g}{ends}"
    return (
        f"{tested_choice.name:{name_width}}  {size:>10}  "
        f"{tested_choice.predicted:>12.4g}  {measured:>32}  {beside}"
    ).rstrip()


def _format_percent(fraction: float, extra_digits: int = 0) -> str:
    return f"{fraction:.{1 + extra_digits}%}"


def describe_mix_size_and_loss(advice: MixAdvice) -> list[str]:
    """Describe the mix's size, its loss relative to uniform formats, and the accuracy of the
    predicted loss.
    """
    limit, mix, best = advice.limit, advice.mix, advice.best_uniform
    size = mix.measured_metric(limit.metric)
    share = format_against_limit(size / limit.mib, 1.0, _format_percent)
    of_limit, measured, predicted = (
        format_against_limit(mib, limit.mib, in_mib)
        for mib in (size, mix.measured_metric("weight_mib"), mix.weight_mib)
    )
    lines = [
        f"size: the measured {limit.metric} is {of_limit}, {share} of the limit. The weights take "
        f"{measured} MiB (predicted: {predicted}). Layers: {advice.model.describe_layers_per_format(mix.choice)}"
    ]
    if best is None:
        lines.append("uniform formats: none meets the limit")
    else:
        finding = Finding.open if best.effect is None else best.effect.finding
        comparison = {Finding.better: "better than", Finding.worse: "worse than"}.get(
            finding, "not shown to be better than"
        )
        lines.append(
            f"uniform formats: the mix is {comparison} {best.name}, the best uniform format within the limit "
            f"(KL {mix.kl_nats_per_token:.3g} and {best.kl_nats_per_token:.3g})"
        )
    scaled = ", ".join(f"{scale:.2g} ({name})" for name, scale in advice.scales.items() if scale != 1)
    times = f", multiplied by {scaled} to match the whole model in that format" if scaled else ", as measured"
    lines.append(f"prediction: the sum of the layer losses{times}")
    if mix.kl_nats_per_token and abs(mix.predicted / mix.kl_nats_per_token - 1) > OF_SIZE:
        lines.append(
            f"the predicted KL is {mix.predicted / mix.kl_nats_per_token:.2f} times the "
            "measured KL of the mix. Use the measured KL"
        )
    lines.append(f"check: {_describe_formats_better_than_mix(advice)}")
    return lines


def _describe_formats_better_than_mix(advice: MixAdvice) -> str:
    if advice.better_choices:
        names = "; ".join(
            f"{tried.name} (KL {tried.kl_nats_per_token:.3g})" for tried in advice.better_choices
        )
        return f"formats with significantly less loss: {names}. The recipe uses {advice.recommended.name}"
    compared = [other for other in advice.others if other.effect is not None]
    if not compared:
        return "nothing else fits the limit"
    least = min(compared, key=lambda other: other.kl_nats_per_token)
    lower = (
        (
            f"{least.name} has the lowest measured KL, {least.kl_nats_per_token:.3g} (p "
            f"{format_p_value(least.effect.p_holm)}), but its loss is not significantly lower"
        )
        if least.effect is not None and least.kl_nats_per_token < advice.mix.kl_nats_per_token
        else "none measured a lower KL"
    )
    others = f"{len(compared)} tested" if len(compared) > 1 else "one tested"
    return f"no format within the limit has significantly less loss than the mix: {others} ({lower})"


def convert_mix_advice_to_dict(advice: MixAdvice) -> dict[str, object]:
    model = advice.model

    def convert_choice_to_dict(choice: TestedChoice) -> dict[str, object]:
        effect = choice.effect
        compared = effect and {
            "less_by": -effect.value,
            "low": -effect.high,
            "high": -effect.low,
            "p_holm": effect.p_holm,
        }
        return {
            "found_by": choice.names,
            "weight_mib": choice.measured_metric("weight_mib"),
            "model_mib": choice.measured_metric("model_mib"),
            "predicted_weight_mib": choice.weight_mib,
            "kl_nats_per_token": choice.kl_nats_per_token,
            "predicted_kl_nats_per_token": choice.predicted,
            "job_id": choice.record and choice.record.job_id,
            "against_the_mix": compared,
        }

    return {
        "limit": str(advice.limit),
        "formats": {
            path: model.names[number]
            for path, number in zip(model.layers, advice.recommended.choice, strict=True)
        },
        "command": format_recommended_command(advice),
        "file_command": format_quantize_command(advice.model, advice.recommended.choice),
        "mix": convert_choice_to_dict(advice.mix),
        "others": [convert_choice_to_dict(other) for other in advice.others],
        "sentences": describe_mix_size_and_loss(advice),
    }
