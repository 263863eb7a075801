"""How each causal family of transformers is decoded: `python -m tools.families` writes
docs/families.md.

Every family is built tiny from its config class, saved, and decoded by the local engine; the result
is compared with transformers' own generate, one prompt at a time. `python -m tools.families mamba
jamba` shows these two and writes nothing.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner_base.notes import Note

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
HEAD = """# How is my model decoded?

This page lists the decoding method of each causal model family in transformers {version}. The command
`python -m tools.families` generates this page. For each model family, `tools.families` builds a tiny model with
random float32 weights, and decodes prompts of several lengths greedily on a CPU. For each supported family, the local
engine generates the same tokens as transformers' `generate`, which decodes one prompt at a time. Before each job,
`runner` tests the decoding methods on a few tokens and uses the fastest correct method. A note in the job's result
explains the chosen method.

| method | meaning |
|---|---|
| stream | continuous batching |
| static | static batching with padded prompts |
| static, equal lengths | static batching of prompts with equal length |
| generate | transformers' `generate` for prompts of equal length |
| generate, alone | transformers' `generate` with one prompt at a time |
| refused | not supported; an error message before the job gives the reason |

For long sequences, some models need a slower decoding method than this page lists. A slower method is necessary if a
rotary embedding changes with the sequence length. A slower method is also necessary if the KV cache has a sliding
window, but the attention mask of the model has no window.

## Continuous batching

{stream}.

## Other methods

| families | method | reason |
|---|---|---|
"""
WORDS = {  # of the table, by the engine's words
    "static batching": "static",
    "static batching, equal lengths": "static, equal lengths",
    "transformers' generate, equal lengths": "generate",
    "transformers' generate, one prompt at a time": "generate, alone",
}
PROMPTS = ((5, 9, 14, 23, 7), tuple(range(30, 52)), (40, 41, 42), (60, 61, 62), tuple(range(100, 109)))
NEW_TOKENS = (12, 20, 5, 16, 9)
VOCABULARY = 259
SIZES: dict[str, Any] = {  # by the names in configs; keys that a config lacks are left out
    "vocab_size": VOCABULARY, "hidden_size": 64, "d_model": 64, "n_embd": 64, "n_embed": 64, "dim": 64, "emb_dim": 64,
    "intermediate_size": 96, "ffn_hidden_size": 96, "ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96,
    "n_inner": 96, "dff": 96, "dim_ff": 96, "d_inner": 96,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_layers": 2, "num_blocks": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "attention_head_dim": 16, "dim_head": 16, "rotary_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "seq_length": 128, "max_seq_len": 128,
    "sliding_window": 16, "attention_window_size": 64, "attention_chunk_size": 16, "floor_scale": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_num_experts": 4,
    "num_experts_per_token": 2, "moe_intermediate_size": 32, "moe_k": 2, "n_shared_experts": 1, "num_shared_experts": 1,
    "shared_expert_intermediate_size": 32, "shared_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "moe_topk": 2, "zero_expert_num": 1, "expert_ffn_hidden_size": 32,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "index_topk": 8, "index_n_heads": 2, "index_head_dim": 16,
    "state_size": 8, "mamba_d_state": 8, "ssm_state_size": 8, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_num_heads": 8, "n_mamba_heads": 2, "n_groups": 1, "mamba_n_groups": 1, "mamba_d_ssm": 128, "mamba_expand": 2,
    "mamba_dt_rank": 4, "time_step_rank": 4, "chunk_size": 8, "mamba_chunk_size": 8, "conv_kernel": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "lru_width": 64, "attention_hidden_size": 64, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16, "laurel_rank": 8,
    "initializer_range": 0.3, "init_std": 0.3, "encoder_hash_byte_group_vocab": 64,
}  # fmt: skip
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True, "use_cache": True}
MAX_PARAMETERS = 5_000_000  # of a tiny model
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
# families without a known small config: their generate fails on one
NOT_TINY = {"blt", "qwen4_exp", "qwen4_exp_text", "xlstm"}
OVERRIDES: dict[str, dict[str, Any]] = {  # what the config of a family needs in addition
    "qwen3_5": {"text_config": HYBRID}, "qwen3_5_moe": {"text_config": HYBRID},
    "bailing_hybrid": HYBRID | {"num_experts": 8, "num_expert_group": 2},
    "olmo_hybrid": HYBRID, "granitemoehybrid": HYBRID, "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": HYBRID, "qwen3_next": HYBRID, "kimi_linear": HYBRID,
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "attention_head_dim": 32},
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 8, "mamba_headdim": 16, "mamba_ngroups": 1, "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "mamba2": {"num_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4, "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
}  # fmt: skip


@dataclass
class Outcome:
    """How one family is decoded."""

    family: str
    model: str  # its class
    way: str  # the route, as on the page; wrong = other tokens than generate's; empty = not built
    why: str

    @property
    def row(self) -> str:
        """What is shown of it while the tool runs."""
        return f"| {self.family} | {self.model} | {self.way} | {self.why} |"


def families() -> dict[str, str]:
    """Return the class of every causal family that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return {family: names if isinstance(names, str) else names[0] for family, names in KNOWN.items()}


