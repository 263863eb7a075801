/* Products of INT8_DYNAMIC and INT8_STORED for any processor, for one number format (T, PACK, NAME: see kernels.c). Where registers of 256
   bits multiply bytes (AVX-VNNI, or the VNNI of AVX-512 beside registers of 256 bits) these instructions do it; elsewhere it is
   plain C, which the compiler turns into the processor's products of 16 bits. The outputs are those of int8_dynamic.h
   and int8_stored.h to the bit: sums of bytes are exact in any order. */

#ifndef INT8_PORTABLE
#define INT8_PORTABLE
#define PORTABLE_ROWS 32 /* of a task */
#define PORTABLE_OUTPUTS 16
#define PORTABLE_INPUTS 512 /* that are widened at a time: they stay in the first-level cache */

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_epi32
#elif defined(__AVXVNNI__)
#include <immintrin.h>
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_avx_epi32
#endif

#ifdef ADD_PRODUCTS_OF_BYTES
#define ROW_SHIFT 128 /* the instruction takes the bytes of a row without a sign */

INLINE int32_t sum_of_eight(__m256i x) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

/* sum += the products of 32 inputs of 4 rows with 2 outputs; moved += those of a row that is 0, if it is wanted */
INLINE void add_products(const uint8_t *const x[4], const int8_t *const w[2], int64_t k, __m256i sum[4][2],
                         const int has_moved, __m256i moved[2]) {
  const __m256i w0 = _mm256_loadu_si256((const __m256i *)(w[0] + k)), w1 = _mm256_loadu_si256((const __m256i *)(w[1] + k));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256i numbers = _mm256_loadu_si256((const __m256i *)(x[i] + k));
    sum[i][0] = ADD_PRODUCTS_OF_BYTES(sum[i][0], numbers, w0);
    sum[i][1] = ADD_PRODUCTS_OF_BYTES(sum[i][1], numbers, w1);
  }
  if (has_moved) {
    const __m256i zeros = _mm256_set1_epi8((char)ROW_SHIFT);
    moved[0] = ADD_PRODUCTS_OF_BYTES(moved[0], zeros, w0), moved[1] = ADD_PRODUCTS_OF_BYTES(moved[1], zeros, w1);
  }
}

