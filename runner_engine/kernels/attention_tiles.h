/* The products and weights of tiles of rows by keys, for one number format (T, PACK, NAME: see kernels.c) that can be
   multiplied: the scores of a tile are in the first-level cache, the sums of REGISTER_ROWS rows in the registers.
   attention_shared.h uses them. */

#ifndef ATTENTION_TILES
#define ATTENTION_TILES
#define TILE_ROWS 24 /* a multiple of REGISTER_ROWS */
#define UNPACKED_KEYS 128 /* at a time, where they are stored otherwise: then these, unpacked, stay in the caches, too */
#ifdef HAS_AVX512
#define TILE_KEYS 512
#define TILE_BLOCKS 4 /* of LANES sums side by side, for each row in the registers */
#else
#define TILE_KEYS UNPACKED_KEYS
#define TILE_BLOCKS 1
#endif
#define BLOCK_VECS (LANES / VEC_FLOATS)

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

/* c[r] (+)= the sums over `steps` of a[r][step] * b[step], for REGISTER_ROWS rows and N blocks of LANES columns; a step is
   one number, or a pair in bfloat16. */
INLINE void NAME(tile_products)(const int N, const T *a, int64_t a_row, const T *b, int64_t b_block, int64_t b_step,
                                int64_t steps, float *c, int64_t c_row, const int add, prefetch_queue *next) {
  const char *at = next->at, *end = next->ranges ? next->range->end : at;
  int64_t left = next->sixteenths_left;
  vec o[REGISTER_ROWS][TILE_BLOCKS * BLOCK_VECS];
  for (int r = 0; r < REGISTER_ROWS; r++)
    for (int v = 0; v < N * BLOCK_VECS; v++) o[r][v] = add ? load_f32(c + r * c_row + v * VEC_FLOATS) : (vec){0};
  for (int64_t p = 0; p < steps; p++) {
    for (left += next->sixteenths_per_step; left >= 16 && at < end; left -= 16, at += CACHE_LINE)
      __builtin_prefetch(at, 0, 2);
    NAME(vec) x[TILE_BLOCKS * BLOCK_VECS];
    for (int v = 0; v < N * BLOCK_VECS; v++)
      x[v] = NAME(load)(b + v / BLOCK_VECS * b_block + p * b_step + v % BLOCK_VECS * VEC_FLOATS * PACK);
    for (int r = 0; r < REGISTER_ROWS; r++)
      for (int v = 0; v < N * BLOCK_VECS; v++) o[r][v] = NAME(multiply_add)(o[r][v], a + r * a_row + PACK * p, x[v]);
  }
  for (int r = 0; r < REGISTER_ROWS; r++)
    for (int v = 0; v < N * BLOCK_VECS; v++) memcpy(c + r * c_row + v * VEC_FLOATS, &o[r][v], sizeof(vec));
  next->at = at, next->sixteenths_left = left % 16;
  if (at >= end && next->ranges && --next->ranges) next->at = (++next->range)->at;
}

/* for N blocks of LANES columns of those that are left */
#if TILE_BLOCKS == 4
#define FOR_BLOCKS(columns, DO)        \
  if ((columns) >= 4 * LANES) DO(4);   \
  else if ((columns) >= 3 * LANES) DO(3); \
  else if ((columns) >= 2 * LANES) DO(2); \
  else DO(1)
#else
#define FOR_BLOCKS(columns, DO) DO(1)
#endif

/* s[r][j] = q[r] . key j, for so many keys, whole blocks of LANES */
INLINE void NAME(tile_scores)(const int D, const T *q, const T *K, int rows, int keys, float s[][TILE_KEYS],
                              prefetch_queue *next) {
  for (int j = 0; j < keys; j += TILE_BLOCKS * LANES)
    for (int r = 0; r < rows; r += REGISTER_ROWS) {
#define SCORES(N) \
  NAME(tile_products)(N, q + r * D, D, K + j * D, LANES * D, PACK * LANES, D / PACK, &s[r][j], TILE_KEYS, 0, next)
      FOR_BLOCKS(keys - j, SCORES);
#undef SCORES
    }
}

/* acc[r] += the sum over so many places of weights[r][j] * value j */
INLINE void NAME(add_tile_values)(const int D, T weights[][TILE_KEYS], const T *V, int rows, int keys, float *acc,
                                  prefetch_queue *next) {
  for (int d = 0; d < D; d += TILE_BLOCKS * LANES)
    for (int r = 0; r < rows; r += REGISTER_ROWS) {
#define ADD_VALUES(N)                                                                                                \
  NAME(tile_products)(N, weights[r], TILE_KEYS, V + d * PACK, PACK * LANES, PACK * D, keys / PACK, acc + r * D + d, D, \
                      1, next)
      FOR_BLOCKS(D - d, ADD_VALUES);
#undef ADD_VALUES
    }
}
#undef FOR_BLOCKS

/* The scores of one row of a tile become weights, multiplied by `scales` where there are any, and its maximum and sum are
   updated. Returns the factor that scales its sums of values so far to the new maximum. */
INLINE float NAME(tile_weights)(const float *s, int keys, float scale, const float *scales, T *weights, float *top,
                                float *sum) {
#ifdef HAS_AVX512
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  for (int j = 0; j < keys; j += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(s + j));
  float m = _mm512_reduce_max_ps(most) * scale;
#else
  float m = -INFINITY, total = 0;
#pragma omp simd reduction(max : m)
  for (int j = 0; j < keys; j++) m = s[j] > m ? s[j] : m;
  m *= scale;
#endif
  m = m > *top ? m : *top;
  if (m == -INFINITY) { /* it has seen no key so far */
    memset(weights, 0, keys * sizeof(T));
    return 1.0f;
  }
  const float keep = *top == -INFINITY ? 0.0f : exp_fast(*top - m);
#ifdef HAS_AVX512
  for (int j = 0; j < keys; j += LANES) {
    const __m512 below = _mm512_fmsub_ps(_mm512_loadu_ps(s + j), _mm512_set1_ps(scale), _mm512_set1_ps(m));
    const __m512 e = NAME(softmax_weight_16)(below);
    total = _mm512_add_ps(total, e);
    NAME(store_16)(weights + j, scales ? _mm512_mul_ps(e, _mm512_loadu_ps(scales + j)) : e);
  }
  *sum = *sum * keep + _mm512_reduce_add_ps(total);
#else
  float scaled[TILE_KEYS];
#pragma omp simd reduction(+ : total)
  for (int j = 0; j < keys; j++) {
    const float e = exp_fast(fmaf(s[j], scale, -m));
    total += e;
    scaled[j] = e;
  }
  /* not a choice within the loop: compilers make a masked load of it, which AMD's processors do slowly where it loads nothing */
  if (scales)
    for (int j = 0; j < keys; j++) scaled[j] *= scales[j];
  for (int j = 0; j < keys; j++) weights[j] = NAME(from_float)(scaled[j]);
  *sum = *sum * keep + total;
#endif
  *top = m;
  return keep;
}
