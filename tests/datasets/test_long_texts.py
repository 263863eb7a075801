"""The long texts that ship: always the same, long enough, and what is said later follows from what
was said."""

from __future__ import annotations

import hashlib
import re

import pytest
from raising import raises

from runner.config.questions import QuestionsConfig
from runner.config.token_counts import parse_token_count, parse_token_counts
from runner.datasets.long_texts import DOCUMENTS, generate_synthetic_text, get_text_category
from runner.datasets.questions import describe_dataset, load_questions
from runner.datasets.scored_texts import TextContext, load_scored_items
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import ConfigError, DataError

SHA256 = "d289b5d9a0fe1fe3192d766f16d71feac492aa58035d500c8ecd9e4aa1bc319a"


def test_they_are_always_the_same() -> None:
    whole = "".join(generate_synthetic_text(index) for index in range(DOCUMENTS))
    assert hashlib.sha256(whole.encode()).hexdigest() == SHA256
    assert len(whole) < 5_000_000


def test_all_kinds_are_among_any_three() -> None:
    given = load_scored_items(LikelihoodConfig(data="long"))
    assert len(given) == DOCUMENTS
    assert {it.form for it in given} == {TextContext.text}
    assert all(
        {it.category for it in given[at : at + 3]} == {"prose", "code", "table"}
        for at in range(DOCUMENTS - 2)
    )
    assert len({it.texts[0] for it in given}) == DOCUMENTS
    assert [it.texts[0] for it in load_scored_items(LikelihoodConfig(data="long", offset=58))] == [
        generate_synthetic_text(58),
        generate_synthetic_text(59),
    ]


def test_what_code_asserts_holds() -> None:
    code = next(generate_synthetic_text(index) for index in range(3) if get_text_category(index) == "code")
    names: dict[str, object] = {}
    exec(code.rsplit("\n\n\n", 1)[0], names)  # our own
    checks = [check for name, check in names.items() if name.startswith("test_")]
    assert len(checks) > 200
    for check in checks:
        check()  # type: ignore[operator]


def test_balances_of_tables_add_up() -> None:
    table = next(generate_synthetic_text(index) for index in range(3) if get_text_category(index) == "table")
    balances: dict[str, int] = {}
    for row in table.splitlines()[2:]:
        _, _, account, *_, change, balance, _ = (cell.strip() for cell in row.split("|"))
        balances[account] = balances.get(account, 0) + int(change)
        assert balances[account] == int(balance)
    assert len(balances) > 20


def test_who_is_named_again_has_the_same_trade_and_town() -> None:
    prose = next(generate_synthetic_text(index) for index in range(3) if get_text_category(index) == "prose")
    found = re.findall(r"(\w+ \w+), the (\w+ of \w+ \w+ under the seal of an? \w+ above \w+ \w+)", prose)
    known = dict(found)
    assert len(found) > 4 * len(known) > 100
    assert all(known[name] == rest for name, rest in found)


def test_other_tasks_say_what_they_are_for() -> None:
    with raises(DataError, "unsupported", "task.data"):
        load_questions(QuestionsConfig(data="long"))
    assert describe_dataset("long", "test", "0" * 64)["source_type"] == "code"


@pytest.mark.parametrize(
    ("written", "count"), [("512", 512), (512, 512), ("4k", 4096), ("1K", 1024), (" 2k ", 2048)]
)
def test_numbers_of_tokens(written: str | int, count: int) -> None:
    assert parse_token_count(written) == count


@pytest.mark.parametrize("written", ["", "k", "1.5k", "-1", "4M", "four"])
def test_what_is_no_number_of_tokens(written: str) -> None:
    assert parse_token_count(written) is None
    with raises(ConfigError, "bad_value", "task.lengths"):
        parse_token_counts("task.lengths", [written])
