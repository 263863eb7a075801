"""Fixed texts for the comparison of a llama.cpp server with the runner's engine."""

from __future__ import annotations

import random
import string

from runner.datasets.word_problems import Split, generate_problems

SCORED = 16  # texts, and of each so many places:
PLACES = 8
READ = 289  # texts whose tokens are compared: those that are scored, and texts in many scripts
RANGES = {
    "latin": "az",
    "capitals": "AZ",
    "accents": "àÿ",
    "greek": "αω",
    "cyrillic": "ая",
    "hebrew": "את",
    "arabic": "ءي",
    "devanagari": "अह",
    "thai": "กฮ",
    "kana": "ぁん",
    "han": "一万",
    "hangul": "가깋",
    "emoji": "😀😏",
    "digits": "09",
}
BETWEEN = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "", "\u00a0", ", ", ". ", "'s ", "-", "/", " (")
CODE = (
    "x: '''y''' \"\"z\"\" ((( ))) --- ***",
    "End with '#### ' and the number.",
    "def f(x):\n    return x + 1",
    "for (int i = 0; i < 10; ++i) {",
    '{"a": [1, 2.5, null]}',
    "SELECT * FROM t;",
    "https://example.org/?q=1&r=2",
    "3.14159",
    "1,234,567",
    "2026-11-28",
    "$12.50",
    "50%",
    "#include <stdio.h>",
    "I'll we're DON'T",
    "   leading",
    "trailing   ",
    "a\n\n\n\nb",
    "<b>bold</b>",
    "\\frac{1}{2}",
)
# as users have them; roles that a template refuses are left out by both sides
CHATS = (
    (("user", "What is 2 + 2?"),),
    (("system", "Answer in one word."), ("user", "What is the capital of France?")),
    (("user", "Hi!"), ("assistant", "Hello, how can I help?"), ("user", "  Count to 3.\n")),
    (("user", "Ça va? 東京\n\ndef f():\n    pass"),),
)


def make_scored_texts() -> list[str]:
    """Return the texts whose log-probabilities are compared: word problems with their answers."""
    return [f"{problem.question}\n{problem.answer}" for problem in generate_problems(Split.TEST, SCORED)]


def make_tokenizer_test_texts() -> list[str]:
    drawn = random.Random(0)
    texts = [*make_scored_texts(), *CODE]
    while len(texts) < READ:
        text = ""
        for _ in range(drawn.randint(1, 12)):
            first, last = map(ord, RANGES[drawn.choice([*RANGES])])
            word = "".join(chr(drawn.randint(first, last)) for _ in range(drawn.randint(1, 8)))
            marks = "".join(drawn.choices(string.punctuation, k=drawn.choice((0, 0, 0, 1, 2, 4))))
            text += word + marks + drawn.choice(BETWEEN)
        texts.append(text)
    return texts


def choose_scored_positions(num_tokens: int) -> list[int]:
    return sorted({max(1, (number + 1) * (num_tokens - 1) // PLACES) for number in range(PLACES)})
