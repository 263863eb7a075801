/* Attention of many rows to shared keys by the tiles of AMX (tiles.h), and by vectors in the same order of sums, bit for bit:
   so few rows may go by vectors and many by tiles. A row is a query of one head. Keys and values are read as they lie in an
   arena: a block of keys, [dim / 2][16][2], and 32 places of values, [16][dim][2], consist of tiles. The width of a head
   is whole tiles.

   A row has the same bits whatever other rows are in its block: keys are gone through from the same places on, and what a
   row does not see has the weight 0. */

#ifndef TILE_ATTENTION
#define TILE_ATTENTION
#define TILE_TASK_ROWS 48 /* of a task, as blocks of 32 and 16: most groups of query heads divide it */
#define TILE_PLACES 256   /* at a time: their scores stay in the first-level cache */
#define SCORE_STRIDE (TILE_PLACES + 16) /* floats from row to row: were it a power of two, all rows would share some lines */
#define MAX_TILE_SIXTEENTHS 128 /* as MAX_SIXTEENTHS, for each step of two tiles of keys or values */

/* Whether attention to shared keys is computed so; tile_rows: of the call, 0 for vectors in their own order */
INLINE int is_in_tile_order(int64_t tile_rows, int64_t dim) { return tile_rows > 0 && dim % TILE_INPUTS == 0; }

/* Up to TILE_BLOCK rows, and what they are multiplied by */
typedef struct {
  const bf16 *query; /* [rows, dim] */
  int64_t dim;
  int rows, by_tiles;
  float *scores; /* [rows, SCORE_STRIDE]; then weights in bfloat16 in the same memory */
  float *acc;    /* [rows, dim] */
  prefetch_queue *next;
} attention_block;

/* The scores of so many blocks of keys; an odd one at the end is multiplied twice, and its second scores are not read. */
TILE_CODE static void score_by_tiles(const attention_block *of, const bf16 *K, int64_t blocks) {
  const int64_t dim = of->dim, bytes = dim * (int64_t)sizeof(bf16), score_bytes = SCORE_STRIDE * sizeof(float);
  const bf16 *upper = of->query, *lower = upper + 16 * dim;
  MEMORY_IS_WRITTEN();
  for (int64_t b = 0; b < blocks; b += 2) {
    const bf16 *first = K + b * LANES * dim, *second = b + 1 < blocks ? first + LANES * dim : first;
    float *at = of->scores + b * LANES;
    TILE_ZERO(0);
    TILE_ZERO(1);
    if (of->rows > 16) {
      TILE_ZERO(2);
      TILE_ZERO(3);
      for (int64_t d = 0; d < dim; d += TILE_INPUTS) {
        prefetch_some(of->next);
        TILE_LOAD(6, first + d * LANES, 2 * LANES * sizeof(bf16));
        TILE_LOAD(4, upper + d, bytes);
        TILE_LOAD(7, second + d * LANES, 2 * LANES * sizeof(bf16));
        TILE_LOAD(5, lower + d, bytes);
        TILE_MULTIPLY_ADD(0, 4, 6);
        TILE_MULTIPLY_ADD(1, 4, 7);
        TILE_MULTIPLY_ADD(2, 5, 6);
        TILE_MULTIPLY_ADD(3, 5, 7);
      }
      TILE_STORE(2, at + 16 * SCORE_STRIDE, score_bytes);
      TILE_STORE(3, at + 16 * SCORE_STRIDE + LANES, score_bytes);
    } else {
      for (int64_t d = 0; d < dim; d += TILE_INPUTS) {
        prefetch_some(of->next);
        TILE_LOAD(4, upper + d, bytes);
        TILE_LOAD(6, first + d * LANES, 2 * LANES * sizeof(bf16));
        TILE_LOAD(7, second + d * LANES, 2 * LANES * sizeof(bf16));
        TILE_MULTIPLY_ADD(0, 4, 6);
        TILE_MULTIPLY_ADD(1, 4, 7);
      }
    }
    TILE_STORE(0, at, score_bytes);
    TILE_STORE(1, at + LANES, score_bytes);
  }
  MEMORY_IS_WRITTEN();
}

/* acc += weights . values of so many places, whole blocks; `last` [16][dim][2] stands for the last 16 of them and 16
   zeros, where they are an odd block. */
