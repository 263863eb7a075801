from __future__ import annotations

import re
from collections import Counter

import pytest

from runner.datasets.word_problems import Split, generate_problems
from runner.tasks.recall.cases import Case, CaseSettings, evenly_spaced_depths
from runner.tasks.recall.fillers import Filler, read_filler_units
from runner.tasks.recall.kinds import KINDS, load_case_generator

UNITS = read_filler_units("prose", 1000)
FILLER = Filler(UNITS, [len(unit.split()) for unit in UNITS])
DEPTHS = [0.0, 0.5, 1.0]


def cases_of(kind: str, **keys: object) -> list[Case]:
    values = {
        "kind": kind,
        "seed": 0,
        "cases": 5,
        "depths": DEPTHS,
        "values": "numbers",
        "needles": 4,
        "length": 1024,
    }
    return [*load_case_generator(kind)(CaseSettings(**(values | {"filler": FILLER} | keys)))]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_its_cases_and_the_same_ones_again(kind: str) -> None:
    drawn, size = cases_of(kind), 100
    assert len(drawn) == 5 * (3 if KINDS[kind].has_depth else 1)
    assert [case.at(size) for case in drawn] == [case.at(size) for case in cases_of(kind)]
    golds = [case.at(size).gold for case in drawn]
    assert golds != [case.at(size).gold for case in cases_of(kind, seed=1)]
    assert {case.depth for case in drawn} == ({*DEPTHS} if KINDS[kind].has_depth else {None})


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_does_not_stand_in_the_question(kind: str) -> None:
    for case in cases_of(kind):
        asked = case.at(100)
        assert not any(value in asked.question.split() for value in asked.gold)


def test_several_needles_share_their_text() -> None:
    for number in range(5):
        texts = {case.at(60).context for case in cases_of("several_asked_one") if case.number == number}
        assert len(texts) == 1


def test_the_other_names_of_multikey_share_a_word_and_have_other_values() -> None:
    for case in cases_of("multikey", needles=8):
        asked = case.at(60)
        found = re.findall(r"for (\S+) is: (\d+)\.", asked.context)
        (key,) = re.findall(r"for (\S+) mentioned", asked.question)
        names = [name for name, _ in found]
        assert len({*names}) == len({value for _, value in found}) == 8
        assert all({*key.split("-")} & {*name.split("-")} for name in names)
        assert dict(found)[key] == asked.gold[0]


def test_a_chain_can_be_followed_and_the_other_one_has_another_value() -> None:
    for case in cases_of("chain", needles=5):
        asked = case.at(60)
        value_of: dict[str, str] = {}
        for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", asked.context):
            value_of[name] = value_of.get(value, value)
        (wanted,) = re.findall(r"value (\d+)", asked.question)
        assert [name for name, value in value_of.items() if value == wanted] == [*asked.gold]
        assert Counter(value_of.values())[wanted] == 5
        assert len(value_of) == 10


def test_bells_ring_as_often_as_is_right() -> None:
    for case in cases_of("count"):
        asked = case.at(60)
        (name,) = re.findall(r"bell of the (\S+) ring", asked.question)
        rung = re.findall(r"The bell of the (\S+) rang\.", asked.context)
        assert str(rung.count(name)) == asked.gold[0]
        assert 0 < rung.count(name) < len(rung)


@pytest.mark.parametrize(
    ("kind", "pattern"), [("common_words", r"\d+\. (\S+)"), ("frequent_words", r"\b([a-z]{6})\b")]
)
def test_the_asked_words_are_the_most_frequent_ones(kind: str, pattern: str) -> None:
    for case in cases_of(kind):
        asked = case.at(200)
        of_context: Counter[str] = Counter(
            word for word in re.findall(pattern, asked.context) if word in asked.known
        )
        asked_ones = {word for word, _ in of_context.most_common(len(asked.gold))}
        assert asked_ones == {*asked.gold}


@pytest.mark.thorough
def test_the_story_of_a_problem_is_hidden_and_its_question_asked() -> None:
    golds = {problem.question: problem.gold for problem in generate_problems(Split.TEST, 8640)}
    for case in cases_of("problem"):
        asked = case.at(60)
        question = asked.question.partition("\n")[0]
        matching = [
            whole
            for whole in golds
            if whole.endswith(question) and whole.removesuffix(question).strip() in asked.context
        ]
        assert [golds[whole] for whole in matching] == [*asked.gold]


def test_a_needle_that_stands_in_the_filler_is_not_drawn() -> None:
    first = cases_of("single")[0].at(10).gold[0]
    units = [*UNITS, f"The number is {first}. "]
    other = cases_of("single", filler=Filler(units, [1 for _ in units]))[0].at(10).gold[0]
    assert other != first


def test_words_and_uuids_are_asked_for() -> None:
    words, uuids = (cases_of("single", values="words")[0].at(9), cases_of("single", values="uuids")[0].at(9))
    assert re.fullmatch(r"[a-z]+-[a-z]+", words.gold[0])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuids.gold[0])
    for asked, value in ((words, "word"), (uuids, "uuid")):
        assert f"What is the special magic {value} for" in asked.question
        assert f"special magic {value}s for" in asked.context


def test_depths_are_spread_evenly() -> None:
    assert evenly_spaced_depths(4) == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("name", ["noise", "texts", "prose", "languages", "code", "chronicle"])
def test_fillers_can_be_joined_again(name: str) -> None:
    units = read_filler_units(name, 1000)
    assert max(map(len, units)) <= 400
    filler = Filler(units, [1 for _ in units])
    assert filler.join_units(0, 2 * len(units)) == 2 * "".join(units)


def test_a_needle_in_code_stands_in_a_line_of_its_own() -> None:
    units = read_filler_units("code", 1000)
    for case in cases_of("single", filler=Filler(units, [1 for _ in units])):
        lines = [line for line in case.at(50).context.splitlines() if "special magic" in line]
        assert len(lines) == 1
        assert re.fullmatch(r"One of the special magic numbers for \S+ is: \d+\.", lines[0])


def test_no_other_line_has_the_asked_name() -> None:
    for kind in ("niah_multikey_1", "niah_multikey_2"):
        for case in cases_of(kind):
            asked = case.at(3000)
            (name,) = re.findall(r"for (\S+) mentioned", asked.question)
            assert asked.context.count(f" for {name} is: ") == 1
