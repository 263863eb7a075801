"""A budget of thinking: it is forced at its tokens on every route, and changes nothing for rows
without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import in_process
import pytest
from raising import raises
from transformers import AutoTokenizer

from runner.config.models import MODELS
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines import create_lazy_engine
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_base.model_text import Ending, FinishReason
from runner_base.thinking import TAGS, Tag
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.static_batches import BY_GENERATE
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.embedded import MODEL_DIR
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Completion, Delta, Event, PartialAnswers, Request
from runner_engine.sessions.contract import Engine, complete_requests, run_requests
from runner_engine.sessions.thinking import (
    MOST_PARTIAL,
    ThinkingBudget,
    ThinkingState,
    encode_thinking_end,
    find_thinking_tags,
)
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling

ANSWER_TOKENS = 6
WILD = Sampling(temperature=1.5, seed=3)
PENALIZED = Sampling(temperature=1.2, seed=4, repetition_penalty=1.3, frequency_penalty=0.3)
GREEDY = Sampling(temperature=0.0)
EXACT: dict[str, Any] = {"device": "cpu", "dtype": Dtype.float32}
# of an option
ROUTES = ["scheduler", "static", "generate", *(["parts"] if "parts" in MODELS else [])]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(MODEL_DIR))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model in two parts."""
    folder = tmp_path_factory.mktemp("split")
    code, _, errors = in_process.run(
        "runner", ["task=split", "task.num_parts=2", "task.output_dir=parts", "tracking=none"], folder, {}
    )
    assert code == 0, errors
    return str(folder / "parts")


