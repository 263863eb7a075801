/* Functions of rows, for one number format (T, PACK, NAME: see kernels.c): softmax, RMS norm and argmax. */

/* scores [rows, cols] become exp(scale * score - max), in place, with max and sum of each row; a cap is applied to the
   scaled scores first. Only the columns from[row] to limit[row] of a row count (from 0 where there is no `from`, to the
   end where there is no limit), possibly none; the others become 0. Returns what is wrong with the call (checks.h). */
int64_t NAME(softmax)(T *scores, int64_t rows, int64_t cols, const int32_t *from, const int32_t *limit, float scale,
                      float cap, float *top, float *sum, int threads) {
  int64_t wrong = check_range(limit, rows, 0, cols, WRONG_COLUMNS);
  if (!wrong) wrong = check_range(from, rows, 0, INT32_MAX, WRONG_COLUMNS);
  if (wrong) return wrong;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    T *s = scores + r * cols;
    const int64_t n = limit ? limit[r] : cols, first = from && from[r] < n ? from[r] : from ? n : 0;
    float m = -INFINITY, l = 0;
#pragma omp simd reduction(max : m)
    for (int64_t j = first; j < n; j++) {
      float x = NAME(to_float)(s[j]);
      m = x > m ? x : m;
    }
    m *= scale;
    if (cap && first < n) {
      m = soft_cap(m, cap);
#pragma omp simd reduction(+ : l)
      for (int64_t j = first; j < n; j++) {
        float e = exp_fast(soft_cap(NAME(to_float)(s[j]) * scale, cap) - m);
        l += e;
        s[j] = NAME(from_float)(e);
      }
    } else {
#pragma omp simd reduction(+ : l)
      for (int64_t j = first; j < n; j++) {
        float e = exp_fast(fmaf(NAME(to_float)(s[j]), scale, -m));
        l += e;
        s[j] = NAME(from_float)(e);
      }
    }
    for (int64_t j = 0; j < first; j++) s[j] = 0;
    for (int64_t j = n; j < cols; j++) s[j] = 0;
    top[r] = m;
    sum[r] = l;
  }
  return FINE;
}

/* One row [width] divided by its root mean square and multiplied by a weight; rounded where torch's steps round. It is
   compiled once, so that the squares are added up in the same order wherever it is called. */
static __attribute__((noinline)) void NAME(norm_row)(const T *x, const T *weight, int64_t width,
                                                     float epsilon, T *out) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) squares += NAME(to_float)(x[i]) * NAME(to_float)(x[i]);
  const float factor = 1.0f / sqrtf(squares / width + epsilon);
  int64_t first = 0;
#ifdef HAS_AVX512
  for (; first + LANES <= width; first += LANES) {
    const __m512 part = NAME(round_16)(_mm512_mul_ps(NAME(load_16)(x + first), _mm512_set1_ps(factor)));
    NAME(store_16)(out + first, _mm512_mul_ps(NAME(load_16)(weight + first), part));
  }
#endif
#pragma omp simd
  for (int64_t i = first; i < width; i++) {
    const float scaled = NAME(to_float)(NAME(from_float)(NAME(to_float)(x[i]) * factor));
    out[i] = NAME(from_float)(NAME(to_float)(weight[i]) * scaled);
  }
}

/* out [count, width] = the RMS norm of rows */
void NAME(norm)(const T *rows, const T *weight, int64_t count, int64_t width, float epsilon, T *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < count; r++) NAME(norm_row)(rows + r * width, weight, width, epsilon, out + r * width);
}

/* best[r] = the first place of the largest of row r, of rows [count, width]; -1 where one of them is NaN */
void NAME(argmax)(const T *rows, int64_t count, int64_t width, int64_t *best, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < count; r++) {
    const T *x = rows + r * width;
    float top = -INFINITY;
    int has_nan = 0;
#pragma omp simd reduction(max : top) reduction(| : has_nan)
    for (int64_t i = 0; i < width; i++) {
      float value = NAME(to_float)(x[i]);
      top = value > top ? value : top;
      has_nan |= value != value;
    }
    int64_t at = 0;
    while (at < width - 1 && NAME(to_float)(x[at]) != top) at++;
    best[r] = has_nan ? -1 : at;
  }
}
