"""How facts of a record name another job."""

from __future__ import annotations

import pytest

from runner_base.named_jobs import JobReference


@pytest.mark.parametrize(
    ("job", "fact"),
    [
        (JobReference("quantization=none", "gsm8k-0123456789ab"), "quantization=none · gsm8k-0123456789ab"),
        (JobReference("model.name=a · b", "gsm8k-0123456789ab"), "model.name=a · b · gsm8k-0123456789ab"),
        (JobReference("", "gsm8k-0123456789ab"), "gsm8k-0123456789ab"),
        (JobReference("", ""), ""),
    ],
)
def test_a_fact_is_read_as_it_was_written(job: JobReference, fact: str) -> None:
    assert job.to_fact() == fact
    assert JobReference.from_fact(fact) == job