TILE_CODE static void add_values_by_tiles(const attention_block *of, const bf16 *V, const bf16 *last, int64_t places) {
  const int64_t dim = of->dim, bytes = dim * (int64_t)sizeof(float), stride = SCORE_STRIDE * sizeof(float);
  const bf16 *upper = (const bf16 *)of->scores, *lower = (const bf16 *)(of->scores + 16 * SCORE_STRIDE);
  MEMORY_IS_WRITTEN();
  for (int64_t d = 0; d < dim; d += 2 * LANES) {
    float *to = of->acc + d;
    TILE_LOAD(0, to, bytes);
    TILE_LOAD(1, to + LANES, bytes);
    if (of->rows > 16) {
      TILE_LOAD(2, to + 16 * dim, bytes);
      TILE_LOAD(3, to + 16 * dim + LANES, bytes);
      for (int64_t j = 0; j < places; j += TILE_INPUTS) {
        const bf16 *at = (j + TILE_INPUTS <= places ? V + j * dim : last) + 2 * d;
        prefetch_some(of->next);
        TILE_LOAD(6, at, bytes);
        TILE_LOAD(4, upper + j, stride);
        TILE_LOAD(7, at + 2 * LANES, bytes);
        TILE_LOAD(5, lower + j, stride);
        TILE_MULTIPLY_ADD(0, 4, 6);
        TILE_MULTIPLY_ADD(1, 4, 7);
        TILE_MULTIPLY_ADD(2, 5, 6);
        TILE_MULTIPLY_ADD(3, 5, 7);
      }
      TILE_STORE(2, to + 16 * dim, bytes);
      TILE_STORE(3, to + 16 * dim + LANES, bytes);
    } else {
      for (int64_t j = 0; j < places; j += TILE_INPUTS) {
        const bf16 *at = (j + TILE_INPUTS <= places ? V + j * dim : last) + 2 * d;
        prefetch_some(of->next);
        TILE_LOAD(4, upper + j, stride);
        TILE_LOAD(6, at, bytes);
        TILE_LOAD(7, at + 2 * LANES, bytes);
        TILE_MULTIPLY_ADD(0, 4, 6);
        TILE_MULTIPLY_ADD(1, 4, 7);
      }
    }
    TILE_STORE(0, to, bytes);
    TILE_STORE(1, to + LANES, bytes);
  }
  MEMORY_IS_WRITTEN();
}

/* c[r] [2 * LANES] += what one instruction for each of two tiles would: R rows a of TILE_INPUTS numbers by two tiles whose
   pairs of inputs lie `step` numbers apart. */
INLINE void add_in_tile_order(const int R, const bf16 *a, int64_t a_row, const bf16 *first, const bf16 *second,
                              int64_t step, float *c, int64_t c_row) {
  const __m512i upper_half = _mm512_set1_epi32((int)0xffff0000u);
  float even[REGISTER_ROWS][LANES], odd[REGISTER_ROWS][LANES];
  __m512 low[REGISTER_ROWS][2], high[REGISTER_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const __m512i x = _mm512_loadu_si512(a + r * a_row);
    _mm512_storeu_si512(even[r], _mm512_slli_epi32(x, 16));
    _mm512_storeu_si512(odd[r], _mm512_and_si512(x, upper_half));
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) low[r][v] = high[r][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 2
  for (int s = 0; s < LANES; s++)
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      const __m512i w = _mm512_loadu_si512((v ? second : first) + s * step);
      const __m512 of_even = (__m512)_mm512_slli_epi32(w, 16), of_odd = (__m512)_mm512_and_si512(w, upper_half);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        low[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(even[r][s]), of_even, low[r][v]);
        high[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(odd[r][s]), of_odd, high[r][v]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      float *at = c + r * c_row + v * LANES;
      _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_add_ps(low[r][v], high[r][v])));
    }
}

/* The same for any number of rows */
static void add_rows_in_tile_order(int rows, const bf16 *a, int64_t a_row, const bf16 *first, const bf16 *second,
                                   int64_t step, float *c, int64_t c_row) {
#define ADD(R) add_in_tile_order(R, a, a_row, first, second, step, c, c_row)
  for (; rows >= REGISTER_ROWS; rows -= REGISTER_ROWS, a += REGISTER_ROWS * a_row, c += REGISTER_ROWS * c_row)
    ADD(REGISTER_ROWS);
  switch (rows) {
  case 1: ADD(1); break;
  case 2: ADD(2); break;
  case 3: ADD(3); break;
  case 4: ADD(4); break;
  case 5: ADD(5); break;
  }
#undef ADD
}

