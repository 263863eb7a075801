"""Models of one process answer as they do alone: a short run of the campaign, over routes with
kernels and without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runner import load
from runner_engine.kernels import native

pytestmark = [pytest.mark.slow, pytest.mark.smoke(2)]

ROOT = Path(__file__).resolve().parents[2]
WITH_KERNELS = [
    ("bfloat16", "float32 + lora"),
    ("float32 + lora", "float32 + lora"),
    ("int8", "int8"),
    ("nf4", "rope_2d"),
    ("int8_dynamic", "batch by batch"),
    ("torchao_int8", "batch by batch"),
]
BY_TORCH = [("bfloat16", "bfloat16"), ("yarn", "linear"), ("rope_2d", "nf4")]
CASES = [("1", pair) for pair in WITH_KERNELS] + [("0", pair) for pair in BY_TORCH]


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernels, or torch alone as where there is no compiler."""
    monkeypatch.setenv("RUNNER_NATIVE", request.param)
    native.load_kernels.cache_clear()
    yield request.param
    native.load_kernels.cache_clear()


@pytest.mark.parametrize(("way", "pair"), CASES, indirect=["way"], ids=str)
@pytest.mark.usefixtures("way")
def test_every_answer_is_the_one_that_the_model_gives_alone(pair: tuple[str, str], tmp_path: Path) -> None:
    from two_models import NAMES, opened, run_pair

    models = [opened(route, tmp_path) for route in pair]
    tally = run_pair(models, rounds=4)
    for model in models:
        model.close()
    assert (tally.equal, tally.first) == (4 * len(NAMES), "")


def test_three_models_answer_while_others_are_loaded_and_closed(tmp_path: Path) -> None:
    from two_models import NAMES, come_and_go, opened, run_pair

    models = [opened(route, tmp_path) for route in ("float32 + lora", "bfloat16", "yarn")]
    tally = run_pair(models, rounds=6, beside=come_and_go)
    for model in models:
        model.close()
    assert (tally.equal, tally.first) == (6 * len(NAMES), "")


def test_models_that_are_loaded_at_once_are_as_those_loaded_one_by_one() -> None:
    expected, said = "After buying, 8+5=13.", []

    def open_and_close(dtype: str) -> None:
        for _ in range(3):
            with load("embedded", device="cpu", dtype=dtype) as model:
                question = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?"
                said.append(model.generate(question, stop="\n", temperature=0.01))

    threads = [
        threading.Thread(target=open_and_close, args=(dtype,)) for dtype in ("bfloat16", "float32") * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [expected] * 12
    assert torch.get_default_dtype() is torch.float32
    assert "transformers" not in torch.linspace.__module__, "what a load exchanges is back"
