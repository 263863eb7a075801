"""lm-eval's own checkers of IFEval's instructions, and responses to compare verdicts on.

`python tests/support/ifeval_peer.py FILE` records their verdicts. With two files, the prompts of IFEval
(input_data.jsonl) and a model's responses to them, it compares our verdicts with theirs.
Both need lm-eval with langdetect, nltk and nltk's data punkt_tab, in an environment of their own. langdetect gets
a fixed seed, as it has here; lm-eval itself sets none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

# an instruction of each kind, in several settings
INSTRUCTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("keywords:existence", {"keywords": ["river", "boat"]}),
    ("keywords:existence", {"keywords": ["The"]}),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": "at least"}),
    ("keywords:frequency", {"keyword": " boat ", "frequency": 1, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["boat", "storm"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["the"]}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 12, "let_relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 1, "let_relation": "less than"}),
    ("language:response_language", {"language": "en"}),
    ("language:response_language", {"language": "de"}),
    ("language:response_language", {"language": "fr"}),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}),
    ("length_constraints:number_sentences", {"num_sentences": 6, "relation": "less than"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_words", {"num_words": 40, "relation": "at least"}),
    ("length_constraints:number_words", {"num_words": 20, "relation": "less than"}),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Later"},
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "the"},
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_content:postscript", {"postscript_marker": "Note"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 1}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write about the river."}),
    ("startend:end_checker", {"end_phrase": "That is all."}),
    ("startend:quotation", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
)
# each follows some of the instructions, or nearly does
PARTS = (
    "The river carries a boat past the old mill.",
    "Later, the wind turned, and the river rose.",
    "Mr. Smith, Dr. Jones and J. Brown met at 5 p.m. in the U.S. embassy.",
    "We saw e.g. herons, ducks, etc. They were quiet... Then they left.",
    '"Is it far?" she asked. "No!" he said.',
    "It costs 3.50 euros (about $4.20). Really?! Yes!!!",
    "P.S. Bring a coat.",
    "P. S. Bring a coat.",
    "P.P.S Do not be late.",
    "p.p.s. we will wait",
    "Note: the boat leaves at nine.",
    "* The first point\n* The second point\n* The third point",
    "- one\n- two, with a comma\n  - three",
    "*\n* lonely star\n** not a point",
    "1. First, pack.\n2. Then row.\n3. ...",
    "This is *important*, and **this too**, and *this*.",
    "** ** and * * are empty.",
    "Section 1\nThe beginning.\nSection 2\nThe end.",
    "SECTION 1: all of it",
    "Dear [name], meet me at [place] on [date].",
    "[an open bracket and [one] more",
    "<<The river>>",
    "<< >> and <<>>",
    "<<an open title",
    "My answer is yes.",
    "My answer is maybe, or not.",
    "One answer. ****** Another answer.",
    "******\nA\n******\nB\n******",
    "First part.\n***\nSecond part.\n***\nThird part.",
    "***\nOnly part.",
    "First paragraph.\n\nLater there was a second one.",
    "'Later' it said.\n\n\n\n\"Later,\" they said.",
    "Write about the river. It is long.",
    "WRITE ABOUT THE RIVER. IT IS LONG AND WIDE, AND THE BOAT IS SMALL.",
    "I'M SURE THAT WE CANNOT GO. DON'T TRY; IT'S TOO FAR--REALLY, U.S.A. AND NASA SAY SO.",
    "NASA and the UN agreed, but I did not. O'NEIL'S BOAT wasn't there.",
    "all of this is written in lower case letters and it tells of a river and its boats.",
    "That is all.",
    'That is all."',
    "that is all",
    '{"river": "long", "boats": [1, 2, 3]}',
    '```json\n{"river": "long"}\n```',
    "```\n[1, 2\n```",
    '"The whole answer stands in quotation marks."',
    '"Only the beginning does.',
    "河水很长,船很小。我们在河边等了一天,然后回家了。",
    "Der Fluss ist lang, und das Boot ist klein. Wir haben am Ufer gewartet und sind dann nach Hause gegangen.",
    "Le bateau descend la rivière. Nous attendons depuis ce matin.",
    "12345 67890",
    "?!?!",
    "…",
    "Qatar has a quay; the queue is quite quiet.",
    "In the story of the river there are many small towns. In each of the towns there are many people. The people of "
    "the towns are very kind and the people of the river are very kind. The river is a very important part of the "
    "story. The river is a very important part of the story. The river is a very important part of the story.",
    "Sure! Here is a short text about a river:\n\n**The River**\n\nA river is a natural stream of water. It flows "
    "towards a sea, a lake or another river. *Many animals* live in it.\n\nI hope this helps! Let me know if you have "
    "any questions.",
    "a man named jack, and his boat, the storm and the river's end: a tale",
)
SIMPLE = (
    "",
    " ",
    "\n",
    "Yes",
    "yes.",
    "*",
    '"',
    '""',
    "-",
    ",",
    "{}",
    "null",
    "A",
    "the",
    "P.S.",
    "***",
    "******",
    "Ω",
)
NUM_MIXED = 460


def make_responses() -> list[str]:
    """Return 500 and more responses: none, one word, single parts, and mixtures that are nearly right."""
    rng = Random(7)
    mixed: list[str] = []
    while len(mixed) < NUM_MIXED:
        parts = rng.sample(PARTS, rng.randint(2, 5))
        text = rng.choice((" ", "\n", "\n\n", "\n\n\n", "\n***\n", "\n******\n")).join(parts)
        mixed.append(_change(text, rng))
    return [*SIMPLE, *PARTS, *mixed]


def _change(text: str, rng: Random) -> str:
    change = rng.randrange(10)
    if change == 0:
        return f'"{text}"'
    if change == 1:
        return text.upper()
    if change == 2:
        return text.lower()
    if change == 3:
        return text.replace(",", "")
    if change == 4:
        return f"Here is my answer:\n{text}\nThat is all."
    if change == 5:
        return f"  {text}\n"
    if change == 6:
        return f"Write about the river.\n{text}"
    return text


class TheirCheckers:
    """lm-eval's functions; ModuleNotFoundError where it or what it needs is not installed."""

    def __init__(self) -> None:
        import_module("langdetect").DetectorFactory.seed = 0
        self.utils = import_module("lm_eval.tasks.ifeval.utils")

    def check(
        self, kinds: list[str], kwargs: list[dict[str, Any]], prompt: str, response: str
    ) -> tuple[list[bool], list[bool]]:
        given = self.utils.InputExample(0, kinds, prompt, kwargs)
        strict = self.utils.test_instruction_following_strict(given, response)
        loose = self.utils.test_instruction_following_loose(given, response)
        return strict.follow_instruction_list, loose.follow_instruction_list


