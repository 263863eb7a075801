/* Attention of a fused pass to own keys, for one number format (T, PACK, NAME: see kernels.c). A chunk of work is some heads of
   tokens; of a token with many own keys it is a piece of them (own_pieces.h), and then the pieces are joined. */

#ifndef FUSED_OWN_KEYS
#define FUSED_OWN_KEYS
/* Whether values are narrower than the heads of the store, so that what is found is cut off */
INLINE int is_cut_off(const fused_model *m, const fused_layer *layer) {
  return value_width(m, layer) < m->dim;
}
#endif

/* Whether own keys are multiplied by the processor's tiles (tile_own_keys.h) */
INLINE int NAME(attends_own_by_tiles)(const fused_model *m) {
#if defined(HAS_TILES) && PACK == 2
  return !m->has_kv_bytes && attends_own_by_tiles(m->attention_tile_rows, m->dim);
#else
  (void)m;
  return 0;
#endif
}

/* One token's query heads of a key-value head: where they and what they find are, and what they see */
typedef struct {
  T *q, *out;
  attention_view view;
} NAME(own_heads);

/* rows [parts]: memory for the view; wide [group, dim]: for what is cut off. Keys and values of a step are put into their
   place before anyone reads them. */
INLINE NAME(own_heads) NAME(own_heads_of)(const fused_pass *s, int64_t l, int64_t t, int64_t h, int64_t *rows, T *wide) {
  const fused_model *m = s->model;
  const fused_tokens *in = s->in;
  const fused_layer *of = s->layers + l;
  const kv_arena *arena = in->arenas + in->slot[t];
  const int64_t width = m->group * m->dim;
  const int32_t *from = in->own_from[of->window];
  for (int64_t p = 0; p < in->parts; p++) {
    const int64_t of_part = in->part[p].row_of[t];
    rows[p] = of_part < 0 ? -1 : (h * in->part[p].tokens + of_part) * m->group;
  }
  return (NAME(own_heads)){
      (T *)s->qkv + t * s->qkv_width + h * width, is_cut_off(m, of) ? wide : (T *)s->inner + t * s->q_width + h * width,
      {from ? from[t] : 0, in->seen[t], &of->kv, of->scale, of->cap, of->sinks ? of->sinks + h * m->group : 0, in->parts,
       s->part_out, s->part_top, s->part_sum, NAME(attends_own_by_tiles)(m), rows,
       m->has_kv_bytes ? BYTES_NAME(plain_keys)(arena, &of->kv, h, m->dim) : 0,
       m->has_kv_bytes ? BYTES_NAME(plain_values)(arena, &of->kv, h, m->dim) : 0, 0,
       of->shape && !of->kv.rotated ? ceil_div(of->shape->dim, LANES) * LANES : m->dim}};
}

/* Stores the last key that a token of a step sees, its own. */
INLINE void NAME(put_last)(const fused_pass *s, int64_t l, int64_t t, int64_t h) {
  if (!stores_keys(s->layers + l)) return;
  const T *k = (T *)s->qkv + t * s->qkv_width + s->first_key + h * s->model->dim;
  NAME(put)(s->model, s->in->arenas + s->in->slot[t], &s->layers[l].kv, h, k, k + s->kv_width, s->in->seen[t] - 1);
}

/* What attention has found, as the product behind it reads it: not rotated, and through its gates */
INLINE void NAME(end_own)(const fused_pass *s, int64_t l, int64_t t, int64_t h, T *out) {
  const fused_model *m = s->model;
  const fused_layer *layer = s->layers + l;
  const int64_t group = m->group, width = group * m->dim, rotated = layer->kv.rotated;
  const int64_t value = is_cut_off(m, layer) ? value_width(m, layer) : 0;
  if (rotated) NAME(rotate_heads)(out, group, m->dim, rotated); /* back */
  if (m->has_query_gates) NAME(open_gates)((T *)s->query_gates + t * s->q_width + h * width, width, out);
  for (int64_t g = 0; value && g < group; g++)
    memcpy((T *)s->inner + ((t * m->kv_heads + h) * group + g) * value, out + g * m->dim, value * sizeof(T));
}

/* Calls one of the functions of attention_own.h; the keys of head h of an arena begin at `first`, those read next at
   `next_first` of another one. */