/* As score_by_tiles, where numbers too small to be normal count as 0 (ZERO_FOR_DENORMAL) */
static __attribute__((noinline)) void score_by_vectors(const attention_block *of, const bf16 *K, int64_t blocks) {
  const int64_t dim = of->dim;
  MEMORY_IS_WRITTEN();
  for (int64_t b = 0; b < blocks; b += 2) {
    const bf16 *first = K + b * LANES * dim, *second = b + 1 < blocks ? first + LANES * dim : first;
    float *at = of->scores + b * LANES;
    for (int r = 0; r < of->rows; r++) memset(at + r * SCORE_STRIDE, 0, 2 * LANES * sizeof(float));
    for (int64_t d = 0; d < dim; d += TILE_INPUTS) {
      prefetch_some(of->next);
      add_rows_in_tile_order(of->rows, of->query + d, dim, first + d * LANES, second + d * LANES, 2 * LANES, at,
                             SCORE_STRIDE);
    }
  }
  MEMORY_IS_WRITTEN();
}

/* As add_values_by_tiles, in the same way */
static __attribute__((noinline)) void add_values_by_vectors(const attention_block *of, const bf16 *V, const bf16 *last,
                                                            int64_t places) {
  const int64_t dim = of->dim;
  MEMORY_IS_WRITTEN();
  for (int64_t d = 0; d < dim; d += 2 * LANES)
    for (int64_t j = 0; j < places; j += TILE_INPUTS) {
      const bf16 *at = (j + TILE_INPUTS <= places ? V + j * dim : last) + 2 * d;
      prefetch_some(of->next);
      add_rows_in_tile_order(of->rows, (const bf16 *)of->scores + j, 2 * SCORE_STRIDE, at, at + 2 * LANES, 2 * dim,
                             of->acc + d, dim);
    }
  MEMORY_IS_WRITTEN();
}

/* Rows' maxima so far, and what a block of keys does to them: factors that scale the rows' sums so far to the new maxima,
   and a bit for each row to which nothing is added (it sees nothing here, or its maximum is no number) */
typedef struct {
  float top[TILE_BLOCK], keep[TILE_BLOCK];
  uint32_t blind;
} block_maxima;

INLINE float largest_score(const float *s, int keys) {
  __m512 most = _mm512_loadu_ps(s);
  for (int j = LANES; j < keys; j += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(s + j));
  return _mm512_reduce_max_ps(most);
}

/* `most`: the rows' largest scores in a block of keys */
INLINE void raise_maxima(block_maxima *of, const float *most, float scale) {
  const __m512 none = _mm512_set1_ps(-INFINITY);
  of->blind = 0;
  for (int r = 0; r < TILE_BLOCK; r += LANES) {
    const __m512 before = _mm512_loadu_ps(of->top + r);
    const __m512 here = _mm512_mul_ps(_mm512_loadu_ps(most + r), _mm512_set1_ps(scale)), top = _mm512_max_ps(here, before);
    const __mmask16 blind = _mm512_cmp_ps_mask(here, none, _CMP_EQ_OQ) | _mm512_cmp_ps_mask(top, none, _CMP_EQ_OQ);
    const __mmask16 had_some = _mm512_cmp_ps_mask(before, none, _CMP_NEQ_UQ);
    const __m512 keep = _mm512_maskz_mov_ps(had_some, exp_16(_mm512_sub_ps(before, top)));
    _mm512_storeu_ps(of->keep + r, _mm512_mask_mov_ps(keep, blind, _mm512_set1_ps(1)));
    _mm512_storeu_ps(of->top + r, top);
    of->blind |= (uint32_t)blind << r;
  }
}

/* Scores of a row become weights in bfloat16, in the first half of the scores' memory, times `scales` where there are any;
   their sums, lane by lane, are added to `sum`. A key that is not seen, whose score is -infinity, has the weight 0. Keys are
   whole tiles. */