/* total [4, 2] of 4 rows with 2 outputs, and what ROW_SHIFT adds to them */
INLINE void sums_of_four(const uint8_t *const x[4], const int8_t *const w[2], int64_t inputs, const int has_moved,
                         uint32_t total[4][2], uint32_t shifts[2]) {
  __m256i sum[4][2], moved[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int i = 0; i < 4; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  const int64_t whole = inputs / 32 * 32;
  for (int64_t k = 0; k < whole; k += 32) add_products(x, w, k, sum, has_moved, moved);
  if (whole < inputs) { /* weights of 0 stand beside what follows in a row */
    uint8_t last_x[4][32] = {{0}};
    int8_t last_w[2][32] = {{0}};
    for (int i = 0; i < 4; i++) memcpy(last_x[i], x[i] + whole, inputs - whole);
    for (int j = 0; j < 2; j++) memcpy(last_w[j], w[j] + whole, inputs - whole);
    const uint8_t *const rest_x[4] = {last_x[0], last_x[1], last_x[2], last_x[3]};
    const int8_t *const rest_w[2] = {last_w[0], last_w[1]};
    add_products(rest_x, rest_w, 0, sum, has_moved, moved);
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++) total[i][j] = (uint32_t)sum_of_eight(sum[i][j]);
  if (has_moved) shifts[0] = (uint32_t)sum_of_eight(moved[0]), shifts[1] = (uint32_t)sum_of_eight(moved[1]);
}

/* sums [rows, PORTABLE_OUTPUTS] of bytes [rows, inputs], which are ROW_SHIFT too large, with the weights of some outputs.
   Four rows by two outputs fit into 16 registers; missing ones repeat others, and are not written. */
static void portable_sums(const int8_t *bytes, int64_t rows, int64_t inputs, const int8_t *weights, int64_t outputs,
                          int32_t *sums) {
  for (int64_t o = 0; o < outputs; o += 2) {
    const int8_t *const w[2] = {weights + o * inputs, weights + (o + 1 < outputs ? o + 1 : o) * inputs};
    uint32_t shifts[2], total[4][2];
    for (int64_t r = 0; r < rows; r += 4) {
      const uint8_t *x[4];
      for (int64_t i = 0; i < 4; i++) x[i] = (const uint8_t *)bytes + (r + i < rows ? r + i : r) * inputs;
      if (r == 0) sums_of_four(x, w, inputs, 1, total, shifts);
      else sums_of_four(x, w, inputs, 0, total, shifts);
      for (int64_t i = 0; i < 4 && r + i < rows; i++)
        for (int64_t j = 0; j < 2 && o + j < outputs; j++)
          sums[(r + i) * PORTABLE_OUTPUTS + o + j] = (int32_t)(total[i][j] - shifts[j]);
    }
  }
}
#else
#define ROW_SHIFT 0

/* Bytes as numbers of 16 bits, which every processor multiplies and adds up in pairs */
INLINE void widen(const int8_t *from, int64_t count, int16_t *to) {
#pragma omp simd
  for (int64_t k = 0; k < count; k++) to[k] = from[k];
}

/* sums [4, PORTABLE_OUTPUTS] += the products of 4 rows with an output's weights */
INLINE void add_four_sums(int16_t x[4][PORTABLE_INPUTS], const int16_t *w, int64_t inputs, int32_t *sums) {
  const int16_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  int32_t a = 0, b = 0, c = 0, d = 0; /* no omp simd: with it gcc does not find the instruction */
  for (int64_t k = 0; k < inputs; k++) a += x0[k] * w[k], b += x1[k] * w[k], c += x2[k] * w[k], d += x3[k] * w[k];
  sums[0] += a, sums[PORTABLE_OUTPUTS] += b, sums[2 * PORTABLE_OUTPUTS] += c, sums[3 * PORTABLE_OUTPUTS] += d;
}

/* sums [rows, PORTABLE_OUTPUTS] of bytes [rows, inputs] with the weights of some outputs */
static void portable_sums(const int8_t *bytes, int64_t rows, int64_t inputs, const int8_t *weights, int64_t outputs,
                          int32_t *sums) {
  int16_t x[4][PORTABLE_INPUTS], w[PORTABLE_OUTPUTS][PORTABLE_INPUTS];
  memset(sums, 0, (rows + 3) * PORTABLE_OUTPUTS * sizeof *sums);
  for (int64_t k = 0; k < inputs; k += PORTABLE_INPUTS) {
    const int64_t some = inputs - k < PORTABLE_INPUTS ? inputs - k : PORTABLE_INPUTS;
    for (int64_t o = 0; o < outputs; o++) widen(weights + o * inputs + k, some, w[o]);
    for (int64_t r = 0; r < rows; r += 4) {
      for (int64_t i = 0; i < 4; i++) widen(bytes + (r + i < rows ? r + i : r) * inputs + k, some, x[i]);
      for (int64_t o = 0; o < outputs; o++) add_four_sums(x, w[o], some, sums + r * PORTABLE_OUTPUTS + o);
    }
  }
}
#endif
#endif

/* The scale of a row whose largest number is `top`, as torchao computes it; NaN stays NaN */
INLINE float NAME(row_scale_of)(float top) {
  const float scale = NAME(to_float)(NAME(from_float)(top / 127.5f)), least = 1.1920929e-7f;
  return scale < least ? least : scale;
}

/* The same as compressed-tensors computes it, whose scale of a row of zeros is a step of the rows' format at 1 */
INLINE float NAME(stored_row_scale_of)(float top) {
  const float scale = NAME(rounded)(top / 127.5f);
  return scale == 0 ? (sizeof(T) == 2 ? 0x1p-7f : 0x1p-23f) : scale <= FLT_MAX ? scale : NAN;
}

/* Quantizes a row for INT8_STORED, and returns its scale; bytes are ROW_SHIFT too large. A number is divided in the format
   of the rows, and so rounded before it is rounded to a byte. */
static float NAME(quantize_row_stored_portable)(const matrix *m, const T *x, int64_t inputs, int8_t *out) {
  float top = 0;
  int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
  for (int64_t k = 0; k < inputs; k++) {
    const float size = fabsf(NAME(to_float)(x[k]));
    bad |= size != size;
    top = size > top ? size : top;
  }
  const float scale = m->row_scale > 0 ? NAME(rounded)(m->row_scale) : NAME(stored_row_scale_of)(top);
  const float zero_point = (float)m->zero_point;
#pragma omp simd
  for (int64_t k = 0; k < inputs; k++) {
    const float number = NAME(rounded)(NAME(rounded)(NAME(to_float)(x[k]) / scale) + zero_point);
    const int32_t byte = number < 127 ? number > -128 ? (int32_t)rintf(number) : -128 : 127; /* NaN: 127 */
    out[k] = (int8_t)(byte + ROW_SHIFT);
  }
  return bad ? NAN : scale;
}

/* Quantizes a row, and returns its scale; bytes are ROW_SHIFT too large. */
static float NAME(quantize_row_portable)(const T *x, int64_t inputs, int8_t *out) {
  float top = 0;
  int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
  for (int64_t k = 0; k < inputs; k++) {
    const float size = fabsf(NAME(to_float)(x[k]));
    bad |= size != size;
    top = size > top ? size : top;
  }
  const float scale = bad ? NAN : NAME(row_scale_of)(top), factor = 1.0f / scale;
#pragma omp simd
  for (int64_t k = 0; k < inputs; k++) {
    const float number = rintf(NAME(to_float)(x[k]) * factor);
    const int32_t byte = number < 127 ? number > -128 ? (int32_t)number : -128 : 127; /* NaN: 127; its scale tells */
    out[k] = (int8_t)(byte + ROW_SHIFT);
  }
  return scale;
}

/* Some outputs of a row, from the n-th on, from their sums. INT8_DYNAMIC rounds each time as the library does. The biases
   are added in a loop of their own, so that the compiler does not join a product and a sum. */
static void NAME(write_byte_outputs)(const matrix *m, int64_t n, const int32_t *sums, float row_scale, int64_t outputs,
                                     T *out) {
  const float *scale = (const float *)m->scale + n;
  const int32_t *moved = (const int32_t *)m->constants, zero_point = (int32_t)m->zero_point;
  const T *bias = (const T *)m->bias;
  float y[PORTABLE_OUTPUTS];
  for (int64_t o = 0; o < outputs; o++)
    if (m->kind == INT8_DYNAMIC) y[o] = NAME(rounded)((float)sums[o] * row_scale) * scale[o];
    else y[o] = (float)(sums[o] - (zero_point ? moved[n + o] / SHIFT * zero_point : 0)) * (row_scale * scale[o]);
  if (bias)
    for (int64_t o = 0; o < outputs; o++) y[o] += NAME(to_float)(bias[n + o]);
  for (int64_t o = 0; o < outputs; o++) out[o] = NAME(from_float)(y[o]);
}

/* out [rows, outputs] = x [rows, inputs] by a matrix of INT8_DYNAMIC or INT8_STORED; the workspace is that of `product`. Returns what is
   wrong with the call (checks.h). */
int64_t NAME(int8_product)(const T *x, int64_t rows, int64_t inputs, const matrix *m, char *workspace,
                           int64_t workspace_bytes, T *out, int threads) {
  const int is_stored = m->kind == INT8_STORED && m->constants && has_readable_rows(m, inputs);
  if (m->kind != INT8_DYNAMIC && !is_stored) REFUSE(WRONG_MATRIX, 0);
  if (m->outputs < 1 || inputs < 1 || !m->weight || !m->scale) REFUSE(WRONG_MATRIX, 0);
  if (rows < 1) return FINE;
  const char *end = workspace + workspace_bytes;
  int8_t *bytes = allocate(&workspace, rows * inputs);
  float *row_scale = allocate(&workspace, rows * sizeof(float));
  if (workspace > end) REFUSE(SMALL_WORKSPACE, 0);
  const int64_t blocks = ceil_div(rows, PORTABLE_ROWS), chunks = ceil_div(m->outputs, PORTABLE_OUTPUTS);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (int64_t r = 0; r < rows; r++)
      row_scale[r] = is_stored ? NAME(quantize_row_stored_portable)(m, x + r * inputs, inputs, bytes + r * inputs)
                               : NAME(quantize_row_portable)(x + r * inputs, inputs, bytes + r * inputs);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < blocks * chunks; task++) {
      const int64_t row = task / chunks * PORTABLE_ROWS, n = task % chunks * PORTABLE_OUTPUTS;
      const int64_t some = rows - row < PORTABLE_ROWS ? rows - row : PORTABLE_ROWS;
      const int64_t outputs = m->outputs - n < PORTABLE_OUTPUTS ? m->outputs - n : PORTABLE_OUTPUTS;
      int32_t sums[(PORTABLE_ROWS + 3) * PORTABLE_OUTPUTS];
      portable_sums(bytes + row * inputs, some, inputs, (const int8_t *)m->weight + n * inputs, outputs, sums);
      for (int64_t r = 0; r < some; r++)
        NAME(write_byte_outputs)(m, n, sums + r * PORTABLE_OUTPUTS, row_scale[row + r], outputs,
                                 out + (row + r) * m->outputs + n);
    }
  }
  return FINE;
}
