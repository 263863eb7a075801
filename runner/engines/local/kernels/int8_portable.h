/* Products of ROW_INT8, INT8_DYNAMIC and INT8_STORED for processors without AVX-512's products of bytes, for one number
   format (T, PACK, NAME: see kernels.c). Where registers of 256 bits multiply bytes (AVX-VNNI, or the VNNI of AVX-512 beside
   registers of 256 bits) these instructions do it; elsewhere bytes are widened to 16 bits in the registers, which every
   processor multiplies and adds up in pairs. Weights stay where the library has them, output by output. The outputs are
   those of row_int8.h, int8_dynamic.h and int8_stored.h: sums of bytes are exact in any order. */

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

#ifndef HAS_AVX512_VNNI
#ifndef INT8_PORTABLE
#define INT8_PORTABLE
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_epi32
#elif defined(__AVXVNNI__)
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_avx_epi32
#endif

#ifdef ADD_PRODUCTS_OF_BYTES
#define ROW_SHIFT 128 /* the instruction takes the bytes of a row without a sign */
#define BYTES_AT_ONCE 32
#define WIDE_BYTES(at) _mm256_loadu_si256((const __m256i *)(at))
#define ADD_PRODUCTS(sum, x, w) ADD_PRODUCTS_OF_BYTES(sum, x, w)
#else
#define ROW_SHIFT 0
#define BYTES_AT_ONCE 16
#define WIDE_BYTES(at) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(at)))
#define ADD_PRODUCTS(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
#endif

#ifdef __AVX2__
#define OUTPUTS_AT_ONCE 4
/* The sum of the 8 lanes of each of four vectors */
INLINE __m128i sums_of_eight_lanes(const __m256i of[4]) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(of[0], of[1]), _mm256_hadd_epi32(of[2], of[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/* y [R, stride] = the sums of R rows x with four outputs, whose weights are at w; rest: their last bytes beside zeros */
INLINE void sums_of_four_outputs(const int R, const uint8_t *x, int64_t width, int64_t whole, int64_t inputs,
                                 const int8_t *const w[4], int8_t rest[4][32], int32_t *y, int64_t stride) {
  __m256i sum[2][4];
#pragma GCC unroll 2
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++) sum[r][o] = _mm256_setzero_si256();
  for (int64_t k = 0; k < inputs; k += BYTES_AT_ONCE) {
    __m256i numbers[2];
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) numbers[r] = WIDE_BYTES(x + r * width + k); /* a row is filled up to whole registers */
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++) {
      const __m256i weights = WIDE_BYTES(k < whole ? w[o] + k : rest[o]);
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) sum[r][o] = ADD_PRODUCTS(sum[r][o], numbers[r], weights);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; r++) _mm_storeu_si128((__m128i *)(y + r * stride), sums_of_eight_lanes(sum[r]));
}
#endif

/* y [rows, stride] = the sums of rows of bytes, which are ROW_SHIFT too large, with the weights of a panel, of which `outputs`
   are there. The cache lines from `ahead` on are read next. */
static void portable_sums(const uint8_t *x, int64_t rows, int64_t inputs, const int8_t *weights, int64_t outputs, int32_t *y,
                          int64_t stride, const char *ahead, int64_t lines) {
  const int64_t width = padded(inputs);
#ifdef __AVX2__
  const int64_t whole = inputs / BYTES_AT_ONCE * BYTES_AT_ONCE, each = ceil_div(lines, PANEL / OUTPUTS_AT_ONCE);
  for (int64_t o = 0; o < outputs; o += OUTPUTS_AT_ONCE) {
    const int8_t *w[4];
    int8_t rest[4][32];
    for (int i = 0; i < 4; i++) { /* the last one stands for those that are missing */
      w[i] = weights + (o + i < outputs ? o + i : outputs - 1) * inputs;
      memset(rest[i], 0, sizeof rest[i]);
      memcpy(rest[i], w[i] + whole, inputs - whole);
    }
    for (int64_t i = 0; i < each && lines > 0; i++, lines--, ahead += CACHE_LINE) __builtin_prefetch(ahead, 0, 2);
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2)
      sums_of_four_outputs(2, x + r * width, width, whole, inputs, w, rest, y + r * stride + o, stride);
    if (r < rows) sums_of_four_outputs(1, x + r * width, width, whole, inputs, w, rest, y + r * stride + o, stride);
  }