INLINE void weights_in_place(float *s, int keys, float scale, const float *scales, const block_maxima *of, int r,
                             float *sum) {
  const __m512 factor = _mm512_set1_ps(scale * LOG2_E), most = _mm512_set1_ps(of->top[r] * LOG2_E);
  __m512 totals[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  if (of->blind >> r & 1) {
    memset(s, 0, keys * sizeof(bf16));
    return;
  }
  for (int j = 0; j < keys; j += TILE_INPUTS) {
    __m512 e[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      e[v] = power_of_two_16(_mm512_fmsub_ps(_mm512_loadu_ps(s + j + v * LANES), factor, most));
      totals[v] = _mm512_add_ps(totals[v], e[v]);
      if (scales) e[v] = _mm512_mul_ps(e[v], _mm512_loadu_ps(scales + j + v * LANES));
    }
    _mm512_storeu_si512((bf16 *)s + j, (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]));
  }
  const __m512 total = _mm512_add_ps(totals[0], totals[1]);
  _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(of->keep[r]), total));
}
#endif

/* As attend_tile_shape, for a block of rows in the order of tiles; scores of a block with a soft cap have the scale. */
static void KV_NAME(attend_block)(const kv_layer *layer, const attention_block *of, const KV *K, const KV *V,
                                  const T *plain_keys, const T *plain_values, const int64_t *first,
                                  const int64_t *sees, float scale, float cap, float *top, float *sum) {
  const int at_once = IS_IN_BYTES ? UNPACKED_KEYS : TILE_PLACES, rows = of->rows;
  const int64_t dim = of->dim, key_stride = KV_NAME(key_stride)(layer, dim), value_stride = KV_NAME(value_stride)(layer, dim);
  bf16 last[TILE_INPUTS * MAX_DIM] __attribute__((aligned(CACHE_LINE)));
#if IS_IN_BYTES
  bf16 unpacked[UNPACKED_KEYS * MAX_DIM] __attribute__((aligned(CACHE_LINE)));
  float key_scales[UNPACKED_KEYS], value_scales[UNPACKED_KEYS];
#endif
  int64_t keys = 0, begin = first[0];
  for (int r = 0; r < rows; r++) keys = sees[r] > keys ? sees[r] : keys, begin = first[r] < begin ? first[r] : begin;
  block_maxima maxima;
  float most[TILE_BLOCK], sums[TILE_BLOCK * LANES] __attribute__((aligned(CACHE_LINE))) = {0};
  for (int r = 0; r < TILE_BLOCK; r++) maxima.top[r] = most[r] = -INFINITY;
  memset(of->acc, 0, rows * dim * sizeof(float));
  if (of->by_tiles && configured_rows != rows) configure_tiles(rows);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | ZERO_FOR_DENORMAL); /* as tiles do it; and see power_of_two_16 */
  for (int64_t start = begin / at_once * at_once; start < keys; start += at_once) {
    const int count = keys - start < at_once ? (int)(keys - start) : at_once;
    const int places = (count + LANES - 1) / LANES * LANES, whole = (places + TILE_INPUTS - 1) / TILE_INPUTS * TILE_INPUTS;
#if IS_IN_BYTES
    const int are_scaled = KV_NAME(unpack_keys)(layer, (int)dim, K + start * key_stride, places, unpacked, key_scales);
    if (plain_keys && !start) BYTES_NAME(unpack_plain)(1, (int)dim, plain_keys, unpacked, key_scales);
    const bf16 *block_keys = unpacked;
#else
    const bf16 *block_keys = K + start * key_stride;
#endif
    if (of->by_tiles) score_by_tiles(of, block_keys, places / LANES);
    else score_by_vectors(of, block_keys, places / LANES);
#if IS_IN_BYTES
    for (int r = 0; r < rows && are_scaled; r++)
      for (int j = 0; j < places; j++) of->scores[r * SCORE_STRIDE + j] *= key_scales[j];
    const int have_scales = KV_NAME(unpack_values)(layer, (int)dim, V + start * value_stride, places, unpacked, value_scales);
    if (plain_values && !start) BYTES_NAME(unpack_plain)(0, (int)dim, plain_values, unpacked, value_scales);
    for (int j = places; j < whole; j++) value_scales[j] = 0;
    const bf16 *values = unpacked;
    const float *scales = have_scales ? value_scales : 0;
#else
    const bf16 *values = V + start * value_stride;
    const float *scales = 0;
#endif
    for (int r = 0; r < rows; r++) {
      float *s = of->scores + r * SCORE_STRIDE;
      if (cap || start < first[r]) cap_and_hide(s, whole, first[r] - start, scale, cap);
      for (int64_t j = sees[r] > start ? sees[r] - start : 0; j < whole; j++) s[j] = -INFINITY;
      most[r] = largest_score(s, whole);
    }
    raise_maxima(&maxima, most, cap ? 1 : scale);
    for (int r = 0; r < rows; r++) {
      const __m512 keep = _mm512_set1_ps(maxima.keep[r]);
      float *acc = of->acc + r * dim;
      prefetch_some(of->next);
      weights_in_place(of->scores + r * SCORE_STRIDE, whole, cap ? 1 : scale, scales, &maxima, r, sums + r * LANES);
      for (int64_t d = 0; d < dim; d += LANES) _mm512_storeu_ps(acc + d, _mm512_mul_ps(_mm512_loadu_ps(acc + d), keep));
    }
    if (whole > places) { /* there may be nothing behind the arena, and 0 times what was never written may be no number */
      memcpy(last, values + (whole - TILE_INPUTS) * dim, LANES * dim * sizeof(bf16));
      memset(last + LANES * dim, 0, LANES * dim * sizeof(bf16));
    }
    if (of->by_tiles) add_values_by_tiles(of, values, last, places);
    else add_values_by_vectors(of, values, last, places);
  }
  _mm_setcsr(before);
  for (int r = 0; r < rows; r++)
    top[r] = maxima.top[r], sum[r] = _mm512_reduce_add_ps(_mm512_loadu_ps(sums + r * LANES));
}

