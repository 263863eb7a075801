/* Attention to what many tokens share, for one number format (T, PACK, NAME) and one format of stored keys and values (KV,
   KV_NAME: see kernels.c), in the tiles of attention_tiles.h. */

/* Up to TILE_ROWS rows of one key-value head over the keys of an arena: row r sees those from first[r] to sees[r],
   which may be none. cap: the soft cap of the scores, or 0 for none. plain_keys, plain_values: as in attention_view. */
INLINE void KV_NAME(attend_tile_shape)(const kv_layer *layer, const int D, const NAME(operand) *q, const KV *K, const KV *V,
                                       const T *plain_keys, const T *plain_values, const int64_t *first,
                                       const int64_t *sees, int rows, float scale, float cap, float *acc, float *top,
                                       float *sum, prefetch_queue *next) {
  const int at_once = IS_UNPACKED ? UNPACKED_KEYS : TILE_KEYS;
#if IS_UNPACKED
  NAME(operand) unpacked[UNPACKED_KEYS * MAX_DIM];
  float key_scales[UNPACKED_KEYS], value_scales[UNPACKED_KEYS];
#endif
  const int64_t key_stride = KV_NAME(key_stride)(layer, D), value_stride = KV_NAME(value_stride)(layer, D);
  float s[TILE_ROWS][TILE_KEYS];
  NAME(operand) weights[TILE_ROWS][TILE_KEYS];
  const int all_rows = (rows + REGISTER_ROWS - 1) / REGISTER_ROWS * REGISTER_ROWS;
  const float in_scores = cap ? 1 : scale; /* with a cap the scale is in the scores */
  int64_t keys = 0, begin = first[0];
  for (int r = 0; r < rows; r++) keys = sees[r] > keys ? sees[r] : keys, begin = first[r] < begin ? first[r] : begin;
  begin = begin / LANES * LANES;
  for (int r = 0; r < rows; r++) top[r] = -INFINITY, sum[r] = 0;
  for (int i = 0; i < all_rows * D; i++) acc[i] = 0;
  for (int64_t start = begin, left; start < keys; start += left) {
    left = at_once - start % at_once; /* the same ends of blocks wherever the windows of other rows begin */
    const int count = (int)(keys - start < left ? keys - start : left);
    const int full = (count + LANES - 1) / LANES * LANES;
#if IS_UNPACKED
    const int are_scaled = KV_NAME(unpack_keys)(layer, D, K + start * key_stride, full, unpacked, key_scales);
#if IS_IN_BYTES
    if (plain_keys && !start) BYTES_NAME(unpack_plain)(1, D, plain_keys, unpacked, key_scales);
#endif
    OPERAND_NAME(tile_scores)(D, q, unpacked, all_rows, full, s, next);
    for (int r = 0; r < rows && are_scaled; r++)
      for (int j = 0; j < full; j++) s[r][j] *= key_scales[j];
    const int have_scales = KV_NAME(unpack_values)(layer, D, V + start * value_stride, full, unpacked, value_scales);
#if IS_IN_BYTES
    if (plain_values && !start) BYTES_NAME(unpack_plain)(0, D, plain_values, unpacked, value_scales);
#endif
    const NAME(operand) *values = unpacked;
    const float *scales = have_scales ? value_scales : 0;
#else
    OPERAND_NAME(tile_scores)(D, q, K + start * key_stride, all_rows, full, s, next);
    const T *values = V + start * value_stride;
    const float *scales = 0;
#endif
    for (int r = 0; r < rows; r++) {
      if (cap || start < first[r]) cap_and_hide(s[r], full, first[r] - start, scale, cap);
      for (int64_t j = sees[r] > start ? sees[r] - start : 0; j < full; j++) s[r][j] = -INFINITY;
      const float keep = OPERAND_NAME(tile_weights)(s[r], full, in_scores, scales, weights[r], top + r, sum + r);
      if (start > begin && keep != 1.0f)
        for (int d = 0; d < D; d++) acc[r * D + d] *= keep;
    }
    for (int r = rows; r < all_rows; r++) memset(weights[r], 0, full * sizeof **weights);
    OPERAND_NAME(add_tile_values)(D, weights, values, all_rows, full, acc, next);
  }
}

