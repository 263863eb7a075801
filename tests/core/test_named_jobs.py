"""How facts of a record name another job."""

from __future__ import annotations

import pytest

from runner_base.named_jobs import NamedJob


@pytest.mark.parametrize(
    ("job", "fact"),
    [
        (NamedJob("quantization=none", "gsm8k-0123456789ab"), "quantization=none · gsm8k-0123456789ab"),
        (NamedJob("model.name=a · b", "gsm8k-0123456789ab"), "model.name=a · b · gsm8k-0123456789ab"),
        (NamedJob("", "gsm8k-0123456789ab"), "gsm8k-0123456789ab"),
        (NamedJob("", ""), ""),
    ],
)
def test_a_fact_is_read_as_it_was_written(job: NamedJob, fact: str) -> None:
    assert job.to_fact() == fact
    assert NamedJob.from_fact(fact) == job
