"""A decoding step with tensors that stay where they are: the logits of the usual step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from raising import raises
from step_decoding import DEVICES, FAMILIES, IDS, Decoding, assert_close, loaded_of
from streams import NEW_TOKENS, complete, requests
from torch.overrides import TorchFunctionMode

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.attention import device_attention, page_trial
from runner_engine.checkpoints.pass_memory import round_up_batch_size
from runner_engine.decode.compat_probe import infer_and_test_kv_cache_spec
from runner_engine.decode.passes import device_step
from runner_engine.decode.passes.device_step import MOST_PREFIXES, DeviceDecodeStep
from runner_engine.decode.passes.host_sync import ForbidHostSync, HostSyncError
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling


class NothingFromLists(TorchFunctionMode):
    """Refuses what turns a tensor into numbers of Python on a CPU, where no operation is called for
    it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in (
            "tolist",
            "numpy",
            "item",
            "cpu",
            "__bool__",
            "__int__",
            "__float__",
        ):
            raise HostSyncError(func.__name__)
        if func in (torch.tensor, torch.as_tensor):
            raise HostSyncError("a tensor of numbers of the host")
        return func(*args, **(kwargs or {}))


@pytest.mark.sampled(15)
@DEVICES
@pytest.mark.parametrize(
    ("family", "page"), [*((family, 0) for family in FAMILIES), ("llama", 16), ("mistral", 32)]
)
@pytest.mark.parametrize("kv_cache", [KvCache.as_model, KvCache.int8])
def test_logits_are_those_of_the_usual_step(
    pair: Callable[..., list[Decoding]], family: str, page: int, kv_cache: KvCache, device: str
) -> None:
    """Beyond windows of 24 tokens, which hide a whole prefix; and the row that is read meanwhile is
    not disturbed.

    With pages, one begins in one prefix and ends in the next; a GPU takes none of so few places,
    and none of float32.
    """
    usual, ours = pair(family, device, kv_cache=kv_cache, page=0 if device == "cuda" else page)
    assert ours.forward.device_step is not None
    for _ in range(6):
        assert_close(ours.step(), usual.step(), kv_cache)
    assert_close(ours.finish(), usual.finish(), kv_cache)
    usual.leave(1)
    ours.leave(1)
    for _ in range(3):
        assert_close(ours.step(), usual.step(), kv_cache)


