/* Attention to what many tokens share, for one number format (T, PACK, NAME: see kernels.c): tiles of rows by keys, the
   scores of a tile in the first-level cache, the sums of REGISTER_ROWS rows in the registers. Only where registers are
   wide; elsewhere torch's products do it. */

#ifndef ATTENTION_TILES
#define ATTENTION_TILES
#define TILE_ROWS 24 /* a multiple of REGISTER_ROWS */
#define TILE_KEYS 512
#define TILE_VECS 4 /* of sums side by side, for each row in the registers */

/* Memory that is read next, range by range. It is prefetched from `at` on while something is multiplied, some
   sixteenths of a cache line at each step; sixteenths_left: the remainder that is less than a line. */
typedef struct {
  const char *at, *end;
} memory_range;

typedef struct {
  const char *at;
  int64_t sixteenths_per_step, sixteenths_left, ranges; /* ranges: how many are left */
  const memory_range *range;
} prefetch_queue;
#endif

/* c[r][v] (+)= the sum over `steps` of a[r][step] * b[v][step], for REGISTER_ROWS rows and N vectors of LANES; a step
   is one number, or a pair in bfloat16. */
INLINE void NAME(tile_products)(const int N, const T *a, int64_t a_row, const T *b, int64_t b_vec, int64_t b_step,
                                int64_t steps, float *c, int64_t c_row, const int add, prefetch_queue *next) {
  const char *at = next->at, *end = next->ranges ? next->range->end : at;
  int64_t left = next->sixteenths_left;
  vec o[REGISTER_ROWS][TILE_VECS];
  for (int r = 0; r < REGISTER_ROWS; r++)
    for (int v = 0; v < N; v++) o[r][v] = add ? load_f32(c + r * c_row + v * LANES) : (vec){0};
  for (int64_t p = 0; p < steps; p++) {
    for (left += next->sixteenths_per_step; left >= 16 && at < end; left -= 16, at += CACHE_LINE)
      __builtin_prefetch(at, 0, 2);
    NAME(vec) x[TILE_VECS];
    for (int v = 0; v < N; v++) x[v] = NAME(load)(b + v * b_vec + p * b_step);
    for (int r = 0; r < REGISTER_ROWS; r++)
      for (int v = 0; v < N; v++) o[r][v] = NAME(multiply_add)(o[r][v], NAME(load_one)(a + r * a_row + PACK * p), x[v]);
  }
  for (int r = 0; r < REGISTER_ROWS; r++)
    for (int v = 0; v < N; v++) memcpy(c + r * c_row + v * LANES, &o[r][v], sizeof(vec));
  next->at = at, next->sixteenths_left = left % 16;
  if (at >= end && next->ranges && --next->ranges) next->at = (++next->range)->at;
}

/* s[r][j] = q[r] . key j, for so many keys, whole blocks of LANES */
INLINE void NAME(tile_scores)(const int D, const T *q, const T *K, int rows, int keys, float s[][TILE_KEYS],
                              prefetch_queue *next) {
  for (int j = 0; j < keys; j += TILE_VECS * LANES)
    for (int r = 0; r < rows; r += REGISTER_ROWS) {
      const int vecs = keys - j < TILE_VECS * LANES ? (keys - j) / LANES : TILE_VECS;
#define SCORES(N) \
  NAME(tile_products)(N, q + r * D, D, K + j * D, LANES * D, PACK * LANES, D / PACK, &s[r][j], TILE_KEYS, 0, next)
      if (vecs == 4) SCORES(4);
      else if (vecs == 3) SCORES(3);
      else if (vecs == 2) SCORES(2);
      else SCORES(1);
#undef SCORES
    }
}

/* acc[r] += the sum over so many places of weights[r][j] * value j */
INLINE void NAME(add_tile_values)(const int D, T weights[][TILE_KEYS], const T *V, int rows, int keys, float *acc,
                                  prefetch_queue *next) {
  for (int d = 0; d < D; d += TILE_VECS * LANES)
    for (int r = 0; r < rows; r += REGISTER_ROWS) {
      const int vecs = D - d < TILE_VECS * LANES ? (D - d) / LANES : TILE_VECS;
#define ADD_VALUES(N)                                                                                                \
  NAME(tile_products)(N, weights[r], TILE_KEYS, V + d * PACK, PACK * LANES, PACK * D, keys / PACK, acc + r * D + d, D, \
                      1, next)
      if (vecs == 4) ADD_VALUES(4);
      else if (vecs == 3) ADD_VALUES(3);
      else if (vecs == 2) ADD_VALUES(2);
      else ADD_VALUES(1);
#undef ADD_VALUES
    }
}

/* The scores of one row of a tile become weights, and its maximum and sum are updated. Returns the factor that scales
   its sums of values so far to the new maximum. */
INLINE float NAME(tile_weights)(const float *s, int keys, float scale, T *weights, float *top, float *sum) {
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  for (int j = 0; j < keys; j += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(s + j));
  float m = _mm512_reduce_max_ps(most) * scale;
  m = m > *top ? m : *top;
  if (m == -INFINITY) { /* it has seen no key so far */
    memset(weights, 0, keys * sizeof(T));
    return 1.0f;
  }
  const float keep = *top == -INFINITY ? 0.0f : exp_fast(*top - m);
  for (int j = 0; j < keys; j += LANES) {
    const __m512 below = _mm512_fmsub_ps(_mm512_loadu_ps(s + j), _mm512_set1_ps(scale), _mm512_set1_ps(m));
    const __m512 e = NAME(softmax_weight_16)(below);
    total = _mm512_add_ps(total, e);
    NAME(store_16)(weights + j, e);
  }
  *sum = *sum * keep + _mm512_reduce_add_ps(total);
  *top = m;
  return keep;
}