#else
  (void)ahead, (void)lines;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < outputs; o++) {
      const int8_t *row = (const int8_t *)x + r * width, *w = weights + o * inputs;
      int32_t sum = 0; /* no omp simd: with it gcc does not find the instruction */
      for (int64_t k = 0; k < inputs; k++) sum += row[k] * w[k];
      y[r * stride + o] = sum;
    }
#endif
}

/* A number as float16 holds it */
INLINE float as_float16(float x) {
  union { float f; uint32_t i; } u = {fabsf(x)}, whole = u;
  whole.i = (u.i + 0xfff + (u.i >> 13 & 1)) & ~(uint32_t)0x1fff;
  float size = u.f < 0x1p-14f ? (u.f + 0.5f) - 0.5f : whole.f; /* below, its last place is 2 to the -24th */
  size = size > 65504.0f ? INFINITY : size;
  return x != x ? x : x < 0 ? -size : size;
}

/* Lists the columns that are marked. */
static void list_marked_outliers(const product_workspace *work, int64_t inputs) {
  int64_t count = 0;
  for (int64_t k = 0; k < inputs; k++)
    if (work->outlier_marks[k]) work->outlier_columns[count++] = (int32_t)k;
  *work->outlier_count = count;
}
#endif

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

/* ROW_INT8: the largest number of a row that is not an outlier; marks the columns of its outliers */
static float NAME(find_outliers_portable)(const T *x, int64_t inputs, float threshold, uint8_t *marks) {
  const float least = threshold > 0 ? threshold : INFINITY;
  float top = 0, most = 0;
  int bad = 0;
#pragma omp simd reduction(max : top, most) reduction(| : bad)
  for (int64_t k = 0; k < inputs; k++) {
    const float size = fabsf(as_float16(NAME(to_float)(x[k])));
    bad |= size != size;
    most = size > most ? size : most;
    top = size > top && (size < least || threshold <= 0) ? size : top;
  }
  if (threshold > 0 && most >= threshold)
    for (int64_t k = 0; k < inputs; k++)
      if (fabsf(as_float16(NAME(to_float)(x[k]))) >= threshold) __atomic_store_n(marks + k, 1, __ATOMIC_RELAXED);
  return bad ? NAN : top;
}

/* The same as row_int8.h: outliers become 0 */
static void NAME(quantize_row_beside_outliers)(const T *x, int64_t inputs, float top, const uint8_t *marks, uint8_t *out) {
  const float factor = 1.0f / top * 127.0f; /* rounded twice, as torch does it */
#pragma omp simd
  for (int64_t k = 0; k < inputs; k++) {
    const float number = rintf(as_float16(NAME(to_float)(x[k])) * factor);
    const int is_byte = !marks[k] && number > -129.0f && number < 129.0f;
    out[k] = (uint8_t)((int32_t)(is_byte ? number : 0.0f) + ROW_SHIFT);
  }
}

/* Quantizes the rows of a product, once for all its matrices, in two phases. */
static void NAME(quantize_rows_beside_outliers)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t width = padded(p->inputs), chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  const T *x = p->x;
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      work->row_scale[r] =
          NAME(find_outliers_portable)(x + r * p->inputs, p->inputs, p->of_bytes->threshold, work->outlier_marks);
  barrier(now++, chunks, is_alone);
  FOR_EACH_CHUNK(i, now, chunks, is_alone) {
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      NAME(quantize_row_beside_outliers)(x + r * p->inputs, p->inputs, work->row_scale[r], work->outlier_marks,
                                         work->bytes + r * width);
    if (!i) list_marked_outliers(work, p->inputs);
  }
  barrier(now, chunks, is_alone);
}

