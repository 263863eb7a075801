"""Compared likelihoods: paired sample by sample over their tokens; texts that cannot be paired are
rejected by name."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from stores import INT8, NF4, NONE, Store, marks

from runner_base.result import Answer, FinishReason, Likelihood, Sample
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.ratios import compute_paired_p_value, compute_paired_ratio_interval

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "quantization=none"
N = 60
DRAW = Random(0)
TOKENS = [DRAW.randrange(10, 90) for _ in range(N)]
BASE = [-0.25 * tokens * DRAW.uniform(0.5, 1.5) for tokens in TOKENS]
WORSE = [nats - tokens * DRAW.gauss(0.002, 0.003) for nats, tokens in zip(BASE, TOKENS, strict=True)]
NEARLY_SAME = [nats + tokens * DRAW.gauss(0, 0.0001) for nats, tokens in zip(BASE, TOKENS, strict=True)]


def job(
    store: Store,
    experiment: str,
    name: str,
    config: dict[str, str],
    nats: Sequence[float],
    *,
    text: str = "answer",
    prompt: str = "prompt",
    ids: Sequence[int] = (),
    metrics: dict[str, float] | None = None,
) -> None:
    """Log a run as task=likelihood does, with its samples."""
    lines = [
        Sample(
            Answer("", list(ids) or [index] * tokens, FinishReason.stop),
            index=index,
            prompt_sha256=f"{prompt} {index}",
            prompt_tokens=9,
            seconds=0.1,
            question=f"question {index}",
            gold=f"{text} {index}",
            likelihood=Likelihood(index, value, tokens, 3 * tokens, 3 * tokens, tokens // 2),
        )
        for index, (value, tokens) in enumerate(zip(nats, TOKENS, strict=False))
    ]
    logged = compute_likelihood_metrics([line.likelihood for line in lines if line.likelihood is not None])
    config = {"task.name": "likelihood", "task.data": "embedded", **config}
    folder = store.job(
        experiment, name, config, tags={"task": "likelihood"}, metrics=logged | (metrics or {})
    )
    (folder / "samples.jsonl").write_text("".join(line.to_json() + "\n" for line in lines))


@pytest.mark.thorough
def test_differences_are_paired_weighted_by_tokens_and_adjusted(store: Store, rows: Any, show: Any) -> None:
    job(store, "likely", "base", NONE, BASE)
    kl = {"kl_nats_per_token": 0.0007, "kl_nats_per_token_low": 0.0002, "kl_nats_per_token_high": 0.0012}
    job(store, "likely", "nf4", NF4, WORSE, metrics={**kl, "top_1_agreement": 0.9987})
    job(store, "likely", "int8", INT8, NEARLY_SAME)
    row_by_job = rows("likely", "--baseline", BASELINE)
    shift = row_by_job["nf4"]["shift"]
    differences = [ours - theirs for ours, theirs in zip(WORSE, BASE, strict=True)]
    assert shift["difference"] == pytest.approx(sum(differences) / sum(TOKENS))
    logged = row_by_job["nf4"]["metrics"][LOG_LIKELIHOOD] - row_by_job["base"]["metrics"][LOG_LIKELIHOOD]
    assert shift["difference"] == pytest.approx(logged)
    assert (shift["difference_low"], shift["difference_high"]) == pytest.approx(
        compute_paired_ratio_interval(differences, TOKENS)
    )
    assert shift["p"] == compute_paired_p_value(differences, TOKENS)
    assert (shift["finding"], shift["samples"], shift["size"], shift["unit"]) == (
        "worse",
        N,
        sum(TOKENS),
        "token",
    )
    assert shift["p_holm"] == pytest.approx(2 * shift["p"])
    nearly_same = row_by_job["int8"]["shift"]
    assert nearly_same["finding"] == "no difference shown"
    assert 0 < nearly_same["detectable_difference"] < 0.001 < shift["detectable_difference"] * 2
    code, out, _ = show("likely", "--baseline", BASELINE)
    assert code == 0
    assert f"nf4 vs none (n={N}, {sum(TOKENS):,} tokens): worse (Δ −0.00" in out
    assert "int8 vs none" in out
    assert re.search(r"detects differences of \S+ nats/token or more with about 80 % power", out)
    assert "0.0007 [0.0002, 0.0012]" in out
    assert "99.87%" in out
    _, out, _ = show("likely", "--baseline", BASELINE, "--format", "csv")
    lines = {line["job_id"]: line for line in csv.DictReader(io.StringIO(out))}
    assert float(lines["nf4"]["difference"]) == pytest.approx(shift["difference"])
    assert lines["nf4"]["finding"] == "worse"


@pytest.mark.thorough
def test_a_page_says_it_too(store: Store, show: Any, tmp_path: Path) -> None:
    job(store, "likely page", "base", NONE, BASE)
    job(store, "likely page", "nf4", NF4, WORSE)
    code, _, _ = show("likely page", "--baseline", BASELINE, "--save", str(tmp_path))
    assert code == 0
    page = (tmp_path / "comparison.html").read_text()
    assert "<b>worse</b>" in page
    assert "sign-flip test of the samples" in page


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        (
            {"text": "another answer"},
            f"only 0 texts are the same in both runs (the run has {N}, the baseline has {N})",
        ),
        ({"ids": [1, 2, 3]}, f"{N} of {N} texts have different tokens in the run and in the baseline"),
        ({"prompt": "reworded"}, f"{N} of {N} texts have different prompts in the run and in the baseline"),
        (
            {"metrics": {LOG_LIKELIHOOD: -0.5}},
            f"samples are missing, because samples.jsonl of job nf4 disagrees with its logged {LOG_LIKELIHOOD}",
        ),
    ],
)
def test_texts_that_cannot_be_paired_are_rejected(
    store: Store, rows: Any, keys: dict[str, Any], note: str
) -> None:
    experiment = f"likely {next(iter(keys))}"
    job(store, experiment, "base", NONE, BASE)
    job(store, experiment, "nf4", NF4, WORSE, **keys)
    row = rows(experiment, "--baseline", BASELINE)["nf4"]
    assert "shift" not in row
    assert row["note"] == note


def test_fewer_texts_are_rejected(store: Store, rows: Any) -> None:
    job(store, "likely few", "base", NONE, BASE)
    job(store, "likely few", "fewer", NF4, WORSE[:9])
    assert (
        rows("likely few", "--baseline", BASELINE)["fewer"]["note"]
        == f"only 9 texts are the same in both runs (the run has 9, the baseline has {N})"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 49])
def test_of_too_few_texts_nothing_is_claimed(store: Store, rows: Any, show: Any, count: int) -> None:
    experiment = f"likely {count}"
    job(store, experiment, "base", NONE, BASE[:count])
    job(store, experiment, "nf4", NF4, WORSE[:count])
    difference = sum(WORSE[:count]) - sum(BASE[:count])
    words = f"{difference / sum(TOKENS[:count]):+.5f}".replace("-", "−")
    row = rows(experiment, "--baseline", BASELINE, "--unpaired")["nf4"]
    assert "shift" not in row
    assert (
        row["note"]
        == f"the test needs at least 50 texts, but the runs share only {count} (Δ {words} nats/token)"
    )
    _, out, _ = show(experiment, "--baseline", BASELINE)
    assert (
        f"nf4: not compared, the test needs at least 50 texts, but the runs share only {count} ("
        in " ".join(out.split())
    )


@pytest.mark.thorough
def test_accuracy_and_likelihood_of_the_same_models_are_in_one_table(store: Store, show: Any) -> None:
    for name, config, nats, right in (
        ("base", NONE, BASE, 150),
        ("nf4", NF4, WORSE, 148),
        ("int8", INT8, NEARLY_SAME, 150),
    ):
        store.job("both", f"asked-{name}", config, marks(right, 200))
        if name != "int8":
            job(store, "both", f"scored-{name}", config, nats)
    _, out, _ = show("both", "--baseline", BASELINE, "--format", "markdown")
    lines = out.split("### accuracy and likelihood\n\n")[1].splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:7]] == [
        "quantization", "accuracy", "Δ points [simultaneous 95 %]", "finding", "Δ nats/token", "finding",
    ]  # fmt: skip
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["none", "nf4"]
    assert "no difference shown" in lines[3]
    assert "worse" in lines[3]
    _, out, _ = show("both", "--baseline", BASELINE, "--task", "likelihood", "--format", "markdown")
    assert "accuracy and likelihood" not in out


def test_likelihoods_of_several_splits_are_pooled_among_themselves(store: Store, show: Any) -> None:
    """Accuracies of the same settings have a table of their own."""
    for split in ("one", "two"):
        for config, nats in ((NONE, BASE), (NF4, WORSE)):
            name = f"{config['quantization.name']}-{split}"
            job(store, "pooled", f"likelihood-{name}", {**config, "task.split": split}, nats, text=split)
            right = marks(30, 60, 5 if config is NF4 else 0)
            store.job("pooled", f"gsm8k-{name}", {**config, "task.split": split}, right, questions=split)
    for weights in ("questions", "tasks"):
        _, out, _ = show("pooled", "--baseline", BASELINE, "--pool", weights, "--format", "json")
        accuracy, likelihood = json.loads(out)["pooled"]
        assert (accuracy["unit"], likelihood["unit"]) == ("points", "nats/token")
        (row,) = likelihood["rows"]
        assert row["shift"]["difference"] == pytest.approx((sum(WORSE) - sum(BASE)) / sum(TOKENS))
        assert row["shift"]["finding"] == "worse"
        (row,) = accuracy["rows"]
        assert (row["comparison"]["losses"], row["comparison"]["finding"]) == (10, "worse")


@pytest.mark.thorough
def test_the_windows_of_one_text_are_samples_and_said_to_be(store: Store, show: Any) -> None:
    for experiment, n in (("windows", N), ("few-windows", 9)):
        for name, config, nats in (("base", NONE, BASE), ("four", NF4, WORSE)):
            job(store, experiment, name, config, nats[:n])
            store.client.set_tag(store.run_ids[-1], "fact.samples", "windows of one text")
    _, out, _ = show("windows", "--baseline", BASELINE)
    assert "ach window of the document counts as one sample" in out
    assert f"(n={N}, " in out
    _, out, _ = show("few-windows", "--baseline", BASELINE)
    assert "not compared, the test needs at least 50 windows" in out
    assert "the runs share only 9 (" in out
    assert "a smaller task.window yields more windows" in out
