/* Attention of each token to its own keys, for one number format (T, PACK, NAME) and one format of stored keys and values
   (KV, KV_NAME: see kernels.c). A token's keys lie in its row's arena. Attention to keys that it shares with
   other tokens is computed before, and joined here. */

#undef HAS_OWN_TILES
#if defined(HAS_TILES) && PACK == 2 && !IS_IN_BYTES
#define HAS_OWN_TILES 1
#include "tile_own_keys.h"
#else
#define HAS_OWN_TILES 0
#endif

/* The keys, or the values, of one head of a layer in an arena */
INLINE KV *KV_NAME(keys_of)(const kv_arena *arena, const kv_layer *layer, int64_t head, int64_t dim) {
  const int64_t place = KV_NAME(key_stride)(layer, dim) * (int64_t)sizeof(KV);
  return (KV *)(arena->keys + arena->capacity * (layer->keys_before + head * place));
}

INLINE KV *KV_NAME(values_of)(const kv_arena *arena, const kv_layer *layer, int64_t head, int64_t dim) {
  const int64_t place = KV_NAME(value_stride)(layer, dim) * (int64_t)sizeof(KV);
  return (KV *)(arena->values + arena->capacity * (layer->values_before + head * place));
}

/* The first places of a head in the model's own numbers; 0 where there are none */
INLINE T *KV_NAME(plain_keys)(const kv_arena *arena, const kv_layer *layer, int64_t head, int64_t dim) {
  return IS_IN_BYTES ? plain_places(arena, arena->keys, layer->all_keys, layer, head, dim, sizeof(T)) : 0;
}

INLINE T *KV_NAME(plain_values)(const kv_arena *arena, const kv_layer *layer, int64_t head, int64_t dim) {
  return IS_IN_BYTES ? plain_places(arena, arena->values, layer->all_values, layer, head, dim, sizeof(T)) : 0;
}

/* Puts k and v [dim] of a token and a head into a place of its arena. For bytes this is a function of its unit: as a part
   of each function that stores, it would triple the time of compiling them. */
#if !IS_IN_BYTES || IS_IN(ATTENTION_UNIT)
#if IS_IN_BYTES
BETWEEN_UNITS
#else
INLINE
#endif
void KV_NAME(store_head)(const kv_arena *arena, const kv_layer *layer, int64_t head, const T *k, const T *v, int64_t dim,
                         int64_t place) {
  if (IS_IN_BYTES && place < arena->first_plain) {
    NAME(store_key)(KV_NAME(plain_keys)(arena, layer, head, dim), k, dim, place);
    NAME(store_value)(KV_NAME(plain_values)(arena, layer, head, dim), v, dim, place);
    return;
  }
  KV_NAME(put_key)(layer, KV_NAME(keys_of)(arena, layer, head, dim), k, dim, place);
  KV_NAME(put_value)(layer, KV_NAME(values_of)(arena, layer, head, dim), v, dim, place);
}
#endif

/* Puts k and v [tokens, kv_heads, dim] of a layer into the arenas [slots]: token t goes to arenas[slot[t]], place[t].
   Returns what is wrong with the call (checks.h). */
#if IS_IN(ATTENTION_UNIT)
int64_t KV_NAME(store)(const T *k, const T *v, const kv_arena *arenas, int64_t slots, const kv_layer *layer,
                       int64_t kv_heads, int64_t dim, int64_t tokens, const int32_t *slot, const int32_t *place, int threads) {
  int64_t wrong = check_heads(kv_heads, 1, dim);
  if (!wrong) wrong = check_kv_layer(layer, dim, IS_IN_BYTES, 0);
  if (!wrong) wrong = check_places(arenas, slots, tokens, slot, place, 0, 0);
  if (wrong) return wrong;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    const int64_t t = i / kv_heads;
    KV_NAME(store_head)(arenas + slot[t], layer, i % kv_heads, k + i * dim, v + i * dim, dim, place[t]);
  }
  return FINE;
}
#endif

/* Adds a block of keys to a head: its scores become weights, and its maximum and sum are updated. The sums of values so
   far, acc [D], are scaled to the new maximum. */
