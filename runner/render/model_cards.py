"""Texts that a comparison writes into model cards."""

from __future__ import annotations

FORM = "The form is a hash of all prompts without their questions. Compare only scores with equal forms."


def explain_divergence_columns(
    reference: str, is_bounded: bool, num_documents: str, num_tokens: str, data_set: str, split: str
) -> str:
    what = (
        "computed only over the reference's stored tokens, so percentiles are ranges (lower – upper)"
        if is_bounded
        else "computed over whole distributions"
    )
    return (
        f"KLD: the Kullback–Leibler divergence from {reference} in nats per token, {what}. Measured on {num_documents} "
        f"documents with {num_tokens} tokens of {data_set} {split}. In "
        "brackets: 95 % intervals over documents, where there "
        "are enough of them. PPL ratio: the perplexity divided by that of the reference."
    )


def not_on_hub_message(job_id: str, data: str | None, results: str) -> str:
    return (
        f"{job_id}: no entry in {results}, because task.data={data} is not a data set on the Hub. "
        "Give the data set with --benchmark DATASET_ID:TASK_ID"
    )
