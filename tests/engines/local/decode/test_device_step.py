"""A decoding step with tensors that stay where they are: the logits of the usual step, recorded or not."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attending import GPU
from group_layers import layer_of
from opening import load_base, local_engine, open_engine
from streams import NEW_TOKENS, complete, requests
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, GptOssConfig, LlamaConfig, MistralConfig

from runner.config.generation import GenerationConfig, KvCache
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.config.sampling import Sampling
from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError
from runner.engines.base import Request
from runner.engines.local.attention import device_attention
from runner.engines.local.attention.device_attention import OwnKeys, attend_by_length
from runner.engines.local.attention.parts import Scaling
from runner.engines.local.decode import device_step
from runner.engines.local.decode.compat_probe import probe_heads
from runner.engines.local.decode.device_step import MOST_PREFIXES, DeviceStep
from runner.engines.local.decode.forward import Forward, TokenSpan
from runner.engines.local.decode.gpu_norms import GpuNorms
from runner.engines.local.decode.host_reads import HostRead, NoHostReads
from runner.engines.local.decode.step_graphs import RECORD_AT, CudaGraphs
from runner.engines.local.kv_cache.kv_cache import Heads
from runner.engines.local.kv_cache.prefix import Prefix
from runner.engines.local.kv_cache.shared_kv import own_kv
from runner.engines.local.kv_cache.slots import Slots
from runner.engines.rows import Row
from runner.models.load import Loaded

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
SIZES: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {  # what layers pass to their attention: nothing more, a window, a cap and windows, sinks and windows
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=24),
    "gemma2": Gemma2Config(**SIZES, sliding_window=24, query_pre_attn_scalar=16),
    "gpt_oss": GptOssConfig(**SIZES, sliding_window=24, num_local_experts=2, num_experts_per_tok=1),
}
TRUNK, BRANCH = 40, 20
IDS = torch.randint(3, 250, (400,), generator=torch.Generator().manual_seed(4)).tolist()
Make = Callable[..., RunnerConfig]


class NothingFromLists(TorchFunctionMode):
    """Refuses what turns a tensor into numbers of Python on a CPU, where no operation is called for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__"):
            raise HostRead(func.__name__)
        if func in (torch.tensor, torch.as_tensor):
            raise HostRead("a tensor of numbers of the host")
        return func(*args, **(kwargs or {}))


class Replayed:
    """Stands for a CUDA graph: the same function on the tensors of that time, with the logits in one place."""

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        self.run, self.logits, self.replays = run, run(), 0

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            self.logits.copy_(self.run())


def loaded_of(make_config: Make, folder: Path, device: str) -> Loaded:
    model = LocalModelConfig(name=str(folder), device=device, dtype=Dtype.float32)
    return load_base(make_config(model=model))


