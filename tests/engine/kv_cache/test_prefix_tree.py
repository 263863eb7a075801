"""The prefixes that prompts share, for random and for chosen prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.prefix_tree import DEEPEST, MIN_SAVED, MIN_TOKENS, SCORED, find_shared_prefixes

Prompts = list[list[int]]
# few different tokens: beginnings in common are likely
pieces = st.lists(st.integers(0, 2), max_size=6)


@st.composite
def trees(draw: st.DrawFn) -> Prompts:
    """Return prompts that extend each other: long common beginnings, then branches, then an own
    end."""
    texts: Prompts = [[]]
    for _ in range(draw(st.integers(0, 8))):
        above = draw(st.sampled_from(texts))
        texts.append([*above, *draw(pieces), *[draw(st.integers(0, 3))] * draw(st.integers(0, 90))])
    chosen = draw(st.lists(st.sampled_from(texts), min_size=1, max_size=24))
    return [[*text, *draw(pieces), draw(st.integers(0, 3))] for text in chosen]


def tokens_of(prefix: Prefix | None) -> list[int]:
    """All tokens of a path of prefixes."""
    return [token for one in (prefix.path if prefix else []) for token in one.tokens]


@pytest.mark.thorough
@settings(max_examples=150)
@given(trees())
def test_every_prompt_begins_with_the_prefix_that_it_shares(prompts: Prompts) -> None:
    prefixes = find_shared_prefixes(prompts)
    assert len(prefixes) == len(prompts)
    users: dict[int, int] = {}
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        tokens = tokens_of(prefix)
        assert prompt[: len(tokens)] == tokens
        assert len(tokens) < len(prompt), "one token or more is the prompt's own: its logits start the answer"
        if prefix is None:
            continue
        assert prefix.length == len(tokens)
        assert len(prefix.path) <= DEEPEST
        for one in prefix.path:
            assert len(one.tokens) >= MIN_TOKENS
            users[id(one)] = users.get(id(one), 0) + 1
    for prefix in prefixes:
        for one in prefix.path if prefix else []:
            assert users[id(one)] >= 2, "a prefix of one prompt alone saves nothing"
            assert len(one.tokens) * (users[id(one)] - 1) >= MIN_SAVED


@settings(max_examples=100)
@given(trees(), st.randoms(use_true_random=False))
def test_the_order_of_the_prompts_changes_nothing(prompts: Prompts, random: object) -> None:
    order = list(range(len(prompts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = find_shared_prefixes([prompts[at] for at in order])
    plain = find_shared_prefixes(prompts)
    assert [tokens_of(prefix) for prefix in shuffled] == [tokens_of(plain[at]) for at in order]


@pytest.mark.thorough
@settings(max_examples=100)
@given(trees())
def test_equal_beginnings_are_one_object(prompts: Prompts) -> None:
    prefixes = find_shared_prefixes(prompts)
    nodes: dict[tuple[int, ...], Prefix] = {}
    for prefix in prefixes:
        for one in prefix.path if prefix else []:
            assert nodes.setdefault(tuple(tokens_of(one)), one) is one


@pytest.mark.thorough
@settings(max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=MIN_SAVED, max_size=300), st.integers(2, 12))
def test_a_long_beginning_of_all_is_found_whole(beginning: list[int], count: int) -> None:
    prefixes = find_shared_prefixes([[*beginning, 10 + number, 7] for number in range(count)])
    assert all(prefix is prefixes[0] for prefix in prefixes)
    assert tokens_of(prefixes[0]) == beginning


def test_two_nested_prefixes() -> None:
    system, agents = [1] * 100, [[2] * 60, [3] * 70]
    prompts = [system + agent + [10 + number] for agent in agents for number in range(4)]
    prefixes = find_shared_prefixes(prompts)
    roots = {id(prefix.path[0]) for prefix in prefixes if prefix}
    assert len(roots) == 1
    assert prefixes[0] is prefixes[1] is prefixes[2] is prefixes[3]
    assert prefixes[4] is prefixes[5] is prefixes[6] is prefixes[7]
    assert prefixes[0] is not prefixes[4]
    assert [len(one.tokens) for one in prefixes[0].path] == [100, 60]  # type: ignore[union-attr]
    assert [len(one.tokens) for one in prefixes[4].path] == [100, 70]  # type: ignore[union-attr]


def test_identical_prompts_share_all_but_their_last_token() -> None:
    prompt = list(range(200))
    prefixes = find_shared_prefixes([prompt] * 3)
    assert tokens_of(prefixes[0]) == prompt[:-1]
    assert prefixes[0] is prefixes[1] is prefixes[2]


def test_a_prompt_inside_another_keeps_its_last_token() -> None:
    long = list(range(500))
    prefixes = find_shared_prefixes([long, long[:200], long[:300], [9] * 50])
    assert tokens_of(prefixes[1]) == long[:199]
    assert prefixes[0] is not None
    assert prefixes[2] is not None
    assert prefixes[0].path[0] is prefixes[1]
    assert prefixes[2].path[0] is prefixes[1]
    assert prefixes[3] is None


def test_too_short_or_too_little_is_not_shared() -> None:
    def shared(length: int, count: int, are_scored: bool = False) -> bool:
        prefixes = find_shared_prefixes(
            [[1] * length + [10 + number] for number in range(count)], None, are_scored
        )
        return any(prefix is not None for prefix in prefixes)

    assert not shared(MIN_TOKENS - 1, 50), "too short, however many share it"
    assert shared(MIN_TOKENS, MIN_SAVED // MIN_TOKENS + 1)
    assert not shared(MIN_TOKENS, MIN_SAVED // MIN_TOKENS), "too few prompts: it saves too little"
    assert shared(MIN_SAVED, 2)
    assert not shared(MIN_SAVED - 1, 2)
    assert shared(MIN_SAVED // SCORED, 2, are_scored=True)
    assert not shared(MIN_SAVED // SCORED - 1, 2, are_scored=True)
    assert not shared(MIN_TOKENS // SCORED - 1, 50, are_scored=True)


def test_a_beginning_too_short_for_all_does_not_hide_longer_ones_of_some() -> None:
    short = [1] * (MIN_TOKENS // 2)
    groups = [[*short, 2, *[4] * 200], [*short, 3, *[5] * 200]]
    prefixes = find_shared_prefixes([[*group, 10 + number] for group in groups for number in range(3)])
    assert [tokens_of(prefix) for prefix in prefixes] == [groups[0]] * 3 + [groups[1]] * 3


def test_nothing_and_one_prompt() -> None:
    assert find_shared_prefixes([]) == []
    assert find_shared_prefixes([[1, 2, 3]]) == [None]
    assert find_shared_prefixes([[1], [1]]) == [None, None]
