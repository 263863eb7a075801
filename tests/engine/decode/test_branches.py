"""Parallel branches: the layout and mask of the definition, and side by side equal to one at a
time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, PEFT_WARNS, build
from opening import make_spec, open_engine
from raising import raises
from transformers import AutoTokenizer

from runner_base.errors import ConfigError
from runner_base.result import Answer, FinishReason
from runner_engine.decode.branches import (
    BranchDecoder,
    build_branch_attention_mask,
    decode_request_branches,
    find_branch_support_error,
    sort_branch_tokens_by_time,
)
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.rope import rope_2d
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

MAIN = [5, 9, 14, 3, 40, 77]
BRANCHES = [[21, 22], [31, 32, 33], [41]]
Token = tuple[int, int, int, int]  # id, branch, time, and the pass that put it into the cache


def tiny(family: str, attention: str = "sdpa", patched: bool = True, **keys: Any) -> Any:
    model = build(family, attn_implementation=attention, **keys)
    if patched:
        rope_2d.patch_rope_2d(model, Rope2dConfig())
    return model


class Mute:
    """Stands in for a tokenizer where nobody reads the text."""

    name_or_path = "mute"

    def decode(self, _: list[int], **__: Any) -> str:
        return ""


def decode(
    model: Any, main: list[int], branches: list[list[int]], limit: int, stops: frozenset[int] = frozenset()
) -> list[Answer]:
    """Continue every branch greedily."""
    request = Request(0, "", branches=("",) * len(branches))
    rows = [
        TokenSequence(request, [*main, *branch], "", limit, number, branch_at=len(main))
        for number, branch in enumerate(branches, start=1)
    ]
    loaded = LoadedModel(model, Mute(), torch.device("cpu"), metrics={"vocab_size": model.config.vocab_size})
    done = decode_request_branches(loaded, rows, EngineStats(), Stopping(Mute(), stops))
    assert done.branches is not None
    return done.branches


# ------------------------------------------------------------------------------------ layout and
# mask


def test_the_example_of_the_definition() -> None:
    times, branches, tokens = zip(*sort_branch_tokens_by_time([*b"abc"], [[*b"de"], [*b"fgh"]]), strict=True)
    assert bytes(tokens) == b"abcdfegh"
    placed = list(zip(branches, times, strict=True))
    assert placed == [(0, 0), (0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4), (2, 5)]
    sees = {
        "a": "a",
        "b": "ab",
        "c": "abc",
        "d": "abcd",
        "f": "abcf",
        "e": "abcdfe",
        "g": "abcdfg",
        "h": "abcdfegh",
    }
    mask = build_branch_attention_mask(torch.tensor(times), 8)
    seen_by_mask = {
        chr(tokens[i]): "".join(chr(t) for t, seen in zip(tokens, mask[i].tolist(), strict=True) if seen)
        for i in range(8)
    }
    assert seen_by_mask == sees


def test_mask_of_the_last_tokens() -> None:
    times = torch.tensor([0, 1, 2, 3, 3])
    expected = [[bool(times[j] < times[i] or i == j) for j in range(5)] for i in range(5)]
    assert build_branch_attention_mask(times, num_queries=5).tolist() == expected
    assert build_branch_attention_mask(times, num_queries=2).tolist() == expected[3:]


# ------------------------------------------------------------------------- side by side, and one by
# one


def forward_one(model: Any, tokens: list[Token], stride: int = 128) -> torch.Tensor:
    """Logits [N, V] of tokens in one uncached pass, mask and coordinates written out token by
    token."""
    count = len(tokens)
    mask = torch.full((1, 1, count, count), torch.finfo(torch.float32).min)
    for i, (_, _, t_i, pass_i) in enumerate(tokens):
        for j, (_, _, t_j, pass_j) in enumerate(tokens):
            if (pass_j <= pass_i and t_j < t_i) or i == j:  # what came later was not there to be seen
                mask[0, 0, i, j] = 0
    patch = rope_2d.find_rope_2d(model)
    assert patch is not None
    patch.pos2d = torch.tensor([[(branch * stride, time) for _, branch, time, _ in tokens]])
    with torch.inference_mode():
        logits: torch.Tensor = model(
            input_ids=torch.tensor([[token for token, _, _, _ in tokens]]),
            attention_mask=mask,
            position_ids=torch.tensor([[time for _, _, time, _ in tokens]]),
        ).logits[0]
    patch.pos2d = None
    return logits


def side_by_side(
    model: Any, main: list[int], branches: list[list[int]], steps: int
) -> tuple[Any, torch.Tensor, int]:
    """Tokens [k][steps], logits [k, steps, V] and passes of the decoder under test."""
    decoder, passes = BranchDecoder(model), list[int]()
    counting = model.register_forward_hook(lambda *_: passes.append(1))
    logits = [decoder.prefill(main, branches)]
    tokens: list[list[int]] = [[] for _ in branches]
    for step in range(steps):
        chosen = logits[-1].argmax(dim=-1).tolist()
        for branch, token in enumerate(chosen):
            tokens[branch].append(token)
        if step < steps - 1:
            logits.append(decoder.step(dict(enumerate(chosen, start=1))))
    counting.remove()
    return tokens, torch.stack(logits, dim=1), len(passes)


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_side_by_side_equals_each_branch_alone(family: str, attention: str) -> None:
    """Alone: each token of each branch by an uncached pass of its own, over what was there when its
    turn came."""
    model, steps = tiny(family, attention), 6
    tokens, logits, passes = side_by_side(model, MAIN, BRANCHES, steps)
    assert passes == steps, "one pass for the prompts, one for each further column of new tokens"

    placed: list[Token] = [(token, 0, time, 0) for time, token in enumerate(MAIN)]
    for number, branch in enumerate(BRANCHES, start=1):
        placed += [(token, number, len(MAIN) + at, 0) for at, token in enumerate(branch)]
    for step in range(steps):
        column = []
        for number, branch in enumerate(BRANCHES, start=1):
            # the branch's last token at the end; the coordinates, not the order, decide who sees
            # whom
            last = max((token for token in placed if token[1] == number), key=lambda token: token[2])
            ordered = [token for token in placed if token != last] + [last]
            alone = forward_one(model, ordered)[-1]
            torch.testing.assert_close(logits[number - 1, step], alone, atol=1e-5, rtol=0)
            assert int(alone.argmax()) == tokens[number - 1][step]
            column.append((int(alone.argmax()), number, len(MAIN) + len(branch) + step, step + 1))
        placed += column


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.sdpa, Attention.eager])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_answers_as_each_branch_alone(
    saved_family: Callable[..., Path], family: str, attention: Attention
) -> None:
    """The same comparison from the outside: a request in texts, tokens out, by uncached passes one
    token at a time."""
    folder, steps = saved_family(family), 6
    spec = make_spec(
        model=LocalModelConfig(name=str(folder), device="cpu", attention=attention),
        rope=Rope2dConfig(ratio=0.25, stride=16),
        generation=GenerationConfig(max_new_tokens=steps),
    )
    engine, texts = open_engine(spec), ("one, ", "", "two")
    (done,) = contract.complete_requests(engine, [Request(7, "Main", branches=texts, ignore_eos=True)])
    model = build(family, attn_implementation=attention.value)
    rope_2d.patch_rope_2d(model, Rope2dConfig(ratio=0.25, stride=16))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    main, *prompts = (tokenizer(text)["input_ids"] for text in ("Main", *texts))
    placed: list[Token] = [(token, 0, time, 0) for time, token in enumerate(main)]
    for number, branch in enumerate(prompts, start=1):
        placed += [(token, number, len(main) + at, 0) for at, token in enumerate(branch)]
    alone: list[list[int]] = [[] for _ in prompts]
    for step in range(steps):
        column = []
        for number, branch in enumerate(prompts, start=1):
            own = [token for token in placed if token[1] == number] or [placed[len(main) - 1]]
            last = max(own, key=lambda token: token[2])
            ordered = [token for token in placed if token != last] + [last]
            chosen = int(forward_one(model, ordered, stride=16)[-1].argmax())
            alone[number - 1].append(chosen)
            column.append((chosen, number, len(main) + len(branch) + step, step + 1))
        placed += column
    assert done.branches is not None
    assert [one.token_ids for one in done.branches] == alone
    assert (done.id, done.answer) == (7, Answer("", [], FinishReason.length))
    assert done.prompt_tokens == engine.stats.prefill_tokens == len(main) + sum(map(len, prompts))
    assert engine.stats.decode_tokens == 3 * (steps - 1)
    assert engine.stats.decode_s > 0


def test_stop_tokens_end_a_branch_of_a_request(saved_family: Callable[..., Path]) -> None:
    generation = GenerationConfig(max_new_tokens=8)
    model = LocalModelConfig(name=str(saved_family()), device="cpu")
    engine = open_engine(make_spec(model=model, rope=Rope2dConfig(), generation=generation))
    request = Request(0, "Main", branches=("one, ", "", "two"))
    (free,) = contract.complete_requests(engine, [dataclasses.replace(request, ignore_eos=True)])
    assert free.branches is not None
    end = next(token for token in free.branches[1].token_ids if token not in free.branches[0].token_ids)
    loaded = engine.loaded  # make a token that does come the end token
    loaded.model.generation_config.eos_token_id = [end]
    (done,) = contract.complete_requests(engine, [request])
    (ignored,) = contract.complete_requests(engine, [dataclasses.replace(request, ignore_eos=True)])
    assert done.branches is not None
    ended, went_on = done.branches[1], done.branches[0]
    cut = free.branches[1].token_ids.index(end)
    assert ended.finish_reason is FinishReason.stop
    assert ended.token_ids == free.branches[1].token_ids[: cut + 1]
    assert ended.text == loaded.tokenizer.decode(ended.token_ids[:-1]), "the stop token is not said"
    assert (went_on.finish_reason, len(went_on.token_ids)) == (FinishReason.length, 8)
    assert ignored.branches == free.branches


def test_branches_of_like_length_equal_one_pass_over_everything() -> None:
    model = tiny("llama")
    branches = [[21, 22], [31, 32]]
    tokens, logits, _ = side_by_side(model, MAIN, branches, 5)
    placed = sort_branch_tokens_by_time(
        MAIN, [prompt + new[:-1] for prompt, new in zip(branches, tokens, strict=True)]
    )
    everything = [(token, branch, time, 0) for time, branch, token in placed]
    whole = forward_one(model, everything)
    for number in (1, 2):
        places = [i for i, (_, b, t, _) in enumerate(everything) if b == number and t >= len(MAIN) + 1]
        torch.testing.assert_close(logits[number - 1], whole[places], atol=1e-5, rtol=0)


def test_one_branch_is_the_single_stream_but_for_its_coordinate() -> None:
    """With one branch the mask is causal; where branches are 0 apart in angle, it is plain cached
    decoding."""
    model = tiny("llama", patched=False)
    patch = rope_2d.patch_rope_2d(model, Rope2dConfig(ratio=0))
    patch.native.inv_freq[-1] = 0  # the only branch pair stands still
    done = decode(model, MAIN, [BRANCHES[0]], 8)[0]
    ids = torch.tensor([MAIN + BRANCHES[0]])
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert done.token_ids == plain[0, ids.shape[1] :].tolist()


def test_a_branch_that_ends_leaves_the_others_going() -> None:
    model = tiny("llama")
    free = decode(model, MAIN, BRANCHES, 8)
    assert [branch.finish_reason for branch in free] == [FinishReason.length] * 3
    assert [len(branch.token_ids) for branch in free] == [8] * 3
    stop = free[1].token_ids[2]
    done = decode(model, MAIN, BRANCHES, 8, frozenset([stop]))
    assert done[1].token_ids == free[1].token_ids[: free[1].token_ids.index(stop) + 1]
    assert done[1].finish_reason is FinishReason.stop
    others = [branch for branch in done if branch.finish_reason is FinishReason.length]
    assert all(len(branch.token_ids) == 8 for branch in others)


def test_branches_that_are_empty_so_far_all_go_on_from_main() -> None:
    model = tiny("llama")
    decoder = BranchDecoder(model)
    logits = decoder.prefill(MAIN, [[], [], [7]])
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert decoder.clocks == {1: 6, 2: 6, 3: 7}


@pytest.mark.filterwarnings(f"ignore:{PEFT_WARNS}:FutureWarning")
def test_branches_under_an_adapter() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    before = BranchDecoder(model).prefill(MAIN, BRANCHES)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = BranchDecoder(model.eval()).prefill(MAIN, BRANCHES)
    assert (adapted - before).abs().max() > 1e-2
    merged = model.merge_and_unload()
    torch.testing.assert_close(BranchDecoder(merged).prefill(MAIN, BRANCHES), adapted, atol=1e-5, rtol=0)
    assert [len(branch.token_ids) for branch in decode(merged, MAIN, BRANCHES, 3)] == [3, 3, 3]


def test_branches_know_which_one_they_are() -> None:
    """The same beginning in two branches: only the branch coordinate tells them apart from the
    first token on."""
    model = tiny("llama")
    logits = BranchDecoder(model).prefill(MAIN, [[21, 22], [21, 22]])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_decoded_in_branches() -> None:
    with raises(ConfigError, "missing", "rope"):
        BranchDecoder(tiny("llama", patched=False)).prefill(MAIN, BRANCHES)
    with raises(ConfigError, "too_large"):
        decode(tiny("mistral", sliding_window=8), MAIN, BRANCHES, 8)
    model = tiny("llama")
    assert find_branch_support_error(model) is None
    model.config._attn_implementation = "flash_attention_2"
    refused = find_branch_support_error(model)
    assert refused is not None
    assert refused.code == "unsupported"
    assert "model.attention=flash_attention_2" in str(refused)


def test_branches_of_a_prompt_without_tokens_are_an_error_of_their_own(
    saved_family: Callable[..., Path],
) -> None:
    model = LocalModelConfig(name=str(saved_family()), device="cpu")
    engine = open_engine(make_spec(model=model, rope=Rope2dConfig()))
    (done,) = contract.complete_requests(engine, [Request(0, "", branches=("one", "two"))])
    assert done.answer.finish_reason is FinishReason.error
    assert done.error == "the prompt has no tokens. Give a prompt that is not empty"


def test_a_pass_without_coordinates_between_the_steps_is_an_error() -> None:
    model = tiny("llama")
    with (
        rope_2d.require_token_coordinates(model),
        pytest.raises(RuntimeError, match="2D rope has no token coordinates"),
    ):
        model(torch.tensor([MAIN]))