class Decoding:
    """Rows after their prompts: four on two nested prefixes, one alone; and one whose prompt is half read."""

    def __init__(self, loaded: Loaded, heads: Heads) -> None:
        self.forward = Forward(loaded.model, heads)
        trunk = Prefix(IDS[:TRUNK])
        branch = Prefix(IDS[TRUNK : TRUNK + BRANCH], trunk)
        ends = [IDS[at : at + 3 + at % 7] for at in (100, 111, 135, 147)]
        starts = [IDS[: TRUNK + BRANCH]] * 2 + [IDS[:TRUNK]] * 2
        self.rows = [
            Row(Request(number, ()), [*start, *end], "", 50, prefix=branch if number < 2 else trunk)
            for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        self.rows.append(Row(Request(9, ()), IDS[200:230], "", 50))
        self.long = Row(Request(10, ()), IDS[300:360], "", 50)
        self.own = own_kv(heads, self.forward.kernels, [128] * 8)
        assert isinstance(self.own, Slots)
        for prefix in (trunk, branch):
            self.forward.read_prefix(prefix, 1000)
        pieces = [TokenSpan(row, slot, row.pending) for slot, row in enumerate([*self.rows])]
        first = self.forward.read_prompts(self.own, pieces).argmax(dim=-1).tolist()
        self.forward.read_prompts(self.own, [TokenSpan(self.long, 5, self.long.pending[:30], is_last=False)])
        self.long.places = 30
        for row, token in zip(self.rows, first, strict=True):
            row.tokens, row.places = [token], len(row.pending)

    def step(self) -> torch.Tensor:
        """Decode one more token of each row."""
        logits = self.forward.step(self.own, self.rows, self.forward.uses_of(self.rows), [self.long])
        logits = logits.clone()
        for row, token in zip(self.rows, logits.argmax(dim=-1).tolist(), strict=True):
            row.tokens.append(token)
            row.places += 1
        return logits

    def finish(self) -> torch.Tensor:
        """Read the rest of the long prompt."""
        return self.forward.read_prompts(self.own, [TokenSpan(self.long, 5, self.long.pending[30:], 30)])

    def leave(self, slot: int) -> None:
        """Let a row end: the last one moves into its slot, and the one that is read follows."""
        assert isinstance(self.own, Slots)
        self.own.leave(slot, len(self.rows))
        self.rows[slot] = self.rows[-1]
        self.rows.pop()


@pytest.fixture
def pair(make_config: Make, tiny_llama: Path, tmp_path: Path) -> Callable[..., list[Decoding]]:
    """Return a function that gives the usual steps of a family, and those on the device."""

    def decodings(family: str = "llama", device: str = "cpu", **keys: Any) -> list[Decoding]:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
        loaded = loaded_of(make_config, tmp_path, device)
        heads = replace(probe_heads(loaded), **keys)
        usual, by_sdpa = (replace(heads, by_sdpa=by_sdpa) for by_sdpa in (False, True))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("runner.engines.local.decode.forward.kernels_for", lambda _: None)
            return [Decoding(loaded, usual), Decoding(loaded, by_sdpa)]

    return decodings


# In 8 bits, a key that is off by float32's rounding may get the next byte: a hundredth of that key.
CLOSE = {KvCache.as_model: 1e-4, KvCache.int8: 5e-3}


def assert_close(ours: torch.Tensor, expected: torch.Tensor, kv_cache: KvCache = KvCache.as_model) -> None:
    assert float((ours - expected).abs().max() / expected.std()) < CLOSE[kv_cache]


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_cache", [KvCache.as_model, KvCache.int8])
def test_logits_are_those_of_the_usual_step(
    pair: Callable[..., list[Decoding]], family: str, kv_cache: KvCache, device: str
) -> None:
    """Beyond windows of 24 tokens, which hide a whole prefix; and the row that is read meanwhile is not disturbed."""
    usual, ours = pair(family, device, kv_cache=kv_cache)
    assert ours.forward.device_step is not None
    for _ in range(6):
        assert_close(ours.step(), usual.step(), kv_cache)
    assert_close(ours.finish(), usual.finish(), kv_cache)
    usual.leave(1)
    ours.leave(1)
    for _ in range(3):
        assert_close(ours.step(), usual.step(), kv_cache)


class Operations(TorchDispatchMode):
    """Counts operations by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.__name__.removesuffix(".default")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("has_flash", "by"), [(True, "flash"), (False, "efficient")])
def test_a_gpu_without_flash_attention_has_another_function(
    monkeypatch: pytest.MonkeyPatch, has_flash: bool, by: str
) -> None:
    """GPUs older than Ampere; tensors without numbers stand for theirs."""
    monkeypatch.setattr(device_attention, "has_flash", lambda _: has_flash)
    monkeypatch.setattr(device_attention, "_is_for_sdpa", lambda *_: True)
    query, keys = (torch.empty(2, 4, length, 64, dtype=torch.float16, device="meta") for length in (1, 30))
    with Operations() as seen:
        device_attention.attend(Scaling(1.0, 0.0), query, keys, keys)
    assert [name for name in seen.count if "scaled_dot" in name] == [f"_scaled_dot_product_{by}_attention"]
    heads = Heads(1, 2, 2, 64, torch.float16, torch.device("cuda"), by_sdpa=True)
    assert device_attention.attends_by_length(heads) is has_flash
    assert not device_attention.attends_by_length(replace(heads, dtype=torch.float32))


@GPU
def test_flash_attention_by_length_is_that_of_the_reference() -> None:
    """Beside the one of a CPU in float32, with and without a window; and a recorded one follows the numbers of keys."""
    generator = torch.Generator("cuda").manual_seed(0)
    rows, places, kv_heads, group, dim = 5, 96, 2, 3, 64

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    query, keys, values = some(rows, kv_heads * group, dim), *(some(rows * places, kv_heads, dim) for _ in range(2))
    numbers = torch.arange(rows + 1, device="cuda", dtype=torch.int32)
    starts = numbers * places
    for window in (None, 16):
        counts = torch.tensor([1, 96, 40, 17, 3], device="cuda", dtype=torch.int32)
        own = OwnKeys(keys, values, numbers, starts, counts, places, window)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = attend_by_length(Scaling(0.1, 0.0), query, own)
        for seen in ([1, 96, 40, 17, 3], [50, 2, 96, 1, 20]):
            counts.copy_(torch.tensor(seen))
            graph.replay()
            here = keys.cpu().float(), values.cpu().float(), numbers.cpu(), starts.cpu(), counts.cpu()
            expected = attend_by_length(Scaling(0.1, 0.0), query.cpu().float(), OwnKeys(*here, places, window))
            for ours, theirs in zip(recorded, expected, strict=True):
                assert float((ours.cpu().float() - theirs).abs().max()) < 0.02


@DEVICES
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_never_waits_for_the_device(
    pair: Callable[..., list[Decoding]], family: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ours = pair(family, device)
    step, ran = DeviceStep._run, []

    def watched(self: DeviceStep, attention: Any) -> torch.Tensor:
        ran.append(len(attention.table))
        with NoHostReads():
            if family == "gemma2":  # its own code makes a number of its settings into a tensor of the host
                return step(self, attention)
            with NothingFromLists():
                return step(self, attention)

    monkeypatch.setattr(DeviceStep, "_run", watched)
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
                pytest.raises(HostRead, match="waits for the device"),
                NoHostReads(),
            ):
                wait()
    with NoHostReads():
        numbers[numbers.argmax()[None]] = (numbers.to(torch.float32) * 2.0).long().repeat_interleave(2)[:1]


@pytest.mark.parametrize("kind", ["gptq", "gptq_order", "awq"])
def test_a_layer_of_groups_asks_for_its_order_once(kind: str) -> None:
    """In each layer of each step it would make the host wait; new numbers in the tensor are read again."""
    layer, _ = layer_of(kind, 64, 256)
    rows = torch.ones(1, 256)
    expected = layer.multiplied(rows)
    with NoHostReads():
        again = layer.multiplied(rows)
    assert torch.equal(again, expected)
    if kind == "gptq_order":
        order = layer.stored[layer.layout.order_name]
        order.copy_(torch.arange(256) // layer.layout.group)
        assert layer.group_of is None


@DEVICES
def test_recorded_steps_are_replayed_until_what_they_read_moves(
    pair: Callable[..., list[Decoding]], device: str
) -> None:
    usual, ours = pair("llama", device)
    step = ours.forward.device_step
    assert step is not None
    if device == "cpu":
        step.graphs.record = Replayed
    for _ in range(RECORD_AT - 1):
        assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    for _ in range(4):
        assert_close(ours.step(), usual.step())
    [recording] = step.graphs.recordings.values()
    if isinstance(recording, Replayed):
        assert recording.replays == 5, "two for the comparison, and one for each step after it"
    for decoding in (usual, ours):
        decoding.own.lengthen(200, 400)  # other tensors
    assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    for _ in range(RECORD_AT):
        assert_close(ours.step(), usual.step())
    assert len(step.graphs.recordings) == 1
    for decoding in (usual, ours):  # the rows on the branch end, so its keys are not read any more
        decoding.leave(0)
        decoding.leave(1)
    assert not any(row.prefix and row.prefix.parent for row in ours.rows)
    assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings


class ReplaysNothing(Replayed):
    """As a graph that was recorded on another GPU's stream: empty, beside logits that were computed meanwhile."""

    def replay(self) -> None:
        self.replays += 1


class ReplaysOldTokens(Replayed):
    """As a graph that holds a copy of the table."""

    def replay(self) -> None:
        with torch.inference_mode():
            self.logits.copy_(self.first)

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        super().__init__(run)
        self.first = self.logits.clone()


def not_permitted(run: Callable[[], torch.Tensor]) -> Replayed:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("record", "why"), [(ReplaysNothing, "off by nan"), (ReplaysOldTokens, "off by"), (not_permitted, "not permitted")]
)
def test_a_recording_that_differs_or_fails_is_not_used(
    pair: Callable[..., list[Decoding]], record: Any, why: str
) -> None:
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    step.graphs.record = record
    for _ in range(RECORD_AT + 1):
        assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    assert step.graphs.record is not None, "other shapes may work"
    assert why in step.graphs.summary
    assert step.graphs.summary.startswith("none: not 1 shapes: ")


