"""Figures in the sentences and tables of a page: each is in an output on that page, or has a
source.

Pages usually go stale where a sentence repeats a figure of an output. So a figure with a unit, or
with decimals, must be in a code block of the page, in a paragraph that links to the benchmark or
test of it, in an *Example* (MACHINE, DATE), or in GIVEN: figures that are settings, definitions,
versions or arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

UNIT = r"%|points|[KMG]i?B|ms|s|seconds|minutes|tok/s|tokens/s|nats|times|×"
NUMBER = r"(?<![\w.,/#=·-])(\d[\d,]*(?:\.\d+)?)"
FIGURE = re.compile(
    rf"{NUMBER}(?:[ \u00a0]?(?:{UNIT})(?!\w)|(?<=\.\d)(?![\d.])|(?<=\.\d\d)(?![\d.])|(?<=\.\d{{3}})(?![\d.]))"
)
CODE = re.compile(r"`[^`\n]*`")
TARGET = re.compile(r"\]\(([^)]*)\)")
MEASURED_THERE = re.compile(r"bench/|tests/")

GIVEN = {
    "README.md": "3.11 3.12 3.13 2.6 6.1 3 minutes 2 points",
    "docs/agents.md": "0.2 0.95 1.1 0.25 90 % 30 % 512 MiB",
    "docs/compare.md": "0.005 80 % 20 % 2 % 5 % 15 % 5 points 95 %",
    "docs/gsm8k.md": "0.4 18.00 0.333 0.05 40 times 2.5 % 95 % 10 points 20 points 5 points 2 points",
    "docs/start.md": "3.11 3.12 3.13 2.6 6.1 600 MiB 8.0",
    "docs/alternatives.md": "3.18",
    "docs/data.md": "0.4 18.00",
    "docs/jobs.md": "",
    "docs/launchers.md": "1.6 1.3 2.10 15 s",
    "docs/likelihood.md": "7.5 % 64 MiB",
    "docs/measure.md": "10 % 100 % 90 % 256 MiB 10 seconds 1.2 2 × 3 times",
    "docs/models.md": "5.23 0.5 0.75",
    "docs/parts.md": "37 MiB 78 %",
    "docs/remote.md": "80 MiB 32 MiB",
    "docs/quantization.md": "2.6 3.4 4.1 4.25 4.5 5.5 6.6 8.5 10 % 600 1.1",
    "docs/serve.md": "16 MiB 64 KiB 256 MiB 20 s 60 s",
    "docs/speed.md": "360 KiB",
    "docs/tools.md": "3.1 3.2 3.3",
}


def sourceless(name: str, text: str) -> Iterator[str]:
    """Yield the figures of a page that have no source."""
    shown = "\n".join(re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    allowed = GIVEN.get(name, "")
    is_example = False
    for paragraph in re.split(r"\n\s*\n", prose):
        is_example = paragraph.startswith("*Example* (") or (is_example and paragraph.startswith("|"))
        if is_example:
            continue
        for piece in paragraph.splitlines() if paragraph.startswith("|") else [paragraph]:
            if any(MEASURED_THERE.search(target) for target in TARGET.findall(piece)):
                continue
            words = CODE.sub("``", TARGET.sub("]", piece))
            for match in FIGURE.finditer(words):
                if not _is_in(match[1], shown) and not _is_in(match[1], allowed):
                    yield match[0]


def _is_in(number: str, text: str) -> bool:
    return re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d|[.,]\d)", text) is not None
