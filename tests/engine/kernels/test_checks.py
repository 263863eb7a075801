"""A call that would read or write beyond its memory is refused before anything is done."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import processors
import pytest
import torch
from group_layers import layer_of
from raising import raises
from transformers import LlamaConfig, LlamaForCausalLM

import runner_engine
from runner_base.errors import ConfigError
from runner_engine.attention.attention import PassLayout, PrefixUse, Span
from runner_engine.attention.interface import register_attention
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import native, token_selection
from runner_engine.kernels.c_interface import Refusal, WeightFormat
from runner_engine.kernels.kernel_errors import build_kernel_refusal_error
from runner_engine.kernels.kv_layers import KvCode
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import SharedKv, create_kv_store
from runner_engine.matmul.groups import GroupedWeights
from runner_engine.matmul.layer_weights import MatmulWorkspace, QuantizedWeights, multiply_with_kernel
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.sessions.base import Request
from runner_engine.settings.kv_cache import KvCache

KERNELS = native.load_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="no C compiler is here, so nothing is called in C")
HEADS = KvCacheSpec(1, 2, 2, 16, torch.float32, torch.device("cpu"))
VOCABULARY, POSITIONS, PLACES = 50, 64, 20


def ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def layout(**other: Any) -> PassLayout:
    """Three tokens of one row, in order, in a store with two rows of 32 places; `other` makes the
    call wrong."""
    given: dict[str, Any] = {"slot": ints(0, 0, 0), "place": ints(0, 1, 2), "seen": ints(1, 2, 3)}
    return PassLayout(HEADS, KERNELS, create_kv_store(HEADS, KERNELS, [PLACES, PLACES]), **(given | other))


def shared(
    rows: list[int] | None, row_of: list[int], length: int = 5, first: torch.Tensor | None = None
) -> PrefixUse:
    """A prefix of 5 places, or a wrong number, that some tokens see."""
    kv = SharedKv(SharedKv.allocate(HEADS, 5, KERNELS).store, length)
    chosen = None if rows is None else torch.tensor(rows)
    return PrefixUse(kv, chosen, ints(*row_of), 3 if rows is None else len(rows), first=first)


@contextmanager
def refused(why: Refusal, at: int = 0, by: str = r"\w+") -> Iterator[None]:
    """Expect that C refuses a call, and why: `at` is the token, entry, layer or matrix that the
    error names; the function `by` is a pattern."""
    error = build_kernel_refusal_error(int(why) << 32 | at, "")
    with pytest.raises(type(error), match=f"^{by}{re.escape(str(error))}$"):
        yield


WRONG_LAYOUTS: dict[str, tuple[Callable[[], PassLayout], Refusal, int]] = {
    "slot": (lambda: layout(slot=ints(0, 2, 0)), Refusal.WRONG_SLOT, 1),
    "negative slot": (lambda: layout(slot=ints(-1, 0, 0)), Refusal.WRONG_SLOT, 0),
    "place": (lambda: layout(place=ints(0, 1, 32)), Refusal.WRONG_PLACE, 2),
    "negative place": (lambda: layout(place=ints(0, -1, 2)), Refusal.WRONG_PLACE, 1),
    "seen": (lambda: layout(seen=ints(1, 33, 3)), Refusal.WRONG_SEEN, 1),
    "step without a place": (lambda: layout(seen=ints(1, 2, 0), is_step=True), Refusal.WRONG_SEEN, 2),
}
WRONG_PARTS: dict[str, tuple[Callable[[], PassLayout], Refusal, int]] = {
    "row of a part": (lambda: layout(uses=[shared([0, 1], [0, 1, 2])]), Refusal.WRONG_PART_ROW, 2),
    "chosen token": (lambda: layout(uses=[shared([0, 3], [0, -1, 1])]), Refusal.WRONG_PART_TOKEN, 1),
    "length of a prefix": (lambda: layout(uses=[shared(None, [0, 1, 2], 17)]), Refusal.WRONG_PART, 0),
    "length of a span": (
        lambda: layout(seen=ints(0, 0, 0), spans=[Span(0, 3, 0, 30)]), Refusal.WRONG_PART, 0,
    ),
}  # fmt: skip


LLAMA = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, head_dim=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def fused() -> FusedForward:
    assert KERNELS is not None
    return FusedForward(LlamaForCausalLM(LLAMA).eval(), HEADS, POSITIONS, KERNELS, {})


def attend(of: PassLayout) -> torch.Tensor:
    torch.manual_seed(0)
    return of.attend(0, torch.randn(4, 3, 16), torch.randn(2, 3, 16), torch.randn(2, 3, 16), 0.25)


def test_right_calls_are_not_refused(fused: FusedForward) -> None:
    assert attend(layout()).isfinite().all()
    assert fused(layout(), [0, 1, VOCABULARY - 1], [0, 1, POSITIONS - 1], [2]).shape == (1, VOCABULARY)


@pytest.mark.parametrize("name", [*WRONG_LAYOUTS, *WRONG_PARTS])
def test_places_that_do_not_exist(name: str, fused: FusedForward) -> None:
    make, why, at = (WRONG_LAYOUTS | WRONG_PARTS)[name]
    with refused(why, at):
        attend(make())
    with refused(why, at, "fused_forward"):
        fused(make(), [0, 1, 2], [0, 1, 2], None)


@pytest.mark.parametrize("kv_cache", [KvCache.as_model, KvCache.k8v4], ids=str)
@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("keys", 3), ("keys", -1), ("values", 3), ("rotated", -16), ("rotated", 12), ("rotated", 32),
        ("keys_before", -1), ("keys_before", 10**6), ("values_before", -1), ("values_before", 10**6),
        ("all_keys", 0), ("plain_before", -1),
    ],
)  # fmt: skip
def test_how_a_layer_is_stored(field: str, number: int, kv_cache: KvCache) -> None:
    heads, settings = replace(HEADS, kv_cache=kv_cache), LLAMA
    register_attention()
    model = LlamaForCausalLM(settings).eval()

    def layout_of(heads: KvCacheSpec) -> PassLayout:
        own = create_kv_store(heads, KERNELS, [PLACES])
        return PassLayout(heads, KERNELS, own, ints(0, 0, 0), ints(0, 1, 2), ints(1, 2, 3))

    assert KERNELS is not None
    fused = FusedForward(model, heads, POSITIONS, KERNELS, {})
    assert attend(layout_of(heads)).isfinite().all()
    assert fused(layout_of(heads), [0, 1, 2], [0, 1, 2], None).isfinite().all()
    setattr(fused.weights.layers[0].kv, field, number)
    with refused(Refusal.WRONG_KV_LAYER, 0, "fused_forward"):
        fused(layout_of(heads), [0, 1, 2], [0, 1, 2], None)
    wrong = replace(heads)
    setattr(wrong.kv_layer_structs_for_kernels[0], field, number)
    with refused(Refusal.WRONG_KV_LAYER, 0, "store.*"):
        attend(layout_of(wrong))
    step = replace(layout_of(wrong), slot=ints(0), place=ints(0), seen=ints(1), is_step=True)
    with refused(Refusal.WRONG_KV_LAYER, 0, "attend.*"):
        step.attend(0, torch.randn(4, 1, 16), torch.randn(2, 1, 16), torch.randn(2, 1, 16), 0.25)


def test_codes_are_read_as_codes_alone() -> None:
    """Functions for the model's numbers refuse other formats, and arenas that keep first ones
    beside them."""
    heads = replace(HEADS)
    heads.kv_layer_structs_for_kernels[0].values = KvCode.kv_int8
    with refused(Refusal.WRONG_KV_LAYER):
        attend(
            PassLayout(
                heads,
                KERNELS,
                create_kv_store(heads, KERNELS, [PLACES]),
                ints(0, 0, 0),
                ints(0, 1, 2),
                ints(1, 2, 3),
            )
        )
    for first_plain in (1, 32, -16):
        of = layout()
        of.own.address_table[:, -1] = first_plain
        with refused(Refusal.WRONG_SLOT):
            attend(of)


@pytest.mark.parametrize(
    ("ids", "positions", "keep", "why", "at"),
    [
        ([0, VOCABULARY, 1], [0, 1, 2], None, Refusal.WRONG_TOKEN_ID, 1),
        ([0, 1, -1], [0, 1, 2], None, Refusal.WRONG_TOKEN_ID, 2),
        ([0, 1, 2], [0, 1, POSITIONS], None, Refusal.WRONG_POSITION, 2),
        ([0, 1, 2], [-1, 1, 2], None, Refusal.WRONG_POSITION, 0),
        ([0, 1, 2], [0, 1, 2], [2, 3], Refusal.WRONG_KEPT, 1),
        ([0, 1, 2], [0, 1, 2], [-1], Refusal.WRONG_KEPT, 0),
        ([0, 1, 2], [0, 1, 2], [], Refusal.NO_TOKENS, 0),
    ],
)
def test_tokens_that_do_not_exist(
    fused: FusedForward, ids: list[int], positions: list[int], keep: list[int] | None, why: Refusal, at: int
) -> None:
    with refused(why, at):
        fused(layout(), ids, positions, keep)


def test_an_answer_that_its_own_embedding_lacks() -> None:
    """A head that is larger than the embedding can answer with such a token; prompts are checked
    when they arrive."""
    settings = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, head_dim=16,
    )  # fmt: skip
    model = LlamaForCausalLM(settings).eval()
    register_attention()
    for is_fused in (True, False):
        forward, own = Forward(model, HEADS), create_kv_store(HEADS, KERNELS, [PLACES])
        if is_fused:
            assert KERNELS is not None
            forward.fused = FusedForward(model, HEADS, POSITIONS, KERNELS, {})
        row = TokenSequence(Request(0, ()), [1, 2], "", 4)
        forward.run_token_spans(own, [TokenSpan(row, 0, row.pending_tokens)])
        row.kv.places, row.tokens = 2, [VOCABULARY]
        with raises(ConfigError, "mismatch"):
            forward.step(own, [row], [])


def test_tensors_of_another_length_format_or_order(fused: FusedForward) -> None:
    long, wide, every_second = torch.tensor([0, 0, 0]), ints(0, 0), ints(0, 1, 0, 1, 0, 1)[::2]
    for wrong in (long, wide, every_second):
        with pytest.raises(ValueError, match="C expects .*torch.int32 .*, not"):
            fused(layout(slot=wrong), [0, 1, 2], [0, 1, 2], None)
    with pytest.raises(IndexError, match="layer 1 .* 1 layers"):
        layout().attend(1, torch.randn(4, 3, 16), torch.randn(2, 3, 16), torch.randn(2, 3, 16), 0.25)
    with pytest.raises(ValueError, match="C expects .*torch.float32 .*, not"):
        layout().attend(0, torch.randn(4, 3, 16), torch.randn(2, 2, 16), torch.randn(2, 2, 16), 0.25)
    with pytest.raises(ValueError, match="C expects .*torch.float32 .*, not"):
        layout().attend(0, torch.randn(2, 3, 16), torch.randn(2, 3, 16), torch.randn(2, 3, 16), 0.25)


def test_a_workspace_that_is_too_small(fused: FusedForward, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = fused._compute_forward_workspace_nbytes(3, [])
    monkeypatch.setattr(fused, "_compute_forward_workspace_nbytes", lambda *_: needed // 2)
    with refused(Refusal.SMALL_WORKSPACE):
        fused(layout(), [0, 1, 2], [0, 1, 2], None)


def test_products_with_rows_of_another_width_or_format() -> None:
    assert KERNELS is not None
    panels = PlainPackedWeights.pack(torch.randn(40, 24), None, KERNELS)
    assert panels.matmul(torch.ones(0, 24)).shape == (0, 40)
    with pytest.raises(ValueError, match="activations with 24 inputs"):
        panels.matmul(torch.ones(2, 25))
    with pytest.raises(ValueError, match="dtype torch.float32, not torch.bfloat16"):
        panels.matmul(torch.ones(2, 24, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="C expects .*torch.float32 .*, not"):
        PlainPackedWeights.pack(torch.randn(40, 24), torch.ones(39), KERNELS)
    panels.matrix = Matrix(outputs=40)
    with refused(Refusal.WRONG_MATRIX):
        panels.matmul(torch.ones(2, 24))


def test_no_memory_for_widened_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread has memory of its own for them, so that too many threads need more than there
    is."""
    assert KERNELS is not None
    processors.require_absent("bf16")
    panels, rows = (
        PlainPackedWeights.pack(torch.ones(40, 4096).bfloat16(), None, KERNELS),
        torch.ones(2, 4096).bfloat16(),
    )
    assert bool((panels.matmul(rows) == 4096).all())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2**31 - 1)
    with refused(Refusal.NO_MEMORY, 0, "product"):
        panels.matmul(rows)


