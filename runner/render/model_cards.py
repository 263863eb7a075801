"""Texts that a comparison adds to a model card."""

from __future__ import annotations

FORM = "The form is a hash of all prompts without their questions: only scores of the same form are alike."


def divergence_explanation(
    reference: str, is_bounded: bool, texts: str, tokens: str, data: str, split: str
) -> str:
    """Return an explanation of the columns of a divergence table."""
    what = (
        "over the tokens that the reference kept, so a percentile is only bounded (at least – at most)"
        if is_bounded
        else "over whole distributions"
    )
    return (
        f"KLD: the Kullback–Leibler divergence from {reference}, in nats a token, {what}; on {texts} texts with "
        f"{tokens} tokens of {data} {split}. In brackets: 95 % intervals over texts; a percentile has none where the "
        "texts are too few for it. PPL ratio: the perplexity divided by the reference's."
    )


def not_on_hub_message(job_id: str, data: str | None, results: str) -> str:
    return (
        f"{job_id}: task.data={data} is no data set of the Hub, so {results} has no entry of it: --benchmark "
        "DATASET_ID:TASK_ID names one"
    )
