/* Attention of each token to its own keys, for one number format (T, PACK, NAME) and one format of stored keys and values
   (KV, SCALE_SIZE, KV_NAME: see kernels.c). A token's keys lie in its row's arena. Attention to keys that it shares with
   other tokens is computed before, and joined here. */

#undef HAS_OWN_TILES
#if defined(HAS_TILES) && PACK == 2 && SCALE_SIZE == 0
#define HAS_OWN_TILES 1
#include "tile_own_keys.h"
#else
#define HAS_OWN_TILES 0
#endif

/* The keys, or the values, of one head in an arena; heads are counted on from layer to layer. */
INLINE KV *KV_NAME(keys_of)(const kv_arena *arena, int64_t head, int64_t dim) {
  return (KV *)arena->keys + head * arena->capacity * (dim + SCALE_SIZE);
}

INLINE KV *KV_NAME(values_of)(const kv_arena *arena, int64_t head, int64_t dim) {
  return (KV *)arena->values + head * arena->capacity * (dim + SCALE_SIZE);
}

/* Puts k and v [dim] of a token and a head into a place of its arena. */
INLINE void KV_NAME(store_head)(const kv_arena *arena, int64_t head, const T *k, const T *v, int64_t dim, int64_t place) {
  KV_NAME(store_place)(KV_NAME(keys_of)(arena, head, dim), KV_NAME(values_of)(arena, head, dim), k, v, dim, place);
}

/* Puts k and v [tokens, kv_heads, dim] of a layer into the arenas [slots]: token t goes to arenas[slot[t]], place[t].
   Returns what is wrong with the call (checks.h). */
#if IS_IN(ATTENTION_UNIT)
int64_t KV_NAME(store)(const T *k, const T *v, const kv_arena *arenas, int64_t slots, int64_t layer, int64_t kv_heads,
                    int64_t dim, int64_t tokens, const int32_t *slot, const int32_t *place, int threads) {
  int64_t wrong = check_heads(kv_heads, 1, dim);
  if (!wrong) wrong = check_places(arenas, slots, tokens, slot, place, 0, 0);
  if (wrong) return wrong;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    const int64_t t = i / kv_heads, head = layer * kv_heads + i % kv_heads;
    KV_NAME(store_head)(arenas + slot[t], head, k + i * dim, v + i * dim, dim, place[t]);
  }
  return FINE;
}
#endif

/* s[g][j] = q[g] . key j, for `count` keys and the rest of their blocks; v is read next. Two blocks at a time where
   there are enough registers: one sum does not wait for the other. */
INLINE void KV_NAME(scores)(const int D, const int G, const NAME(operand) *q, const KV *k, int count, float s[][MAX_SCORES],
                            const KV *v) {
  const KV *end = k + (count + LANES - 1) / LANES * LANES * (D + SCALE_SIZE);
  const int blocks = TWO_BLOCKS(G) ? 2 : 1, parts = LANES / VEC_FLOATS;
  for (int j = 0; j < count; j += blocks * LANES) {
    /* not [G]: an array whose size is not a constant stays in memory; what is not used of it is never set either */
    vec a[MAX_GROUP][2 * LANES / VEC_FLOATS] = {{{0}}};
    const KV *k0 = k + j * (D + SCALE_SIZE), *k1 = blocks == 2 && j + LANES < count ? k0 + LANES * (D + SCALE_SIZE) : k0;
    for (int d = 0; d < D; d += PACK) {
      if (d * LANES * (int)sizeof(KV) % CACHE_LINE == 0) {
        prefetch(k0 + d * LANES, end, v);
        if (blocks == 2) prefetch(k1 + d * LANES, end, v);
      }
#define KEYS(p) KV_NAME(load)((p < parts ? k0 : k1) + d * LANES + p % parts * PACK * VEC_FLOATS)
#if IS_WIDENED
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) { /* so that few registers hold keys */
        vec x[2 * LANES / VEC_FLOATS] = {{0}}; /* some compilers do not see that the loop sets all that is read */
#pragma GCC unroll 4
        for (int p = 0; p < blocks * parts; p++) x[p] = half_of_pairs(KEYS(p), half);
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) {
          const vec number = q[g * D + d + half] + (vec){0};
#pragma GCC unroll 4
          for (int p = 0; p < blocks * parts; p++) a[g][p] += number * x[p];
        }
      }
#else
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        NAME(vec) x = KEYS(p);
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) a[g][p] = NAME(multiply_add)(a[g][p], q + g * D + d, x);
      }
#endif
#undef KEYS
    }
#pragma GCC unroll 16
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        if (SCALE_SIZE) a[g][p] *= load_f32((const float *)((p < parts ? k0 : k1) + LANES * D) + p % parts * VEC_FLOATS);
        memcpy(&s[g][j + p * VEC_FLOATS], &a[g][p], sizeof(vec));
      }
  }
}

