"""Texts that a comparison writes into model cards."""

from __future__ import annotations

FORM = "The form is a hash of all prompts without their questions: only compare scores of the same form."


def explain_divergence_columns(
    reference: str, is_bounded: bool, texts: str, tokens: str, data: str, split: str
) -> str:
    """Return a text that explains the columns of a divergence table."""
    what = (
        "over the tokens that are stored for the reference, so percentiles are bounds (lower – upper)"
        if is_bounded
        else "over whole distributions"
    )
    return (
        f"KLD: the Kullback–Leibler divergence from {reference} in nats per token, {what}. Measured on {texts} "
        f"documents with {tokens} tokens of {data} {split}. In brackets: 95 % intervals over documents, where there "
        "are enough of them. PPL ratio: the perplexity divided by that of the reference."
    )


def not_on_hub_message(job_id: str, data: str | None, results: str) -> str:
    return (
        f"{job_id}: {results} gets no entry, because task.data={data} is not a data set on the Hub. Name one with "
        "--benchmark DATASET_ID:TASK_ID"
    )
