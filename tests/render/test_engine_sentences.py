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
        (TILES, "tiles from 8 rows, AVX2 below"),
        (note("order_of_tiles", by="by ", vectors="AVX2"), "in the order of tiles, by AVX2"),
        (
            note("way_with_reasons", way=TILES, reasons=(note("way_forced", variable="X"), text_note("Y=amx"))),
            "tiles from 8 rows, AVX2 below (by X; Y=amx)",
        ),
        (
            note("way_with_reasons", way=note("vnni"), reasons=(note("way_unmeasured"),)),
            "VNNI (not measured, since no folder keeps it)",
        ),
        (FORCED, "RUNNER_PRODUCTS=tiles: heads of 80 numbers are not whole tiles of 32"),
        (
            note("ways_left_out", ways=(LEFT_OUT, OF_ATTENTION)),
            "tiles left out: products of 43 rows in bytes by 80 x 96 differ from those by vectors; "
            "tiles left out of attention: attention of 37 tokens to 300 keys is off by 0.25 of the largest number",
        ),
        (
            note("product_bits_off", rows=33, outputs=80, inputs=576),
            "its product of 33 rows by 80 x 576 is off by some bits from that of each row alone",
        ),
        (
            note("attention_bits_off", tokens=37, keys=300),
            "attention of 37 tokens to 300 keys is off by some bits from that of each token alone",
        ),
        (
            note("slow_layers", instead=note("multiplied_by_torch", what="Linear"), reason=note("no_kernels")),
            "Linear is multiplied by torch, which is slower: there are no kernels: they need a C compiler",
        ),
        (
            note(
                "slow_layers",
                instead=note("multiplied_by_library", kind="Linear4bit"),
                reason=note("blocks_across_rows"),
            ),
            "Linear4bit is multiplied by its library's own function, which is slower: "
            "its blocks are not parts of its rows",
        ),
        (
            note("slow_rounding", kind="Int8Linear", reason=note("too_many_inputs", most=65536)),
            "rows of Int8Linear are rounded by torch, which is slower: it has more than 65,536 inputs",
        ),
        (
            note("slow_experts", reason=note("other_gate_formula")),
            "the experts are multiplied by the family's own function, which is slower: their gate is computed by "
            "another formula",
        ),
        (
            note("unstable_rows", layers={"a.down": 0.95, "b.down": 0.91}, more=2, times=255.0),
            "rows rounded to 8 bits are unstable here: a few numbers are over 255 times as large as most of their row, "
            "which become 0 (a.down 95%, b.down 91% and 2 more). So log-probabilities change with how passes are "
            "split; of layers that are quantized here, quantization.skip=[a.down,b.down] leaves these as they are",
        ),
        (
            note("slow_decoding", batching="static batching", reason=SLIDES, also=None),
            "decoding uses static batching (slower): its attention slides over 64 tokens, and 80 were requested",
        ),
        (
            note(
                "slow_decoding",
                batching="transformers' generate",
                reason=note("rope_changes", after=110, requested=120),
                also=note("wrong_with_padding", problem=note("logits_off", off=0.5)),
            ),
            "decoding uses transformers' generate (slower): its rotary embedding changes after 110 tokens, and 120 "
            "were requested; and with padding, its logits would be off by 0.5 of their spread",
        ),
        (note("prompt_too_long", tokens=66, room=ROOM), "the prompt has 66 tokens, the model has room for 64: "
         "rope.beyond_trained=true reads on"),
        (
            note("grammar_left", reason=note("token_does_not_fit")),
            "the answer left its grammar: a token does not fit",
        ),
        (
            note(
                "memory_short", need="15,100", weight_mib=5290.0, kv_cache_mib=7168.0, activation_mib=98.4,
                free="15,000 MiB of main memory",
            ),
            "memory is short: 15,100 MiB are predicted, 5,290 MiB of weights, 7,168 MiB of KV cache, 98 MiB of "
            "activations, and the rest for libraries and copies; 15,000 MiB of main memory are free: "
            "a smaller generation.batch_size or generation.max_new_tokens needs less",
        ),
        (
            note("unpacked_while_loading", file="F32.gguf", types="F32 ×21", dtype="float32"),
            "F32.gguf (F32 ×21) is unpacked while loading: in memory its weights are float32, as large as that is",
        ),
        (
            note("read_in_python", file="m.gguf", what=note("its_tokenizer_with_files", files="tokenizer.json")),
            "m.gguf: its tokenizer, with tokenizer.json beside it, is read by transformers in Python, which takes "
            "seconds for a large vocabulary",
        ),
        (
            note("tensors_under", file="x.bin", keys="module.state_dict", left_out=ALPHA),
            "x.bin: the tensors are under module.state_dict and are taken from there; left out: a, b, c, d, e …",
        ),
        (
            note("tensors_under", file="x.bin", keys="model", left_out=()),
            "x.bin: the tensors are under model and are taken from there",
        ),
        (
            note("tokens_beyond_model", count=2, known=896, tokens="<x> (896), <y> (897)"),
            "the tokenizer has 2 tokens beyond the 896 that the model knows, rejected in prompts: <x> (896), <y> (897)",
        ),
        (
            note("other_attention", missing=note("no_cuda_gpu"), used="sdpa"),
            "model.attention=flash_attention_2: there is no CUDA GPU, so sdpa is used",
        ),
        (
            note("unusual_rope", rope="native", adapter="pth", usual="rope_2d"),
            "rope=native: most pth adapters were trained with 2D RoPE, the default of the program that wrote them; if "
            "this one was, use rope=rope_2d",
        ),
        (
            note("layers_left", count=2, layers="a, b"),
            "2 square layers are not in the adapter and stay as they are: a, b",
        ),
        (
            note("angles_of_batch", length=64),
            "rope=dynamic: beyond 64 positions a row's angles depend on the longest row of its batch",
        ),
        (
            note("replaces_own_scaling", rope="yarn", factor=8.0, is_counted_anew=False, **OWN),
            "rope=yarn, factor 8, takes the place of the model's own llama3, factor 16 of 8,192 positions",
        ),
        (
            note("replaces_own_scaling", rope="linear", factor=2.0, is_counted_anew=True, **OWN),
            "rope=linear, factor 2, takes the place of the model's own llama3, factor 16 of 8,192 positions, and counts "
            "from the model's longest text, not from its pretraining",
        ),
        (
            note(
                "replaces_own_scaling", rope="yarn", factor=8.0, own="dynamic", own_factor=None, trained=None,
                is_counted_anew=False,
            ),
            "rope=yarn, factor 8, takes the place of the model's own dynamic",
        ),
        (
            note("publisher_samples", file="the .gguf file", settings="temperature 0.6"),
            "greedy, and the .gguf file samples (temperature 0.6): generation=model draws as it says, and "
            "generation=greedy,model task.samples=4 compares the two",
        ),
        (
            note("ignored_settings", file="the .gguf file", ignored={"mirostat": 2, "typ_p": 1.0}),
            "ignored from the .gguf file: mirostat=2, typ_p=1.0",
        ),
        (
            note(
                "kind_not_read", what="weights", found={"type": "int", "strategy": "block"},
                reads=note("reads_int_groups"),
            ),
            "its weights are type=int strategy=block, and the runner reads int by group or channel",
        ),
        (note("has_unread_key", key="sparsity_config"), "it has a sparsity_config, which the runner does not read"),
        (
            note(
                "algorithm_not_read", name="NVFP4_SVD", layer="a.b", why=note("narrow_matrices_beside"),
                known="FP8, NVFP4", mixed="MIXED_PRECISION",
            ),
            "quant_algo=NVFP4_SVD of a.b is not read: each layer has a product of two narrow matrices beside its codes "
            "(svdquant_lora_a). Read are FP8, NVFP4, and MIXED_PRECISION of these: use the original checkpoint, with "
            "quantization=nf4 or int8",
        ),
        (
            note("setting_not_read", key="version", value="gemv", known="gemm, GEMM"),
            "version='gemv': the runner reads gemm, GEMM",
        ),
        (
            note("no_head_tensors", reason=note("no_head"), begin="mtp."),
            "the model carries no head for several tokens (MTP): no tensors mtp.*",
        ),
        (
            note("draft_guesses", tokens=3, model=None, quantization="nf4", layers=4),
            "a draft guesses 3 tokens a step: the same model, quantization nf4, its first 4 layers",
        ),
        (
            note("draft_guesses", tokens=3, model="org/small", quantization=None, layers=None),
            "a draft guesses 3 tokens a step: org/small",
        ),
        (
            note("kv_with", stored=text_note("k8v4"), more=note("scale_of_head")),
            "k8v4, a float32 scale for each head and place",
        ),
        (
            note("added_in", how=note("merged_first"), dtype="float32"),
            "merged into the weights, which were then quantized, added in float32",
        ),
    ],
)  # fmt: skip
def test_a_note_is_worded(said: Note, text: str) -> None:
    assert render_engine_note(said) == text
