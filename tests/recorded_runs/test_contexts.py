"""Contexts and windows in a comparison: the same tokens are the same texts, and each row says how
far context helps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from json_schema import SCHEMA, faults
from stores import INT8, NONE, Store

from runner_base.result import Answer, FinishReason, Likelihood, Sample
from runner_compare.features.contexts.render import build_text_likelihood_records
from runner_compare.statistics.likelihoods import WINDOWS

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
TEXTS, TOKENS = 60, 100
Loss = Callable[[int, int], float]  # of a token of a text, with so many tokens before it


def log_job(
    store: Store,
    experiment: str,
    name: str,
    config: dict[str, str],
    samples: Sequence[Sample],
    facts: dict[str, str] | None = None,
) -> None:
    """Log a run of task=likelihood with these samples."""
    found = build_text_likelihood_records([it.likelihood for it in samples if it.likelihood is not None], {})
    config = {"task.name": "likelihood", "task.data": "texts.jsonl", **config}
    tags = {"task": "likelihood"} | {
        f"fact.{key}": value for key, value in ((facts or {}) | found.facts).items()
    }
    folder = store.job(experiment, name, config, tags=tags, metrics=found.metrics)
    (folder / "samples.jsonl").write_text("".join(it.to_json() + "\n" for it in samples))


def sample(
    index: int, unit: int, ids: Sequence[int], losses: Sequence[float], before: int, **keys: Any
) -> Sample:
    """Return the sample of a window, or of the last tokens of a text."""
    likelihood = Likelihood(unit, -sum(losses), len(ids), 3 * len(ids), 3 * len(ids), 0, **keys)
    prompt = f"{unit} {ids[0]} after {before}"
    answer = Answer("", list(ids), FinishReason.stop)
    return Sample(
        answer, index=index, prompt_sha256=prompt, prompt_tokens=before, seconds=0.1, likelihood=likelihood
    )


def windows(
    window: int, loss: Loss, texts: int = TEXTS, tokens: int = TOKENS, is_one: bool = False
) -> list[Sample]:
    """Return the samples of texts in windows, half of which each next one moves on."""
    samples: list[Sample] = []
    for text in range(texts):
        scored = 1
        for begin in range(0, tokens, window // 2):
            end = min(begin + window, tokens)
            ids = [1000 * text + place for place in range(scored, end)]
            losses = [loss(text, place - begin) for place in range(scored, end)]
            unit = len(samples) if is_one else text
            samples.append(sample(len(samples), unit, ids, losses, scored - begin))
            scored = end
            if end == tokens:
                break
    return samples


def after_contexts(lengths: Sequence[int], loss: Loss) -> list[Sample]:
    """Return the samples of the last 20 tokens of texts after several contexts."""
    samples: list[Sample] = []
    for text in range(TEXTS):
        ids = [1000 * text + place for place in range(20)]
        for length in lengths:
            losses = [loss(text, length + place) for place in range(20)]
            samples.append(sample(len(samples), text, ids, losses, length, context=length))
    return samples


def of_context(draw: Random, helps_up_to: int, scale: float = 0.3) -> Loss:
    """Return a loss that falls with the tokens before up to a number, and differs from text to
    text."""
    of_text = [draw.gauss(3, 0.8) for _ in range(TEXTS)]
    return lambda text, before: (
        of_text[text] - scale * min(before, helps_up_to) / helps_up_to + draw.gauss(0, 0.2)
    )


@pytest.mark.thorough
def test_other_windows_are_the_same_texts(store: Store, rows: Any, show: Any) -> None:
    loss = of_context(Random(1), 60)
    for window in (16, 32, 64):
        log_job(
            store, "other windows", f"w{window}", {**NONE, "task.window": f"{window}"}, windows(window, loss)
        )
    found = rows("other windows", "--baseline", "task.window=16")
    for window in (32, 64):
        shift = found[f"w{window}"]["shift"]
        assert (shift["samples"], shift["size"]) == (TEXTS, TEXTS * (TOKENS - 1))
        assert shift["finding"] == "better"
        words = (
            "the two runs scored the same tokens after different contexts "
            f"(task.window={window} here, 16 in the baseline)"
        )
        assert words in shift["remark"]
    logged = [found[name]["metrics"]["log_likelihood_nats_per_token"] for name in ("w64", "w16")]
    assert found["w64"]["shift"]["difference"] == pytest.approx(logged[0] - logged[1])


def test_windows_of_a_single_text_are_compared_between_places_that_both_have(store: Store, rows: Any) -> None:
    draw = Random(2)

    def loss(_: int, before: int) -> float:
        return 3 - 0.02 * min(before, 16) + draw.gauss(0, 0.2)

    for window in (8, 16):
        config = {**NONE, "task.window": f"{window}"}
        samples = windows(window, loss, 1, 2000, is_one=True)
        log_job(store, "one text", f"w{window}", config, samples, {"samples": WINDOWS})
    shift = rows("one text", "--baseline", "task.window=8")["w16"]["shift"]
    # windows of 16 begin every 8 tokens, those of 8 at these places, too
    assert shift["samples"] == 249
    assert shift["size"] == 1999
    assert shift["finding"] == "better"


@pytest.mark.thorough
def test_other_tokens_are_other_texts(store: Store, rows: Any) -> None:
    loss = of_context(Random(3), 60)
    log_job(store, "other tokens", "base", {**NONE, "task.window": "16"}, windows(16, loss))
    log_job(store, "other tokens", "fewer", {**NONE, "task.window": "32"}, windows(32, loss, TEXTS - 1))
    changed = windows(64, loss)
    changed[3].answer.token_ids[5] += 1
    log_job(store, "other tokens", "changed", {**NONE, "task.window": "64"}, changed)
    found = rows("other tokens", "--baseline", "task.window=16")
    for name in ("fewer", "changed"):
        assert "shift" not in found[name]
        assert found[name]["note"].startswith("only ")
        assert " texts are the same in both runs (" in found[name]["note"]


def test_each_row_says_how_far_context_helps_and_is_compared_at_each(
    store: Store, show: Any, tmp_path: Any
) -> None:
    lengths = [32, 64, 128, 256]
    log_job(store, "contexts", "far", NONE, after_contexts(lengths, of_context(Random(4), 128)))
    log_job(store, "contexts", "near", INT8, after_contexts(lengths, of_context(Random(4), 64, 0.2)))
    code, out, _ = show("contexts", "--baseline", "quantization=none")
    assert code == 0
    said = " ".join(out.split())
    assert "none: more context helps up to 128 tokens (from 64 to 128: gain +0." in said
    assert "; of more no gain is shown (from 128 to 256: gain" in said
    assert "int8: more context helps up to 64 tokens" in said
    assert "loss of the same tokens by context length" in said
    _, out, _ = show("contexts", "--baseline", "quantization=none", "--format", "json")
    document = json.loads(out)
    assert list(faults(document, SCHEMA)) == []
    (row,) = (row for row in document["tables"][0]["rows"] if row["job_id"] == "near")
    assert [it["context"] for it in row["contexts"]] == lengths
    for it in row["contexts"]:
        losses = [
            one["metrics"][f"loss_nats_per_token/context_{it['context']}"]
            for job in ("near", "far")
            for one in document["tables"][0]["rows"]
            if one["job_id"] == job
        ]
        assert it["loss_difference"] == pytest.approx(losses[0] - losses[1])
        assert it["loss_difference_low"] <= it["loss_difference"] <= it["loss_difference_high"]
    # the finding is about the longest context
    assert row["shift"]["difference"] == pytest.approx(-row["contexts"][-1]["loss_difference"])
    code, _, err = show("contexts", "--baseline", "quantization=none", "--save", str(tmp_path / "page"))
    assert code == 0, err
    assert "contexts.png" in {path.name for path in (tmp_path / "page").iterdir()}


def test_contexts_of_other_lists_share_their_longest(store: Store, rows: Any) -> None:
    loss = of_context(Random(5), 256)
    log_job(
        store,
        "lists",
        "base",
        {**NONE, "task.context_lengths": "['32', '64']"},
        after_contexts([32, 64], loss),
    )
    log_job(store, "lists", "more", {**NONE, "task.context_lengths": "['256']"}, after_contexts([256], loss))
    shift = rows("lists", "--baseline", "task.context_lengths=['32', '64']")["more"]["shift"]
    assert (shift["samples"], shift["finding"]) == (TEXTS, "better")


def test_loss_by_position_is_a_table_and_a_picture(store: Store, show: Any, tmp_path: Any) -> None:
    samples = windows(64, of_context(Random(6), 60))
    for it in samples:
        assert it.likelihood is not None
        it.likelihood.by_position = [[5, 10, -20.0], [6, 5, -5.0]]
    log_job(store, "positions", "one", NONE, samples)
    code, out, _ = show("positions", "--save", str(tmp_path / "page"))
    assert code == 0
    assert "loss by position (number of preceding tokens)" in out
    assert "32–63" in out
    assert "2.0000" in out
    assert "positions.png" in {path.name for path in (tmp_path / "page").iterdir()}
