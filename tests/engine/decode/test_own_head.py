"""A model's own head (MTP) guesses: the answers are those of single steps, and the guesses those of
the published formula."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import own_heads
import pytest
import torch
from guessing import asked_of, check, ended, guessing_engine
from own_heads import FAMILIES, Reference
from raising import raises
from safetensors.torch import load_file, save_file
from streams import PROMPTS
from transformers import AutoModelForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from runner_base import MIB, ConfigError
from runner_base.dtypes import Dtype
from runner_base.notes import note
from runner_engine.checkpoints.mixture import compute_checkpoint_expert_mixture_size
from runner_engine.checkpoints.mtp_head import COUNTS
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.decode.drafting.mtp_head import TokenDrafter
from runner_engine.decode.sequences import TokenSequence
from runner_engine.local.engine import LocalEngine
from runner_engine.plan.footprint import Footprint, predict_footprint
from runner_engine.quantization import CHOICES
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

Make = Callable[..., LocalEngine]
LEARNED = PROMPTS[:4]  # prompts by whose answers heads are trained
TOKENS = 3
FAMILY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def engine_of(opened: Make) -> Make:
    return partial(guessing_engine, opened)


@pytest.fixture
def with_head(made_once: Callable[..., Path], engine_of: Make) -> Callable[[str], Path]:
    """Return a function that gives a model whose head has learned some of the model's answers."""

    def folder(family: str) -> Path:
        def make(into: Path) -> None:
            own_heads.save(into, family)
            engine = engine_of(into)
            answers = ended(engine, greedy_of(LEARNED), None)
            texts = [(encoded(engine, LEARNED[at]), answers[at, 0][0]) for at in range(len(LEARNED))]
            own_heads.train(into, family, texts)

        return made_once(f"own_head_{family}", make)

    return folder


def encoded(engine: LocalEngine, text: str) -> list[int]:
    engine.load()
    return engine.encode(Request(0, text))[1]


