"""Message texts of the engine's notes and reasons, by message code."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.notes import Note
from runner_base.render.notes import Template, render_note


def render_engine_note(note: Note) -> str:
    return render_note(note, NOTES)


def _format_omitted_backend(way: str, is_attention: bool, how: str) -> str:
    return f"{way} disabled{' for attention' if is_attention else ''}: {how}"


def _format_slow_decoding(batching: str, reason: str, also: str | None) -> str:
    return f"decoding uses {batching} (slower): {reason}" + (f"; and {also}" if also else "")


def _format_unstable_activations(layers: Mapping[str, float], more: int, times: float) -> str:
    named = ", ".join(f"{name} {share:.0%}" for name, share in layers.items())
    others = f" and {more} more" if more else ""
    return (
        f"8-bit activations are inaccurate here: outliers over {times:.0f} times the typical value "
        f"round the others to 0 ({named}{others}). Log-probabilities vary with batching. If these "
        f"layers are quantized here, exclude them: quantization.skip=[{','.join(layers)}]"
    )


def _format_tensor_prefix(file: str, keys: str, left_out: tuple[str, ...]) -> str:
    others = f"; ignored: {', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}" if left_out else ""
    return f"{file}: the tensors are loaded from the key {keys}{others}"


def _format_replaced_rope_note(
    rope: str, factor: float, own: str, own_factor: float | None, trained: int | None, is_counted_anew: bool
) -> str:
    before = own if own_factor is None else f"{own}, factor {own_factor:g}"
    of_length = "" if trained is None else f" of {trained:,} positions"
    hint = (
        "; it scales from the model's maximum context length, not its pretraining length"
        if is_counted_anew
        else ""
    )
    return f"rope={rope} with factor {factor:g} replaces the model's own {before}{of_length}{hint}"


def _format_draft_description(
    tokens: int, model: str | None, quantization: str | None, layers: int | None
) -> str:
    parts = [
        (f"a draft model proposes {tokens} tokens per step: {'the same model' if model is None else model}")
    ]
    if quantization is not None:
        parts.append(f"quantization {quantization}")
    if layers is not None:
        parts.append(f"its first {layers} layers")
    return ", ".join(parts)


def _format_ignored_settings(file: str, ignored: Mapping[str, object]) -> str:
    return f"ignored settings from {file}: {', '.join(f'{key}={value}' for key, value in ignored.items())}"


def _format_unsupported_kind(what: str, found: Mapping[str, object], reads: str) -> str:
    kind = " ".join(f"{key}={value}" for key, value in found.items())
    return f"the {what} use {kind}, but the runner supports only {reads}"


def _format_unsupported_algorithm(name: str, layer: str, why: str | None, known: str, mixed: str) -> str:
    at, reason = f" of {layer}" if layer else "", f": {why}" if why else ""
    return (
        f"quant_algo={name}{at} is not supported{reason}. Supported: {known}, and {mixed} of these formats. "
        f"Instead, {INSTEAD}"
    )


INSTEAD = "use the original checkpoint with quantization=nf4 or int8"
NO_HEAD = "the checkpoint has no multi-token prediction (MTP) head"

# which way of several is used
OF_WAYS: dict[str, Template] = {
    "way_left_out": _format_omitted_backend,
    "ways_left_out": "{ways}",
    "forced_way_fails": "{variable}={way}: {problem}",
    "way_forced": "by {variable}",
    "way_unmeasured": "not timed: no user cache can store timings",
    "way_with_reasons": "{way} ({reasons})",
    "left_out": "{variable}={names}",
    "order_of_tiles": "order of AMX tiles, {by}{vectors}",
    "tiles_from_rows": "AMX tiles for {rows} or more activations, otherwise {vectors}",
    "panels": "packed blocks, by {vectors}",
    "onednn_packed": "oneDNN, packed",
    "torch_unpacked": "torch, not packed",
    "too_little_memory": "there is too little memory",
    "vnni": "VNNI",
    "attention_by_vectors": "vectors, {vectors}",
}

# why a kernel does not compute something
OF_KERNELS: dict[str, Template] = {
    "amx_left_out": "{variable} names amx",
    "tiles_unknown": "the compiler does not support AMX, or the processor lacks AVX-512 with bfloat16",
    "tiles_not_allowed": "the operating system forbids AMX, or the processor does not support AMX",
    "tiles_fail": "AMX instructions fail on this processor",
    "tiles_inexact": "AMX results differ from vector results in some bits on this processor",
    "keys_not_bfloat16": "AMX needs bfloat16 keys, but the keys are {dtype}",
    "weights_not_bfloat16": "AMX needs bfloat16 weights, but the weights are {dtype}",
    "heads_not_whole_tiles": "the head size {dim} is not a multiple of the tile width {width}",
    "attention_off": "attention of {tokens} tokens to {keys} keys has an error of {off:.2g}, relative to the "
    "largest value",
    "attention_bits_off": "attention of {tokens} tokens to {keys} keys differs in some bits from attention of single "
    "tokens",
    "own_attention_off": "attention of a token to its own keys has an error of {off:.2g}, relative to the "
    "largest value",
    "product_off": (
        "a matmul of {rows} activations with a {outputs} x {inputs} matrix has an error of "
        "{off:.2g}, relative to the largest value"
    ),
    "product_bits_off": "a matmul of {rows} activations with a {outputs} x {inputs} matrix differs in some "
    "bits from matmuls of single activations",
    "bytes_differ": (
        "int8 AMX matmuls of {rows} activations with a {outputs} x {inputs} matrix differ from the "
        "vector kernels"
    ),
    "outputs_off": "the outputs would have an error of {off:.2g}, relative to the largest output",
    "results_off": "the results would have an error of {off:.2g}, relative to the largest result",
    "packed_product_wrong": "this processor's packed matmul gives wrong results",
    "no_compiled_kernels": "there are no compiled kernels",
    "no_kernels": "the kernels need a C compiler, and none was found",
    "needs_compiler": "its kernels need a C compiler",
    "no_weight_fits_panels": "no weight fits the layout of packed blocks",
    "not_on_cpu": "the layer is not on the CPU",
    "too_many_inputs": "the layer has more than {most:,} inputs",
    "uneven_inputs": "the number of inputs is not a multiple of 8",
    "unknown_codes": "the kernels do not support the quantization codes",
    "other_bias_format": "the bias has a different dtype",
    "other_rows": "the activations are quantized differently",
    "other_packing": "the weights are packed differently",
    "other_storage": "the weights are stored differently",
    "other_sizes": "the number of inputs is not a multiple of 4, or that of outputs is not a multiple of {outputs}",
    "not_stored_as_int8": "the weights are not stored as int8",
    "products_not_bfloat16": "the matmuls do not use bfloat16",
    "blocks_across_rows": "some quantization blocks span several rows of the weight matrix",
    "trained_elsewhere_or_other_format": "the layer is in training mode, is not on the CPU, "
    "or has an unsupported dtype",
}

# what is computed more slowly than it could be
OF_SLOW_LAYERS: dict[str, Template] = {
    "slow_layers": "{instead}, which is slower: {reason}",
    "multiplied_by_library": "the quantization library multiplies {kind} layers",
    "multiplied_by_torch": "torch multiplies {what}",
    "blocks_multiplied_by_torch": "torch multiplies {kind} blocks",
    "slow_rounding": "torch quantizes the activations of {kind}, which is slower: {reason}",
    "slow_products": "{dtype} weights are not packed, so matmuls are slower: {problem}",
    "slow_experts": "transformers multiplies the experts, which is slower: {reason}",
    "adapted_whole_layer": "an adapter changes all experts of a layer at once (lora.merge=true avoids this)",
    "expert_formats_differ": "the experts' matrices have different dtypes",
    "expert_panels_not_filled": "the experts' matrices do not fill whole packed blocks",
    "expert_rows_format": "the kernels do not support the dtype of the experts' activations",
    "expert_rows_quantized_differently": "the experts' matrices quantize activations differently",
    "expert_sizes_differ": "the experts' matrices have incompatible sizes",
    "expert_weights_unknown": "the kernels do not support some expert weights",
    "gate_matrices_quantized_differently": "the gate and up matrices of the experts are quantized differently",
    "no_plain_parameter": "{name} is not an unquantized parameter on the CPU",
    "norm_after_expert": "a norm follows each expert",
    "other_gate_formula": "the kernels do not support the gate formula of the experts",
    "parameter_format_or_order": "{name} has an unsupported dtype or memory layout",
    "unstable_rows": _format_unstable_activations,
}

# why a model is not decoded in a stream, or slowly
OF_DECODING: dict[str, Template] = {
    "slow_family": (
        "small {family} models decode slowly on a CPU, at less than a quarter of the speed of other "
        "models: {reason}"
    ),
    "state_as_argument": "transformers decodes their prompts one at a time",
    "two_attentions_per_layer": "each layer has two attention blocks, which run operation by operation",
    "slow_decoding": _format_slow_decoding,
    "attention_requested": "model.attention={attention} does not support continuous batching",
    "attention_counts_tokens": "the model's attention depends on the number of tokens in a forward pass",
    "attention_elsewhere": "the model's attention bypasses transformers' attention interface",
    "attention_in_chunks": "the model's attention processes prompts in separate chunks",
    "attention_slides": "the attention window is {over} tokens, but {requested} were requested",
    "rope_changes": "the rotary embedding changes after {after} tokens, but {requested} were requested",
    "several_devices": "the model is spread over several devices",
    "shapes_differ": "the model's {layers} layers have {shapes} attention shapes, which cannot share one KV cache",
    "other_state": "the model stores state other than keys and values: {what}",
    "logits_off": "the logits would have an error of {off:.2g} standard deviations",
    "cache_not_filled": "the model does not write to the given KV cache",
    "wrong_with_padding": "with padding, {problem}",
    "padding_counted": "the model's attention would count padding tokens",
    "padding_seen": "the model's {layers} layers may attend to padding tokens",
}

# why a request ends in an error
OF_REQUESTS: dict[str, Template] = {
    "empty_prompt": "the prompt has no tokens. Give a prompt that is not empty",
    "prompt_too_long": "the prompt has {tokens} tokens, but {room}",
    "branch_too_long": (
        "the prompt and its longest branch have {tokens} tokens, but the model has room for {room}. "
        "Shorten one of them"
    ),
    "room": "the model has room for {tokens}{hint}",
    "empty_continuation": "the continuation has no tokens to score. Give a continuation that is not empty",
    "continuation_too_long": "the prompt and its continuation have {tokens} tokens, but {room}",
    "scores_unlike_tokens": (
        "score_token_ids has {entries} entries, but the continuation has {tokens} tokens. "
        "Give one entry for each token"
    ),
    "logits_not_numbers": "the model's logits are NaN. Its weights are damaged or overflow in this dtype. Try another "
    "model.dtype",
    "sampling_failed": (
        "sampling the next token failed with this request's settings. The log has the error. Other "
        "requests continue"
    ),
    "row_out_of_memory": "this request alone, with {tokens} tokens, needs more memory than is available",
    "grammar_left": "the answer violates its grammar: {reason}",
    "token_does_not_fit": "a token is not allowed",
    "no_text_fits": "no text matches the schema",
    "schema_too_complex": "the schema is too complex. Simplify patterns, ranges and alternatives",
}

# what was loaded otherwise than requested, or published
OF_LOADING: dict[str, Template] = {
    "no_gpu_after_all": "the job id assumes {dtype} on a GPU, but no GPU can be used",
    "slow_dtype": "the checkpoint's dtype {stored} is several times slower on a CPU, so the runner uses {used}",
    "absent_gpus": (
        "model.max_memory names {gpus}, which this machine does not have. The runner ignores that limit"
    ),
    "peak_not_reset": "load_peak_rss_mib counts from the start of the process: this system cannot reset the peak",
    "other_attention": "model.attention=flash_attention_2 is unavailable: {missing}. {used} is used",
    "no_cuda_gpu": "there is no CUDA GPU",
    "no_flash_attn": "the package flash_attn is not installed",
    "memory_short": "memory may run out: {need} MiB needed, {free} free (weights {weight_mib:,.0f} MiB, KV cache "
    "{kv_cache_mib:,.0f}, activations {activation_mib:,.0f}, libraries and copies the rest). "
    "Reduce generation.batch_size or generation.max_new_tokens",
    "spread_over_gpus": "model.device=auto model.device_map=auto (spreads the model over GPUs and RAM)",
    "checkpoint_quantized": "the checkpoint is already quantized ({form}) and is loaded unchanged",
    "unpacked_while_loading": "{file} ({types}) is dequantized while loading. In memory, the weights have the "
    "full size of {dtype}",
    "quantizes_only": "quantization={label} quantizes only {share}: {kinds} stay unquantized",
    "kv_scales_unused": "the KV cache stays in the model's dtype: the checkpoint's KV scales (8 bits or fewer) are "
    "ignored. For an int8 KV cache with its own scales, set generation.kv_cache=int8",
    "unused_tensors": "{model} does not use {tensors} of the checkpoint",
    "tensors_under": _format_tensor_prefix,
    "tokens_beyond_model": "the tokenizer has {count} tokens more than the model's {known}. "
    "Prompts with such tokens are rejected: {tokens}",
    "read_in_python": "{file}: transformers reads {what} in Python, which takes seconds for a large vocabulary",
    "its_architecture": "its architecture {name}",
    "its_tokenizer": "its tokenizer {kind}",
    "its_tokenizer_with_files": "its tokenizer, with {files} beside it,",
    "merged": "merged into the weights",
    "merged_first": "merged into the weights, then quantized",
    "quantized_first": "merged into the dequantized weights, then quantized again",
    "added_in": "{how}, added in {dtype}",
    "unusual_rope": "rope={rope}: most {adapter} adapters were trained with 2D RoPE. If this adapter was, use "
    "rope={usual}",
    "made_for_another_base": "the adapter was trained for {made_for}, but the loaded base model is {base}",
    "layers_left": "{count} square layers stay unchanged, because the adapter does not contain them: {layers}",
    "angles_of_batch": (
        "rope=dynamic: beyond {length} positions, a sequence's angles depend on the longest sequence "
        "in its batch"
    ),
    "replaces_own_scaling": _format_replaced_rope_note,
    "ignored_settings": _format_ignored_settings,
    "publisher_samples": "greedy decoding is used, but {file} recommends sampling ({settings}). Sample as recommended: "
    "generation=model. Compare both: generation=greedy,model task.samples=4",
}

# where settings come from, and how keys and values are stored and tokens guessed
OF_SETTINGS: dict[str, Template] = {
    "as_given": "as given",
    "from_file": "from {file}",
    "from_transformers": "transformers' default, because the file sets no value",
    "not_in_gguf": "off, because the .gguf file sets no value",
    "usual_length": "the runner's default length, because the file sets none",
    "kv_with": "{stored}, {more}",
    "rotated": "rotated",
    "scale_of_head": "a float32 scale for each head and position",
    "scale_of_numbers": "a bfloat16 scale for each 32 values of a head",
    "first_tokens": "the first {count} tokens of a sequence in the model's dtype",
    "own_head_guesses": "the model's MTP head proposes {tokens} tokens per step",
    "followed_before": "the n-gram drafter proposes up to {tokens} tokens per step",
    "draft_guesses": _format_draft_description,
}

# why an adapter is refused
OF_ADAPTERS: dict[str, Template] = {
    "adapter_after_tokens": "the adapter acts only after certain tokens",
    "adapters_by_token": "each token selects an adapter",
    "adapter_removes_weights": "the adapter removes a part of the base model's weights",
    "adapter_adds_layers": "the adapter adds layers to the model",
    "adapter_of_megatron": "the adapter is made for Megatron layers",
    "adapter_drawn_anew": "the adapter's matrices are sampled at random",
    "adapter_in_blocks": "the adapter's matrices are block-diagonal",
    "adapter_of_means": "the adapter averages its inputs in groups",
    "adapter_of_projections": "the adapter projects its inputs first",
    "adapter_scales_layer": "the adapter's magnitudes rescale the base layer's output (DoRA)",
    "adapter_exchanges_modules": "the adapter replaces whole modules",
    "adapter_exchanges_biases": "the adapter replaces the model's biases",
    "adapter_exchanges_embedding": "the adapter replaces embedding entries",
    "adapter_adds_to_parameters": "the adapter changes individual parameters, for example those of all experts",
    "adapter_adds_biases": "the adapter adds biases",
}

# why a model's own head cannot guess tokens
OF_HEADS: dict[str, Template] = {
    "no_head": NO_HEAD,
    "no_head_counted": NO_HEAD + ": its config.json sets none of {keys} above 0",
    "no_head_tensors": "{reason}: no tensors {begin}*",
    "head_missing": "config.json sets {counts}, but the files contain no MTP head",
    "several_heads": "config.json sets {counts}, but only models with one MTP head are supported",
    "head_in_bin": "MTP heads are supported only in .safetensors files",
    "head_in_gguf": "MTP heads in .gguf files are not supported",
    "head_of_other_family": "MTP heads of {family} are not supported. Supported: {known}",
    "head_quantized": "the model's MTP head is stored quantized ({tensor}), which is not supported",
}

# why a checkpoint that is quantized already is not read
OF_CHECKPOINTS: dict[str, Template] = {
    "needs_package": "in transformers 5.23, this format needs the package {package}, which the runner does "
    "not support",
    "needs_quanto": "in transformers 5.23, this format needs the package optimum-quanto, last released in "
    "March 2025",
    "needs_mps": "in transformers 5.23, this format needs Apple's GPUs (torch with MPS)",
    "on_gpu_only": "transformers 5.23 loads this format only on a GPU",
    "no_quantized_checkpoint": "transformers 5.23 cannot load checkpoints that are stored in this format",
    "no_algorithm": "the checkpoint sets no quant_algo. Instead, " + INSTEAD,
    "no_quantized_layers": "quant_algo={algorithm} needs quantized_layers, which names each layer's format. Instead, "
    + INSTEAD,
    "algorithm_not_read": _format_unsupported_algorithm,
    "inputs_scaled": "the layers scale inputs before the matmul (pre_quant_scale)",
    "inputs_scaled_before_4_bits": "the layers scale inputs before the 4-bit matmul (pre_quant_scale)",
    "narrow_matrices_beside": "each layer adds a low-rank matmul to its quantized weights (svdquant_lora_a)",
    "setting_not_read": "{key}={value!r}: the runner supports only {known}",
    "bad_block_size": "weight_block_size={value!r} must be null or two integers from 1 to {most}",
    "bad_group_size": "group_size={value!r} must be null or an integer of at least 1",
    "bad_group_or_block": "the weights have group_size={group} block_structure={block}",
    "other_axis": "axis={value!r}: the runner supports only groups along inputs (axis=1)",
    "codes_as_floats": "the runner does not support view_as_float or channel_wise=false",
    "quantized_online": "quantization_mode={value!r}: the runner supports only offline (packed weights)",
    "norm_in_layers": "use_rms_norm={value}: the runner does not support layers that contain a norm",
    "rows_of_fewer_bits": "act_bits={bits}: the runner supports only checkpoints with unquantized activations",
    "group_without_weights": "each of the config_groups needs `weights`",
    "groups_differ": (
        "layer groups have different settings, but the runner supports only one setting for all groups"
    ),
    "rows_of_groups_differ": (
        "layer groups quantize activations differently, but the runner supports only one "
        "setting for all groups"
    ),
    "rows_no_object": "input_activations={rows!r} must be a JSON object",
    "rows_quantized_too": "activations are quantized, but the runner supports only quantized weights (W4A16)",
    "outputs_quantized": "outputs are quantized, which the runner does not support",
    "has_unread_key": "the checkpoint sets {key}, which the runner does not support",
    "kind_not_read": _format_unsupported_kind,
    "reads_int8_weights": "symmetric 8-bit integers per channel or tensor",
    "reads_int8_rows": "8-bit integers, dynamic per token and symmetric, or static per tensor",
    "reads_int_groups": "integers per group or channel",
    "reads_float8_weights": "symmetric 8-bit floats per channel, tensor, group or block",
    "reads_float8_rows": "symmetric 8-bit floats, dynamic per token or group, or static per tensor",
    "reads_float4_groups": "symmetric 4-bit floats in groups of {group}",
    "reads_local_float4": "4-bit floats in groups of 16 with dynamic=local",
}

# what is wrong with the numbers of a tensor
OF_TENSORS: dict[str, Template] = {
    "scale_not_finite": "a scale is not finite",
    "scale_not_positive": "a scale is not above 0",
    "layer_scale_not_positive": "the layer's scale is not a finite number above 0",
    "weight_not_finite": "a dequantized weight would not be finite",
    "weight_not_number": "a weight is NaN",
    "zero_point_not_finite": "a zero point is not finite",
    "zero_point_of_symmetric": "symmetric weights must have zero points of 0",
    "code_without_weight": "a code is 3, but only 0, 1 and 2 are valid",
    "no_such_group": "an input refers to group {group}, but there are only {groups} groups",
    "other_shape": "{stored}, but the layer needs {shape}",
    "other_value": "{stored}, but {expected} expected",
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