#define ATTEND_OWN(function, of, arena, h, next, next_h, next_first)                                                     \
  do {                                                                                                                   \
    if (m->has_kv_bytes)                                                                                                 \
      BYTES_NAME(function)(m->dim, m->group, (of).q, BYTES_NAME(keys_of)(arena, kv, h, m->dim),                          \
                           BYTES_NAME(values_of)(arena, kv, h, m->dim), &(of).view, (of).out,                            \
                           BYTES_NAME(keys_of)(next, kv, next_h, m->dim) + (next_first)*BYTES_NAME(key_stride)(kv, m->dim)); \
    else                                                                                                                 \
      NAME(function)(m->dim, m->group, (of).q, NAME(keys_of)(arena, kv, h, m->dim), NAME(values_of)(arena, kv, h, m->dim), \
                     &(of).view, (of).out, NAME(keys_of)(next, kv, next_h, m->dim) + (next_first)*m->dim);               \
  } while (0)

/* One token's query heads of a key-value head over its parts and its own keys. Those of token `then` and its head come
   next. */
static void NAME(attend_own)(const fused_pass *s, int64_t l, int64_t t, int64_t h, int64_t then, int64_t then_head) {
  const fused_model *m = s->model;
  const kv_layer *kv = &s->layers[l].kv;
  const kv_arena *arenas = s->in->arenas;
  const int32_t *slot = s->in->slot;
  int64_t rows[s->in->parts + 1];
  T wide[MAX_GROUP * MAX_DIM];
  const NAME(own_heads) of = NAME(own_heads_of)(s, l, t, h, rows, wide);
  if (s->in->is_step) NAME(put_last)(s, l, t, h);
  ATTEND_OWN(attend_in_turn, of, arenas + slot[t], h, arenas + slot[then], then_head, 0);
  NAME(end_own)(s, l, t, h, of.out);
}

/* Piece i of the pass and a head: its state */
static void NAME(attend_own_piece)(const fused_pass *s, int64_t l, int64_t i, int64_t h) {
  const fused_model *m = s->model;
  const kv_layer *kv = &s->layers[l].kv;
  const int64_t t = s->pieces.token[i], p = s->pieces.number[i], is_last = (p + 1) * OWN_PIECE >= s->in->seen[t];
  const kv_arena *arena = s->in->arenas + s->in->slot[t];
  int64_t rows[s->in->parts + 1];
  NAME(own_heads) of = NAME(own_heads_of)(s, l, t, h, rows, 0); /* nothing is found yet */
  if (s->in->is_step && is_last) NAME(put_last)(s, l, t, h);
  of.view = piece_of(&of.view, p, own_state(&s->pieces, i, h, state_floats(m->group, m->dim)));
  ATTEND_OWN(attend_head, of, arena, h, arena, h, is_last ? 0 : (p + 1) * OWN_PIECE);
}

static void NAME(attend_own_keys)(const fused_pass *s, int64_t l, phase *now) {
  const int64_t kv_heads = s->model->kv_heads, items = s->in->tokens * kv_heads, some = chunk_of(items, s->threads);
  const int64_t chunk = some < OWN_CHUNK ? some : OWN_CHUNK, pieces = s->pieces.count * kv_heads;
  const int64_t chunks = pieces + ceil_div(items, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone) {
    if (i < pieces) {
      NAME(attend_own_piece)(s, l, i / kv_heads, i % kv_heads);
      continue;
    }
    FOR_EACH_ITEM(j, i - pieces, chunk, items) {
      const int64_t t = j / kv_heads, then = j + 1 < items ? j + 1 : j;
      if (pieces && pieces_of(s->in->seen[t]) > 1) continue;
      NAME(attend_own)(s, l, t, j % kv_heads, then / kv_heads, then % kv_heads);
    }
  }
  end_attention();
  barrier(now, chunks, s->is_alone);
}

/* The results of tokens whose own keys were gone through in pieces */
static void NAME(join_own_pieces)(const fused_pass *s, int64_t l, phase *now) {
  const fused_model *m = s->model;
  const own_pieces *pieces = &s->pieces;
  const int64_t width = m->group * m->dim, size = state_floats(m->group, m->dim), chunks = pieces->count;
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone) {
    const int64_t t = pieces->token[i], count = pieces_of(s->in->seen[t]);
    if (pieces->number[i]) continue;
    for (int64_t h = 0; h < m->kv_heads; h++) {
      T wide[MAX_GROUP * MAX_DIM];
      T *out = is_cut_off(m, s->layers + l) ? wide : (T *)s->inner + t * s->q_width + h * width;
      float *state = own_state(pieces, i, h, size);
      for (int64_t p = 1; p < count; p++) join_states(state, own_state(pieces, i + p, h, size), m->group, m->dim);
      NAME(finish_state)(state, m->group, m->dim, out);
      NAME(end_own)(s, l, t, h, out);
    }
  }
  barrier(now, chunks, s->is_alone);
}
#undef ATTEND_OWN
