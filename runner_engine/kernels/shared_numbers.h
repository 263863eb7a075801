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
    CONSTANT(FOUR_BIT_ROWS),
#ifdef HAS_AVX512_VNNI
    CONSTANT(THREAD_BUFFER_BYTES), CONSTANT(SHIFT),
#endif
    CONSTANT(NO_TOKENS), CONSTANT(WRONG_HEADS), CONSTANT(WRONG_TOKEN_ID), CONSTANT(WRONG_POSITION),
    CONSTANT(WRONG_SLOT), CONSTANT(WRONG_PLACE), CONSTANT(WRONG_SEEN), CONSTANT(WRONG_FIRST), CONSTANT(WRONG_KEPT),
    CONSTANT(WRONG_PART), CONSTANT(WRONG_PART_TOKEN), CONSTANT(WRONG_PART_ROW),
    CONSTANT(WRONG_MATRIX), CONSTANT(SMALL_WORKSPACE), CONSTANT(NO_MEMORY), CONSTANT(MISSING_UNIT),
    CONSTANT(TEMPERATURE), CONSTANT(TOP_P), CONSTANT(TOP_K), CONSTANT(MIN_P), CONSTANT(REPETITION_PENALTY),
    CONSTANT(FREQUENCY_PENALTY), CONSTANT(PRESENCE_PENALTY),
    SIZE(kv_arena), AT(kv_arena, keys), AT(kv_arena, values), AT(kv_arena, capacity),
    SIZE(matrix), AT(matrix, weight), AT(matrix, bias), AT(matrix, outputs), AT(matrix, kind), AT(matrix, scale),
    AT(matrix, constants), AT(matrix, block), AT(matrix, threshold), AT(matrix, row_scale), AT(matrix, tile_rows),
    AT(matrix, bits), AT(matrix, scale_type), AT(matrix, zero_point), AT(matrix, code_type),
    CONSTANT(INTEGERS), CONSTANT(TABLE), CONSTANT(E4M3),
    SIZE(fused_model), AT(fused_model, layers), AT(fused_model, hidden), AT(fused_model, inner),
    AT(fused_model, kv_heads), AT(fused_model, group), AT(fused_model, dim), AT(fused_model, is_quantized),
    AT(fused_model, has_int8_kv),
    AT(fused_model, embedding_rows), AT(fused_model, positions),
    AT(fused_model, attention_tile_rows), AT(fused_model, epsilon), AT(fused_model, scale),
    AT(fused_model, embedding), AT(fused_model, norm), AT(fused_model, cos), AT(fused_model, sin),
    AT(fused_model, head),
    SIZE(fused_layer), AT(fused_layer, norm_in), AT(fused_layer, norm_mid), AT(fused_layer, norm_q),
    AT(fused_layer, norm_k), AT(fused_layer, qkv), AT(fused_layer, out), AT(fused_layer, gated), AT(fused_layer, down),
    SIZE(shared_part), AT(shared_part, arena), AT(shared_part, sees), AT(shared_part, causal), AT(shared_part, chosen),
    AT(shared_part, first), AT(shared_part, tokens), AT(shared_part, row_of),
    SIZE(fused_tokens), AT(fused_tokens, arenas), AT(fused_tokens, slots), AT(fused_tokens, tokens),
    AT(fused_tokens, ids), AT(fused_tokens, positions), AT(fused_tokens, slot), AT(fused_tokens, place),
    AT(fused_tokens, seen), AT(fused_tokens, is_step), AT(fused_tokens, kept), AT(fused_tokens, keep),
    AT(fused_tokens, parts), AT(fused_tokens, part), AT(fused_tokens, workspace), AT(fused_tokens, logits),
    AT(fused_tokens, workspace_bytes),
    {0, 0},
};