def record(file: Path) -> None:
    """Write the responses with lm-eval's verdicts: a digit for each instruction, 1 where it is followed."""
    theirs, kinds = TheirCheckers(), [kind for kind, _ in INSTRUCTIONS]
    kwargs = [arguments for _, arguments in INSTRUCTIONS]
    names = ("lm_eval", "langdetect", "nltk")
    lines: list[Any] = [{"versions": {name: version(name) for name in names}, "instructions": INSTRUCTIONS}]
    for response in make_responses():
        checked = theirs.check(kinds, kwargs, "", response)
        strict, loose = ("".join(str(int(verdict)) for verdict in verdicts) for verdicts in checked)
        lines.append({"response": response, "strict": strict, "loose": loose})
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def compare(data: Path, responses: Path) -> None:
    """Print how many verdicts are equal on IFEval's prompts, and each difference."""
    from runner.options.instructions.data_files import iter_ifeval_prompts
    from runner.options.instructions.judging import check_response

    theirs, equal, total = TheirCheckers(), {"strict": 0, "loose": 0, "prompt": 0}, 0
    given = {row["prompt"]: row["response"] for row in _iter_rows(responses)}
    rows = {row["prompt"]: row for row in _iter_rows(data)}
    prompts = [prompt for prompt in iter_ifeval_prompts(str(data), "train") if prompt.prompt in given]
    for prompt in prompts:
        row, response = rows[prompt.prompt], given[prompt.prompt]
        ours = check_response(response, prompt)
        found = theirs.check(row["instruction_id_list"], row["kwargs"], prompt.prompt, response)
        equal["prompt"] += all(ours.strict) == all(found[0])
        for number, kind in enumerate(row["instruction_id_list"]):
            total += 1
            for name, own, other in (("strict", ours.strict, found[0]), ("loose", ours.loose, found[1])):
                equal[name] += own[number] == other[number]
                if own[number] != other[number]:
                    print(
                        row["key"],
                        kind,
                        row["kwargs"][number],
                        name,
                        "ours:",
                        own[number],
                        "lm-eval:",
                        other[number],
                    )
    print(f"{len(prompts)} prompts: {equal['prompt']} equal; {total} instructions: {equal}")


def _iter_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    return (json.loads(line) for line in file.read_text().splitlines())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        record(Path(sys.argv[1]))
    else:
        compare(*map(Path, sys.argv[1:3]))
