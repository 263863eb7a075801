"""The square-only `.pth` adapter on real tiny models: equal to its PEFT twin and to merged weights,
and gone after."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import adapt, load_base, make_spec, open_engine, predict
from raising import raises

from runner.options.older_tools.convert_lora import convert_between_pth_and_peft, create_parser
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.checkpoints import locating
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.models import base_loading as load_room
from runner_engine.models.adapter_lifecycle import detach_adapter
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.lora.unmerged import SingleAdapterMatrices
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig
from runner_engine.spec import ModelSpec
from tools.embedded_model.lora import load_square_lora

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

State = dict[str, torch.Tensor]
IDS = torch.arange(3, 40)[None]


def load(spec: ModelSpec) -> LoadedModel:
    return adapt(load_base(spec), spec)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()


@pytest.fixture(scope="module")
def bases(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two shapes with grouped queries, so that k_proj and v_proj are not square; Qwen2 has biases,
    too."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
    }
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    folders = {}
    for name, (config, model) in kinds.items():
        folders[name] = tmp_path_factory.mktemp(name)
        shutil.copytree(tiny_llama, folders[name], dirs_exist_ok=True)
        torch.manual_seed(3)
        model(config(**sizes, initializer_range=0.1, bos_token_id=None, eos_token_id=2)).save_pretrained(
            folders[name]
        )
    return folders


def squares(rank: int = 4, size: int = 64, dtype: torch.dtype = torch.float32, prefix: str = "") -> State:
    """A and B for q_proj and o_proj of two layers: in these shapes, all that is square."""
    random = torch.Generator().manual_seed(rank)
    state = {}
    for layer in range(2):
        for name in ("q_proj", "o_proj"):
            key = f"{prefix}model.layers.{layer}.self_attn.{name}.lora"
            state[f"{key}.A.weight"] = torch.randn(rank, size, generator=random).mul(0.1).to(dtype)
            state[f"{key}.B.weight"] = torch.randn(size, rank, generator=random).mul(0.1).to(dtype)
    return state


def save(state: Any, file: Path) -> str:
    torch.save(state, file)
    return str(file)


def as_peft(file: str, base: Path, target: Path) -> str:
    convert_between_pth_and_peft(create_parser().parse_args([file, str(target), "--base", str(base)]))
    return str(target)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shape", ["llama", "qwen2"])
@pytest.mark.parametrize(
    ("dtype", "prefix"), [(torch.float32, ""), (torch.float16, "module.")], ids=["float32", "half-prefixed"]
)
def test_pth_is_peft_is_merged(
    bases: dict[str, Path], tmp_path: Path, shape: str, dtype: torch.dtype, prefix: str
) -> None:
    from transformers import AutoModelForCausalLM

    base = LocalModelConfig(name=str(bases[shape]), device="cpu", dtype=Dtype.float32)
    state = squares(dtype=dtype, prefix=prefix)
    file = save(state, tmp_path / "lora.pth")
    peft = as_peft(file, bases[shape], tmp_path / "peft")
    plain = load(make_spec(model=base))
    pth = load(make_spec(model=base, lora=PthConfig(path=file, rank=4)))
    routes = {
        "merged": load(make_spec(model=base, lora=PthConfig(path=file, merge=True))),
        "peft": load(make_spec(model=base, lora=PeftConfig(path=peft))),
        "peft merged": load(make_spec(model=base, lora=PeftConfig(path=peft, merge=True))),
    }
    with_hooks = logits(pth.model)
    assert (with_hooks - logits(plain.model)).abs().max() > 0.01
    for name, route in routes.items():
        assert (logits(route.model) - with_hooks).abs().max() <= 1e-5, name
    bare = AutoModelForCausalLM.from_pretrained(bases[shape], dtype=torch.float32)
    save({key.removeprefix(prefix): tensor for key, tensor in state.items()}, tmp_path / "bare.pth")
    load_square_lora(bare, tmp_path / "bare.pth")  # the training's own code
    assert (logits(bare) - with_hooks).abs().max() <= 1e-5

    named = {key.removeprefix(prefix): tensor.float() for key, tensor in state.items()}
    deltas = [named[key.replace(".A.", ".B.")] @ named[key] for key in named if ".A." in key]
    norm = float(sum(delta.square().sum() for delta in deltas)) ** 0.5
    for loaded in (pth, *routes.values()):
        assert loaded.metrics["lora_modules"] == 4
        assert loaded.metrics["lora_rank"] == 4
        assert loaded.metrics["lora_parameters"] == 4 * 2 * 4 * 64
        assert loaded.metrics["lora_delta_norm"] == pytest.approx(norm, rel=1e-4)
        assert {note.code for note in loaded.notes} <= {"unusual_rope", "tokens_beyond_model"}
    extra_mib = 4 * 2 * 4 * 64 * 4 / 2**20  # held in float32, as PEFT does
    assert pth.metrics["weight_mib"] == pytest.approx(plain.metrics["weight_mib"] + extra_mib)
    assert routes["merged"].metrics["weight_mib"] == pytest.approx(plain.metrics["weight_mib"])
    assert pth.metrics["weight_mib"] == pytest.approx(routes["peft"].metrics["weight_mib"])


@pytest.mark.parametrize(
    ("quantization", "kind"), [(Nf4Config(), "Linear4bit"), (Int8Config(), "Linear8bitLt")]
)
def test_over_a_quantized_base(
    tiny_model: LocalModelConfig, tmp_path: Path, quantization: QuantizationConfig, kind: str
) -> None:
    state = squares(dtype=torch.float16)
    file = save(state, tmp_path / "lora.pth")
    plain, adapted = (
        make_spec(model=tiny_model, quantization=quantization, lora=lora)
        for lora in (LoraConfig(), PthConfig(path=file))
    )
    base = load_base(plain)
    before = logits(adapt(base, plain).model)
    loaded = adapt(base, adapted)
    assert (loaded.metrics["quantized_modules"], loaded.metrics["lora_modules"]) == (14, 4)
    layer = loaded.model.model.layers[1].self_attn.q_proj
    assert type(layer).__name__ == kind
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    key = "model.layers.1.self_attn.q_proj.lora"
    with torch.inference_mode():
        with_delta = layer(x).float()
        after = logits(loaded.model)
        assert detach_adapter(loaded, adapted)
        low = x @ state[f"{key}.A.weight"].float().T @ state[f"{key}.B.weight"].float().T
        torch.testing.assert_close(with_delta, layer(x).float() + low, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    assert torch.equal(logits(adapt(base, plain).model), before), "bit for bit"


@pytest.mark.thorough
def test_adapters_of_both_kinds_take_turns_on_one_base(bases: dict[str, Path], tmp_path: Path) -> None:
    base = LocalModelConfig(name=str(bases["llama"]), device="cpu", dtype=Dtype.float32)
    one, two = (save(squares(rank), tmp_path / f"{rank}.pth") for rank in (4, 2))
    adapters: dict[str, LoraConfig] = {
        "none": LoraConfig(),
        "pth 4": PthConfig(path=one),
        "peft 2": PeftConfig(path=as_peft(two, bases["llama"], tmp_path / "peft_2")),
        "pth 2": PthConfig(path=two),
        "peft 4": PeftConfig(path=as_peft(one, bases["llama"], tmp_path / "peft_4")),
    }
    turns = ["none", "pth 4", "none", "peft 2", "none", "pth 2", "pth 4", "peft 4", "pth 4", "peft 2", "none"]
    kept, seen, loads = BaseModelCache(), [], []
    for name in turns:
        engine = open_engine(make_spec(model=base, lora=adapters[name]), kept)
        loads.append(engine.load().metrics["base_loads"])
        model = engine.loaded.model
        seen.append((name, logits(model)))
        engine.close()
    assert loads == [1] + [0] * (len(turns) - 1)
    first = dict(reversed(seen))
    for name, found in seen:
        assert torch.equal(found, first[name]), f"{name} differs from its first turn"
    assert (first["pth 4"] - first["peft 4"]).abs().max() <= 1e-5
    assert (first["pth 2"] - first["peft 2"]).abs().max() <= 1e-5
    assert (first["pth 2"] - first["pth 4"]).abs().max() > 0.01


def test_nothing_stays_on_the_base(tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    spec = make_spec(model=tiny_model, lora=PthConfig(path=save(squares(), tmp_path / "lora.pth")))
    base = load_base(spec)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    loaded = adapt(base, spec)
    assert sum(isinstance(module, SingleAdapterMatrices) for module in loaded.model.modules()) == 4
    assert {key for key in loaded.model.state_dict() if ".lora." in key} == set(squares()), (
        "named as in the file"
    )
    assert detach_adapter(loaded, spec)
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_hooks or "lora" in module._modules for module in base.model.modules())
    merged = dataclasses.replace(spec, lora=PthConfig(path=spec.lora.path, merge=True))  # type: ignore[attr-defined]
    assert not detach_adapter(adapt(base, merged), merged), "merged weights cannot be had back"


def test_merging_leaves_a_tied_embedding_alone(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    settings = AutoConfig.from_pretrained(tiny_llama)
    settings.update({"vocab_size": 64, "pad_token_id": 0})
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama, folder)
    torch.manual_seed(0)
    LlamaForCausalLM(settings).save_pretrained(folder)
    state = {"lm_head.lora.A.weight": torch.ones(1, 64), "lm_head.lora.B.weight": torch.ones(64, 1)}
    file = save(state | squares(1), tmp_path / "lora.pth")
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
    hooked, merged = (
        load(make_spec(model=model, lora=PthConfig(path=file, merge=m))).model for m in (False, True)
    )
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(hooked(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def without(state: State, *parts: str) -> State:
    return {key: tensor for key, tensor in state.items() if not any(part in key for part in parts)}


LAYER = "model.layers.0.self_attn.q_proj"
K = "model.layers.0.self_attn.k_proj.lora"
OBLONG = {f"{K}.A.weight": torch.ones(4, 64), f"{K}.B.weight": torch.ones(32, 4)}
MIXED = without(squares(), "layers.1") | {key: t for key, t in squares(2).items() if "layers.1" in key}
WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    ("rank", squares(), {"rank": 8}, r"lora.rank=8, but lora.path=\S+ has rank 4. Use lora.rank=4, or omit lora.rank"),
    ("size", squares(size=96), {}, rf"size mismatch for {LAYER}: A \[4, 96\] and B \[96, 4\] need shape \[96, 96\], but the layer of \S+ is \[64, 64\]"),
    ("keys", {f"encoder.{key}": tensor for key, tensor in squares().items()}, {}, rf"4 of 4 modules are not linear layers of \S+: encoder.{LAYER}, .* and 1 more. The base model's square layers are {LAYER}"),
    ("one-key", squares() | {"x.lora.A.weight": torch.ones(4, 4), "x.lora.B.weight": torch.ones(4, 4)}, {}, "1 of 5 modules are not linear layers of .*: x. "),
    ("strangers", squares() | {"model.norm.weight": torch.ones(64)}, {}, r"1 keys are not LoRA keys \(.*\): model.norm.weight"),
    ("no-lora", {f"w{n}": torch.ones(2) for n in range(5)}, {}, "contains no LoRA key. Expected .*, but found w0, w1, w2 and 2 more"),
    ("no-keys", {}, {}, "contains no LoRA key"),
    ("a-alone", without(squares(), f"{LAYER}.lora.B"), {}, f"{LAYER} has matrix A but not B"),
    ("b-alone", without(squares(), f"{LAYER}.lora.A"), {}, f"{LAYER} has matrix B but not A"),
    ("not-square", squares() | OBLONG, {}, r"only square layers, but 1 of its 5 modules are not square in \S+: model.layers.0.self_attn.k_proj\. The first is \[32, 64\], with A \[4, 64\] and B \[32, 4\]"),
    ("zero", {key: t * (".A." in key) for key, t in squares().items()}, {}, "changes nothing in .*: 4 modules match, but the norm of .* 0$"),
    ("nan", {key: t / 0 for key, t in squares().items()}, {}, "contains NaN or infinity"),
    ("ranks", MIXED, {}, r"the same rank, but model.layers.0.\S+ has 4 and model.layers.1\S+ has 2"),
    ("rank-0", squares(0), {}, "changes nothing: its rank is 0"),
    ("turned", {key: t.T for key, t in squares().items()}, {}, r"has rank 64|A \[64, 4\] and B \[4, 64\]"),
    ("twice", squares() | squares(prefix="module."), {}, "occurs twice: with and without the prefix module."),
    ("integers", {key: t.int() for key, t in squares().items()}, {}, r"floating-point matrix, but is torch.int32 with shape \[4, 64\]"),
    ("vectors", {key: t[0] for key, t in squares().items()}, {}, r"matrix, but is torch.float32 with shape \[64\]"),
    ("texts", dict.fromkeys(squares(), "x"), {}, "A.weight must be a tensor, but is a str"),
    ("list", [torch.ones(2)], {}, "must contain a dictionary of tensors by name, but contains a list"),
]  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("state", "keys", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_what_does_not_fit_is_said_before_the_weights_are_read(
    tiny_model: LocalModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any, keys: dict[str, Any], message: str
) -> None:  # fmt: skip
    spec = make_spec(model=tiny_model, lora=PthConfig(path=save(state, tmp_path / "lora.pth"), **keys))
    base = load_base(make_spec(model=tiny_model))
    with pytest.raises(ConfigError, match=message):
        adapt(base, spec)  # on a base that is there already
    monkeypatch.setattr(load_room, "load_weights", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(ConfigError, match=message):
        load_base(spec)
    assert not any(module._forward_hooks for module in base.model.modules())


def test_square_layers_that_the_file_leaves_out_are_noted(
    tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    file = save(without(squares(), "layers.1"), tmp_path / "lora.pth")
    loaded = load(make_spec(model=tiny_model, lora=PthConfig(path=file)))
    assert loaded.metrics["lora_modules"] == 2
    (left,) = [one for one in loaded.notes if one.code == "layers_left"]
    assert left.values["count"] == 2
    assert str(left.values["layers"]).startswith("model.layers.1.self_attn.q_proj")


def test_a_file_without_2d_rope_gets_a_note(tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    file = PthConfig(path=save(squares(), tmp_path / "lora.pth"))
    native = load(make_spec(model=tiny_model, lora=file))
    assert note("unusual_rope", rope="native", adapter="pth", usual="rope_2d") in native.notes
    rotated = load(make_spec(model=tiny_model, lora=file, rope=Rope2dConfig()))
    assert "unusual_rope" not in {one.code for one in rotated.notes}


class Malicious:
    """Creates a file when it is unpickled without care."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.victim),)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-0", "pickle-2", "pickle-4", "among-tensors"])