def tiny_config(family: str) -> Any:
    """Return a config of the family with small sizes."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    sizes = _sizes(kind())
    for key, value in OVERRIDES.get(family, {}).items():
        sizes[key] = (
            sizes[key] | value if isinstance(value, dict) and isinstance(sizes.get(key), dict) else value
        )
    return kind(**sizes)


def _sizes(usual: Any) -> dict[str, Any]:
    """Return small values for the sizes of a config, and of the configs inside it."""
    from transformers import PreTrainedConfig

    own = vars(usual)
    sizes = {key: value for key, value in SIZES.items() if isinstance(own.get(key), int | float)}
    sizes |= {
        key: SIZES[key] for key in ("head_dim", "num_key_value_heads") if key in own and own[key] is None
    }
    if "qk_rope_head_dim" in sizes:  # latent attention: only a part of each head is rotated
        sizes |= {"head_dim": SIZES["qk_rope_head_dim"], "num_key_value_heads": SIZES["num_attention_heads"]}
    inside = {key: value for key, value in own.items() if isinstance(value, PreTrainedConfig)}
    return sizes | ENDS | {key: _sizes(value) for key, value in inside.items()}


def build(family: str, folder: Path) -> str:
    """Save a tiny model of a family, with the embedded model's tokenizer cut to its vocabulary;
    return its class."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(tiny_config(family)).num_parameters()
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters are not tiny")
    model = AutoModelForCausalLM.from_config(tiny_config(family)).float().eval()
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    return type(model).__name__


