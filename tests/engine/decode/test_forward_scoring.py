"""Log-probabilities of given continuations against one plain forward pass of the whole text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_peft
from opening import adapt, load_base, make_spec, open_engine
from raising import raises
from streams import AGENTS, QUESTIONS, SYSTEM, requests
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, GPT2Config

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_engine.decode.tokens import scoring
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.spec import ModelSpec

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]
WAYS = pytest.mark.parametrize("attention", [Attention.auto, Attention.sdpa], ids=["scheduler", "plain"])
CONTINUATIONS = (" yes", " no, not at all, and nobody has ever said so.", "7", "\nBecause it is so.")
ASKED = [
    Request(f"{prompt}{continuation}", prompt, continuation=continuation)
    for prompt in (*(SYSTEM + agent + question for agent in AGENTS for question in QUESTIONS), "y", "Q:")
    for continuation in CONTINUATIONS
]
OTHERS: dict[str, Any] = {
    "gemma": GemmaConfig(
        vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, initializer_range=0.3, pad_token_id=0,
        bos_token_id=None, eos_token_id=2,
    ),
    "gpt2": GPT2Config(
        vocab_size=259, n_embd=64, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3, pad_token_id=0,
        bos_token_id=None, eos_token_id=2,
    ),
}  # fmt: skip


def configure(folder: Path, attention: Attention = Attention.auto, **groups: Any) -> ModelSpec:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    return make_spec(**({"model": model, "generation": GenerationConfig(max_new_tokens=8)} | groups))


def by_one_pass(model: Any, prompt: list[int], continuation: list[int]) -> torch.Tensor:
    """Return the log-probability of each token of a continuation by one forward pass over the whole
    text."""
    ids = torch.tensor([[*prompt, *continuation]])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    scores = (logits if logits.dtype is torch.float64 else logits.float()).log_softmax(dim=-1)
    return scores[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


def rounding_of_float32(single: Any, double: Any, tokenizer: Any) -> float:
    """Return how far transformers in float32 is from double precision, over all that is asked.

    That depends on the model: it is ten times as much for these Gemma and GPT-2 as for this Llama.
    """
    far = []
    for request in ASKED:
        prompt, given = (tokenizer(text)["input_ids"] for text in (request.prompt, request.continuation))
        far.append(
            float((by_one_pass(single, prompt, given) - by_one_pass(double, prompt, given)).abs().max())
        )
    return max(far)


def check(spec: ModelSpec, model: Any, tokenizer: Any, tolerance: float) -> LocalEngine:
    """Compare all that is asked, by ids and by text, with generating neighbours; return the
    engine."""
    engine = open_engine(spec)
    free = {done.id: done.answer.token_ids for done in contract.complete_requests(engine, requests())}
    before = replace(engine.stats)
    done = {one.id: one for one in contract.complete_requests(engine, [*ASKED, *requests()])}
    assert len(done) == len(ASKED) + len(free)
    assert {key: done[key].answer.token_ids for key in free} == free or tolerance > 1e-4, (
        "who generates does not notice"
    )
    for request in ASKED:
        prompt, given = (tokenizer(request.prompt)["input_ids"], tokenizer(request.continuation)["input_ids"])
        one = done[request.id]
        assert (one.answer.token_ids, one.answer.text, one.answer.finish_reason) == (
            given,
            "",
            FinishReason.stop,
        )
        assert one.prompt_tokens == len(prompt)
        expected = by_one_pass(model, prompt, given)
        torch.testing.assert_close(
            torch.tensor(one.logprobs, dtype=expected.dtype), expected, atol=tolerance, rtol=0
        )
        assert one.greedy is not None
        assert len(one.greedy) == len(given)
    if spec.model.attention is Attention.auto:
        assert engine.stats.notes == [], "the scheduler served, not its fallback"
        spent = engine.stats - before
        assert spent.shared_tokens > len(ASKED) * len(SYSTEM) / 2, "what they share was computed once"
    return engine


@pytest.mark.thorough
@WAYS
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gpt2"])
def test_every_family_scores_as_one_forward_pass(
    saved_family: Saved, tiny_llama: Path, family: str, attention: Attention, tmp_path: Path
) -> None:
    if family in OTHERS:
        folder = tmp_path / family
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(OTHERS[family]).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    else:
        folder = saved_family(family, max_position_embeddings=512)
    single, double = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval() for dtype in ("float32", "float64")
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # sums in another order round otherwise, and a compiler's optimisation level changes the order
    tolerance = 2 * rounding_of_float32(single, double, tokenizer)
    check(configure(folder, attention), double, tokenizer, tolerance).close()


@pytest.mark.thorough
@WAYS
@pytest.mark.parametrize(("what", "tolerance"), [("peft", 1e-5), ("rope_2d", 1e-5), ("nf4", 2e-2)])
def test_adapters_rope_2d_and_nf4_score_as_one_forward_pass(
    saved_family: Saved, what: str, tolerance: float, attention: Attention, tmp_path: Path
) -> None:
    folder = saved_family("llama", max_position_embeddings=512)
    choices: dict[str, dict[str, Any]] = {
        "peft": {"lora": PeftConfig(path=str(tmp_path / "adapter"))},
        "rope_2d": {"rope": Rope2dConfig()},
        "nf4": {"quantization": Nf4Config()},
    }
    groups = choices[what]
    if what == "peft":
        save_peft(tmp_path / "adapter", folder)
    spec = configure(folder, attention, **groups)
    loaded = adapt(load_base(spec), spec)
    check(spec, loaded.model, loaded.tokenizer, tolerance).close()


@pytest.mark.thorough
@WAYS
def test_a_continuation_too_long_for_one_pass_goes_in_pieces(
    saved_family: Saved, attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_family("llama", max_position_embeddings=1024)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (SYSTEM + "".join(QUESTIONS)) * 4
    asked = [Request(cut, text[:cut], continuation=text[cut : cut + 300]) for cut in (1, 40, 240, 241)]
    short = Request("short", "Short", continuation="er")
    monkeypatch.setattr(scoring, "MAX_LOGITS", {"cpu": 50 * 259})
    monkeypatch.setattr(scoring, "AT_ONCE", 7 * 259)
    engine = open_engine(configure(folder, attention))
    done = {one.id: one for one in contract.complete_requests(engine, [*asked, short])}
    for request in (*asked, short):
        assert isinstance(request.continuation, str)
        expected = by_one_pass(
            model, *(tokenizer(one)["input_ids"] for one in (request.prompt, request.continuation))
        )
        torch.testing.assert_close(torch.tensor(done[request.id].logprobs), expected, atol=1e-5, rtol=0)
    engine.close()


@pytest.mark.thorough
@WAYS
def test_what_a_model_would_say_is_greedy(saved_family: Saved, attention: Attention) -> None:
    engine = open_engine(configure(saved_family("llama", max_position_embeddings=512), attention))
    engine.load()
    prompt = tuple(engine.encode(Request(0, "Ann has 3 apples."))[1])
    (said,) = contract.complete_requests(engine, [Request(0, prompt, ignore_eos=True)])
    other = [token + 1 if at == 3 else token for at, token in enumerate(said.answer.token_ids)]
    asked = [
        Request(at, prompt, continuation=tuple(ids))
        for at, ids in enumerate((said.answer.token_ids, other[:4]))
    ]
    scored = {one.id: one for one in contract.complete_requests(engine, asked)}
    assert scored[0].greedy == [True] * 8
    assert scored[1].greedy == [True, True, True, False]
    assert engine.stats.decode_tokens == 7, "what is scored is never decoded"
    engine.close()


@pytest.mark.thorough
def test_a_text_is_tokenized_together_with_what_it_follows() -> None:
    """The embedded model's tokenizer joins characters: the tokens of a whole text are not those of
    its halves."""
    engine = open_engine(make_spec(model=LocalModelConfig(name="embedded", dtype=Dtype.float32)))
    engine.load()
    tokenizer = engine.loaded.tokenizer
    whole, context = (
        tokenizer("How many apples are left?")["input_ids"],
        tokenizer("How many app")["input_ids"],
    )
    chat = (Message("user", "How many?"),)
    framed = engine.encode(Request(0, chat))[0]
    asked = [
        Request("text", "How many app", continuation="les are left?"),
        Request("ids", tuple(context), continuation="les"),
        Request("chat", chat, continuation="Seven apples"),
    ]
    done = {one.id: one.answer.token_ids for one in contract.complete_requests(engine, asked)}
    assert done["text"] == whole[len(context) :]
    assert done["ids"] == tokenizer("les", add_special_tokens=False)["input_ids"]
    both = tokenizer(f"{framed}Seven apples", add_special_tokens=False)["input_ids"]
    assert done["chat"] == both[len(tokenizer(framed, add_special_tokens=False)["input_ids"]) :]
    engine.close()


def test_continuations_that_cannot_be_scored_are_errors_of_their_own(saved_family: Saved) -> None:
    engine = open_engine(configure(saved_family("llama", max_position_embeddings=64)))
    asked = [
        Request(0, "x", continuation=""),
        Request(1, "", continuation="x"),
        Request(2, "x" * 60, continuation="y" * 6),
        Request(3, "x" * 60, continuation="y" * 5),
    ]
    done = {one.id: one for one in contract.complete_requests(engine, asked)}
    assert done[0].error == "the continuation has no tokens to score. Give a continuation that is not empty"
    assert "the prompt has no tokens" in str(done[1].error)
    assert done[2].error == (
        "the prompt and its continuation have 66 tokens, but the model has room for 64: "
        "rope.beyond_trained=true reads on"
    )
    assert done[3].logprobs is not None
    assert len(done[3].logprobs) == 5, "its last token need not go through the model"
    engine.close()


@pytest.mark.thorough
def test_those_that_decode_have_their_turn_between_those_that_are_scored(saved_family: Saved) -> None:
    engine = open_engine(configure(saved_family("llama", max_position_embeddings=512)))
    with engine.open(batch_size=4) as session:
        session.submit(Request("talk", "Hello", ignore_eos=True))
        session.step()
        for number in range(40):
            session.submit(Request(number, f"{number}?", continuation="yes"))
        scored = 0
        while "talk" not in (ended := [event.id for event in session.step()]):
            scored += len(ended)
            assert scored < 30, "it has had none of its eight tokens, or few"
    engine.close()


@WAYS
def test_the_most_probable_tokens_are_those_of_one_forward_pass(
    saved_family: Saved, attention: Attention
) -> None:
    folder = saved_family("llama", max_position_embeddings=512)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    engine = open_engine(configure(folder, attention))
    prompts = {f"{count}": tuple(range(5, 5 + count)) for count in (1, 2, 40, 250)}
    asked = [
        Request(name, ids[:1], continuation=ids[1:] or (9,), top_logprobs=5) for name, ids in prompts.items()
    ]
    for one in contract.complete_requests(engine, asked):
        whole = torch.tensor([[*prompts[str(one.id)][:1], *one.answer.token_ids]])
        with torch.inference_mode():
            scores = model(input_ids=whole, use_cache=False).logits[0, :-1].float().log_softmax(dim=-1)
        best = scores.topk(5, dim=-1)
        assert one.top_logprobs is not None
        assert [[token for token, _ in some] for some in one.top_logprobs] == best.indices.tolist()
        values = torch.tensor([[value for _, value in some] for some in one.top_logprobs])
        torch.testing.assert_close(values, best.values, atol=1e-5, rtol=0)
        for token, said, is_best, some in zip(
            one.answer.token_ids, one.logprobs or [], one.greedy or [], one.top_logprobs, strict=True
        ):
            assert is_best == (some[0][0] == token)
            assert dict(some).get(token, said) == said, "the same number, wherever it stands"
    (plain,) = contract.complete_requests(engine, [Request("without", (5,), continuation=(6, 7))])
    assert plain.top_logprobs is None
    engine.close()


def test_tokens_that_the_model_does_not_know_are_refused_before_they_break_a_pass(tiny_llama: Path) -> None:
    engine = open_engine(configure(tiny_llama))
    for strange in (-1, 259, 2**70):
        for asked in (Request(1, (5, strange)), Request(1, (5,), continuation=(strange,))):
            with raises(ConfigError, "bad_value") as raised:
                list(contract.complete_requests(engine, [asked]))
            assert raised.value.reason.startswith(f"token id {strange} ")
    engine.close()


def test_token_ids_become_the_text_that_they_are_amid_others(tiny_llama: Path) -> None:
    engine = open_engine(configure(tiny_llama))
    engine.load()
    _, ids = engine.encode(Request(1, " 你好, you"))
    assert engine.decode(ids) == " 你好, you"
    assert engine.decode([*ids, 2]) == " 你好, you<|im_end|>"
    assert [engine.decode([one]) for one in (*ids[:1], *ids[-3:])] == [" ", "y", "o", "u"]
    engine.close()


def test_equal_seeds_and_names_draw_the_same_whatever_the_id_is(tiny_llama: Path) -> None:
    engine = open_engine(
        configure(tiny_llama, generation=GenerationConfig(max_new_tokens=12, temperature=1.0))
    )
    warm = Sampling(temperature=1.0, seed=7)
    asked = [Request(number, "Once", sampling=warm, n=2, random_id="same") for number in (1, 2)]
    other = [Request(3, "Once", sampling=warm, n=2)]
    said = {
        (one.id, one.choice): one.answer.text for one in contract.complete_requests(engine, asked + other)
    }
    assert (said[1, 0], said[1, 1]) == (said[2, 0], said[2, 1])
    assert len({said[1, 0], said[1, 1], said[3, 0], said[3, 1]}) == 4
    engine.close()


@WAYS
def test_further_token_ids_are_scored_in_place_of_the_continuations_tokens(
    saved_family: Saved, attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 7 * 259)  # some places at a time
    engine = open_engine(configure(saved_family("llama", max_position_embeddings=512), attention))
    asked = Request("top", "A first question", continuation=", and what is said then", top_logprobs=5)
    (most_probable,) = contract.complete_requests(engine, [asked])
    assert most_probable.top_logprobs is not None
    ids = [[token for token, _ in place] for place in most_probable.top_logprobs]
    (every_token,) = contract.complete_requests(
        engine, [replace(asked, score_token_ids=ids, top_logprobs=259)]
    )
    assert every_token.score_token_logprobs is not None
    for values, place in zip(every_token.score_token_logprobs, most_probable.top_logprobs, strict=True):
        assert values == pytest.approx([value for _, value in place], abs=1e-5)
    assert every_token.top_logprobs is not None
    assert every_token.min_logprobs == pytest.approx([place[-1][1] for place in every_token.top_logprobs])
    (short,) = contract.complete_requests(engine, [replace(asked, score_token_ids=ids[1:])])
    assert (
        short.error
        == f"score_token_ids has {len(ids) - 1} entries, but the continuation has {len(ids)} tokens. "
        "Give one entry for each token"
    )
    with raises(ConfigError, "bad_value") as raised:
        list(contract.complete_requests(engine, [replace(asked, score_token_ids=[[259]] * len(ids))]))
    assert raised.value.reason.startswith("token id 259 ")
    engine.close()