INLINE void KV_NAME(add_scores)(const int D, float *s, int count, float scale, float *top, float *sum, float *acc) {
#ifdef HAS_AVX512
  const __mmask16 rest = (__mmask16)(0xffffu >> (LANES - 1 - (count - 1) % LANES)); /* of the last vector */
  const int last = (count - 1) / LANES * LANES;
  __m512 most = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), rest, s + last), total = _mm512_setzero_ps();
  for (int j = 0; j < last; j += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(s + j));
  float m = _mm512_reduce_max_ps(most);
#else
  float m = -INFINITY, l = 0;
#pragma omp simd reduction(max : m)
  for (int j = 0; j < count; j++) m = s[j] > m ? s[j] : m;
#endif
  m = m * scale > *top ? m * scale : *top;
  const float keep = *top == -INFINITY ? 0.0f : exp_fast(*top - m);
#ifdef HAS_AVX512
  const __m512 factor = _mm512_set1_ps(scale), highest = _mm512_set1_ps(m);
  for (int j = 0; j < count; j += LANES) {
    const __m512 e = _mm512_maskz_mov_ps(
        j < last ? 0xffff : rest, NAME(softmax_weight_16)(_mm512_fmsub_ps(_mm512_loadu_ps(s + j), factor, highest)));
    total = _mm512_add_ps(total, e);
    _mm512_storeu_ps(s + j, e);
  }
  const float l = _mm512_reduce_add_ps(total);
#else
#pragma omp simd reduction(+ : l)
  for (int j = 0; j < count; j++) {
    s[j] = exp_fast(fmaf(s[j], scale, -m));
    l += s[j];
  }
#endif
  *top = m;
  *sum = *sum * keep + l;
  for (int d = 0; d < D; d++) acc[d] *= keep;
}

/* Adds the parts that a token shares with others to its heads' sums acc [G, D], maxima and sums of weights. */
INLINE void KV_NAME(join_parts)(const int D, const int S, const int G, const attention_view *of, float *acc, float *top, float *sum) {
  for (int64_t p = 0; p < of->parts; p++) {
    if (of->part_row[p] < 0) continue;
    const T *o = (const T *)of->part_out[p] + of->part_row[p] * S;
    const float *part_top = (const float *)of->part_top[p] + of->part_row[p];
    const float *part_sum = (const float *)of->part_sum[p] + of->part_row[p];
    if (part_top[0] == -INFINITY) continue; /* nothing of it is within the window */
    float keep[MAX_GROUP], share[MAX_GROUP];
    join_softmaxes(G, part_top, part_sum, top, sum, keep, share);
    for (int g = 0; g < G; g++)
      for (int d = 0; d < D; d++) acc[g * D + d] = acc[g * D + d] * keep[g] + NAME(to_float)(o[g * S + d]) * share[g];
  }
}

/* The G query heads q [G, S] of one token over what they see: out [G, S], of which only the first D numbers of a head are
   computed, where the others are zeros. K and V are those of their key-value head; the keys that are read after these start
   at `next`. */