/* Up to TILE_ROWS rows of one key-value head over the keys of an arena: row r sees those from first[r] to sees[r],
   which may be none. cap: the soft cap of the scores, or 0 for none. */
INLINE void NAME(attend_tile_shape)(const int D, const T *q, const T *K, const T *V, const int64_t *first,
                                    const int64_t *sees, int rows, float scale, float cap, float *acc, float *top,
                                    float *sum, prefetch_queue *next) {
  float s[TILE_ROWS][TILE_KEYS];
  T weights[TILE_ROWS][TILE_KEYS];
  const int all_rows = (rows + REGISTER_ROWS - 1) / REGISTER_ROWS * REGISTER_ROWS;
  const float in_scores = cap ? 1 : scale; /* with a cap the scale is in the scores */
  int64_t keys = 0, begin = first[0];
  for (int r = 0; r < rows; r++) keys = sees[r] > keys ? sees[r] : keys, begin = first[r] < begin ? first[r] : begin;
  begin = begin / LANES * LANES;
  for (int r = 0; r < rows; r++) top[r] = -INFINITY, sum[r] = 0;
  for (int i = 0; i < all_rows * D; i++) acc[i] = 0;
  for (int64_t start = begin; start < keys; start += TILE_KEYS) {
    const int count = keys - start < TILE_KEYS ? (int)(keys - start) : TILE_KEYS;
    const int full = (count + LANES - 1) / LANES * LANES;
    NAME(tile_scores)(D, q, K + start * D, all_rows, full, s, next);
    for (int r = 0; r < rows; r++) {
      if (cap || start < first[r]) cap_and_hide(s[r], full, first[r] - start, scale, cap);
      for (int64_t j = sees[r] > start ? sees[r] - start : 0; j < full; j++) s[r][j] = -INFINITY;
      const float keep = NAME(tile_weights)(s[r], full, in_scores, weights[r], top + r, sum + r);
      if (start > begin && keep != 1.0f)
        for (int d = 0; d < D; d++) acc[r * D + d] *= keep;
    }
    for (int r = rows; r < all_rows; r++) memset(weights[r], 0, full * sizeof(T));
    NAME(add_tile_values)(D, weights, V + start * D, all_rows, full, acc, next);
  }
}

/* Task i of `attend_shared`: some of the rows of one key-value head, those that see most first */
static void NAME(attend_tile)(int64_t i, const T *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                              int64_t tokens, const kv_arena *arena, int64_t layer, int64_t kv_heads, int64_t group,
                              int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale,
                              float cap, T *out, float *top, float *sum, prefetch_queue *next) {
  const int64_t rows = tokens * group, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  const int64_t h = i / tiles, first = (tiles - 1 - i % tiles) * TILE_ROWS;
  const T *K = NAME(keys_of)(arena, layer * kv_heads + h, dim), *V = NAME(values_of)(arena, layer * kv_heads + h, dim);
  const int some = rows - first < TILE_ROWS ? (int)(rows - first) : TILE_ROWS;
  T query[TILE_ROWS * MAX_DIM];
  float acc[TILE_ROWS * MAX_DIM], m[TILE_ROWS], l[TILE_ROWS];
  int64_t sees[TILE_ROWS], begins[TILE_ROWS] = {0};
  memset(query, 0, TILE_ROWS * dim * sizeof(T));
  for (int r = 0; r < some; r++) {
    int64_t t = (first + r) / group, head = h * group + (first + r) % group;
    memcpy(query + r * dim, q + head * q_head + (chosen ? chosen[t] : t) * q_token, dim * sizeof(T));
    sees[r] = keys + (causal ? t : 0);
    begins[r] = from ? from[t] : 0;
  }
#define SHAPE(D) NAME(attend_tile_shape)(D, query, K, V, begins, sees, some, scale, cap, acc, m, l, next)
  if (dim == 64) SHAPE(64);
  else if (dim == 128) SHAPE(128);
  else SHAPE(dim);
#undef SHAPE
  for (int r = 0; r < some; r++) {
    const int64_t at = h * rows + first + r;
    for (int64_t d = 0; d < dim; d += LANES) NAME(store_16)(out + at * dim + d, _mm512_loadu_ps(acc + r * dim + d));
    top[at] = m[r], sum[at] = l[r];
  }
}

/* Attention of `tokens` (those at `chosen`, or all in order) over the keys of one row: out [kv_heads, tokens, group,
   dim], not divided by the sums, and top and sum [kv_heads, tokens, group]. q: [heads, token, dim] with these strides.
   Causal: the first token sees `keys`, each later one sees one more. Token t sees them from from[t] on (from 0 where
   there is no `from`), which may be none. all: the tokens of q. Returns what is wrong with the call (checks.h). */
int64_t NAME(attend_shared)(const T *q, int64_t q_head, int64_t q_token, int64_t all, const int64_t *chosen,
                            int64_t tokens, const kv_arena *arena, int64_t layer, int64_t kv_heads, int64_t group,
                            int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale, float cap,
                            T *out, float *top, float *sum, int threads) {
  int64_t wrong = check_heads(kv_heads, group, dim);
  if (!wrong) wrong = check_part(arena, keys, causal, chosen, 0, tokens, all);
  if (!wrong) wrong = check_range(from, tokens, 0, INT32_MAX, WRONG_FIRST);
  if (wrong) return wrong;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < kv_heads * ((tokens * group + TILE_ROWS - 1) / TILE_ROWS); i++)
    NAME(attend_tile)(i, q, q_head, q_token, chosen, tokens, arena, layer, kv_heads, group, dim, keys, causal, from,
                      scale, cap, out, top, sum, &(prefetch_queue){0});
  return FINE;
}
