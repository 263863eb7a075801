/* What a fused forward pass gets from Python, and its check; the pass is in fused_forward.h. */

#define PRODUCT_PHASES 3 /* that products.h goes through */
#define LAYER_PHASES (4 * PRODUCT_PHASES + 5) /* beside them: the embedding, and the product of the head */

typedef struct {
  int64_t layers, hidden, inner, kv_heads, group, dim, is_quantized, has_int8_kv, embedding_rows, positions;
  int64_t attention_tile_rows; /* as tile_rows of attend_shared */
  float epsilon, scale;
  const void *embedding, *norm, *cos, *sin; /* embedding [embedding_rows, hidden]; RoPE's cos, sin [positions, dim] */
  matrix head;
} fused_model;

typedef struct {
  const void *norm_in, *norm_mid, *norm_q, *norm_k; /* of each query's and key's head, or 0 */
  matrix qkv[3], out, gated[2], down;
} fused_layer;

/* What many tokens read of one row: a prefix, or within a span, where each sees one place more than the one before */
typedef struct {
  const kv_arena *arena;
  int64_t sees, causal;
  const int64_t *chosen; /* the tokens, or 0: the first of them and those behind it */
  int64_t first, tokens;
  const int32_t *row_of; /* of each token of the pass: its place among these, or -1 */
} shared_part;

/* A flat list of tokens: each with its id, its position in its text, the slot and place where its keys and values go,
   and how many places of the slot it sees. In a step each is the only one of its slot. */
typedef struct {
  const kv_arena *arenas;
  int64_t slots, tokens;
  const int32_t *ids, *positions, *slot, *place, *seen;
  int64_t is_step, kept;
  const int32_t *keep; /* the tokens whose logits are wanted */
  int64_t parts;
  const shared_part *part;
  void *workspace, *logits;
  int64_t workspace_bytes;
} fused_tokens;

/* The matrices of a layer; pack: how many numbers of a row are in 32 bits */
static int is_layer_readable(const fused_model *m, const fused_layer *layer, int64_t pack) {
  const int64_t width = m->kv_heads * m->group * m->dim;
  for (int i = 0; i < 3; i++)
    if (!is_readable(layer->qkv + i, m->hidden, pack)) return 0;
  for (int i = 0; i < 2; i++)
    if (!is_readable(layer->gated + i, m->hidden, pack)) return 0;
  return is_readable(&layer->out, width, pack) && is_readable(&layer->down, m->inner, pack);
}

/* Whether the unit is not linked that multiplies by one of the matrices */
static int are_matrices_missing(const fused_model *m, const fused_layer *layers, int64_t pack) {
  int some = is_missing(&m->head, pack);
  for (const fused_layer *l = layers; l < layers + m->layers; l++) {
    for (int i = 0; i < 3; i++) some |= is_missing(l->qkv + i, pack);
    for (int i = 0; i < 2; i++) some |= is_missing(l->gated + i, pack);
    some |= is_missing(&l->out, pack) || is_missing(&l->down, pack);
  }
  return some;
}

static int64_t check_fused(const fused_model *m, const fused_layer *layers, const fused_tokens *in, int64_t pack) {
  if (in->tokens < 1 || in->kept < 1) REFUSE(NO_TOKENS, 0);
  int64_t wrong = check_heads(m->kv_heads, m->group, m->dim);
  if (!wrong) wrong = check_range(in->ids, in->tokens, 0, m->embedding_rows - 1, WRONG_TOKEN_ID);
  if (!wrong) wrong = check_range(in->positions, in->tokens, 0, m->positions - 1, WRONG_POSITION);
  if (!wrong) wrong = check_range(in->keep, in->kept, 0, in->tokens - 1, WRONG_KEPT);
  if (!wrong)
    wrong = check_places(in->arenas, in->slots, in->tokens, in->slot, in->place, in->seen, in->is_step ? 1 : 0);
  if (wrong) return wrong;
  for (int64_t p = 0; p < in->parts; p++) {
    const shared_part *one = in->part + p;
    wrong = check_part(one->arena, one->sees, one->causal, one->chosen, one->first, one->tokens, in->tokens);
    if (!wrong) wrong = check_range(one->row_of, in->tokens, -1, one->tokens - 1, WRONG_PART_ROW);
    if (wrong) return wrong;
  }
  if (m->has_int8_kv && !(pack == 2 ? has_int8_kv_bf16 : has_int8_kv_f32)) REFUSE(MISSING_UNIT, 1);
  if (are_matrices_missing(m, layers, pack)) REFUSE(MISSING_UNIT, 0);
  for (int64_t l = 0; l < m->layers; l++)
    if (!is_layer_readable(m, layers + l, pack)) REFUSE(WRONG_MATRIX, l);
  if (!is_readable(&m->head, m->hidden, pack)) REFUSE(WRONG_MATRIX, m->layers);
  return FINE;
}