def _tokenizer() -> Any:
    """Return a tokenizer with a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<begin>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = (pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>")


def look(family: str, folder: Path) -> Outcome:
    """Build a family in an empty folder and decode with it."""
    from transformers import AutoModelForCausalLM

    from runner_base import ConfigError, to_one_line

    name = families()[family]
    if family in NOT_TINY:
        return Outcome(family, name, "", "no small config is known")
    try:
        build(family, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    except Exception as error:  # noqa: BLE001  # any error: the family could not be built
        return Outcome(family, name, "", f"{type(error).__name__}: {to_one_line(error, limit=120)}")
    try:
        tokens, way, notes = decode(folder)
    except ConfigError as error:
        return Outcome(family, name, "refused", to_one_line(error).split(": ", 2)[-1])
    why = "; ".join(reasons_of(note) for note in notes if note.code == "slow_decoding")
    expected = by_generate(model)
    if tokens != expected:
        again = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        if by_generate(again) != expected:
            return Outcome(family, name, "", "two loads of its files answer differently")
        same = sum(one == other for one, other in zip(tokens, expected, strict=True))
        return Outcome(family, name, "wrong", f"{same} of {len(tokens)} rows are generate's; {way}: {why}")
    return Outcome(family, name, way, why)


def reasons_of(note: Note) -> str:
    """Return why rows were decoded in static batches."""
    from runner_engine.render.notes import render_engine_note

    reasons = (note.values[name] for name in ("reason", "also"))
    return "; and ".join(render_engine_note(reason) for reason in reasons if isinstance(reason, Note))


def decode(folder: Path) -> tuple[list[list[int]], str, list[Note]]:
    """Return the local engine's tokens for all prompts at once, its way of decoding, and its
    notes."""
    from runner.config.resolved import resolve_job
    from runner.config.root import NoTrackingConfig, RunnerConfig
    from runner.engines import create_lazy_engine
    from runner.tasks.gsm8k.keys import Gsm8kConfig
    from runner_base import Dtype
    from runner_engine.quantization.base import QuantizationConfig
    from runner_engine.sessions.base import Request
    from runner_engine.sessions.contract import complete_requests
    from runner_engine.settings.generation import GenerationConfig
    from runner_engine.settings.lora import LoraConfig
    from runner_engine.settings.model import LocalModelConfig
    from runner_engine.settings.rope import RopeConfig

    config = RunnerConfig(
        model=LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32),
        quantization=QuantizationConfig(), lora=LoraConfig(), rope=RopeConfig(), task=Gsm8kConfig(),
        generation=GenerationConfig(), tracking=NoTrackingConfig(),
    )  # fmt: skip
    engine = create_lazy_engine(resolve_job(config))
    try:
        decoding = engine.load().facts["decoding"]
        requests = [
            Request(number, prompt, ignore_eos=True, max_new_tokens=count)
            for number, (prompt, count) in enumerate(zip(PROMPTS, NEW_TOKENS, strict=True))
        ]
        done = {completion.id: completion for completion in complete_requests(engine, requests)}
        tokens = [done[number].answer.token_ids for number in range(len(requests))]
        return tokens, short_way(decoding), list(engine.stats.notes)
    finally:
        engine.close()


def short_way(decoding: str) -> str:
    """Return the table's words for an engine's way of decoding."""
    return WORDS.get(decoding, "stream")


def by_generate(model: Any) -> list[list[int]]:
    """Return generate's tokens for each prompt alone."""
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    answers = []
    for prompt, count in zip(PROMPTS, NEW_TOKENS, strict=True):
        with torch.inference_mode():
            output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count)
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def sweep(names: Iterable[str]) -> list[Outcome]:
    """Look at several families, one after the other."""
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    outcomes = []
    for family in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes.append(look(family, Path(folder)))
        print(f"{time.perf_counter() - started:.1f}s", outcomes[-1].row, file=sys.stderr, flush=True)
    return outcomes


def page(outcomes: Iterable[Outcome]) -> str:
    """Return the page; a family that could not be built tiny is left out."""
    import transformers

    by_route: dict[tuple[str, str], list[str]] = {}  # the families of each route and reason
    for one in outcomes:
        if one.way:
            by_route.setdefault((one.way, one.why), []).append(one.family)
    stream = textwrap.fill(", ".join(by_route.pop(("stream", ""))), 118, break_on_hyphens=False)
    table = "".join(f"| {', '.join(names)} | {way} | {why} |\n" for (way, why), names in by_route.items())
    return HEAD.format(version=transformers.__version__, stream=stream) + table


def rows(text: str) -> dict[str, str]:
    """Return the route of each family on a page."""
    stream = text.split("## Continuous batching\n\n")[1].split(".\n")[0].replace("\n", " ")
    lines = text.split("|---|---|---|\n")[1].splitlines()
    table = [
        (stream, "stream"),
        *((cells[1], cells[2]) for cells in (re.split(r" *\| *", line) for line in lines)),
    ]
    return {family: way for names, way in table for family in names.split(", ")}


def main(arguments: list[str]) -> None:
    """Show the families that are named, or write the page about all."""
    outcomes = sweep(arguments or families())
    if not arguments:
        PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