@pytest.mark.sampled(8)
@DEVICES
@pytest.mark.parametrize(("family", "page"), [*((family, 0) for family in FAMILIES), ("mistral", 16)])
def test_a_step_never_waits_for_the_device(
    pair: Callable[..., list[Decoding]], family: str, page: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ours = pair(family, device, page=0 if device == "cuda" else page)
    step, ran = DeviceDecodeStep._compute_logits, []

    def watched(self: DeviceDecodeStep, attention: Any) -> torch.Tensor:
        ran.append(len(attention.table))
        with ForbidHostSync():
            if family == "gemma2":  # its own code makes a number of its settings into a tensor of the host
                return step(self, attention)
            with NothingFromLists():
                return step(self, attention)

    monkeypatch.setattr(DeviceDecodeStep, "_compute_logits", watched)
    ours.step()
    assert ran == [8], "five rows are filled up"


def test_what_waits_is_found() -> None:
    numbers = torch.arange(4)
    waiting: list[Callable[[], Any]] = [
        lambda: numbers[2].item(), lambda: bool(numbers.any()), lambda: numbers[numbers > 1], lambda: numbers.nonzero(),
        lambda: torch.equal(numbers, numbers + 1), lambda: numbers.to("meta"),
        lambda: numbers.clone().__setitem__(numbers > 1, numbers[2:]), lambda: numbers.repeat_interleave(numbers),
    ]  # fmt: skip
    for wait in waiting:
        for is_inference in (True, False):
            with (
                torch.inference_mode(is_inference),
                pytest.raises(HostSyncError, match="waits for the device"),
                ForbidHostSync(),
            ):
                wait()
    with ForbidHostSync():
        numbers[numbers.argmax()[None]] = (numbers.to(torch.float32) * 2.0).long().repeat_interleave(2)[:1]


@pytest.mark.sampled(3)
@DEVICES
@pytest.mark.parametrize(
    ("family", "kv_cache"),
    [("llama", KvCache.as_model), ("llama", KvCache.int8), ("mistral", KvCache.as_model)],
)
def test_an_engine_answers_as_by_single_operations(
    saved_family: Callable[..., Path],
    device: str,
    family: str,
    kv_cache: KvCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows enter, leave and share prefixes, on a CPU in pages; one of them is sampled with a
    penalty."""
    monkeypatch.setattr(page_trial, "PAGE", 32)
    model = LocalModelConfig(name=str(saved_family(family)), device=device, dtype=Dtype.float32)
    spec = make_spec(model=model, generation=GenerationConfig(max_new_tokens=NEW_TOKENS, kv_cache=kv_cache))
    sampled = Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=3)
    asked = [replace(one, sampling=sampled) if one.id == 3 else one for one in requests()]
    answers = {}
    for by in ("plain", "sdpa"):
        monkeypatch.setenv("RUNNER_ATTENTION", by)
        monkeypatch.setattr("runner_engine.kv_cache.kv_store.native.load_kernels", lambda: None)
        engine = open_engine(spec)
        report = engine.load()
        assert ("attention by SDPA" in report.facts["decoding"]) is (by == "sdpa")
        in_pages = by == "sdpa" and kv_cache is KvCache.as_model and device == "cpu"
        assert ("SDPA to pages" in report.facts["decoding"]) is in_pages
        answers[by] = [complete(engine, asked, most) for most in (None, 3)]
        engine.close()
    assert answers["sdpa"] == answers["plain"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("page", [0, 32])
def test_rows_with_many_prefixes_get_copies_of_them_or_have_their_pages(
    saved_family: Callable[..., Path], page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with several samples of many questions: a step attends to what all begin with, and to
    nothing else.

    Or it reads all of them as pages, and rows have copies of their ends.
    """
    monkeypatch.setattr(page_trial, "PAGE", page or 256)
    if not page:
        monkeypatch.setattr(page_trial, "_read_flash_attention_schema", lambda: "as in torch 2.11")
    trunk = IDS[:50]
    questions = [[at % 200 + 20, *IDS[100 + at : 160 + at]] for at in range(MOST_PREFIXES + 4)]
    asked = [
        Request(4 * at + choice, (*trunk, *question, choice + 5)) for at, question in enumerate(questions)
        for choice in range(4)
    ]  # fmt: skip
    spec = make_spec(
        model=LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32),
        generation=GenerationConfig(max_new_tokens=10),
    )
    answers, steps, attended, pages = {}, list[int](), set[Prefix](), list[int]()
    monkeypatch.setattr("runner_engine.kv_cache.kv_store.native.load_kernels", lambda: None)
    call = DeviceDecodeStep.__call__

    def counted(self: DeviceDecodeStep, step: Any, *rest: Any) -> torch.Tensor:
        steps.append(len(step.rows))
        attended.update(prefix for row in step.rows for prefix in row.kv.path)
        if isinstance(step.own, PagedSlots):
            pages.append(sum(map(len, step.own.shared.values())))
        return call(self, step, *rest)

    monkeypatch.setattr(DeviceDecodeStep, "__call__", counted)
    for by in ("plain", "sdpa"):
        monkeypatch.setenv("RUNNER_ATTENTION", by)
        engine = open_engine(spec)
        engine.load()
        attended.clear()  # those of its trial
        steps.clear()
        for most in (None, 10):
            answers[by, most] = complete(engine, asked, most)
        shared = engine.stats.shared_tokens
        engine.close()
        if by == "plain":
            plain_shared = shared
            assert not steps
    for most in (None, 10):
        assert answers["sdpa", most] == answers["plain", most]
    assert max(steps) == len(asked)
    if page:
        assert max(pages) == 1 + 2 * len(questions), (
            "of 50 and of 110 tokens: one page, and two more of each question"
        )
    else:
        assert {tuple(prefix.tokens) for prefix in attended} == {tuple(trunk)}
    assert shared == plain_shared, "no token of a prefix is read twice"


def test_what_is_forced_must_exist(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ATTENTION", "fast")
    spec = make_spec(model=LocalModelConfig(name=str(tiny_llama)))
    with raises(ConfigError, "unknown_choice", "RUNNER_ATTENTION"):
        open_engine(spec)


def test_functions_that_are_missing_or_wrong_are_not_used(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU for which this torch has no kernel."""
    caplog.set_level("INFO")
    monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    loaded = loaded_of(tiny_llama, "cpu")
    assert infer_and_test_kv_cache_spec(loaded).by_sdpa

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No available kernel.")

    def wrong(scaling: Any, query: torch.Tensor, *_: Any, **__: Any) -> Any:
        return torch.zeros_like(query), query.new_zeros(query.shape[:3])

    for function, why in ((missing, "No available kernel"), (wrong, "SDPA has a mean logit error of ")):
        for module in (device_attention, device_step):
            monkeypatch.setattr(module, "attend", function)
        assert not infer_and_test_kv_cache_spec(loaded).by_sdpa
        assert why in caplog.text


def test_rounded_shapes() -> None:
    rows = [round_up_batch_size(count) for count in (1, 3, 8, 9, 17, 100, 128, 129, 300)]
    assert rows == [1, 4, 8, 16, 32, 112, 128, 160, 320]
    places = [
        device_step._round_up_positions_to_limit_shapes(count, 400) for count in (1, 65, 97, 129, 193, 390)
    ]
    assert places == [64, 96, 128, 192, 256, 400]
