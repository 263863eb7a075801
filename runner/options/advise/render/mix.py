"""A mix within a limit and what its check shows, as text and as JSON."""

from __future__ import annotations

import shlex

from runner.options.advise.mix import TEXTS, Limit
from runner.options.advise.mix_check import MixAdvice, Tried, in_mib
from runner.options.advise.mix_file import file_command
from runner_base import beside_limit, more_digits, plain
from runner_compare import p_value
from runner_compare.statistics import Finding

OF_SIZE = 0.25  # by which share a sum of single losses may miss the measured loss before that is said
MINUS_MIX = "KL minus that of the mix (above 0: loses more), p by Holm"


def show(advice: MixAdvice) -> None:
    """Print the mix, what was tried beside it, and what the comparison shows."""
    model, limit = advice.model, advice.limit
    texts = f"{TEXTS} texts for single losses, {advice.texts} others for the check"
    print(plain(f"{limit}, {', '.join(model.names)}: {advice.what}; {texts}; KL in nats a token"))
    wide = max(len(tried.name) for tried in (advice.mix, *advice.others))
    head = f"{limit.metric:>10}  {'predicted KL':>12}  {'measured KL, 95 % interval':>32}  {MINUS_MIX}"
    print(plain(f"\n{'':{wide}}  {head}"))
    rows = [advice.mix, *sorted(advice.others, key=lambda other: other.predicted)]
    more = more_digits([row.metric(limit.metric) for row in rows], limit.mib, in_mib)
    for tried in rows:
        print(plain(_line(tried, limit, wide, more)))
    print()
    for sentence in verdicts(advice):
        print(plain(sentence))
    print(plain(f"\n{command(advice)}"))
    if (of_file := file_command(advice.model, advice.written.choice)) is not None:
        print(plain(f"\nas a file for other tools, with integers of as many bits:\n{of_file}"))


def command(advice: MixAdvice) -> str:
    """Return the command of a job with what is recommended."""
    overrides = [word for word in advice.model.overrides if not word.startswith("task")]
    return shlex.join(["runner", *overrides, *advice.model.quantization(advice.written.choice)])


def _line(tried: Tried, limit: Limit, wide: int, more_decimals: int) -> str:
    known = tried.record is not None and "kl_nats_per_token_low" in tried.record.result.metrics
    ends = (
        f" [{tried.metric('kl_nats_per_token_low'):.3g}, {tried.metric('kl_nats_per_token_high'):.3g}]"
        if known
        else ""
    )
    beside = "too large" if tried.metric(limit.metric) >= limit.mib else ""
    if tried.effect is not None:
        more = tried.effect
        lost = f"{more.value:+.3g} [{more.simultaneous_low:+.3g}, {more.simultaneous_high:+.3g}]"
        beside = f"{lost}, p {p_value(more.p_holm)}"
    size = in_mib(tried.metric(limit.metric), more_decimals)
    measured = f"{tried.kl:.4g}{ends}"
    return f"{tried.name:{wide}}  {size:>10}  {tried.predicted:>12.4g}  {measured:>32}  {beside}".rstrip()


def _in_percent(share: float, more: int = 0) -> str:
    return f"{share:.{1 + more}%}"


def verdicts(advice: MixAdvice) -> list[str]:
    """Say how the limit is met, whether the mix is better than one format, and whether the sum of
    losses misled."""
    limit, mix, best = advice.limit, advice.mix, advice.uniform
    size = mix.metric(limit.metric)
    share = beside_limit(size / limit.mib, 1.0, _in_percent)
    of_limit, measured, predicted = (
        beside_limit(mib, limit.mib, in_mib) for mib in (size, mix.metric("weight_mib"), mix.weight_mib)
    )
    lines = [
        f"size: {limit.metric} {of_limit} measured, {share} of the limit; weights {measured} MiB "
        f"measured, {predicted} predicted; layers: {advice.model.counts(mix.choice)}"
    ]
    if best is None:
        lines.append("one format: none fits the limit for all layers")
    else:
        finding = Finding.open if best.effect is None else best.effect.finding
        comparison = {Finding.better: "better than", Finding.worse: "worse than"}.get(
            finding, "not shown to be better than"
        )
        lines.append(
            f"one format: the mix is {comparison} {best.name}, the best that fits: KL {mix.kl:.3g} and {best.kl:.3g}"
        )
    scaled = ", ".join(f"{scale:.2g} ({name})" for name, scale in advice.scales.items() if scale != 1)
    times = f", times {scaled} to match the whole model in that format" if scaled else ", as measured"
    lines.append(f"prediction: the sum of the layers' losses, each layer rounded alone{times}")
    if mix.kl and abs(mix.predicted / mix.kl - 1) > OF_SIZE:
        lines.append(
            f"prediction: it is {mix.predicted / mix.kl:.2f} times the mix's measured KL: trust the measured one"
        )
    lines.append(f"check: {_check(advice)}")
    return lines


def _check(advice: MixAdvice) -> str:
    """Say what is shown to lose less than the mix; if nothing, which of them measured lower."""
    if advice.better:
        names = "; ".join(f"{tried.name} (KL {tried.kl:.3g})" for tried in advice.better)
        return f"shown to lose less than the mix: {names}. Written is {advice.written.name}"
    compared = [other for other in advice.others if other.effect is not None]
    if not compared:
        return "nothing else fits the limit"
    least = min(compared, key=lambda other: other.kl)
    lower = (
        f"the lowest measured KL is that of {least.name}, {least.kl:.3g}, p "
        f"{p_value(least.effect.p_holm)}: undecided"
        if least.effect is not None and least.kl < advice.mix.kl
        else "none measured a lower KL"
    )
    others = f"the {len(compared)} others" if len(compared) > 1 else "the other one"
    return f"none of {others} within the limit is shown to lose less than the mix ({lower})"


def as_data(advice: MixAdvice) -> dict[str, object]:
    """Return everything as plain data."""
    model = advice.model

    def data(tried: Tried) -> dict[str, object]:
        effect = tried.effect
        compared = effect and {
            "less_by": -effect.value,
            "low": -effect.high,
            "high": -effect.low,
            "p_holm": effect.p_holm,
        }
        return {
            "found_by": tried.names,
            "weight_mib": tried.metric("weight_mib"),
            "model_mib": tried.metric("model_mib"),
            "predicted_weight_mib": tried.weight_mib,
            "kl_nats_per_token": tried.kl,
            "predicted_kl_nats_per_token": tried.predicted,
            "job_id": tried.record and tried.record.job_id,
            "against_the_mix": compared,
        }

    return {
        "limit": str(advice.limit),
        "formats": {
            path: model.names[number]
            for path, number in zip(model.layers, advice.written.choice, strict=True)
        },
        "command": command(advice),
        "file_command": file_command(advice.model, advice.written.choice),
        "mix": data(advice.mix),
        "others": [data(other) for other in advice.others],
        "sentences": verdicts(advice),
    }
