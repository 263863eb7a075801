"""How many loops are found, and how many healthy texts count as degenerate? `python bench/degeneration_rates.py`.

The truth is known: loops of ten kinds are planted after healthy text, and some go on after the loop or are cut off
in the middle of a unit. Healthy are parts of this project's code, pages and tables, and answers of the embedded word
problems. With --answers FILE, the recorded answers of a job (samples.jsonl) are measured, too, and what counts as
degenerate is printed, so that somebody can look at it. Stated: 99 % of the planted loops, 1 % of the healthy texts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runner.datasets.word_problems import Split, generate_problems
from runner_base.degeneration import find_longest_text_loop, measure_degeneration
from runner_compare.statistics.stats import compute_wilson_interval

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (1000, 4000, 12000)  # characters


def read_texts(*patterns: str) -> list[str]:
    """Return the texts of files that are long enough for a sample."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [text for path in paths if len(text := path.read_text(errors="ignore")) > LENGTHS[0]]


def draw_part(generator: random.Random, texts: list[str], length: int) -> str:
    text = generator.choice(texts)
    start = generator.randrange(max(1, len(text) - length))
    return text[start : start + length]


def make_units(generator: random.Random, text_words: list[str]) -> dict[str, Callable[[], str]]:
    """Return functions that draw what a loop repeats, by the kind of the loop."""

    def draw_words(count: int) -> str:
        return " ".join(generator.choices(text_words, k=count))

    return {
        "character": lambda: generator.choice("aexoA!.…"),
        "word": lambda: draw_words(1) + " ",
        "phrase": lambda: draw_words(generator.randrange(2, 6)) + " ",
        "sentence": lambda: draw_words(generator.randrange(8, 20)) + ". ",
        "paragraph": lambda: draw_words(generator.randrange(40, 90)) + ".\n\n",
        "list item": lambda: "- " + draw_words(4) + "\n",
        "code": lambda: f"    {draw_words(1)} = {draw_words(1)}({generator.randrange(99)})\n",
        "JSON": lambda: '{"' + draw_words(1) + f'": {generator.randrange(99)}}}, ',
        "numbers": lambda: f"{generator.randrange(1000)}, ",
        "Chinese": lambda: "".join(map(chr, generator.choices(range(0x4E00, 0x9000), k=6))) + "。",
    }


def plant_loop(generator: random.Random, unit: str, text_words: list[str]) -> str:
    """Return healthy text, a loop, and in a third of the texts healthy text again."""
    lead = " ".join(generator.choices(text_words, k=generator.randrange(200)))
    repeats = max(4, generator.choice([500, 1000, 4000]) // len(unit))
    text = f"{lead} {unit * repeats}"
    end = generator.random()
    if end < 1 / 3:
        return text + " ".join(generator.choices(text_words, k=50))
    return text if end < 2 / 3 else text[: -generator.randrange(1, len(unit) + 1)]


def format_rate(times: int, of: int) -> str:
    low, high = (100 * end for end in compute_wilson_interval(times, of))
    return f"{times:5} of {of:5}   {100 * times / of:6.2f} % [{low:.2f}, {high:.2f}]"


def main() -> int:
    """Measure and print; 1 if a stated rate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=Path, nargs="*", default=[], help="samples.jsonl of jobs")
    options = parser.parse_args()
    generator, started = random.Random(options.seed), time.perf_counter()
    pages = read_texts("docs/*.md", "README.md", "bench/README.md", "bench/compare/README.md")
    code = read_texts(
        "runner/**/*.py", "runner_engine/**/*.py", "runner_engine/kernels/*.h", "conf/**/*.yaml"
    )
    text_words = [word for page in pages for word in page.split() if word.isalpha()]
    found = planted = 0
    for kind, draw_unit in make_units(generator, text_words).items():
        texts = [plant_loop(generator, draw_unit(), text_words) for _ in range(options.texts)]
        times = sum(find_longest_text_loop(text) is not None for text in texts)
        found, planted = found + times, planted + options.texts
        print(f"loops of {kind:12} found     {format_rate(times, options.texts)}", flush=True)
    problems = [problem.answer for problem in generate_problems(Split("test"), options.texts)]
    healthy = {"word problems": problems}
    for name, texts in (("pages", pages), ("code", code)):
        for length in LENGTHS:
            healthy[f"{name}, {length:,}"] = [
                draw_part(generator, texts, length) for _ in range(options.texts)
            ]
    wrong = of = 0
    for name, texts in healthy.items():
        begin = time.perf_counter()
        times = sum(measure_degeneration(text).loop is not None for text in texts)
        ms = 1000 * (time.perf_counter() - begin) / len(texts)
        wrong, of = wrong + times, of + len(texts)
        print(f"healthy {name:15} a loop   {format_rate(times, len(texts))}   {ms:.1f} ms a text", flush=True)
    for path in options.answers:
        answers = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        signs = [measure_degeneration(answer) for answer in answers]
        print(f"{path}   degenerate {format_rate(sum(each.is_degenerate for each in signs), len(signs))}")
        for answer, each in zip(answers, signs, strict=True):
            if each.is_degenerate:
                print(f"    {each.loop}   {answer[-80:]!r}")
    print(f"\nfound   {format_rate(found, planted)}\nhealthy {format_rate(wrong, of)}")
    print(f"in {time.perf_counter() - started:.0f} s")
    return int(found < 0.99 * planted or wrong > 0.01 * of)


if __name__ == "__main__":
    sys.exit(main())
