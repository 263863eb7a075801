/* Functions of rows, for one number format (T, PACK, NAME: see kernels.c): RMS norm and argmax. */

#define ARGMAX_PART 512 /* numbers whose maximum is found before any place is looked for */

/* One row [width] divided by its root mean square and multiplied by a weight; rounded where torch's steps round. It is
   compiled once, so that the squares are added up in the same order wherever it is called. */
BETWEEN_UNITS __attribute__((noinline)) void NAME(norm_row)(const T *x, const T *weight, int64_t width,
                                                            float epsilon, T *out);

#if IS_IN(ROWS_UNIT)
BETWEEN_UNITS __attribute__((noinline)) void NAME(norm_row)(const T *x, const T *weight, int64_t width,
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
#pragma omp parallel for num_threads(threads) schedule(static) if (count > 1)
  for (int64_t r = 0; r < count; r++) NAME(norm_row)(rows + r * width, weight, width, epsilon, out + r * width);
}

/* best[r] = the first place of the largest of row r, of rows [count, width]; -1 where one of them is NaN */
void NAME(argmax)(const T *rows, int64_t count, int64_t width, int64_t *best, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (count > 1)
  for (int64_t r = 0; r < count; r++) {
    const T *x = rows + r * width;
    float top = -INFINITY;
    int64_t at = 0; /* first the part that has it, and then its place */
    int has_nan = 0;
    for (int64_t part = 0; part < width; part += ARGMAX_PART) {
      const int64_t end = width - part < ARGMAX_PART ? width : part + ARGMAX_PART;
      float most = -INFINITY;
#pragma omp simd reduction(max : most) reduction(| : has_nan)
      for (int64_t i = part; i < end; i++) {
        float value = NAME(to_float)(x[i]);
        most = value > most ? value : most;
        has_nan |= value != value;
      }
      if (most > top) top = most, at = part;
    }
    while (at < width - 1 && NAME(to_float)(x[at]) != top) at++;
    best[r] = has_nan ? -1 : at;
  }
}
#endif
#undef ROWS_UNIT
