"""The picture of how often edges survive: a width for each share, and dark only where chance does
not explain it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from runner.options.agents.picture import SPATIAL, TEMPORAL, WIDEST
from runner.options.agents.survival import EdgeSurvival, SurvivalTable
from runner.options.agents.survival_picture import svg


def edge(kind: str, source: int, target: int, survived: int, p_holm: float = 1.0) -> EdgeSurvival:
    return EdgeSurvival(kind, source, target, survived, 20, 0.5, 0.5, p_holm, p_holm)


def test_widths_colours_and_words() -> None:
    edges = [
        edge("spatial", 0, 1, 20, 0.001),
        edge("spatial", 1, 0, 10),
        edge("spatial", 0, 2, 0, 0.001),
        edge("temporal", 2, 2, 15),
        edge("temporal, round 3", 1, 2, 15),  # each round has its own
    ]
    text = svg(SurvivalTable("job", ("One <b>", "Two", "Three"), 20, edges), "a team & more")
    ET.fromstring(text)
    assert "<b>" not in text
    shown = {
        title: (colour, float(width), "dasharray" in rest)
        for title, colour, width, rest in re.findall(
            r'<g><title>([^<]*)</title><path d="[^"]*" fill="none" stroke="(#\w+)" stroke-width="([\d.]+)"([^/]*)/>',
            text,
        )
    }
    found = {title.partition(":")[0]: it for title, it in shown.items()}
    assert found["1 One &lt;b&gt; → 2 Two"] == (SPATIAL.live, WIDEST, False)
    assert found["2 Two → 1 One &lt;b&gt;"] == (SPATIAL.pale, WIDEST / 2, False)
    assert found["1 One &lt;b&gt; → 3 Three"] == (SPATIAL.pale, 0.7, True), "less often than chance: in none"
    assert found["3 Three → 3 Three"] == (TEMPORAL.pale, 0.75 * WIDEST, False)
    assert "survived in 15 of 20 seeds, by chance 10.0" in text
    assert "1.5 of 3 survive in the mean" in text
    assert "temporal edges over 20 seeds" in text
    assert "temporal, round 3 edges over 20 seeds" in text
    assert (text.count(">who speaks<"), text.count(">round before<")) == (1, 2)
