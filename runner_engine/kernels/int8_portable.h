/* Sums of rows in bytes with int8 weights (int8_products.h) for processors without AVX-512's products of bytes. Where
   registers of 256 bits multiply bytes (AVX-VNNI, or the VNNI of AVX-512 beside registers of 256 bits) these instructions do
   it; elsewhere bytes are widened to 16 bits in the registers, which every processor multiplies and adds up in pairs. Weights
   stay where the library has them, output by output. */

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_epi32
#elif defined(__AVXVNNI__)
#define ADD_PRODUCTS_OF_BYTES _mm256_dpbusd_avx_epi32
#endif

#ifdef ADD_PRODUCTS_OF_BYTES
#define ROW_SHIFT SHIFT /* the instruction takes the bytes of a row without a sign */
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

#define IN_ORDER_REACH 8192 /* bytes that a single row prefetches ahead; at 2 KiB (PANEL_REACH) it took up to twice as long */

/* The sums of a single row x with the weights of one output, lane by lane. `end`: of the panel, behind which `then` is read */
INLINE __m256i sum_byte_output(const uint8_t *x, int64_t inputs, const int8_t *weights, const char *end, const char *then) {
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const int64_t whole = inputs / CACHE_LINE * CACHE_LINE;
  for (int64_t k = 0; k < whole; k += CACHE_LINE) {
    __builtin_prefetch(find_address_ahead((const char *)weights + k, IN_ORDER_REACH, end, then), 0, 2);
#pragma GCC unroll 4
    for (int i = 0; i < CACHE_LINE / BYTES_AT_ONCE; i++) {
      const int64_t at = k + i * BYTES_AT_ONCE;
      sum[i % 2] = ADD_PRODUCTS(sum[i % 2], WIDE_BYTES(x + at), WIDE_BYTES(weights + at));
    }
  }
  if (whole < inputs) {
    int8_t rest[CACHE_LINE] = {0};
    memcpy(rest, weights + whole, inputs - whole);
    for (int i = 0; i < CACHE_LINE; i += BYTES_AT_ONCE)
      sum[0] = ADD_PRODUCTS(sum[0], WIDE_BYTES(x + whole + i), WIDE_BYTES(rest + i));
  }
  return _mm256_add_epi32(sum[0], sum[1]);
}

/* As portable_sums, of a single row. It waits for memory, so weights are read in the order in which they lie there: four
   outputs at a time took up to 1.7 times as long. */
static void multiply_byte_row_in_order(const uint8_t *x, int64_t inputs, const int8_t *weights, int64_t outputs, int32_t *y,
                                       const char *then) {
  const char *end = (const char *)weights + outputs * inputs;
  for (int64_t o = 0; o < outputs; o += OUTPUTS_AT_ONCE) {
    __m256i sum[OUTPUTS_AT_ONCE];
#pragma GCC unroll 4
    for (int i = 0; i < OUTPUTS_AT_ONCE; i++)
      sum[i] = sum_byte_output(x, inputs, weights + (o + i < outputs ? o + i : outputs - 1) * inputs, end, then);
    _mm_storeu_si128((__m128i *)(y + o), sums_of_eight_lanes(sum));
  }
}
#endif

/* y [rows, stride] = the sums of rows of bytes, which are ROW_SHIFT too large, with the weights of a panel, of which `outputs`
   are there. The cache lines from `ahead` on are prefetched. A single row prefetches what lies ahead in its own panel instead,
   and then `then`, if the panel is larger than its reach. */
static void portable_sums(const uint8_t *x, int64_t rows, int64_t inputs, const int8_t *weights, int64_t outputs, int32_t *y,
                          int64_t stride, const char *ahead, int64_t lines, const char *then) {
  const int64_t width = padded(inputs);
#ifdef __AVX2__
  if (rows == 1 && inputs * PANEL >= IN_ORDER_REACH) {
    multiply_byte_row_in_order(x, inputs, weights, outputs, y, then);
    return;
  }
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
  (void)ahead, (void)lines, (void)then;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < outputs; o++) {
      const int8_t *row = (const int8_t *)x + r * width, *w = weights + o * inputs;
      int32_t sum = 0; /* no omp simd: with it gcc does not find the instruction */
      for (int64_t k = 0; k < inputs; k++) sum += row[k] * w[k];
      y[r * stride + o] = sum;
    }
#endif
}