#if IS_IN(ATTENTION_UNIT)
/* Task i of `attend_shared`: some of the rows of one key-value head, those that see most first */
BETWEEN_UNITS void KV_NAME(attend_tile)(int64_t i, const T *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                              int64_t tokens, const kv_arena *arena, const kv_layer *layer, int64_t group,
                              int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale,
                              float cap, T *out, float *top, float *sum, prefetch_queue *next) {
  const int64_t rows = tokens * group, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  const int64_t h = i / tiles, first = (tiles - 1 - i % tiles) * TILE_ROWS;
  const KV *K = KV_NAME(keys_of)(arena, layer, h, dim), *V = KV_NAME(values_of)(arena, layer, h, dim);
  const T *plain_keys = KV_NAME(plain_keys)(arena, layer, h, dim), *plain_values = KV_NAME(plain_values)(arena, layer, h, dim);
  const int some = rows - first < TILE_ROWS ? (int)(rows - first) : TILE_ROWS;
  NAME(operand) query[TILE_ROWS * MAX_DIM];
  float acc[TILE_ROWS * MAX_DIM], m[TILE_ROWS], l[TILE_ROWS];
  int64_t sees[TILE_ROWS], begins[TILE_ROWS] = {0};
  memset(query, 0, TILE_ROWS * dim * sizeof *query);
  for (int r = 0; r < some; r++) {
    int64_t t = (first + r) / group, head = h * group + (first + r) % group;
    const T *from_row = q + head * q_head + (chosen ? chosen[t] : t) * q_token;
#if IS_WIDENED
    for (int64_t d = 0; d < dim; d++) query[r * dim + d] = NAME(to_float)(from_row[d]);
#else
    memcpy(query + r * dim, from_row, dim * sizeof(T));
#endif
    sees[r] = keys + (causal ? t : 0);
    begins[r] = from ? from[t] : 0;
  }
#define IS_RARE (IS_IN_BYTES && PACK == 1) /* no shape of it is worth the compiler's time */
#define SHAPE(D)                                                                                                        \
  KV_NAME(attend_tile_shape)(layer, D, query, K, V, plain_keys, plain_values, begins, sees, some, scale, cap, acc, m, l, next)
  if (!IS_RARE && dim == 64) SHAPE(64);
  else if (!IS_RARE && dim == 128) SHAPE(128);
  else SHAPE(dim);
#undef SHAPE
#undef IS_RARE
  for (int r = 0; r < some; r++) {
    const int64_t at = h * rows + first + r;
#ifdef HAS_AVX512
    for (int64_t d = 0; d < dim; d += LANES) NAME(store_16)(out + at * dim + d, _mm512_loadu_ps(acc + r * dim + d));
#else
    for (int64_t d = 0; d < dim; d++) out[at * dim + d] = NAME(from_float)(acc[r * dim + d]);
#endif
    top[at] = m[r], sum[at] = l[r];
  }
}

/* Attention of `tokens` (those at `chosen`, or all in order) over the keys of one row: out [kv_heads, tokens, group,
   dim], not divided by the sums, and top and sum [kv_heads, tokens, group]. q: [heads, token, dim] with these strides.
   Causal: the first token sees `keys`, each later one sees one more. Token t sees them from from[t] on (from 0 where
   there is no `from`), which may be none. all: the tokens of q. tile_rows: 0, or sums are in the order of tiles, made by
   tiles where a block has at least so many rows, if this processor and the heads allow it (tile_attention.h). Returns what
   is wrong with the call (checks.h). */
int64_t KV_NAME(attend_shared)(const T *q, int64_t q_head, int64_t q_token, int64_t all, const int64_t *chosen,
                            int64_t tokens, const kv_arena *arena, const kv_layer *layer, int64_t kv_heads, int64_t group,
                            int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale, float cap,
                            T *out, float *top, float *sum, int64_t tile_rows, int threads) {
  int64_t wrong = check_heads(kv_heads, group, dim);
  if (!wrong) wrong = check_kv_layer(layer, dim, IS_IN_BYTES, 0);
  if (!wrong) wrong = check_part(arena, keys, causal, chosen, 0, tokens, all);
  if (!wrong) wrong = check_range(from, tokens, 0, INT32_MAX, WRONG_FIRST);
  if (wrong) return wrong;
#if defined(HAS_TILES) && PACK == 2
  if (is_in_tile_order(tile_rows, dim)) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < kv_heads * ceil_div(tokens * group, TILE_TASK_ROWS); i++)
        KV_NAME(attend_task)(i, q, q_head, q_token, chosen, tokens, arena, layer, group, dim, keys, causal, from,
                             scale, cap, out, top, sum, tile_rows, &(prefetch_queue){0});
      if (configured_rows) release_tiles();
    }
    return FINE;
  }
#endif
  (void)tile_rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < kv_heads * ((tokens * group + TILE_ROWS - 1) / TILE_ROWS); i++)
    KV_NAME(attend_tile)(i, q, q_head, q_token, chosen, tokens, arena, layer, group, dim, keys, causal, from,
                      scale, cap, out, top, sum, &(prefetch_queue){0});
  return FINE;
}
#endif
