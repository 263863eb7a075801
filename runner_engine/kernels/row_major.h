/* Products with plain weights as torch holds them, output by output (PLAIN_ROWS), for one number format (T, PACK, NAME: see
   kernels.c). Nothing has to be packed, so that weights of which most are not read in a step need no second copy: experts.
   A sum's lanes are numbers of one row and one output, added up in the same order whatever other rows there are. */

#if IS_WIDENED
#define ROW_STEP VEC_FLOATS /* numbers that are multiplied at once */
#define ROW_VEC vec
#else
#define ROW_STEP (PACK * VEC_FLOATS)
#define ROW_VEC NAME(vec)
#endif

#ifndef ROW_MAJOR
#define ROW_MAJOR
/* The sum of the lanes of each vector, several at a time: one by one that takes as long as the products of a short row. Each
   is added up in the same order whatever their count: neighbours of four, then fours of lanes. */
#if defined(HAS_AVX512)
INLINE __m512 sums_of_fours(const vec a, const vec b, const vec c, const vec d) {
  const __m512 low = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b));
  const __m512 high = _mm512_add_ps(_mm512_unpacklo_ps((__m512)c, (__m512)d), _mm512_unpackhi_ps((__m512)c, (__m512)d));
  return _mm512_add_ps((__m512)_mm512_unpacklo_pd((__m512d)low, (__m512d)high),
                       (__m512)_mm512_unpackhi_pd((__m512d)low, (__m512d)high));
}
INLINE void store_sums(const int count, const vec *x, float *y) {
  const __m512 first = sums_of_fours(x[0], x[count > 1], x[count > 2 ? 2 : 0], x[count > 2 ? 3 : count > 1]);
  const __m512 second = count > 4 ? sums_of_fours(x[4], x[5], x[6], x[7]) : first;
  const __m512 halves = _mm512_add_ps(_mm512_shuffle_f32x4(first, second, 0x88), _mm512_shuffle_f32x4(first, second, 0xdd));
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(halves, halves, 0x88), _mm512_shuffle_f32x4(halves, halves, 0xdd));
  memcpy(y, &sums, count * sizeof(float));
}
#elif defined(__AVX2__) && VEC_FLOATS == 8
INLINE void store_sums(const int count, const vec *x, float *y) {
  const __m256 low = _mm256_hadd_ps((__m256)x[0], (__m256)x[count > 1]);
  const __m256 high = count > 2 ? _mm256_hadd_ps((__m256)x[2], (__m256)x[3]) : low, both = _mm256_hadd_ps(low, high);
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  memcpy(y, &sums, count * sizeof(float));
}
#else
INLINE void store_sums(const int count, const vec *x, float *y) {
  for (int c = 0; c < count; c++) {
    float lanes[VEC_FLOATS];
    memcpy(lanes, x + c, sizeof lanes);
    for (int half = VEC_FLOATS / 2; half; half /= 2)
      for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    y[c] = lanes[0];
  }
}
#endif
#endif

/* Some numbers of a weight and of a row, as they are multiplied */
INLINE ROW_VEC NAME(load_weights)(const T *at) {
#if IS_WIDENED
  typedef uint16_t halves __attribute__((vector_size(2 * VEC_FLOATS)));
  halves x;
  memcpy(&x, at, sizeof x);
  return (vec)(__builtin_convertvector(x, words) << 16);
#else
  return NAME(load)(at);
#endif
}

INLINE ROW_VEC NAME(load_operands)(const NAME(operand) *at) {
#if IS_WIDENED
  return load_f32(at);
#else
  return NAME(load)(at);
#endif
}

INLINE vec NAME(add_products)(vec sum, ROW_VEC x, ROW_VEC w) {
#if IS_WIDENED
  return dot_f32(sum, x, w);
#else
  return NAME(dot)(sum, x, w);
#endif
}