/* acc[g] += the sum over count places of s[g][j] * value j */
INLINE void KV_NAME(add_values)(const int D, const int G, float s[][MAX_SCORES], const KV *v, int count, float *acc,
                                const KV *next) {
  const KV *end = v + (count + 1) / 2 * 2 * D + count / LANES * LANES * SCALE_SIZE;
  const int loads_per_line = CACHE_LINE / (VEC_FLOATS * PACK * (int)sizeof(KV));
  const NAME(operand) *weights[MAX_GROUP];
  NAME(operand) packed[MAX_GROUP][MAX_SCORES];
  for (int g = 0; g < G; g++) {
    if (SCALE_SIZE) scale_weights(s[g], count, (const char *)(v + LANES * D), LANES * (D + SCALE_SIZE) * sizeof(KV));
    weights[g] = NAME(pack_weights)(s[g], count, packed[g]);
  }
  for (int g0 = 0; g0 < G; g0 += HEADS_AT_ONCE(D, G)) {
    const int some = G - g0 < HEADS_AT_ONCE(D, G) ? G - g0 : HEADS_AT_ONCE(D, G);
    for (int d0 = 0; d0 < D; d0 += DIMS_AT_ONCE(D, G)) {
      vec o[MAX_HEADS_AT_ONCE][MAX_DIMS_AT_ONCE / VEC_FLOATS];
      for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++) o[g][d] = (vec){0};
      for (int j = 0; j < count; j += PACK) {
        const KV *at = v + j * D + j / LANES * LANES * SCALE_SIZE + PACK * d0;
#if IS_WIDENED
        for (int half = 0; half < 2; half++) { /* as in `scores` */
          vec number[MAX_HEADS_AT_ONCE];
          for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
            if (g < some) number[g] = weights[g0 + g][j + half] + (vec){0};
          for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++) {
            if (!g0 && !half && d % loads_per_line == 0) prefetch(at + d * PACK * VEC_FLOATS, end, next);
            const vec x = half_of_pairs(KV_NAME(load)(at + d * PACK * VEC_FLOATS), half);
            for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
              if (g < some) o[g][d] += number[g] * x;
          }
        }
#else
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++, at += PACK * VEC_FLOATS) {
          if (!g0 && d % loads_per_line == 0) prefetch(at, end, next);
          NAME(vec) x = KV_NAME(load)(at);
          for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
            if (g < some) o[g][d] = NAME(multiply_add)(o[g][d], weights[g0 + g] + j, x);
        }
#endif
      }
      for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS && g < some; d++) {
          float *to = acc + (g0 + g) * D + d0 + d * VEC_FLOATS;
          vec sum = load_f32(to) + o[g][d];
          memcpy(to, &sum, sizeof sum);
        }
    }
  }
}

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
INLINE void KV_NAME(join_parts)(const int D, const int G, const attention_view *of, float *acc, float *top, float *sum) {
  for (int64_t p = 0; p < of->parts; p++) {
    if (of->part_row[p] < 0) continue;
    const T *o = (const T *)of->part_out[p] + of->part_row[p] * D;
    const float *part_top = (const float *)of->part_top[p] + of->part_row[p];
    const float *part_sum = (const float *)of->part_sum[p] + of->part_row[p];
    if (part_top[0] == -INFINITY) continue; /* nothing of it is within the window */
    float keep[MAX_GROUP], share[MAX_GROUP];
    join_softmaxes(G, part_top, part_sum, top, sum, keep, share);
    for (int g = 0; g < G; g++)
      for (int d = 0; d < D; d++) acc[g * D + d] = acc[g * D + d] * keep[g] + NAME(to_float)(o[g * D + d]) * share[g];
  }
}

/* The G query heads q [G, D] of one token over what they see: out [G, D]. K and V are those of their key-value head;
   the keys that are read after these start at `next`. */