def test_one_shape_that_fails_leaves_the_others_recorded(pair: Callable[..., list[Decoding]]) -> None:
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    failing = [True]
    step.graphs.record = lambda run: not_permitted(run) if failing.pop() else Replayed(run)
    for _ in range(RECORD_AT + 1):
        assert_close(ours.step(), usual.step())
    failing.append(False)
    for decoding in (usual, ours):
        decoding.leave(0)  # four rows, a shape of its own
    for _ in range(RECORD_AT + 2):
        assert_close(ours.step(), usual.step())
    assert len(step.graphs.recordings) == 1
    share = round(100 * 2 / (2 * RECORD_AT + 3))
    failure = "not 1 shapes: operation not permitted when stream is capturing"
    assert step.graphs.summary == f"1 shapes, {share} % of steps; {failure}"


def test_graphs_are_recorded_and_replayed_on_their_models_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that CUDA relates to the current GPU is made within the model's one."""
    current, calls = [0], []

    class On:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.before

    class Graph:
        def replay(self) -> None:
            calls.append(("replay", current[0]))

    @contextlib.contextmanager
    def graph(*_: object, **__: object) -> Iterator[None]:
        calls.append(("record", current[0]))
        yield

    handle = lambda: calls.append(("pool", current[0]))  # noqa: E731
    for name, instead in {"device": On, "CUDAGraph": Graph, "graph": graph, "graph_pool_handle": handle}.items():
        monkeypatch.setattr(torch.cuda, name, instead)
    CudaGraphs(torch.device("cuda:1"))(lambda: torch.zeros(1)).replay()
    assert calls == [("pool", 1), ("record", 1), ("replay", 1)]