INLINE void KV_NAME(attend_shape)(const int D, const int S, const int G, const T *query, const KV *K, const KV *V,
                                  const attention_view *of, T *out, const KV *next) {
#if IS_WIDENED
  float q[MAX_GROUP * MAX_DIM];
  for (int i = 0; i < G * S; i++) q[i] = NAME(to_float)(query[i]);
#else
  const T *q = query;
#endif
  float acc[MAX_GROUP * MAX_DIM], s[MAX_GROUP][MAX_SCORES], top[MAX_GROUP], sum[MAX_GROUP];
  const float *sinks = of->sinks, cap = of->cap, scale = cap ? 1 : of->scale; /* with a cap it is in the scores */
  const int64_t end = of->end;
  int64_t first = of->first;
#if HAS_OWN_TILES
  if (of->by_tiles) configure_own_tiles(G);
#endif
  for (int i = 0; i < G * D; i++) acc[i] = 0;
  for (int g = 0; g < G; g++) top[g] = sinks ? sinks[g] : -INFINITY, sum[g] = sinks ? 1 : 0;
  KV_NAME(join_parts)(D, S, G, of, acc, top, sum);
  const int64_t key_stride = KV_NAME(key_stride)(of->layer, S), value_stride = KV_NAME(value_stride)(of->layer, S);
#if IS_IN_BYTES
  if (of->plain_keys && first < LANES) {
    const int count = end < LANES ? (int)end : LANES;
    BYTES_NAME(score_plain)(D, G, q, (const T *)of->plain_keys, count, s, (const T *)of->plain_values);
    for (int g = 0; g < G; g++) {
      if (cap || first) cap_and_hide(s[g], count, first, of->scale, cap);
      KV_NAME(add_scores)(D, s[g], count, scale, top + g, sum + g, acc + g * D);
    }
    BYTES_NAME(add_plain)(D, G, s, (const T *)of->plain_values, count, acc, (const T *)K);
    first = LANES;
  }
#endif
  for (int64_t start = first / LANES * LANES; start < end; start += KEY_BLOCK) {
    int count = end - start < KEY_BLOCK ? (int)(end - start) : KEY_BLOCK;
    const KV *v = V + start * value_stride;
#if HAS_OWN_TILES
    if (of->by_tiles) own_scores_by_tiles(D, q, K + start * D, count, s, v);
    else
#endif
      KV_NAME(score_keys)(of->layer, D, S, G, q, K + start * key_stride, count, s, v);
    for (int g = 0; g < G; g++) {
      if (cap || start < first) cap_and_hide(s[g], count, first - start, of->scale, cap);
      KV_NAME(add_scores)(D, s[g], count, scale, top + g, sum + g, acc + g * D);
    }
    const KV *then = start + KEY_BLOCK < end ? K + (start + KEY_BLOCK) * key_stride : next;
    int added = 0;
#if HAS_OWN_TILES
    if (of->by_tiles) added = add_whole_tiles_of_values(D, G, s, v, count, acc, then);
#endif
    if (added < count)
      KV_NAME(sum_values)(of->layer, D, S, G, (float(*)[MAX_SCORES]) & s[0][added], v + added * S, count - added, acc, then);
  }
  if (of->state) {
    memcpy(of->state, acc, G * D * sizeof(float));
    memcpy(of->state + G * D, top, G * sizeof(float));
    memcpy(of->state + G * D + G, sum, G * sizeof(float));
    return;
  }
  for (int g = 0; g < G; g++) {
    const float share = 1 / sum[g];
    for (int d = 0; d < D; d++) out[g * S + d] = NAME(from_float)(acc[g * D + d] * share);
  }
}

/* As attend_shape, compiled for the shapes that are common: of keys and values in bytes only where a model of 16 bits
   shares each head among three queries and more, since each shape takes the compiler most of a second. Of wide heads, and
   of those that end with zeros, the number of queries on a key is compiled: its sums stay in registers. */
#if IS_IN(ATTENTION_UNIT)
BETWEEN_UNITS void KV_NAME(attend_head)(int64_t dim, int64_t group, const T *q, const KV *K, const KV *V,
                                 const attention_view *of, T *out, const KV *next) {
  const int64_t width = IS_IN_BYTES || of->by_tiles || of->state ? dim : of->width;
#define CASE(D, G) \
  if ((!IS_IN_BYTES || (PACK == 2 && G >= 3)) && dim == D && width == D && group == G) \
    KV_NAME(attend_shape)(D, D, G, q, K, V, of, out, next);
#define WIDE_CASE(G) \
  if (!IS_IN_BYTES && (width < dim || dim > 128) && group == G) \
    KV_NAME(attend_shape)(width, dim, G, q, K, V, of, out, next);
  CASE(64, 1)
  else CASE(64, 2) else CASE(64, 3) else CASE(64, 4) else CASE(64, 7) else CASE(64, 8)
  else CASE(128, 1) else CASE(128, 2) else CASE(128, 4) else CASE(128, 6) else CASE(128, 7) else CASE(128, 8)
  else WIDE_CASE(1) else WIDE_CASE(2) else WIDE_CASE(4) else WIDE_CASE(8)
  else KV_NAME(attend_shape)(width, dim, group, q, K, V, of, out, next);
#undef WIDE_CASE
#undef CASE
}

#endif

