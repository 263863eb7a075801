"""The pictures of a sweep show how far repeats are apart: a bar of each cell, and none after one
repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from runner.speed.cells import Cell
from runner.speed.pictures import create_pictures
from runner.speed.tables import build_picture_data
from runner_base.drawing import Picture

BARS = "bars: lowest and highest repeat"


def measured(batch: int, prompt: int, repeats: int) -> Cell:
    """Return a cell whose repeats are 10 % apart from each other."""
    factors = [1.0, 0.9, 1.1][:repeats]
    figures = [
        {
            "ttft_s": 0.01 * prompt * at,
            "itl_p50_s": 0.002 * batch * at,
            "decode_tok_per_s": 400 * batch**0.5 / at,
        }
        for at in factors
    ]
    return Cell(batch, prompt, 16, repeats=figures)


def pictures(repeats: int) -> dict[str, Picture]:
    cells = [measured(batch, prompt, repeats) for batch in (1, 4) for prompt in (32, 128)]
    return {picture.name: picture for picture in create_pictures(build_picture_data("tiny", cells, [], None))}


def bars_of(picture: Picture) -> list[list[list[float]]]:
    """Return the ends of all bars in a picture."""
    drawn = picture.make().axes[0].collections
    lines = [part for part in drawn if isinstance(part, LineCollection)]
    return [np.asarray(segment).tolist() for part in lines for segment in part.get_segments()]


@pytest.mark.parametrize(("name", "expected"), [
    ("speed_batch", [[[batch, 400 * batch**0.5 / 1.1], [batch, 400 * batch**0.5 / 0.9]]
                     for _ in (32, 128) for batch in (1, 4)]),
    ("ttft_prompt", [[[prompt, 0.009 * prompt], [prompt, 0.011 * prompt]] for _ in (1, 4) for prompt in (32, 128)]),
])  # fmt: skip
def test_each_point_of_a_curve_has_a_bar_over_its_repeats(name: str, expected: list[Any]) -> None:
    bars = bars_of(pictures(3)[name])
    assert np.asarray(sorted(bars)) == pytest.approx(np.asarray(sorted(expected)))


def test_throughput_against_latency_has_bars_of_both() -> None:
    bars = bars_of(pictures(3)["throughput_latency"])
    upright = [bar for bar in bars if bar[0][0] == bar[1][0]]
    level = [bar for bar in bars if bar[0][1] == bar[1][1]]
    assert (len(bars), len(upright), len(level)) == (8, 4, 4), "two of each of the four cells"
    assert np.asarray(min(upright)) == pytest.approx(np.asarray([[2.0, 400 / 1.1], [2.0, 400 / 0.9]]))
    assert np.asarray(min(level)) == pytest.approx(np.asarray([[1.8, 400.0], [2.2, 400.0]]))


def test_one_repeat_has_no_bar_and_nothing_speaks_of_bars() -> None:
    once, thrice = pictures(1), pictures(3)
    assert once.keys() == thrice.keys() == {"throughput_latency", "speed_batch", "ttft_prompt"}
    for name in once:
        assert bars_of(once[name]) == []
        assert BARS not in once[name].to_svg()
        assert BARS in thrice[name].to_svg(), "the control"