def test_quantized_products_with_wrong_sizes() -> None:
    assert KERNELS is not None
    weight, scale, table = (torch.zeros(32 * 64 // 2, dtype=torch.uint8), torch.ones(1, 32), torch.ones(32))
    it = QuantizedWeights(WeightFormat.four_bit, 64, 32, (torch.bfloat16,))
    it.matrix.block = 64
    right = weight, None, scale.bfloat16(), table.bfloat16()
    for place, wrong in ((0, weight[1:]), (1, torch.ones(31)), (2, torch.ones(2, 32).bfloat16()), (3, table)):
        with pytest.raises(ValueError, match="C expects"):
            it.set_tensors_read_by_c(*(wrong if at == place else one for at, one in enumerate(right)))  # type: ignore[arg-type]
    it.set_tensors_read_by_c(*right)
    rows = torch.ones(2, 64, dtype=torch.bfloat16)
    if KERNELS.has_quantized:
        with refused(Refusal.SMALL_WORKSPACE):
            multiply_with_kernel(KERNELS, rows, it, torch.empty(100, dtype=torch.uint8))
        with refused(Refusal.WRONG_MATRIX):  # its rows would be read as pairs
            multiply_with_kernel(KERNELS, rows.float(), it, torch.empty(10**7, dtype=torch.uint8))
        it.matrix.block = 48
    if KERNELS.has_function("product", torch.bfloat16):
        with refused(Refusal.WRONG_MATRIX):
            multiply_with_kernel(KERNELS, rows, it, torch.empty(10**7, dtype=torch.uint8))


def test_heads_of_another_shape() -> None:
    shapes: tuple[dict[str, Any], ...] = ({"dim": 24}, {"dim": 1024}, {"group": 17})
    for changed in shapes:
        heads = replace(HEADS, **changed)
        of = PassLayout(heads, KERNELS, create_kv_store(heads, KERNELS, [PLACES]), ints(0), ints(0), ints(1))
        queries, keys = torch.randn(2 * heads.group, 1, heads.dim), torch.randn(2, 1, heads.dim)
        with refused(Refusal.WRONG_HEADS):
            of.attend(0, queries, keys, keys, 1 / math.sqrt(heads.dim))


def test_settings_of_another_number_of_rows() -> None:
    assert KERNELS is not None
    logits, addresses = torch.randn(3, 10), torch.zeros(3, dtype=torch.int64)
    settings = token_selection.SequenceSampling(torch.zeros(2, 7, dtype=torch.float64), addresses, addresses)
    with pytest.raises(ValueError, match="C expects .*torch.float64 .*, not"):
        token_selection.sample_tokens(KERNELS, logits, settings, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="not enough values"):
        token_selection.argmax(logits[0])


@pytest.mark.parametrize("group", [-1, 4, 2**31 - 1, -(2**31)])
def test_groups_that_do_not_exist(group: int) -> None:
    """The group of an input comes from the checkpoint (g_idx), and selects numbers in C."""
    assert KERNELS is not None
    for dtype in (torch.float32, torch.bfloat16):
        groups = GroupedWeights.from_layer(layer_of("gptq_order", 64, 256)[0], KERNELS, MatmulWorkspace())
        rows = torch.ones(2, 256, dtype=dtype)
        assert groups.matmul(rows).isfinite().all()
        (group_of,) = groups.others
        assert sorted(group_of.unique().tolist()) == [0, 1, 2, 3]
        group_of[255] = group
        with refused(Refusal.WRONG_MATRIX):
            groups.matmul(rows)


OPTIMIZED = """
import sys, torch
from dataclasses import replace
from runner_engine.settings.sampling import GREEDY
from runner_engine.decode.tokens.sampling import Sampler
assert len(sys.argv) > 1, "asserts are left out"
settings = replace(GREEDY, temperature=1.0, repetition_penalty=1.5, seed=0)
sampler = Sampler(1000, torch.device("cpu"), [[1, 2]], [settings], [torch.Generator()], [[]])
print(sampler.sample(torch.zeros(1, 1000)).shape)
try:
    sampler.sample(torch.zeros(1, 1_000_000))
except ValueError as error:
    print(error)
"""


@pytest.mark.thorough
def test_a_wrong_width_is_refused_also_without_asserts() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMIZED], capture_output=True, text=True, check=False
    )
    said = "torch.Size([1])\ngot 1000000 logits for a vocabulary of 1000 tokens\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr


# where tensors are
ROOMS = ("attention", "decode", "kernels", "kv_cache", "local", "matmul", "memory")


@pytest.mark.thorough
def test_no_assert_guards_a_call_into_c() -> None:
    """`python -O` leaves asserts out: beside the kernels, they only tell the type checker what a
    thing is."""
    folder = Path(runner_engine.__file__).parent
    callers = [
        file for file in folder.rglob("*.py") if "kernels" in (text := file.read_text()) and "native" in text
    ]
    assert folder / "attention" / "attention.py" in callers
    guards = [
        f"{file.relative_to(folder)}:{node.lineno}: {ast.unparse(node.test)}"
        for file in {*callers, *(file for room in ROOMS for file in (folder / room).rglob("*.py"))}
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert) and not ast.unparse(node.test).endswith("is not None")
        and not ast.unparse(node.test).startswith("isinstance(")
    ]  # fmt: skip
    assert guards == []
