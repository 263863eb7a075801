"""How the engine's notes and reasons are worded."""

from __future__ import annotations

import pytest

from runner_base.notes import Note, note, text_note
from runner_engine.render.notes import render_engine_note

TILES = note("tiles_from_rows", rows=8, vectors="AVX2")
NO_TILES = note("heads_not_whole_tiles", dim=80, width=32)
FORCED = note("forced_way_fails", variable="RUNNER_PRODUCTS", way="tiles", problem=NO_TILES)
BYTES = note("bytes_differ", rows=43, outputs=80, inputs=96)
LEFT_OUT = note("way_left_out", way="tiles", is_attention=False, how=BYTES)
OF_ATTENTION = note(
    "way_left_out", way="tiles", is_attention=True, how=note("attention_off", tokens=37, keys=300, off=0.25)
)
ROOM = note("room", tokens=64, hint=": rope.beyond_trained=true reads on")
SLIDES = note("attention_slides", over=64, requested=80)
ALPHA = ("a", "b", "c", "d", "e", "f")
OWN = {"own": "llama3", "own_factor": 16.0, "trained": 8192}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (TILES, "AMX tiles for 8 or more activations, otherwise AVX2"),
        (note("order_of_tiles", by="by ", vectors="AVX2"), "order of AMX tiles, by AVX2"),
        (
            note("way_with_reasons", way=TILES, reasons=(note("way_forced", variable="X"), text_note("Y=amx"))),
            "AMX tiles for 8 or more activations, otherwise AVX2 (by X; Y=amx)",
        ),
        (
            note("way_with_reasons", way=note("vnni"), reasons=(note("way_unmeasured"),)),
            "VNNI (not timed: no user cache can store timings)",
        ),
        (FORCED, "RUNNER_PRODUCTS=tiles: the head size 80 is not a multiple of the tile width 32"),
        (
            note("ways_left_out", ways=(LEFT_OUT, OF_ATTENTION)),
            ("tiles disabled: int8 AMX matmuls of 43 activations with a 80 x 96 matrix differ from "
             "the vector kernels; tiles disabled for attention: attention of 37 tokens to 300 keys "
             "has an error of 0.25, relative to the largest value"),
        ),
        (
            note("product_bits_off", rows=33, outputs=80, inputs=576),
            "a matmul of 33 activations with a 80 x 576 matrix differs in some bits from matmuls of "
            "single activations",
        ),
        (
            note("attention_bits_off", tokens=37, keys=300),
            "attention of 37 tokens to 300 keys differs in some bits from attention of single tokens",
        ),
        (
            note("slow_layers", instead=note("multiplied_by_torch", what="Linear"), reason=note("no_kernels")),
            "torch multiplies Linear, which is slower: the kernels need a C compiler, and none was found",
        ),
        (
            note(
                "slow_layers",
                instead=note("multiplied_by_library", kind="Linear4bit"),
                reason=note("blocks_across_rows"),
            ),
            ("the quantization library multiplies Linear4bit layers, which is slower: some "
             "quantization blocks span several rows of the weight matrix"),
        ),
        (
            note("slow_rounding", kind="Int8Linear", reason=note("too_many_inputs", most=65536)),
            "torch quantizes the activations of Int8Linear, which is slower: the layer has more than "
            "65,536 inputs",
        ),
        (
            note("slow_experts", reason=note("other_gate_formula")),
            ("transformers multiplies the experts, which is slower: the kernels do not support the "
             "gate formula of the experts"),
        ),
        (
            note("unstable_rows", layers={"a.down": 0.95, "b.down": 0.91}, more=2, times=255.0),
            ("8-bit activations are inaccurate here: outliers over 255 times the typical value round the "
                "others to 0 (a.down 95%, b.down 91% and 2 more). Log-probabilities vary with batching. If "
                "these layers are quantized here, exclude them: quantization.skip=[a.down,b.down]"),
        ),
        (
            note("slow_decoding", batching="static batching", reason=SLIDES, also=None),
            "decoding uses static batching (slower): the attention window is 64 tokens, but 80 were requested",
        ),
        (
            note(
                "slow_decoding",
                batching="transformers' generate",
                reason=note("rope_changes", after=110, requested=120),
                also=note("wrong_with_padding", problem=note("logits_off", off=0.5)),
            ),
            ("decoding uses transformers' generate (slower): the rotary embedding changes after 110 "
             "tokens, but 120 were requested; and with padding, the logits would have an error of "
             "0.5 standard deviations"),
        ),
        (note("prompt_too_long", tokens=66, room=ROOM), ("the prompt has 66 tokens, but the model has room "
            "for 64: rope.beyond_trained=true reads on")),
        (
            note("grammar_left", reason=note("token_does_not_fit")),
            "the answer violates its grammar: a token is not allowed",
        ),
        (
            note(
                "memory_short", need="15,100", weight_mib=5290.0, kv_cache_mib=7168.0, activation_mib=98.4,
                free="15,000 MiB of main memory",
            ),
            ("memory may run out: 15,100 MiB needed, 15,000 MiB of main memory free (weights 5,290 MiB, KV "
                "cache 7,168, activations 98, libraries and copies the rest). Reduce generation.batch_size "
                "or generation.max_new_tokens"),
        ),
        (
            note("unpacked_while_loading", file="F32.gguf", types="F32 ×21", dtype="float32"),
            "F32.gguf (F32 ×21) is dequantized while loading. In memory, the weights have the full "
            "size of float32",
        ),
        (
            note("read_in_python", file="m.gguf", what=note("its_tokenizer_with_files", files="tokenizer.json")),
            ("m.gguf: transformers reads its tokenizer, with tokenizer.json beside it, in Python, which takes "
                "seconds for a large vocabulary"),
        ),
        (
            note("tensors_under", file="x.bin", keys="module.state_dict", left_out=ALPHA),
            "x.bin: the tensors are loaded from the key module.state_dict; ignored: a, b, c, d, e …",
        ),
        (
            note("tensors_under", file="x.bin", keys="model", left_out=()),
            "x.bin: the tensors are loaded from the key model",
        ),
        (
            note("tokens_beyond_model", count=2, known=896, tokens="<x> (896), <y> (897)"),
            ("the tokenizer has 2 tokens more than the model's 896. Prompts with such tokens are "
             "rejected: <x> (896), <y> (897)"),
        ),
        (
            note("other_attention", missing=note("no_cuda_gpu"), used="sdpa"),
            "model.attention=flash_attention_2 is unavailable: there is no CUDA GPU. sdpa is used",
        ),
        (
            note("unusual_rope", rope="native", adapter="pth", usual="rope_2d"),
            "rope=native: most pth adapters were trained with 2D RoPE. If this adapter was, use rope=rope_2d",
        ),
        (
            note("layers_left", count=2, layers="a, b"),
            "2 square layers stay unchanged, because the adapter does not contain them: a, b",
        ),
        (
            note("angles_of_batch", length=64),
            "rope=dynamic: beyond 64 positions, a sequence's angles depend on the longest sequence in its batch",
        ),
        (
            note("replaces_own_scaling", rope="yarn", factor=8.0, is_counted_anew=False, **OWN),
            "rope=yarn with factor 8 replaces the model's own llama3, factor 16 of 8,192 positions",
        ),
        (
            note("replaces_own_scaling", rope="linear", factor=2.0, is_counted_anew=True, **OWN),
            ("rope=linear with factor 2 replaces the model's own llama3, factor 16 of 8,192 positions; it "
                "scales from the model's maximum context length, not its pretraining length"),
        ),
        (
            note(
                "replaces_own_scaling", rope="yarn", factor=8.0, own="dynamic", own_factor=None, trained=None,
                is_counted_anew=False,
            ),
            "rope=yarn with factor 8 replaces the model's own dynamic",
        ),
        (
            note("publisher_samples", file="the .gguf file", settings="temperature 0.6"),
            ("greedy decoding is used, but the .gguf file recommends sampling (temperature 0.6). Sample as "
                "recommended: generation=model. Compare both: generation=greedy,model task.samples=4"),
        ),
        (
            note("ignored_settings", file="the .gguf file", ignored={"mirostat": 2, "typ_p": 1.0}),
            "ignored settings from the .gguf file: mirostat=2, typ_p=1.0",
        ),
        (
            note(
                "kind_not_read", what="weights", found={"type": "int", "strategy": "block"},
                reads=note("reads_int_groups"),
            ),
            "the weights use type=int strategy=block, but the runner supports only integers per "
            "group or channel",
        ),
        (note("has_unread_key", key="sparsity_config"), ("the checkpoint sets sparsity_config, which "
                                                         "the runner does not support")),
        (
            note(
                "algorithm_not_read", name="NVFP4_SVD", layer="a.b", why=note("narrow_matrices_beside"),
                known="FP8, NVFP4", mixed="MIXED_PRECISION",
            ),
            ("quant_algo=NVFP4_SVD of a.b is not supported: each layer adds a low-rank matmul to its "
             "quantized weights (svdquant_lora_a). Supported: FP8, NVFP4, and MIXED_PRECISION of "
             "these formats. Instead, use the original checkpoint with quantization=nf4 or int8"),
        ),
        (
            note("setting_not_read", key="version", value="gemv", known="gemm, GEMM"),
            "version='gemv': the runner supports only gemm, GEMM",
        ),
        (
            note("no_head_tensors", reason=note("no_head"), begin="mtp."),
            "the checkpoint has no multi-token prediction (MTP) head: no tensors mtp.*",
        ),
        (
            note("draft_guesses", tokens=3, model=None, quantization="nf4", layers=4),
            "a draft model proposes 3 tokens per step: the same model, quantization nf4, its first 4 layers",
        ),
        (
            note("draft_guesses", tokens=3, model="org/small", quantization=None, layers=None),
            "a draft model proposes 3 tokens per step: org/small",
        ),
        (
            note("kv_with", stored=text_note("k8v4"), more=note("scale_of_head")),
            "k8v4, a float32 scale for each head and position",
        ),
        (
            note("added_in", how=note("merged_first"), dtype="float32"),
            "merged into the weights, then quantized, added in float32",
        ),
    ],
)  # fmt: skip
def test_a_note_is_worded(said: Note, text: str) -> None:
    assert render_engine_note(said) == text