/* The same for any number of keys: pieces (own_pieces.h) one after another */
static void KV_NAME(attend_in_turn)(int64_t dim, int64_t group, const T *q, const KV *K, const KV *V,
                                    const attention_view *of, T *out, const KV *next) {
  const int64_t pieces = pieces_of(of->end);
  float states[2][MAX_GROUP * (MAX_DIM + 2)];
  if (pieces == 1) {
    KV_NAME(attend_head)(dim, group, q, K, V, of, out, next);
    return;
  }
  for (int64_t p = 0; p < pieces; p++) {
    const attention_view piece = piece_of(of, p, states[p > 0]);
    KV_NAME(attend_head)(dim, group, q, K, V, &piece, out, next);
    if (p) join_states(states[0], states[1], group, dim);
  }
  NAME(finish_state)(states[0], group, dim, out);
}

#if IS_IN(ATTENTION_UNIT)
/* q and out: [tokens, kv_heads, group, dim]. Token t sees the first own[t] places of its row, arenas[slot[t]], from
   first[t] on (from 0 where there is no `first`), and of each part the row part_row[p][t] of [kv_heads, part_rows[p],
   group] outputs (not yet divided by their sums), maxima and sums; -1 = none. cap and sinks [kv_heads, group]: as in
   attention_view. k and v [tokens, kv_heads, dim], unless 0: they are put into the last place that the token sees. That
   is faster than to call `store` before, since the lines are read here anyway, but other tokens of the same row must
   not depend on it. tile_rows: as in attend_shared; own keys go by tiles where some rows of shared keys do, but for those
   in bytes. Returns what is wrong with the call (checks.h). */
int64_t KV_NAME(attend)(const T *q, const kv_arena *arenas, int64_t slots, const T *k, const T *v,
                     const kv_layer *layer, int64_t kv_heads, int64_t group, int64_t dim, int64_t tokens, const int32_t *slot,
                     const int32_t *first, const int32_t *own, float scale, float cap, const float *sinks,
                     int64_t parts, const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum,
                     const int64_t *part_rows, const int64_t *part_row, T *out, int64_t tile_rows, int threads) {
  int64_t wrong = check_heads(kv_heads, group, dim);
  if (!wrong) wrong = check_kv_layer(layer, dim, IS_IN_BYTES, 0);
  if (!wrong) wrong = check_places(arenas, slots, tokens, slot, 0, own, k ? 1 : 0);
  if (!wrong) wrong = check_range(first, tokens, 0, INT32_MAX, WRONG_FIRST);
  for (int64_t p = 0; !wrong && p < parts; p++)
    wrong = check_range((const int32_t *)part_row[p], tokens, -1, part_rows[p] - 1, WRONG_PART_ROW);
  if (wrong) return wrong;
#if HAS_OWN_TILES
  const int64_t by_tiles = attends_own_by_tiles(tile_rows, dim);
#else
  const int64_t by_tiles = 0;
  (void)tile_rows;
#endif
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tokens * kv_heads; i++) {
      int64_t t = i / kv_heads, h = i % kv_heads, rows[parts + 1], after = i + 1 < tokens * kv_heads ? i + 1 : i;
      const kv_arena *arena = arenas + slot[t];
      const KV *next = KV_NAME(keys_of)(arenas + slot[after / kv_heads], layer, after % kv_heads, dim);
      for (int64_t p = 0; p < parts; p++) {
        int64_t of_part = ((const int32_t *)part_row[p])[t];
        rows[p] = of_part < 0 ? -1 : (h * part_rows[p] + of_part) * group;
      }
      if (k) KV_NAME(store_head)(arena, layer, h, k + i * dim, v + i * dim, dim, own[t] - 1);
      const attention_view view = {first ? first[t] : 0, own[t], layer, scale, cap, sinks ? sinks + h * group : 0,
                                   parts, part_out, part_top, part_sum, by_tiles, rows,
                                   KV_NAME(plain_keys)(arena, layer, h, dim), KV_NAME(plain_values)(arena, layer, h, dim), 0, dim};
      KV_NAME(attend_in_turn)(dim, group, q + i * group * dim, KV_NAME(keys_of)(arena, layer, h, dim),
                              KV_NAME(values_of)(arena, layer, h, dim), &view, out + i * group * dim, next);
    }
#if HAS_OWN_TILES
    if (configured_rows) release_tiles();
#endif
  }
  return FINE;
}
#endif