def test_a_model_that_waits_is_not_recorded(
    pair: Callable[..., list[Decoding]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    step.graphs.record, norm = Replayed, ours.forward.model.model.norm
    own = norm.forward
    monkeypatch.setattr(norm, "forward", lambda rows: own(rows) if rows.sum().item() else rows)
    for _ in range(RECORD_AT):
        assert_close(ours.step(), usual.step())
    assert step.graphs.record is None
    assert "decoding steps are not recorded" in caplog.text
    assert "_local_scalar_dense" in caplog.text


@DEVICES
@pytest.mark.parametrize("kv_cache", [KvCache.as_model, KvCache.int8])
def test_an_engine_answers_as_by_single_operations(
    make_config: Make,
    saved_family: Callable[..., Path],
    device: str,
    kv_cache: KvCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows enter, leave and share prefixes; one of them is sampled with a penalty."""
    model = LocalModelConfig(name=str(saved_family("llama")), device=device, dtype=Dtype.float32)
    config = make_config(model=model, generation=GenerationConfig(max_new_tokens=NEW_TOKENS, kv_cache=kv_cache))
    sampled = Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=3)
    asked = [replace(one, sampling=sampled) if one.id == 3 else one for one in requests()]
    answers = {}
    for by in ("plain", "sdpa"):
        monkeypatch.setenv("RUNNER_ATTENTION", by)
        monkeypatch.setattr("runner.engines.local.kv_cache.kv_cache.native.kernels", lambda: None)
        engine = open_engine(config)
        report = engine.load()
        assert ("attention by SDPA" in report.facts["decoding"]) is (by == "sdpa")
        answers[by] = [complete(engine, asked, most) for most in (None, 3)]
        engine.close()
    assert answers["sdpa"] == answers["plain"]


def test_rows_with_many_prefixes_get_copies_of_them(
    make_config: Make, saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with several samples of many questions: a step attends to what all begin with, and to nothing else."""
    trunk = IDS[:50]
    questions = [[at % 200 + 20, *IDS[100 + at : 160 + at]] for at in range(MOST_PREFIXES + 4)]
    asked = [
        Request(4 * at + choice, (*trunk, *question, choice + 5)) for at, question in enumerate(questions)
        for choice in range(4)
    ]  # fmt: skip
    config = make_config(
        model=LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32),
        generation=GenerationConfig(max_new_tokens=10),
    )
    answers, steps, attended = {}, list[int](), set[Prefix]()
    monkeypatch.setattr("runner.engines.local.kv_cache.kv_cache.native.kernels", lambda: None)
    call = DeviceStep.__call__

    def counted(self: DeviceStep, step: Any, *rest: Any) -> torch.Tensor:
        steps.append(len(step.rows))
        attended.update(prefix for row in step.rows for prefix in row.path)
        return call(self, step, *rest)

    monkeypatch.setattr(DeviceStep, "__call__", counted)
    for by in ("plain", "sdpa"):
        monkeypatch.setenv("RUNNER_ATTENTION", by)
        engine = local_engine(config)
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
    assert {tuple(prefix.tokens) for prefix in attended} == {tuple(trunk)}
    assert shared == plain_shared, "no token of a prefix is read twice"


def test_norms_on_a_gpu_are_the_models_own(saved_family: Callable[..., Path]) -> None:
    """Gemma's norms use their weights in another way, so they stay."""
    for family, replaced in (("llama", 5), ("gemma2", 0)):
        model = AutoModelForCausalLM.from_config(FAMILIES[family])
        for one in model.modules():
            if type(one).__name__.endswith("RMSNorm"):
                torch.nn.init.normal_(one.weight)
        ids = torch.tensor([IDS[:20]])
        with torch.inference_mode():
            usual = model(ids).logits
            norms = GpuNorms(model)
            assert len(norms.layers) == replaced
            assert float((model(ids).logits - usual).abs().max() / usual.std()) < 1e-4
            norms.restore()
            assert torch.equal(model(ids).logits, usual)


def test_what_is_forced_must_exist(make_config: Make, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ATTENTION", "fast")
    config = make_config(model=LocalModelConfig(name=str(tiny_llama)))
    with pytest.raises(ConfigError, match="RUNNER_ATTENTION=fast: choose one of sdpa, plain"):
        local_engine(config)


def test_functions_that_are_missing_or_wrong_are_not_used(
    make_config: Make, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU for which this torch has no kernel."""
    caplog.set_level("INFO")
    monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    loaded = loaded_of(make_config, tiny_llama, "cpu")
    assert probe_heads(loaded).by_sdpa

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No available kernel.")

    def wrong(scaling: Any, query: torch.Tensor, *_: Any, **__: Any) -> Any:
        return torch.zeros_like(query), query.new_zeros(query.shape[:3])

    for function, why in ((missing, "No available kernel"), (wrong, "by SDPA its logits would be off by")):
        for module in (device_attention, device_step):
            monkeypatch.setattr(module, "attend", function)
        assert not probe_heads(loaded).by_sdpa
        assert why in caplog.text


def test_rounded_shapes() -> None:
    rows = [device_step._rounded_rows(count) for count in (1, 3, 8, 9, 17, 100, 128, 129, 300)]
    assert rows == [1, 4, 8, 16, 32, 112, 128, 160, 320]
    places = [device_step._rounded_places(count, 400) for count in (1, 65, 97, 129, 193, 390)]
    assert places == [64, 96, 128, 192, 256, 400]
