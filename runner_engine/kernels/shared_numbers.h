/* The numbers that C and Python both rely on. native.py compares all of them with Python's (shared_numbers.py) when the
   library is loaded: where one differs, the two would read each other's memory wrongly. */

typedef struct {
  const char *name; /* 0 after the last one */
  int64_t number;
} shared_number;

#define SIZE(type) {"sizeof " #type, sizeof(type)}
#define AT(type, field) {#type "." #field, offsetof(type, field)}
#define CONSTANT(name) {#name, name}

const shared_number shared_numbers[] = {
    CONSTANT(LANES), CONSTANT(CACHE_LINE), CONSTANT(MAX_GROUP), CONSTANT(MAX_DIM), CONSTANT(SCALE_BYTES),
    CONSTANT(PRODUCT_PHASES), CONSTANT(LAYER_PHASES), SIZE(phase),
    CONSTANT(PLAIN), CONSTANT(FOUR_BIT), CONSTANT(ROW_INT8), CONSTANT(WEIGHT_INT8),
    CONSTANT(INT8_DYNAMIC), CONSTANT(BLOCKS), CONSTANT(GROUPS), CONSTANT(INT8_STORED), CONSTANT(BYTE_BLOCKS), CONSTANT(BYTE_GROUPS),
    CONSTANT(FOUR_BIT_ROWS), CONSTANT(PLAIN_ROWS), CONSTANT(EXPERT_PHASES), CONSTANT(EXPERT_MATRICES),
#ifdef HAS_AVX512_VNNI
    CONSTANT(THREAD_BUFFER_BYTES), CONSTANT(SHIFT),
#endif
    CONSTANT(NO_TOKENS), CONSTANT(WRONG_HEADS), CONSTANT(WRONG_TOKEN_ID), CONSTANT(WRONG_POSITION),
    CONSTANT(WRONG_SLOT), CONSTANT(WRONG_PLACE), CONSTANT(WRONG_SEEN), CONSTANT(WRONG_FIRST), CONSTANT(WRONG_KEPT),
    CONSTANT(WRONG_PART), CONSTANT(WRONG_PART_TOKEN), CONSTANT(WRONG_PART_ROW),
    CONSTANT(WRONG_MATRIX), CONSTANT(SMALL_WORKSPACE), CONSTANT(NO_MEMORY), CONSTANT(MISSING_UNIT), CONSTANT(WRONG_EXPERT),
    CONSTANT(WRONG_STATE_SLOT), CONSTANT(WRONG_SEGMENT), CONSTANT(STATE_LANES), CONSTANT(MAX_CONVOLVED),
    CONSTANT(CHANNEL_TILE), CONSTANT(STATE_TILE), CONSTANT(ROUND_TOKENS),
    SIZE(conv_layer), AT(conv_layer, weight), AT(conv_layer, bias), AT(conv_layer, channels), AT(conv_layer, kernel),
    AT(conv_layer, has_silu),
    SIZE(heads_layer), AT(heads_layer, conv), AT(heads_layer, step_bias), AT(heads_layer, decay),
    AT(heads_layer, skip), AT(heads_layer, norm), AT(heads_layer, heads), AT(heads_layer, width), AT(heads_layer, size),
    AT(heads_layer, groups), AT(heads_layer, norm_groups), AT(heads_layer, norm_before_gate), AT(heads_layer, epsilon),
    AT(heads_layer, least_step), AT(heads_layer, most_step),
    CONSTANT(MAX_KEY_DIM), CONSTANT(GATE_BY_SILU), CONSTANT(GATE_BY_SIGMOID),
    SIZE(delta_layer), AT(delta_layer, key_heads), AT(delta_layer, heads), AT(delta_layer, key_dim),
    AT(delta_layer, value_dim), AT(delta_layer, decays), AT(delta_layer, norm), AT(delta_layer, epsilon),
    AT(delta_layer, gate),
    SIZE(channels_layer), AT(channels_layer, decay), AT(channels_layer, skip), AT(channels_layer, step_bias),
    AT(channels_layer, channels), AT(channels_layer, size), AT(channels_layer, groups),
    CONSTANT(TEMPERATURE), CONSTANT(TOP_P), CONSTANT(TOP_K), CONSTANT(MIN_P), CONSTANT(REPETITION_PENALTY),
    CONSTANT(FREQUENCY_PENALTY), CONSTANT(PRESENCE_PENALTY),
    SIZE(kv_arena), AT(kv_arena, keys), AT(kv_arena, values), AT(kv_arena, capacity),
    SIZE(matrix), AT(matrix, weight), AT(matrix, bias), AT(matrix, outputs), AT(matrix, kind), AT(matrix, scale),
    AT(matrix, constants), AT(matrix, block), AT(matrix, threshold), AT(matrix, row_scale), AT(matrix, scale_divisor),
    AT(matrix, tile_rows),
    AT(matrix, bits), AT(matrix, scale_type), AT(matrix, zero_point), AT(matrix, code_type),
    CONSTANT(INTEGERS), CONSTANT(TABLE), CONSTANT(E4M3),
    CONSTANT(RMS_IN_STEPS), CONSTANT(RMS_AT_ONCE), CONSTANT(LAYER_NORM), CONSTANT(ROPE_TABLES),
    CONSTANT(SILU_IN_PRODUCT), CONSTANT(SILU), CONSTANT(GELU), CONSTANT(TANH_GELU), CONSTANT(RELU), CONSTANT(SQUARED_RELU),
    SIZE(fused_norm), AT(fused_norm, weight), AT(fused_norm, bias), AT(fused_norm, kind), AT(fused_norm, epsilon),
    AT(fused_norm, unused),
    SIZE(fused_model), AT(fused_model, layers), AT(fused_model, hidden), AT(fused_model, inner),
    AT(fused_model, kv_heads), AT(fused_model, group), AT(fused_model, dim), AT(fused_model, is_quantized),
    AT(fused_model, has_int8_kv),
    AT(fused_model, embedding_rows), AT(fused_model, positions),
    AT(fused_model, attention_tile_rows), AT(fused_model, rotated), AT(fused_model, is_interleaved),
    AT(fused_model, gates), AT(fused_model, has_halves), AT(fused_model, embedding_scale),
    AT(fused_model, residual_scale), AT(fused_model, logit_scale), AT(fused_model, logit_cap),
    AT(fused_model, embedding), AT(fused_model, cos), AT(fused_model, sin), AT(fused_model, norm),
    AT(fused_model, head),
    SIZE(fused_layer), AT(fused_layer, norm_in), AT(fused_layer, norm_mid), AT(fused_layer, after_attention),
    AT(fused_layer, after_mlp), AT(fused_layer, norm_q), AT(fused_layer, norm_k), AT(fused_layer, sinks),
    AT(fused_layer, scale), AT(fused_layer, cap), AT(fused_layer, rope), AT(fused_layer, window),
    AT(fused_layer, norms_all_heads), AT(fused_layer, is_parallel), AT(fused_layer, qkv_count),
    AT(fused_layer, gated_count), AT(fused_layer, activation), AT(fused_layer, has_gate),
    AT(fused_layer, mlp_apart),
    AT(fused_layer, qkv), AT(fused_layer, out), AT(fused_layer, gated), AT(fused_layer, down),
    SIZE(expert_set), AT(expert_set, experts), AT(expert_set, chosen), AT(expert_set, hidden), AT(expert_set, inner),
    AT(expert_set, activation), AT(expert_set, has_gate), AT(expert_set, needs_workspace), AT(expert_set, alpha),
    AT(expert_set, limit), AT(expert_set, shift), AT(expert_set, matrices), SIZE(expert_product),
    SIZE(shared_part), AT(shared_part, arena), AT(shared_part, sees), AT(shared_part, causal), AT(shared_part, chosen),
    AT(shared_part, first), AT(shared_part, tokens), AT(shared_part, row_of), AT(shared_part, from),
    SIZE(fused_tokens), AT(fused_tokens, arenas), AT(fused_tokens, slots), AT(fused_tokens, tokens),
    AT(fused_tokens, ids), AT(fused_tokens, positions), AT(fused_tokens, slot), AT(fused_tokens, place),
    AT(fused_tokens, seen), AT(fused_tokens, is_step), AT(fused_tokens, kept), AT(fused_tokens, keep),
    AT(fused_tokens, parts), AT(fused_tokens, part), AT(fused_tokens, workspace), AT(fused_tokens, logits),
    AT(fused_tokens, workspace_bytes), AT(fused_tokens, windows), AT(fused_tokens, own_from),
    AT(fused_tokens, first_layer), AT(fused_tokens, mlp_in), AT(fused_tokens, mlp_out),
    {0, 0},
};