/* The same for INT8_DYNAMIC and INT8_STORED, in one phase */
static void NAME(quantize_rows)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t width = padded(p->inputs), chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows) {
      const T *x = (const T *)p->x + r * p->inputs;
      int8_t *out = (int8_t *)work->bytes + r * width;
      work->row_scale[r] = p->of_bytes->kind == INT8_STORED
          ? NAME(quantize_row_stored_portable)(p->of_bytes, x, p->inputs, out)
          : NAME(quantize_row_portable)(x, p->inputs, out);
    }
  barrier(now, chunks, is_alone);
}

/* apart [rows, PANEL] = the products of the outliers' columns with weights as they would be unquantized */
static void NAME(multiply_outliers)(const product *p, const matrix *m, int64_t n, int64_t count, int64_t row, int64_t rows,
                                    float *apart) {
  const float *scale = (const float *)m->scale + n;
  memset(apart, 0, rows * PANEL * sizeof *apart);
  for (int64_t i = 0; i < *p->workspace->outlier_count; i++) {
    const int64_t column = p->workspace->outlier_columns[i];
    const int8_t *from = (const int8_t *)m->weight + n * p->inputs + column;
    float w[PANEL] = {0};
    for (int64_t o = 0; o < count; o++)
      w[o] = NAME(rounded)((float)from[o * p->inputs] * scale[o] * 7.874015718698502e-3f);
    for (int64_t r = 0; r < rows; r++) {
      const float x = NAME(to_float)(((const T *)p->x)[(row + r) * p->inputs + column]);
#pragma omp simd
      for (int64_t o = 0; o < PANEL; o++) apart[r * PANEL + o] = fmaf(x, w[o], apart[r * PANEL + o]);
    }
  }
}

/* y [rows, stride]: int32 sums with some outputs of a matrix, from the n-th on, become numbers. INT8_DYNAMIC rounds each time
   as the library does. Biases are added in a loop of their own, so that the compiler does not join a product and a sum. */
static void NAME(scale_byte_sums)(const product *p, const matrix *m, int64_t n, int64_t row, int64_t rows, float *y,
                                  int64_t stride) {
  const int64_t count = m->outputs - n < PANEL ? m->outputs - n : PANEL;
  const int64_t outliers = m->kind == ROW_INT8 ? *p->workspace->outlier_count : 0;
  const int32_t *moved = (const int32_t *)m->constants + n, zero_point = m->kind == INT8_STORED ? (int32_t)m->zero_point : 0;
  const float *scale = (const float *)m->scale + n;
  const T *bias = m->bias ? (const T *)m->bias + n : 0;
  float apart[MAX_QUANTIZED_ROWS * PANEL];
  if (outliers) NAME(multiply_outliers)(p, m, n, count, row, rows, apart);
  for (int64_t r = 0; r < rows; r++, y += stride) {
    const float of_row = p->workspace->row_scale[row + r];
    float x[PANEL];
    int32_t sums[PANEL];
    memcpy(sums, y, count * sizeof *sums);
    for (int64_t o = 0; o < count; o++) /* `moved` is SHIFT times the sum of an output's weights */
      x[o] = (float)(int32_t)((uint32_t)sums[o] - (ROW_SHIFT ? (uint32_t)moved[o] : 0) -
                              (uint32_t)(zero_point ? moved[o] / SHIFT * zero_point : 0));
    if (m->kind == INT8_DYNAMIC)
      for (int64_t o = 0; o < count; o++) x[o] = NAME(rounded)(x[o] * of_row) * scale[o];
    else if (m->kind == INT8_STORED)
      for (int64_t o = 0; o < count; o++) x[o] *= of_row * scale[o];
    else
      for (int64_t o = 0; o < count; o++) x[o] = x[o] * (of_row * scale[o]) * 6.200124e-05f;
    if (bias)
      for (int64_t o = 0; o < count; o++) x[o] += NAME(to_float)(bias[o]);
    if (outliers)
      for (int64_t o = 0; o < count; o++) x[o] = NAME(rounded)(x[o]) + apart[r * PANEL + o];
    memcpy(y, x, count * sizeof *x);
  }
}
#endif