#if IS_IN(ATTENTION_UNIT)
/* As attend_tile, in the order of tiles: by tiles where a block has at least `tile_rows` rows */
BETWEEN_UNITS void KV_NAME(attend_task)(int64_t i, const bf16 *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                                 int64_t tokens, const kv_arena *arena, const kv_layer *layer, int64_t group,
                                 int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale,
                                 float cap, bf16 *out, float *top, float *sum, int64_t tile_rows, prefetch_queue *next) {
  const int64_t rows = tokens * group, tasks = ceil_div(rows, TILE_TASK_ROWS), h = i / tasks;
  const int64_t first = (tasks - 1 - i % tasks) * TILE_TASK_ROWS;
  const int64_t end = rows - first < TILE_TASK_ROWS ? rows : first + TILE_TASK_ROWS;
  const KV *K = KV_NAME(keys_of)(arena, layer, h, dim), *V = KV_NAME(values_of)(arena, layer, h, dim);
  const T *plain_keys = KV_NAME(plain_keys)(arena, layer, h, dim), *plain_values = KV_NAME(plain_values)(arena, layer, h, dim);
  bf16 query[TILE_BLOCK * MAX_DIM] __attribute__((aligned(CACHE_LINE)));
  float acc[TILE_BLOCK * MAX_DIM] __attribute__((aligned(CACHE_LINE)));
  float scores[TILE_BLOCK * SCORE_STRIDE] __attribute__((aligned(CACHE_LINE)));
  for (int64_t row = first; row < end; row += TILE_BLOCK) {
    const int some = end - row < TILE_BLOCK ? (int)(end - row) : TILE_BLOCK;
    const attention_block of = {query, dim, some, some >= tile_rows, scores, acc, next};
    int64_t sees[TILE_BLOCK], begins[TILE_BLOCK] = {0};
    for (int r = 0; r < some; r++) {
      const int64_t t = (row + r) / group, of_head = h * group + (row + r) % group;
      memcpy(query + r * dim, q + of_head * q_head + (chosen ? chosen[t] : t) * q_token, dim * sizeof(bf16));
      sees[r] = keys + (causal ? t : 0);
      begins[r] = from ? from[t] : 0;
    }
    const int64_t at = h * rows + row;
    KV_NAME(attend_block)(layer, &of, K, V, plain_keys, plain_values, begins, sees, scale, cap, top + at, sum + at);
    for (int64_t d = 0; d < some * dim; d += LANES) store_16_bf16(out + at * dim + d, _mm512_loadu_ps(acc + d));
  }
}
#endif