@pytest.fixture
def engine_of(
    make_config: Callable[..., RunnerConfig], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def make(route: str = "scheduler", dtype: Dtype = Dtype.float32, **generation: Any) -> Engine:
        model: Any = LocalModelConfig(name="embedded", device="cpu", dtype=dtype)
        if route == "parts":
            of_parts: Any = MODELS["parts"]
            model = of_parts(name=request.getfixturevalue("parts"), stages=1, **EXACT)
        elif route != "scheduler":
            monkeypatch.setattr(LocalEngine, "find_kv_spec", lambda *_: None)
        if route == "generate":
            monkeypatch.setattr(LocalEngine, "get_batching_mode", lambda *_: BY_GENERATE)
        drawn = GenerationConfig(max_new_tokens=ANSWER_TOKENS, **generation)
        opened.append(create_lazy_engine(resolve_job(make_config(model=model, generation=drawn))))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def thinkers(count: int, sampling: Sampling = WILD, **keys: Any) -> list[Request]:
    """Requests whose prompts end in an opening tag, and which never end by themselves."""
    return [
        Request(f"thinks {it}", f"Ann has {it} apples. <think>\n", ignore_eos=True, sampling=sampling, **keys)
        for it in range(count)
    ]


def plain(count: int, sampling: Sampling = WILD) -> list[Request]:
    return [
        Request(f"plain {it}", f"Ann has {it} apples and buys 3.", sampling=sampling) for it in range(count)
    ]


def by_id(done: list[Completion]) -> dict[Any, Completion]:
    return {one.id: one for one in done}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sampling", [GREEDY, WILD, PENALIZED], ids=["greedy", "wild", "penalized"])
@pytest.mark.parametrize("route", ROUTES)
def test_the_end_of_thinking_is_forced_at_the_budget(
    engine_of: Callable[..., Engine], tokenizer: Any, route: str, sampling: Sampling
) -> None:
    engine = engine_of(route)
    free = by_id(complete_requests(engine, thinkers(4, sampling, max_new_tokens=40)))
    end = encode_thinking_end(tokenizer, TAGS[0], None)
    assert tokenizer.decode(end) == "</think>"
    others = plain(3, sampling)
    alone = by_id(complete_requests(engine, others))
    budgets = [0, 1, 9, 17]
    with_budget = [
        replace(one, thinking_tokens=most) for one, most in zip(thinkers(4, sampling), budgets, strict=True)
    ]
    done = by_id(complete_requests(engine, [*with_budget, *others]))
    for request, most in zip(with_budget, budgets, strict=True):
        answer, tokens = done[request.id].answer, done[request.id].answer.token_ids
        assert tokens[:most] == free[request.id].answer.token_ids[:most], (
            "until then, it is as free as without a budget"
        )
        assert tokens[most : most + len(end)] == end
        assert (answer.thinking_tokens, answer.answer_tokens) == (most, ANSWER_TOKENS)
        assert len(tokens) == most + len(end) + ANSWER_TOKENS, "the answer keeps its own limit"
        assert (answer.ending, answer.finish_reason) == (Ending.cut_off_answer, FinishReason.length)
        assert answer.thinking == tokenizer.decode(tokens[:most], skip_special_tokens=True)
        assert answer.text == tokenizer.decode(tokens[most + len(end) :], skip_special_tokens=True)
    for request in others:
        assert done[request.id].answer == alone[request.id].answer


@pytest.mark.thorough
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.thorough)])
def test_many_sampled_rows_end_their_thinking_at_exactly_their_budget(
    engine_of: Callable[..., Engine], tokenizer: Any, count: int
) -> None:
    engine, random = engine_of(dtype=Dtype.bfloat16), Random(0)
    with_budget = [replace(one, thinking_tokens=random.randrange(40)) for one in thinkers(count)]
    think_on = [replace(one, id=f"on {one.id}", max_new_tokens=50) for one in thinkers(count // 5)]
    others = plain(count // 5)
    requests = [*with_budget, *think_on, *others]
    random.shuffle(requests)
    done = by_id(complete_requests(engine, requests))
    for one in with_budget:
        answer, most = done[one.id].answer, one.thinking_tokens
        assert most is not None
        assert answer.thinking_tokens is not None
        later = answer.thinking_tokens - most
        cut = [tokenizer.decode(answer.token_ids[: most + it]).endswith("\ufffd") for it in range(later)]
        assert 0 <= later <= MOST_PARTIAL, (one, answer)
        assert all(cut), f"only an unfinished character is waited for: {answer}"
    assert {done[one.id].answer.ending for one in think_on} == {Ending.cut_off_thinking}
    assert {done[one.id].answer.thinking_tokens for one in think_on} == {50}
    without = by_id(complete_requests(engine, [*think_on, *others]))
    assert all(done[key].answer == one.answer for key, one in without.items())


@pytest.mark.thorough
@pytest.mark.parametrize("sampling", [GREEDY, PENALIZED], ids=["greedy", "penalized"])
def test_an_answer_that_was_begun_at_any_token_goes_on_as_it_would_have(
    engine_of: Callable[..., Engine], sampling: Sampling
) -> None:
    engine = engine_of(thinking_tokens=7, thinking_end="So: </think>\n")
    (request,) = thinkers(1, sampling)
    (whole,) = complete_requests(engine, [request])
    assert whole.answer.thinking_tokens == 7
    assert whole.answer.thinking is not None
    assert whole.answer.thinking.endswith("So: "), "the words that were forced are a part of the thought"
    tokens = whole.answer.token_ids
    for count in range(len(tokens)):
        begun = PartialAnswers(whole.prompt_sha256, (tuple(tokens[:count]),))
        (again,) = complete_requests(engine, [replace(request, begun=begun)])
        assert again.answer == whole.answer, count


@pytest.mark.thorough
def test_deltas_tell_thinking_from_answer_and_have_no_tags(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of(thinking_tokens=9)
    for sampling in (GREEDY, WILD):
        (request,) = thinkers(1, sampling, deltas=True)
        events: list[Event] = []
        with engine.open() as session:
            run_requests(session, [request], events.extend)
        deltas = [event for event in events if isinstance(event, Delta)]
        (done,) = (event for event in events if isinstance(event, Completion))
        assert len(deltas) > 4
        assert "".join(it.text for it in deltas if it.thinking) == done.answer.thinking
        assert "".join(it.text for it in deltas if not it.thinking) == done.answer.text
        assert [it.thinking for it in deltas] == sorted((it.thinking for it in deltas), reverse=True)


@pytest.mark.thorough
def test_guesses_do_not_pass_the_end_of_a_budget(engine_of: Callable[..., Engine]) -> None:
    text = "1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4 <think>1 2 3 4 1 2 3 4 1 2"
    request = Request(0, text + "<think>", ignore_eos=True, max_new_tokens=60, sampling=GREEDY)
    engine = engine_of()
    requests = [replace(request, id=number, thinking_tokens=most) for number, most in enumerate([33, 50, 57])]
    one_by_one = [complete_requests(engine, [one])[0].answer for one in requests]
    assert [answer.thinking_tokens for answer in one_by_one] == [33, 50, 57]
    slow = engine_of(speculate="off")
    assert [complete_requests(slow, [one])[0].answer for one in requests] == one_by_one


@pytest.mark.thorough
@pytest.mark.parametrize("sampling", [GREEDY, WILD, PENALIZED], ids=["greedy", "wild", "penalized"])
def test_a_draft_keeps_to_the_budget(engine_of: Callable[..., Engine], sampling: Sampling) -> None:
    """A guess may reach over the end of a budget, an early end of the thought, and the limit of the
    answer: the tokens are those of single steps."""
    asked = [
        replace(one, thinking_tokens=most)
        for one, most in zip(thinkers(6, sampling), [0, 1, 3, 4, 9, None], strict=True)
    ] + plain(2, sampling)
    asked = [replace(one, max_new_tokens=20) for one in asked]
    text = "1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4 <think>1 2 3 4 1 2"
    asked.append(Request("known", text, thinking_tokens=5, ignore_eos=True, sampling=sampling))
    alone = by_id(complete_requests(engine_of(speculate="off"), asked))
    for speculate in ("ngram", {"kind": "draft", "layers": 2}, {"quantization": "nf4", "tokens": 7}):
        engine = engine_of(speculate=speculate)
        done = by_id(complete_requests(engine, asked))
        assert {key: one.answer for key, one in done.items()} == {
            key: one.answer for key, one in alone.items()
        }
        assert engine.stats.draft_tokens > 0
    assert alone["thinks 4"].answer.thinking_tokens == 9


# ---------------------------------------------------------------------------- rows, without a model


def spelled(tokenizer: Any, text: str, **keys: Any) -> tuple[Stopping, TokenSequence]:
    """Return a row that has the tokens of a text, followed token by token."""
    stopping = Stopping(tokenizer, frozenset({tokenizer.eos_token_id}))
    row = TokenSequence(Request(0, "x", ("STOP",)), [1], "", 1000, **keys)
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        row.tokens.append(token)
        stopping.find_finish_reason(row)
    return stopping, row


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer", "ending"),
    [
        ("<think>so 3</think>#### 7", None, "so 3", "#### 7", Ending.closed),
        ("so 3</think>\n\n#### 7", TAGS[0], "so 3", "\n\n#### 7", Ending.closed),
        ("[THINK]a[/THINK]b", None, "a", "b", Ending.closed),
        ("<think>a</think>b<think>c</think>d", None, "a</think>b<think>c", "d", Ending.closed),
        ("<think>a STOP b</think>c", None, "a STOP b", "c", Ending.closed),
        ("<think>never", None, "never", "", Ending.cut_off_thinking),
        ("`<think>` is a tag", None, None, "`<think>` is a tag", None),
        ("<think></think>7", None, None, "7", None),
        ("7 > 3 and a[1] > 2", None, None, "7 > 3 and a[1] > 2", None),
    ],
)
def test_a_row_knows_what_it_is_doing(
    tokenizer: Any, text: str, opened: Tag | None, thinking: str | None, answer: str, ending: Ending | None
) -> None:
    stopping, row = spelled(tokenizer, text, thought=ThinkingState(opened))
    made = stopping.build_answer(row, FinishReason.stop)
    assert (made.thinking, made.text, made.ending) == (thinking, answer, ending)
    assert (row.thought.tag is not None) == (ending is Ending.cut_off_thinking)
    if ending is Ending.closed:
        assert made.answer_tokens == len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        assert made.thinking_tokens is not None
        assert 0 < made.thinking_tokens < len(row.tokens) - made.answer_tokens


def test_a_stop_text_ends_an_answer_and_no_thought(tokenizer: Any) -> None:
    stopping, row = spelled(tokenizer, "<think>a STOP b</think>c STOP")
    assert stopping.find_finish_reason(row) is FinishReason.stop
    assert stopping.build_answer(row, FinishReason.stop).text == "c "


def test_a_budget_ends_behind_a_whole_character(tokenizer: Any) -> None:
    tokens = tokenizer("aé", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 3, "the letter é is two tokens here"
    stopping = Stopping(tokenizer)
    row = TokenSequence(Request(0, "x"), [1], "", 1000, thought=ThinkingState(TAGS[0], ThinkingBudget(2, 9)))
    row.tokens = tokens[:2]
    assert stopping.get_forced_token(row) is None
    row.tokens = tokens
    assert stopping.get_forced_token(row) == encode_thinking_end(tokenizer, TAGS[0], None)[0]


def test_the_model_names_its_own_tags(tokenizer: Any) -> None:
    plain, own = (GenerationConfig(), GenerationConfig(thinking_tags=["<a>", "</a>", "<think>", "</think>"]))
    assert find_thinking_tags(plain, tokenizer) == TAGS

    class Named:
        chat_template = "{{ '<my_thoughts>' }} … {{ content.split('</my_thoughts>') }} <tool></tool> </think>"
        added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    assert find_thinking_tags(plain, Named()) == (*TAGS, Tag("<my_thoughts>", "</my_thoughts>"))
    assert find_thinking_tags(own, Named()) == (Tag("<a>", "</a>"), TAGS[0])


@pytest.mark.parametrize(
    ("keys", "code", "key", "said"),
    [
        (
            {"thinking_tags": ["<think>"]},
            "bad_value",
            "generation.thinking_tags",
            '=["<think>"]: must be pairs',
        ),
        (
            {"thinking_tags": ["<a>", "<a>"]},
            "bad_value",
            "generation.thinking_tags",
            "must be pairs of different texts",
        ),
        # the key that is missing is named, too
        ({"thinking_end": "So:"}, "no_effect", "", "generation.thinking_end='So:'"),
        ({"thinking_end": "So:"}, "no_effect", "", "generation.thinking_tokens"),
        ({"thinking_tokens": -1}, "bad_value", "generation.thinking_tokens", "=-1: "),
    ],
)
def test_wrong_settings_are_named(keys: dict[str, Any], code: Code, key: str, said: str) -> None:
    with raises(ConfigError, code, key) as refused:
        GenerationConfig(**keys)
    assert said in str(refused.value)


@pytest.mark.parametrize("before", ['it says "', "first <think>", "```\n<think> in code ", "as `"])
def test_an_end_that_was_forced_counts_whatever_stands_before_it(tokenizer: Any, before: str) -> None:
    stopping = Stopping(tokenizer)
    row = TokenSequence(Request(0, "x", deltas=True), [1], "", 1000, thought=ThinkingState(TAGS[0]))
    row.tokens = tokenizer(before, add_special_tokens=False)["input_ids"]
    most = len(row.tokens)
    row.thought.budget = ThinkingBudget(most, 9)
    deltas: list[Delta] = []
    while (token := stopping.get_forced_token(row)) is not None:
        row.tokens.append(token)
        deltas += stopping.build_unsent_text_deltas(row)
    for token in tokenizer('" 7', add_special_tokens=False)["input_ids"]:
        row.tokens.append(token)
        assert stopping.get_forced_token(row) is None
        deltas += stopping.build_unsent_text_deltas(row)
    made = stopping.build_answer(row, FinishReason.stop)
    assert (made.thinking_tokens, made.text, made.ending) == (most, '" 7', Ending.budget_spent)
    assert "".join(delta.text for delta in deltas if not delta.thinking) == made.text