def test_a_file_with_code_is_refused_and_not_run(
    tiny_model: LocalModelConfig, tmp_path: Path, form: str
) -> None:
    victim, file = tmp_path / "victim", tmp_path / "lora.pth"
    evil = Malicious(victim)
    match form.partition("-"):
        case ("pickle", _, protocol):
            file.write_bytes(pickle.dumps(evil, int(protocol)))
            pickle.loads(file.read_bytes())
        case ("among", _, _):
            torch.save(squares() | {"extra": evil}, file)
            torch.load(file, weights_only=False)
        case _:
            torch.save({"extra": evil}, file, _use_new_zipfile_serialization=form == "zip")
            torch.load(file, weights_only=False)
    assert victim.exists(), "it does run where no care is taken"
    victim.rmdir()
    spec = make_spec(model=tiny_model, lora=PthConfig(path=str(file)))
    for attempt in (lambda: load_base(spec), lambda: adapt(load_base(make_spec(model=tiny_model)), spec)):
        with raises(ConfigError, "refused"):
            attempt()
        assert not victim.exists()


def test_files_that_are_no_pth(tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    file = tmp_path / "lora.pth"
    whole = Path(save(squares(), file)).read_bytes()
    for content in (
        b"",
        b"<html>",
        b"version https://git-lfs\noid 1\n",
        whole[:-300],
        whole[:700],
        os.urandom(99),
    ):
        file.write_bytes(content)
        with raises(ConfigError, "damaged"):
            load_base(make_spec(model=tiny_model, lora=PthConfig(path=str(file))))
    torch.save(torch.nn.Linear(2, 2), file)
    with raises(ConfigError, "refused"):
        load_base(make_spec(model=tiny_model, lora=PthConfig(path=str(file))))
    with raises(ConfigError, "not_found", "lora.path"):
        locating.locate_adapter(PthConfig(path=str(tmp_path / "nope")), tiny_model)
    with raises(ConfigError, "bad_value", "lora.path"):
        locating.locate_adapter(PthConfig(path=str(tmp_path)), tiny_model)
    with raises(ConfigError, "conflict"):
        locating.locate_adapter(PthConfig(path="embedded"), tiny_model)


def test_torch_of_before_2019_is_read(tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    torch.save(squares(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    spec = make_spec(model=tiny_model, lora=PthConfig(path=str(tmp_path / "old.pth")))
    assert load(spec).metrics["lora_modules"] == 4


def test_merge_needs_unquantized_weights(tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    lora = PthConfig(path=save(squares(), tmp_path / "lora.pth"), merge=True)
    with raises(ConfigError, "missing"):
        make_spec(model=tiny_model, quantization=Int8Config(), lora=lora)
    # as a quantized checkpoint would be
    base = load_base(make_spec(model=tiny_model, quantization=Int8Config()))
    with raises(ConfigError, "conflict", "lora.merge"):
        adapt(base, make_spec(model=tiny_model, lora=lora))


def test_the_hash_is_that_of_the_content(tmp_path: Path, tiny_model: LocalModelConfig) -> None:
    one = save(squares(), tmp_path / "one.pth")
    shutil.copy(one, tmp_path / "copy.pth")
    other = save(squares(2), tmp_path / "other.pth")
    specs = [
        make_spec(model=tiny_model, lora=PthConfig(path=path))
        for path in (one, str(tmp_path / "copy.pth"), other)
    ]
    hashes = [resolve_model(spec).files.hash_files(tmp_path / "hashes.json")["lora"] for spec in specs]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_memory_is_predicted(tiny_model: LocalModelConfig, tmp_path: Path, dtype: torch.dtype) -> None:
    spec = make_spec(model=tiny_model, lora=PthConfig(path=save(squares(dtype=dtype), tmp_path / "lora.pth")))
    predicted = predict(spec, 1, 8, 8)
    assert predicted is not None
    assert predicted.weights["lora"] == load(spec).metrics["lora_parameters"] * 4


@pytest.mark.thorough
def test_the_table_shows_what_was_matched(runner: Callable[..., Any]) -> None:
    table = runner("lora=embedded_pth", "task.split=hard5", "task.limit=2", "tracking=none").out
    assert "8 modules · rank 16 · norm of the delta 6.15" in " ".join(table.split())


@pytest.mark.thorough
def test_the_shipped_file_teaches_five_steps(runner: Callable[..., Any]) -> None:
    keys = ("task.split=hard5", "task.limit=100", "tracking=none", "print=json")
    bare, adapted = (
        runner(f"lora={lora}", *keys).json()["metrics"]["accuracy"] for lora in ("none", "embedded_pth")
    )
    assert bare < 0.45
    assert adapted > 0.70
