"""The questions of task=tools that ship are those that the tool makes, and each can be answered
rightly."""

from __future__ import annotations

from collections import Counter

from calling import right_calls

from runner.tasks.tools.cases import CATEGORIES, FILE, read_installed_tool_cases, select_cases
from runner.tasks.tools.matching import has_expected_tool_calls
from tools.tool_calls_data import COUNTS, lines
from tools.tool_functions import FUNCTIONS


def test_the_file_that_ships_is_what_the_tool_makes() -> None:
    assert FILE.read_text(encoding="utf-8").splitlines() == lines()


def test_each_question_stands_once_and_is_answered_by_its_right_calls_alone() -> None:
    cases = read_installed_tool_cases()
    assert Counter(case.category for case in cases) == COUNTS
    assert len({case.question for case in cases}) == len(cases) >= 300
    for case in cases:
        assert has_expected_tool_calls(right_calls(case), case.wanted, case.functions)
        names = [function["name"] for function in case.functions]
        assert len(set(names)) == len(names) >= 1
        assert bool(case.wanted) is (case.category != "irrelevant")
        if case.wanted:
            assert not has_expected_tool_calls(right_calls(case)[1:], case.wanted, case.functions)


def test_nothing_that_is_offered_beside_an_irrelevant_question_is_of_its_domain() -> None:
    domains = {function.name: function.domain for function in FUNCTIONS}
    asked = {
        text: function for function in FUNCTIONS for text in (wording.text for wording in function.wordings)
    }
    for case in read_installed_tool_cases():
        if case.category != "irrelevant":
            continue
        beginnings = [
            function
            for text, function in asked.items()
            if case.question.startswith(text.split("{")[0] or "\0")
        ]
        offered = {domains[function["name"]] for function in case.functions}
        assert not beginnings or any(function.domain not in offered for function in beginnings)


def test_values_that_questions_name_stand_in_them() -> None:
    for case in read_installed_tool_cases():
        for _, allowed in case.wanted:
            texts = [
                value
                for values in allowed.values()
                for value in values[:1]
                if isinstance(value, str) and "" not in values
            ]
            assert all(text in case.question for text in texts), case.id


def test_cases_are_chosen_by_the_seed_in_their_order() -> None:
    cases = read_installed_tool_cases()
    first, again, other = (select_cases(cases, CATEGORIES, 5, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(case.category for case in first) == dict.fromkeys(CATEGORIES, 5)
    assert select_cases(cases, CATEGORIES, None, 3) == cases