/* y [R, stride] = R rows by C outputs; ahead: C outputs that are multiplied next, or 0 */
INLINE void NAME(output_row_sums)(const int R, const int C, const NAME(operand) *x, const T *w, int64_t inputs,
                                  const T *ahead, float *y, int64_t stride) {
  vec sum[REGISTER_ROWS][8];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) sum[r][c] = (vec){0};
  int64_t k = 0;
  for (; k + ROW_STEP <= inputs; k += ROW_STEP) {
    ROW_VEC rows[REGISTER_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) rows[r] = NAME(load_operands)(x + r * inputs + k);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      const ROW_VEC weights = NAME(load_weights)(w + c * inputs + k);
      if (ahead) __builtin_prefetch(ahead + c * inputs + k, 0, 2);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sum[r][c] = NAME(add_products)(sum[r][c], rows[r], weights);
    }
  }
  if (k < inputs) { /* what is left, filled up with zeros */
    const int64_t left = inputs - k;
    for (int c = 0; c < C; c++) {
      T of_weight[ROW_STEP] = {0};
      memcpy(of_weight, w + c * inputs + k, left * sizeof(T));
      for (int r = 0; r < R; r++) {
        NAME(operand) of_row[ROW_STEP] = {0};
        memcpy(of_row, x + r * inputs + k, left * sizeof *of_row);
        sum[r][c] = NAME(add_products)(sum[r][c], NAME(load_operands)(of_row), NAME(load_weights)(of_weight));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) store_sums(C, sum[r], y + r * stride);
}

/* Outputs at a time by one or two rows, by three, and by more: sums and rows fill the registers */
#ifdef HAS_AVX512
#define OUTPUTS_OF_FEW 8
#define OUTPUTS_OF_THREE 8
#define OUTPUTS_OF_MANY 4
#else
#define OUTPUTS_OF_FEW 4
#define OUTPUTS_OF_THREE 2
#define OUTPUTS_OF_MANY 2
#endif

/* y [rows, stride] = at most REGISTER_ROWS rows by `count` outputs. is_new: their weights are not in the cache; next: those
   that are multiplied after them, or 0 */
static void NAME(multiply_outputs)(int rows, const NAME(operand) *x, const T *w, int64_t inputs, int64_t count, int is_new,
                                   const T *next, float *y, int64_t stride) {
  int64_t o = 0;
#define CASE(R, C)                                                                                 \
  case R:                                                                                          \
    for (; o + C <= count; o += C) {                                                               \
      const T *at = w + o * inputs, *ahead = o + 2 * C > count ? next : is_new ? at + C * inputs : 0; \
      NAME(output_row_sums)(R, C, x, at, inputs, ahead, y + o, stride);                            \
    }                                                                                              \
    break;
  switch (rows) {
    CASE(1, OUTPUTS_OF_FEW) CASE(2, OUTPUTS_OF_FEW) CASE(3, OUTPUTS_OF_THREE)
    CASE(4, OUTPUTS_OF_MANY) CASE(5, OUTPUTS_OF_MANY) CASE(6, OUTPUTS_OF_MANY)
  }
#undef CASE
  for (; o < count; o++)
    for (int r = 0; r < rows; r++)
      NAME(output_row_sums)(1, 1, x + r * inputs, w + o * inputs, inputs, 0, y + r * stride + o, 0);
}

/* Multiplies a pair of panels, which are neighbouring outputs here, by `rows` rows, from `row` on. */
static void NAME(multiply_row_major)(const product *p, const panel_pair *u, int64_t row, int64_t rows, next_weights next) {
  const int64_t tiles = ceil_div(rows, REGISTER_ROWS), stride = u->second ? 2 * PANEL : PANEL;
  float y[REGISTER_ROWS * 2 * PANEL];
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int some = (int)ceil_div(rows - r, tiles - s); /* about equally many in each */
    for (int i = 0; i <= !!u->second; i++) {
      const int64_t left = u->of[i]->outputs - u->output[i];
      const void *later = next.lines && s + 1 == tiles ? next.first : 0;
      NAME(multiply_outputs)(some, NAME(operands_of)(p, row, r), (const T *)(i ? u->second : u->first), p->inputs,
                             left < PANEL ? left : PANEL, s == 0, i == 0 && u->second ? (const T *)u->second : later,
                             y + i * PANEL, stride);
    }
    NAME(write_outputs)(p, u, y, stride, y + PANEL, some, row + r);
    r += some;
  }
}
#undef ROW_STEP
#undef ROW_VEC
#undef OUTPUTS_OF_FEW
#undef OUTPUTS_OF_THREE
#undef OUTPUTS_OF_MANY