INLINE void KV_NAME(attend_shape)(const int D, const int G, const T *query, const KV *K, const KV *V,
                                  const attention_view *of, T *out, const KV *next) {
#if IS_WIDENED
  float q[MAX_GROUP * MAX_DIM];
  for (int i = 0; i < G * D; i++) q[i] = NAME(to_float)(query[i]);
#else
  const T *q = query;
#endif
  float acc[MAX_GROUP * MAX_DIM], s[MAX_GROUP][MAX_SCORES], top[MAX_GROUP], sum[MAX_GROUP];
  const float *sinks = of->sinks, cap = of->cap, scale = cap ? 1 : of->scale; /* with a cap it is in the scores */
  const int64_t first = of->first, end = of->end;
#if HAS_OWN_TILES
  if (of->by_tiles) configure_own_tiles(G);
#endif
  for (int i = 0; i < G * D; i++) acc[i] = 0;
  for (int g = 0; g < G; g++) top[g] = sinks ? sinks[g] : -INFINITY, sum[g] = sinks ? 1 : 0;
  KV_NAME(join_parts)(D, G, of, acc, top, sum);
  for (int64_t start = first / LANES * LANES; start < end; start += KEY_BLOCK) {
    int count = end - start < KEY_BLOCK ? (int)(end - start) : KEY_BLOCK;
    const KV *v = V + start * (D + SCALE_SIZE);
#if HAS_OWN_TILES
    if (of->by_tiles) own_scores_by_tiles(D, q, K + start * D, count, s, v);
    else
#endif
      KV_NAME(scores)(D, G, q, K + start * (D + SCALE_SIZE), count, s, v);
    for (int g = 0; g < G; g++) {
      if (cap || start < first) cap_and_hide(s[g], count, first - start, of->scale, cap);
      KV_NAME(add_scores)(D, s[g], count, scale, top + g, sum + g, acc + g * D);
    }
    const KV *then = start + KEY_BLOCK < end ? K + (start + KEY_BLOCK) * (D + SCALE_SIZE) : next;
    int added = 0;
#if HAS_OWN_TILES
    if (of->by_tiles) added = add_whole_tiles_of_values(D, G, s, v, count, acc, then);
#endif
    if (added < count)
      KV_NAME(add_values)(D, G, (float(*)[MAX_SCORES]) & s[0][added], v + added * D, count - added, acc, then);
  }
  for (int g = 0; g < G; g++) {
    const float share = 1 / sum[g];
    for (int d = 0; d < D; d++) out[g * D + d] = NAME(from_float)(acc[g * D + d] * share);
  }
}

/* As attend_shape, compiled for the shapes that are common: of keys and values in 8 bits only where a model of 16 bits
   shares each head among three queries and more, since each shape takes the compiler most of a second. */
#if IS_IN(ATTENTION_UNIT)
BETWEEN_UNITS void KV_NAME(attend_head)(int64_t dim, int64_t group, const T *q, const KV *K, const KV *V,
                                 const attention_view *of, T *out, const KV *next) {
#define CASE(D, G) \
  if ((!SCALE_SIZE || (PACK == 2 && G >= 3)) && dim == D && group == G) \
    KV_NAME(attend_shape)(D, G, q, K, V, of, out, next);
  CASE(64, 1)
  else CASE(64, 2) else CASE(64, 3) else CASE(64, 4) else CASE(64, 7) else CASE(64, 8)
  else CASE(128, 1) else CASE(128, 2) else CASE(128, 4) else CASE(128, 6) else CASE(128, 7) else CASE(128, 8)
  else KV_NAME(attend_shape)(dim, group, q, K, V, of, out, next);
#undef CASE
}

/* q and out: [tokens, kv_heads, group, dim]. Token t sees the first own[t] places of its row, arenas[slot[t]], from
   first[t] on (from 0 where there is no `first`), and of each part the row part_row[p][t] of [kv_heads, part_rows[p],
   group] outputs (not yet divided by their sums), maxima and sums; -1 = none. cap and sinks [kv_heads, group]: as in
   attention_view. k and v [tokens, kv_heads, dim], unless 0: they are put into the last place that the token sees. That
   is faster than to call `store` before, since the lines are read here anyway, but other tokens of the same row must
   not depend on it. tile_rows: as in attend_shared; own keys go by tiles where some rows of shared keys do, but for those
   in bytes. Returns what is wrong with the call (checks.h). */
int64_t KV_NAME(attend)(const T *q, const kv_arena *arenas, int64_t slots, const T *k, const T *v, int64_t layer,
                     int64_t kv_heads, int64_t group, int64_t dim, int64_t tokens, const int32_t *slot,
                     const int32_t *first, const int32_t *own, float scale, float cap, const float *sinks,
                     int64_t parts, const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum,
                     const int64_t *part_rows, const int64_t *part_row, T *out, int64_t tile_rows, int threads) {
  int64_t wrong = check_heads(kv_heads, group, dim);
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
      const int64_t head = layer * kv_heads + h;
      const kv_arena *arena = arenas + slot[t];
      const KV *next = KV_NAME(keys_of)(arenas + slot[after / kv_heads], layer * kv_heads + after % kv_heads, dim);
      for (int64_t p = 0; p < parts; p++) {
        int64_t of_part = ((const int32_t *)part_row[p])[t];
        rows[p] = of_part < 0 ? -1 : (h * part_rows[p] + of_part) * group;
      }
      if (k) KV_NAME(store_head)(arena, head, k + i * dim, v + i * dim, dim, own[t] - 1);
      const attention_view view = {first ? first[t] : 0, own[t], scale, cap, sinks ? sinks + h * group : 0,
                                   parts, part_out, part_top, part_sum, by_tiles, rows};
      KV_NAME(attend_head)(dim, group, q + i * group * dim, KV_NAME(keys_of)(arena, head, dim),
                        KV_NAME(values_of)(arena, head, dim), &view, out + i * group * dim, next);
    }
#if HAS_OWN_TILES
    if (configured_rows) release_tiles();
#endif
  }
  return FINE;
}
#endif
