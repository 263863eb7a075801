/* The products and weights of tiles of rows by keys, for one number format (T, PACK, NAME: see kernels.c): the scores of a
   tile are in the first-level cache, the sums of REGISTER_ROWS rows in the registers. attention_shared.h uses them. */

#ifndef ATTENTION_TILES
#define ATTENTION_TILES
#define TILE_ROWS 24 /* a multiple of REGISTER_ROWS */
#define TILE_KEYS 512
#define UNPACKED_KEYS 128 /* at a time, where they are stored in bytes: then these, unpacked, stay in the caches, too */
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

/* Prefetches some of what is read next. */
INLINE void prefetch_some(prefetch_queue *next) {
  const char *end = next->ranges ? next->range->end : next->at;
  int64_t left = next->sixteenths_left + next->sixteenths_per_step;
  for (; left >= 16 && next->at < end; left -= 16, next->at += CACHE_LINE) __builtin_prefetch(next->at, 0, 2);
  next->sixteenths_left = left % 16;
  if (next->at >= end && next->ranges && --next->ranges) next->at = (++next->range)->at;
}
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

/* The scores of one row of a tile become weights, multiplied by `scales` where there are any, and its maximum and sum are
   updated. Returns the factor that scales its sums of values so far to the new maximum. */
INLINE float NAME(tile_weights)(const float *s, int keys, float scale, const float *scales, T *weights, float *top,
                                float *sum) {
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
    NAME(store_16)(weights + j, scales ? _mm512_mul_ps(e, _mm512_loadu_ps(scales + j)) : e);
  }
  *sum = *sum * keep + _mm512_reduce_add_ps(total);
  *top = m;
  return keep;
}
