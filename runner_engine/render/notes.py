"""Texts of the engine's notes and reasons, by code."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.notes import Note
from runner_base.render.notes import Template, render_note


def render_engine_note(note: Note) -> str:
    """Return a note of the engine as text."""
    return render_note(note, NOTES)


def _format_omitted_backend(way: str, is_attention: bool, how: str) -> str:
    return f"{way} left out{' of attention' if is_attention else ''}: {how}"


def _format_slow_decoding(batching: str, reason: str, also: str | None) -> str:
    return f"decoding uses {batching} (slower): {reason}" + (f"; and {also}" if also else "")


def _format_unstable_activations(layers: Mapping[str, float], more: int, times: float) -> str:
    named = ", ".join(f"{name} {share:.0%}" for name, share in layers.items())
    others = f" and {more} more" if more else ""
    return (
        f"rows rounded to 8 bits are unstable here: a few numbers are over {times:.0f} times as large as most of "
        f"their row, which become 0 ({named}{others}). So log-probabilities change with how passes are split; of "
        f"layers that are quantized here, quantization.skip=[{','.join(layers)}] leaves these as they are"
    )


def _format_tensor_prefix(file: str, keys: str, left_out: tuple[str, ...]) -> str:
    others = f"; left out: {', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}" if left_out else ""
    return f"{file}: the tensors are under {keys} and are taken from there{others}"


def _format_replaced_rope(
    rope: str, factor: float, own: str, own_factor: float | None, trained: int | None, is_counted_anew: bool
) -> str:
    before = own if own_factor is None else f"{own}, factor {own_factor:g}"
    of_length = "" if trained is None else f" of {trained:,} positions"
    hint = ", and counts from the model's longest text, not from its pretraining" if is_counted_anew else ""
    return f"rope={rope}, factor {factor:g}, takes the place of the model's own {before}{of_length}{hint}"


def _format_draft(tokens: int, model: str | None, quantization: str | None, layers: int | None) -> str:
    parts = [f"a draft guesses {tokens} tokens a step: {'the same model' if model is None else model}"]
    if quantization is not None:
        parts.append(f"quantization {quantization}")
    if layers is not None:
        parts.append(f"its first {layers} layers")
    return ", ".join(parts)


def _format_ignored_settings(file: str, ignored: Mapping[str, object]) -> str:
    return f"ignored from {file}: {', '.join(f'{key}={value}' for key, value in ignored.items())}"


def _format_unsupported_kind(what: str, found: Mapping[str, object], reads: str) -> str:
    kind = " ".join(f"{key}={value}" for key, value in found.items())
    return f"its {what} are {kind}, and the runner reads {reads}"


def _format_unsupported_algorithm(name: str, layer: str, why: str | None, known: str, mixed: str) -> str:
    at, reason = f" of {layer}" if layer else "", f": {why}" if why else ""
    return f"quant_algo={name}{at} is not read{reason}. Read are {known}, and {mixed} of these: {INSTEAD}"


INSTEAD = "use the original checkpoint, with quantization=nf4 or int8"
NO_HEAD = "the model carries no head for several tokens (MTP)"

# which way of several is used
OF_WAYS: dict[str, Template] = {
    "way_left_out": _format_omitted_backend,
    "ways_left_out": "{ways}",
    "forced_way_fails": "{variable}={way}: {problem}",
    "way_forced": "by {variable}",
    "way_unmeasured": "not measured, since no folder keeps it",
    "way_with_reasons": "{way} ({reasons})",
    "left_out": "{variable}={names}",
    "order_of_tiles": "in the order of tiles, {by}{vectors}",
    "tiles_from_rows": "tiles from {rows} rows, {vectors} below",
    "panels": "panels, by {vectors}",
    "onednn_packed": "oneDNN, packed",
    "torch_unpacked": "torch, not packed",
    "too_little_memory": "there is too little memory",
    "vnni": "VNNI",
    "attention_by_vectors": "vectors, {vectors}",
}

# why a kernel does not compute something
OF_KERNELS: dict[str, Template] = {
    "amx_left_out": "{variable} names amx",
    "tiles_unknown": "the compiler does not know tiles, or the processor has no AVX-512 with bfloat16",
    "tiles_not_allowed": "this system does not let a process use tiles, or the processor has none",
    "tiles_fail": "the instructions of tiles fail on this processor",
    "tiles_inexact": "tiles are off by some bits on this processor",
    "keys_not_bfloat16": "tiles multiply bfloat16, and these keys are {dtype}",
    "weights_not_bfloat16": "tiles multiply bfloat16, and these weights are {dtype}",
    "heads_not_whole_tiles": "heads of {dim} numbers are not whole tiles of {width}",
    "attention_off": "attention of {tokens} tokens to {keys} keys is off by {off:.2g} of the largest number",
    "attention_bits_off": "attention of {tokens} tokens to {keys} keys is off by some bits from that of each token "
    "alone",
    "own_attention_off": "attention of a token to its own keys is off by {off:.2g} of the largest number",
    "product_off": "its product of {rows} rows by {outputs} x {inputs} is off by {off:.2g} of the largest number",
    "product_bits_off": "its product of {rows} rows by {outputs} x {inputs} is off by some bits from that of each "
    "row alone",
    "bytes_differ": "products of {rows} rows in bytes by {outputs} x {inputs} differ from those by vectors",
    "outputs_off": "the outputs would be off by {off:.2g} of the largest",
    "results_off": "the results would be off by {off:.2g} of the largest",
    "packed_product_wrong": "this processor's packed product is wrong",
    "no_compiled_kernels": "there are no compiled kernels",
    "no_kernels": "there are no kernels: they need a C compiler",
    "needs_compiler": "its kernels need a C compiler",
    "no_weight_fits_panels": "no weight fits in panels",
    "not_on_cpu": "it is not on the CPU",
    "too_many_inputs": "it has more than {most:,} inputs",
    "uneven_inputs": "its inputs are not a multiple of 8",
    "unknown_codes": "its codes stand for values that the kernels do not know",
    "other_bias_format": "its bias has another number format",
    "other_rows": "its rows are quantized in another way",
    "other_packing": "its weights are packed in another way",
    "other_storage": "its weights are stored in another way",
    "other_sizes": "its sizes are not multiples of 4 and {outputs}",
    "not_stored_as_int8": "its weights are not stored as int8",
    "products_not_bfloat16": "its products are not in bfloat16",
    "blocks_across_rows": "its blocks are not parts of its rows",
    "trained_elsewhere_or_other_format": "it is being trained, not on the CPU, or in another number format",
}

# what is computed more slowly than it could be
OF_SLOW_LAYERS: dict[str, Template] = {
    "slow_layers": "{instead}, which is slower: {reason}",
    "multiplied_by_library": "{kind} is multiplied by its library's own function",
    "multiplied_by_torch": "{what} is multiplied by torch",
    "blocks_multiplied_by_torch": "{kind} blocks are multiplied by torch",
    "slow_rounding": "rows of {kind} are rounded by torch, which is slower: {reason}",
    "slow_products": "{dtype} weights are not packed, which makes products slower: {problem}",
    "slow_experts": "the experts are multiplied by the family's own function, which is slower: {reason}",
    "adapted_whole_layer": "an adapter adds to all of a layer at once (lora.merge=true: to none in a pass)",
    "expert_formats_differ": "their matrices differ in their number format",
    "expert_panels_not_filled": "their matrices do not fill whole panels",
    "expert_rows_format": "their rows have another number format",
    "expert_rows_quantized_differently": "the rows of their matrices are quantized in different ways",
    "expert_sizes_differ": "their matrices do not fit together",
    "expert_weights_unknown": "the weights of some are of a kind that the kernels do not read",
    "experts_get_all_rows": "they get all rows",
    "gate_matrices_quantized_differently": "the two matrices of a gate are quantized differently",
    "no_plain_parameter": "{name} is no plain parameter on the CPU",
    "norm_after_expert": "there is a norm after each expert",
    "other_gate_formula": "their gate is computed by another formula",
    "parameter_format_or_order": "{name} has another number format or order",
    "unstable_rows": _format_unstable_activations,
}

# why a model is not decoded in a stream
OF_DECODING: dict[str, Template] = {
    "slow_decoding": _format_slow_decoding,
    "attention_requested": "model.attention={attention} was requested",
    "attention_counts_tokens": "its attention counts the tokens of a pass",
    "attention_elsewhere": "its attention does not go through transformers' interface",
    "attention_in_chunks": "its attention sees one chunk of a text at a time",
    "attention_slides": "its attention slides over {over} tokens, and {requested} were requested",
    "rope_changes": "its rotary embedding changes after {after} tokens, and {requested} were requested",
    "several_devices": "it is spread over several devices",
    "shapes_differ": "its {layers} layers attend in {shapes} shapes that cannot be combined",
    "other_state": "it keeps other state than keys and values: {what}",
    "logits_off": "its logits would be off by {off:.2g} of their spread",
    "cache_not_filled": "it does not fill the cache that it is given",
    "wrong_with_padding": "with padding, {problem}",
    "padding_counted": "its attention would count it",
    "padding_seen": "its layers of {layers} may see it",
}

# why a request ends in an error
OF_REQUESTS: dict[str, Template] = {
    "empty_prompt": "the prompt is empty: it has no tokens",
    "prompt_too_long": "the prompt has {tokens} tokens, {room}",
    "branch_too_long": "the prompt with its longest branch has {tokens} tokens, the model has room for {room}",
    "room": "the model has room for {tokens}{hint}",
    "empty_continuation": "the continuation has no tokens, so there is nothing to score",
    "continuation_too_long": "the prompt and its continuation have {tokens} tokens, {room}",
    "scores_unlike_tokens": "score_token_ids has {entries} entries, but the continuation has {tokens} tokens",
    "logits_not_numbers": "the model's logits are not numbers (NaN): its weights are damaged, or overflow in this "
    "dtype",
    "sampling_failed": "its next token could not be sampled with its settings, see the log: other rows go on",
    "row_out_of_memory": "out of memory with its {tokens} tokens alone",
    "grammar_left": "the answer left its grammar: {reason}",
    "token_does_not_fit": "a token does not fit",
    "no_text_fits": "no text fits its schema",
    "schema_too_complex": "its schema is too complex: simplify its patterns, ranges and alternatives",
}

# what was loaded otherwise than requested, or published
OF_LOADING: dict[str, Template] = {
    "no_gpu_after_all": "no GPU can be used after all, but the job was identified with {dtype}",
    "slow_dtype": "the checkpoint is {stored}, several times slower on a CPU: {used} is used",
    "absent_gpus": "model.max_memory names {gpus}, which this machine does not have: that limit is ignored",
    "peak_not_reset": "this system cannot reset the high-water mark: load_peak_rss_mib counts from the start of the "
    "process",
    "other_attention": "model.attention=flash_attention_2: {missing}, so {used} is used",
    "no_cuda_gpu": "there is no CUDA GPU",
    "no_flash_attn": "the package flash_attn is not installed",
    "memory_short": "memory is short: {need} MiB are predicted, {weight_mib:,.0f} MiB of weights, "
    "{kv_cache_mib:,.0f} MiB of KV cache, {activation_mib:,.0f} MiB of activations, and the rest for libraries and "
    "copies; {free} are free: a smaller generation.batch_size or generation.max_new_tokens needs less",
    "spread_over_gpus": "model.device=auto model.device_map=auto (spreads it over GPUs and main memory)",
    "checkpoint_quantized": "the checkpoint itself is quantized, {form}, and loaded as it is",
    "unpacked_while_loading": "{file} ({types}) is unpacked while loading: in memory its weights are {dtype}, as "
    "large as that is",
    "quantizes_only": "quantization={label} quantizes only {share}: {kinds} stay as they are",
    "kv_scales_unused": "the checkpoint has scales for keys and values in 8 bits or fewer, which are not used: they "
    "stay in the model's number format (generation.kv_cache=int8 keeps them in 8 bits, with scales of their own)",
    "unused_tensors": "{model} has no use for {tensors} of the checkpoint",
    "tensors_under": _format_tensor_prefix,
    "tokens_beyond_model": "the tokenizer has {count} tokens beyond the {known} that the model knows, rejected in "
    "prompts: {tokens}",
    "read_in_python": "{file}: {what} is read by transformers in Python, which takes seconds for a large vocabulary",
    "its_architecture": "its architecture {name}",
    "its_tokenizer": "its tokenizer {kind}",
    "its_tokenizer_with_files": "its tokenizer, with {files} beside it,",
    "merged": "merged into the weights",
    "merged_first": "merged into the weights, which were then quantized",
    "quantized_first": "merged into the quantized weights, which were unpacked and quantized again",
    "added_in": "{how}, added in {dtype}",
    "unusual_rope": "rope={rope}: most {adapter} adapters were trained with 2D RoPE, the default of the program that "
    "wrote them; if this one was, use rope={usual}",
    "made_for_another_base": "the adapter was made for {made_for}, the loaded base is {base}",
    "layers_left": "{count} square layers are not in the adapter and stay as they are: {layers}",
    "angles_of_batch": "rope=dynamic: beyond {length} positions a row's angles depend on the longest row of its batch",
    "replaces_own_scaling": _format_replaced_rope,
    "ignored_settings": _format_ignored_settings,
    "publisher_samples": "greedy, and {file} samples ({settings}): generation=model draws as it says, and "
    "generation=greedy,model task.samples=4 compares the two",
}

# where settings come from, and how keys and values are stored and tokens guessed
OF_SETTINGS: dict[str, Template] = {
    "as_given": "as given",
    "from_file": "from {file}",
    "from_transformers": "transformers' default, as the file does not name it",
    "not_in_gguf": "off, as the .gguf file does not name it",
    "usual_length": "the usual length here, as the file does not name one",
    "kv_with": "{stored}, {more}",
    "rotated": "rotated",
    "scale_of_head": "a float32 scale for each head and place",
    "scale_of_numbers": "a bfloat16 scale for each 32 numbers of a head",
    "first_tokens": "the first {count} tokens of a text as the model's",
    "own_head_guesses": "the model's own head (MTP) guesses {tokens} tokens a step",
    "followed_before": "up to {tokens} tokens a step, that followed the same ones before",
    "draft_guesses": _format_draft,
}

# why an adapter is refused
OF_ADAPTERS: dict[str, Template] = {
    "adapter_after_tokens": "it acts only on tokens after certain others",
    "adapters_by_token": "it chooses among several adapters for each token",
    "adapter_removes_weights": "it removes a part of the model's own weights",
    "adapter_adds_layers": "it makes a model of more layers",
    "adapter_of_megatron": "its layers are those of Megatron",
    "adapter_drawn_anew": "its matrices are drawn anew",
    "adapter_in_blocks": "its matrices are blocks",
    "adapter_of_means": "its inputs are means of groups",
    "adapter_of_projections": "its inputs are projected",
    "adapter_scales_layer": "its magnitudes scale what the layer itself computes (DoRA)",
    "adapter_exchanges_modules": "it exchanges whole modules",
    "adapter_exchanges_biases": "it exchanges the model's biases",
    "adapter_exchanges_embedding": "it exchanges rows of the embedding",
    "adapter_adds_to_parameters": "it adds to parameters, such as those of all experts",
    "adapter_adds_biases": "it adds biases",
}

# why a model's own head cannot guess tokens
OF_HEADS: dict[str, Template] = {
    "no_head": NO_HEAD,
    "no_head_counted": NO_HEAD + ": its config.json has none of {keys} above 0",
    "no_head_tensors": "{reason}: no tensors {begin}*",
    "head_missing": "config.json says {counts}, and the files have no such head",
    "several_heads": "config.json says {counts}, and models with one head alone are supported",
    "head_in_bin": "the heads for several tokens (MTP) are read from .safetensors files alone",
    "head_in_gguf": "the heads for several tokens (MTP) of .gguf files are not read",
    "head_of_other_family": "heads for several tokens (MTP) of {family} are not supported, those of {known} are",
    "head_quantized": "the model's own head is stored quantized ({tensor}), which is not read",
}

# why a checkpoint that is quantized already is not read
OF_CHECKPOINTS: dict[str, Template] = {
    "needs_package": "transformers 5.23 needs the package {package} for it, which the runner does not use",
    "needs_quanto": "transformers 5.23 needs the package optimum-quanto for it, whose last release is of March 2025",
    "needs_mps": "transformers 5.23 needs a torch with MPS for it, Apple's GPUs",
    "on_gpu_only": "transformers 5.23 loads it on a GPU only",
    "no_quantized_checkpoint": "transformers 5.23 loads no checkpoint that is quantized with it already",
    "no_algorithm": "its settings name no quant_algo: " + INSTEAD,
    "no_quantized_layers": "quant_algo={algorithm} without quantized_layers, which would say what each layer is: "
    + INSTEAD,
    "algorithm_not_read": _format_unsupported_algorithm,
    "inputs_scaled": "its inputs are scaled before they are multiplied (pre_quant_scale)",
    "inputs_scaled_before_4_bits": "its inputs are scaled before they are multiplied by integers of 4 bits "
    "(pre_quant_scale)",
    "narrow_matrices_beside": "each layer has a product of two narrow matrices beside its codes (svdquant_lora_a)",
    "setting_not_read": "{key}={value!r}: the runner reads {known}",
    "bad_block_size": "weight_block_size={value!r}: two whole numbers from 1 to {most} expected, or null",
    "bad_group_size": "group_size={value!r}: a whole number from 1, or null, expected",
    "bad_group_or_block": "its weights have group_size={group} block_structure={block}",
    "other_axis": "axis={value!r}: the runner reads groups along inputs (axis=1)",
    "codes_as_floats": "view_as_float or channel_wise=false: the runner reads codes as integers, with scales of groups",
    "quantized_online": "quantization_mode={value!r}: the runner reads offline, whose weights are packed",
    "norm_in_layers": "use_rms_norm={value}: the runner reads layers without a norm of their own",
    "rows_of_fewer_bits": "act_bits={bits}: the runner reads checkpoints whose weights alone are quantized",
    "group_without_weights": "each of its config_groups needs `weights`",
    "groups_differ": "its groups of layers have different settings, and the runner reads one for all",
    "rows_of_groups_differ": "its groups of layers quantize rows in different ways, and the runner reads one for all",
    "rows_no_object": "input_activations={rows!r}: a JSON object expected",
    "rows_quantized_too": "its rows are quantized, too, and the runner reads weights alone in this format (W4A16)",
    "outputs_quantized": "its outputs are quantized, too, which the runner does not read",
    "has_unread_key": "it has a {key}, which the runner does not read",
    "kind_not_read": _format_unsupported_kind,
    "reads_int8_weights": "symmetric int of 8 bits by channel or tensor",
    "reads_int8_rows": "int of 8 bits, dynamic by token and symmetric, or static by tensor",
    "reads_int_groups": "int by group or channel",
    "reads_float8_weights": "symmetric float of 8 bits by channel, tensor, group or block",
    "reads_float8_rows": "symmetric float of 8 bits, dynamic by token or group, or static by tensor",
    "reads_float4_groups": "symmetric float of 4 bits in groups of {group}",
    "reads_local_float4": "float of 4 bits, local, in groups of 16",
}

# what is wrong with the numbers of a tensor
OF_TENSORS: dict[str, Template] = {
    "scale_not_finite": "a scale is not a finite number",
    "scale_not_positive": "a scale is not above 0",
    "layer_scale_not_positive": "the scale of the layer is not a finite number above 0",
    "weight_not_finite": "a weight would not be a finite number",
    "weight_not_number": "a weight is not a number (NaN)",
    "zero_point_not_finite": "a zero point is not a finite number",
    "zero_point_of_symmetric": "symmetric weights have zero points of 0",
    "code_without_weight": "a code of 3 stands for no weight: they are 0, 1 and 2",
    "no_such_group": "an input is in group {group}, and there are {groups}",
    "other_shape": "{stored}, and the layer is {shape}",
    "other_value": "{stored}, and {expected} expected",
}

NOTES: dict[str, Template] = {
    **OF_WAYS,
    **OF_KERNELS,
    **OF_SLOW_LAYERS,
    **OF_DECODING,
    **OF_REQUESTS,
    **OF_LOADING,
    **OF_SETTINGS,
    **OF_ADAPTERS,
    **OF_HEADS,
    **OF_CHECKPOINTS,
    **OF_TENSORS,
}