def greedy_of(texts: Sequence[str]) -> list[Request]:
    return [Request(at, text) for at, text in enumerate(texts)]


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [1, 5, None])
@FAMILY
def test_answers_are_those_of_single_steps(
    family: str, rows: int | None, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    """Rows of different acceptance in one batch, which come and go, with shared prefixes."""
    plain, guessing = engine_of(with_head(family)), engine_of(with_head(family), "mtp")
    asked = asked_of(ended(plain, greedy_of(PROMPTS), rows))
    expected = ended(plain, asked, rows)
    assert ended(guessing, asked, rows) == expected
    stats = guessing.stats
    assert stats.decode_tokens == sum(len(it[0]) - 1 for it in expected.values())
    assert stats.drafted_at[0] > stats.drafted_at[1] > stats.drafted_at[2] > 0
    learned = engine_of(with_head(family), "mtp")
    ended(learned, greedy_of(LEARNED), rows)
    assert learned.stats.draft_acceptance_metrics["acceptance_share/token_1"] > 0.7
    assert guessing.fused is not None


@pytest.mark.thorough
@FAMILY
def test_a_head_with_wrong_weights_is_right_by_chance_alone(
    family: str, engine_of: Make, with_head: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = own_heads.save(tmp_path / "wrong", family)
    own_heads.put(tmp_path / "wrong", family, own_heads.shuffled(weights))
    plain, guessing = engine_of(with_head(family)), engine_of(tmp_path / "wrong", "mtp")
    asked = greedy_of(PROMPTS)
    assert ended(guessing, asked, None) == ended(plain, asked, None)
    assert (
        guessing.stats.draft_acceptance_metrics["acceptance_share/token_1"]
        < 0.1
        < guessing.stats.draft_tokens
    )


class Spied(TokenDrafter):
    """Notes each guess with the text behind which it was made."""

    made: list[tuple[list[int], list[int]]]

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        guesses = super().propose(sequences, max_tokens)
        self.made += [
            ([*row.prompt, *row.tokens], guess)
            for row, guess in zip(sequences, guesses, strict=True)
            if guess
        ]
        return guesses


@pytest.mark.thorough
@pytest.mark.parametrize("attention", ["", "sdpa"])
@FAMILY
def test_guesses_are_those_of_the_published_formula(
    family: str,
    attention: str,
    engine_of: Make,
    with_head: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each guess of rows with shared prefixes, in slots that move, behind right and wrong ones."""
    folder = with_head(family)
    if attention:
        monkeypatch.setenv("RUNNER_ATTENTION", attention)
    monkeypatch.setattr(Spied, "made", [], raising=False)
    monkeypatch.setattr("runner_engine.decode.drafting.mtp_head.TokenDrafter", Spied)
    guessing = engine_of(folder, {"kind": "mtp", "tokens": TOKENS})
    ended(guessing, greedy_of(PROMPTS), 5)
    reference = Reference.of(folder, family)
    assert len(Spied.made) > len(PROMPTS)
    for text, guess in Spied.made:
        assert guess == reference.guess(text, len(guess)), text


@pytest.mark.sampled(2)
@FAMILY
def test_logits_are_those_of_the_published_formula(
    family: str, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    folder = with_head(family)
    engine = engine_of(folder, "mtp")
    reference = Reference.of(folder, family)
    ids = encoded(engine, PROMPTS[1])
    states = reference.hidden(ids)[:-1]
    expected = reference.logits(reference(states, ids[1:]))
    same_logits(engine, states, ids, expected)
    others = reference.logits(reference(states.roll(1, 0), ids[1:]))
    assert float((others - expected).abs().max()) > 0.1 * float(expected.std()), "a control"


def same_logits(
    engine: LocalEngine, states: torch.Tensor, ids: Sequence[int], expected: torch.Tensor
) -> None:
    """Check what a head gives for the tokens from the second on."""
    head = engine.draft.loaded.model
    head.get_input_embeddings().hidden = states
    with torch.inference_mode():
        found = head(input_ids=torch.tensor([list(ids)[1:]])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.thorough
@pytest.mark.parametrize("keys", [{"q_lora_rank": None}, {"rope_interleave": False}])
def test_other_latents(keys: dict[str, Any], engine_of: Make, tmp_path: Path) -> None:
    """Queries that come of no latent, and rotations by halves."""
    own_heads.save(tmp_path, "deepseek_v3", **keys)
    engine, reference = engine_of(tmp_path, "mtp"), Reference.of(tmp_path, "deepseek_v3")
    ids = encoded(engine, PROMPTS[1])
    states = reference.hidden(ids)[:-1]
    same_logits(engine, states, ids, reference.logits(reference(states, ids[1:])))


YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_logits_are_those_of_the_head_that_transformers_has(
    family: str, engine_of: Make, tmp_path: Path
) -> None:
    """The two of these families whose heads transformers' own generate can guess with; with YaRN,
    as DeepSeek-V3 has it."""
    keys: dict[str, Any] = {"rope_parameters": YARN} if family == "deepseek_v3" else {}
    own_heads.save(tmp_path, family, **keys)
    engine = engine_of(tmp_path, "mtp")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").eval()
    # how it knows a head's tensors: by the number of the published models' layers
    layers = model.config.num_hidden_layers
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{layers}\."]
    mtp = MtpModel.from_pretrained(model)
    ids = encoded(engine, PROMPTS[1])
    with torch.inference_mode():
        states = model.model(torch.tensor([ids])).last_hidden_state[:, :-1]
        places = torch.arange(1, len(ids), dtype=torch.int64)[None]
        cache = MtpCache(config=mtp.config)
        given = torch.tensor([ids[1:]])
        of_head = mtp.forward_layer(0, states, places, cache, input_ids=given)
        expected = mtp._project_to_logits(of_head)[0]
    same_logits(engine, states[0], ids, expected)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@FAMILY
def test_beside_other_number_formats(
    family: str, quantization: str, opened: Make, with_head: Callable[[str], Path]
) -> None:
    """In bfloat16, and beside a quantized model, whose output matrix or embedding the head reads."""

    def engine(speculate: str) -> LocalEngine:
        generation = GenerationConfig(max_new_tokens=24, speculate=speculate)
        model = LocalModelConfig(name=str(with_head(family)), device="cpu", dtype=Dtype.bfloat16)
        return opened(model=model, generation=generation, quantization=CHOICES[quantization]())

    guessing = engine("mtp")
    found, expected = (ended(one, greedy_of(PROMPTS), 5) for one in (guessing, engine("off")))
    same = sum(found[key] == expected[key] for key in expected)
    # in bfloat16 two nearly equal tokens may change places, and outliers of int8 are of all rows
    assert same >= (len(PROMPTS) - 3 if quantization != "int8" else 1)
    # a random head guesses a few of hundreds of tokens right, and with other last bits perhaps none
    assert guessing.stats.draft_tokens > 0
    report = guessing.load()
    assert report.facts["speculation"] == render_engine_note(note("own_head_guesses", tokens=3))
    assert report.metrics["draft_mib"] > 0
    assert "unused_tensors" not in {note.code for note in report.notes}


@pytest.mark.thorough
@FAMILY
def test_the_predicted_memory_of_a_head_is_that_of_the_loaded_one(
    family: str, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    folder = with_head(family)

    def predicted(speculate: str) -> Footprint:
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
        generation = GenerationConfig(speculate=speculate)
        found = predict_footprint(resolve_model(ModelSpec(model, generation=generation)), (4, 100, 50), 1e4)
        assert found is not None
        return found

    plain, guessed = predicted("off"), predicted("mtp")
    loaded = {name: engine_of(folder, name).load().metrics for name in ("off", "mtp")}
    assert plain.weight_mib == pytest.approx(loaded["off"]["weight_mib"], rel=0.001)
    of_head = guessed.weight_mib - plain.weight_mib
    assert of_head == pytest.approx(loaded["mtp"]["draft_mib"], rel=0.001)
    more = guessed.decode_kv_bytes - plain.decode_kv_bytes
    engine = engine_of(folder, "mtp")
    engine.load()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    of_states = heads.state_tokens * heads.bytes_per_token  # of a row
    assert (of_states > 0) == own_heads.is_qwen(family)
    full_layers = 1 if own_heads.is_qwen(family) else 2  # of the model, and one of the head
    of_tokens = (plain.decode_kv_bytes - 4 * of_states) / full_layers
    assert more == pytest.approx(4 * of_states + of_tokens, rel=0.01)

    settings = json.loads((folder / "config.json").read_text())
    hidden_bytes = 4 * settings["hidden_size"]
    more = guessed.prefill_kv_bytes - plain.prefill_kv_bytes
    of_prompts = (plain.prefill_kv_bytes - 4 * of_states) / full_layers
    assert more == pytest.approx(of_prompts + 4 * 100 * hidden_bytes, rel=0.01)

    assert guessed.draft is not None
    output = settings["vocab_size"] * settings["hidden_size"]
    assert guessed.draft.parameters * 4 == pytest.approx(of_head * MIB + 4 * output, rel=0.001)
    assert guessed.draft.alone.weights["head"] == 4 * output


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", [one for one in FAMILIES if one != "qwen3_5_text"])
def test_a_head_is_no_part_of_what_each_token_goes_through(family: str, tmp_path: Path) -> None:
    """Nor are copies that lie beside it: the parameters of a mixture are those that are loaded."""
    own_heads.save(tmp_path, family)
    found = compute_checkpoint_expert_mixture_size(
        resolve_model(ModelSpec(LocalModelConfig(name=str(tmp_path), device="cpu"))).files
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    loaded = {it.data_ptr(): it.numel() for it in model.state_dict().values()}
    assert found is not None
    assert found.parameters == sum(loaded.values())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("again", ["recurring", "keep"])
@FAMILY
def test_prompts_that_were_kept(
    family: str, again: str, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    """Nothing is computed of what was kept: the head begins behind it."""
    keys: Any = {again: True}
    asked = [Request(at, text, **keys) for at, text in enumerate(PROMPTS)]
    plain, guessing = engine_of(with_head(family)), engine_of(with_head(family), "mtp")
    for _ in range(2):
        found, expected = (ended(engine, asked, 3) for engine in (guessing, plain))
        assert found == expected
    longer = []
    for at, text in enumerate(PROMPTS):
        ids = (*encoded(plain, text), *expected[at, 0][0], 40, 41)
        longer.append(Request(at, ids, **keys))
    before = guessing.stats.accepted_tokens
    assert ended(guessing, longer, 3) == ended(plain, longer, 3)
    assert guessing.stats.draft_tokens > before > 0


def test_a_checkpoint_with_pictures_has_its_head_beside_the_language_model(
    engine_of: Make, with_head: Callable[[str], Path], tmp_path: Path
) -> None:
    """As Qwen3.5 is published: the text model's settings and tensors are one floor further down."""
    folder = with_head("qwen3_5_text")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    saved = load_file(folder / "model.safetensors")
    deeper = {re.sub(r"^model\.", "model.language_model.", name): it for name, it in saved.items()}
    save_file(deeper, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "qwen3_5", "text_config": settings}
    whole["architectures"] = ["Qwen3_5ForConditionalGeneration"]
    (tmp_path / "config.json").write_text(json.dumps(whole))
    check(tmp_path, "mtp")
    guessing, asked = engine_of(tmp_path, "mtp"), greedy_of(LEARNED)
    assert ended(guessing, asked, None) == ended(engine_of(folder), asked, None)
    assert guessing.stats.draft_acceptance_metrics["acceptance_share/token_1"] > 0.7


def test_what_has_no_head_is_refused(with_head: Callable[[str], Path], tmp_path: Path) -> None:
    own_heads.save(tmp_path, "glm4_moe")
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())

    def refused(named: str, **keys: Any) -> None:
        path.write_text(json.dumps(settings | keys))
        with raises(ConfigError, "unsupported", "generation.speculate") as raised:
            check(tmp_path, "mtp")
        assert named in raised.value.reason

    check(tmp_path, {"kind": "mtp", "tokens": 1})
    refused(", ".join(COUNTS), num_nextn_predict_layers=0)
    refused("num_nextn_predict_layers=2", num_nextn_predict_layers=2)
    refused("no tensors model.layers.3.*", num_hidden_layers=3)
    refused("longcat", model_type="longcat")


def test_whether_qwen3_next_has_a_head_its_files_say(
    with_head: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its published config.json counts none."""
    shutil.copytree(with_head("qwen3_next"), tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert not set(COUNTS) & set(settings)
    check(tmp_path, "mtp")
    (tmp_path / "config.json").write_text(json.dumps(settings | {"num_nextn_predict_layers": 2}))
    with raises(ConfigError, "unsupported", "generation.speculate") as raised:
        check(tmp_path, "mtp")
    assert "num_nextn_predict_layers=2" in raised.value.reason
    (tmp_path / "config.json").write_text(json.dumps(settings))
    file = tmp_path / "model.safetensors"
    body = {name: it for name, it in load_file(file).items() if not name.startswith("mtp.")}
    save_file(body, file, metadata={"format": "pt"})
    with raises(ConfigError, "unsupported", "generation.speculate") as raised:
        check(tmp_path, "mtp")
    assert "no tensors mtp.*" in raised.value.reason


def test_a_head_that_is_stored_quantized_is_refused(tmp_path: Path) -> None:
    """As DeepSeek-V3 is published: in FP8."""
    weights = own_heads.save(tmp_path, "deepseek_v3")
    check(tmp_path, "mtp")
    name = "self_attn.kv_b_proj.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    own_heads.put(tmp_path, "deepseek_v3", weights)
    with raises(ConfigError, "unsupported", "generation.speculate") as raised:
        check(tmp_path, "mtp")
    assert f"(model.layers.2.{name})" in raised.value.reason
