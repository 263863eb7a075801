/* Products of INT8_DYNAMIC for any processor, for one number format (T, PACK, NAME: see kernels.c), in plain C that the
   compiler turns into the processor's products of 16 bits. The outputs are those of int8_dynamic.h to the bit, which
   multiplies bytes: sums of bytes are exact in any order. */

#ifndef INT8_PORTABLE
#define INT8_PORTABLE
#define PORTABLE_ROWS 32 /* of a task */
#define PORTABLE_OUTPUTS 16
#define PORTABLE_INPUTS 512 /* that are widened at a time: they stay in the first-level cache */

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

/* The scale of a row whose largest number is `top`, as torchao computes it; NaN stays NaN */
INLINE float NAME(row_scale_of)(float top) {
  const float scale = NAME(to_float)(NAME(from_float)(top / 127.5f)), least = 1.1920929e-7f;
  return scale < least ? least : scale;
}

/* Quantizes a row, and returns its scale. */
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
    out[k] = (int8_t)(number < 127 ? number > -128 ? (int32_t)number : -128 : 127); /* NaN: 127; its scale tells */
  }
  return scale;
}

/* The outputs of a row from their sums, rounded each time as the library does: the biases are added in a loop of their
   own, so that the compiler does not join a product and a sum. */
static void NAME(write_dynamic_outputs)(const int32_t *sums, float row_scale, const float *scale, const T *bias,
                                        int64_t outputs, T *out) {
  float y[PORTABLE_OUTPUTS];
  for (int64_t o = 0; o < outputs; o++) {
    const float of_row = NAME(to_float)(NAME(from_float)((float)sums[o] * row_scale));
    y[o] = of_row * scale[o];
  }
  if (bias)
    for (int64_t o = 0; o < outputs; o++) y[o] += NAME(to_float)(bias[o]);
  for (int64_t o = 0; o < outputs; o++) out[o] = NAME(from_float)(y[o]);
}

/* out [rows, outputs] = x [rows, inputs] by a matrix of INT8_DYNAMIC; the workspace is that of `product`. Returns what is
   wrong with the call (checks.h). */
int64_t NAME(int8_product)(const T *x, int64_t rows, int64_t inputs, const matrix *m, char *workspace,
                           int64_t workspace_bytes, T *out, int threads) {
  if (m->kind != INT8_DYNAMIC || m->outputs < 1 || inputs < 1 || !m->weight || !m->scale) REFUSE(WRONG_MATRIX, 0);
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
      row_scale[r] = NAME(quantize_row_portable)(x + r * inputs, inputs, bytes + r * inputs);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < blocks * chunks; task++) {
      const int64_t row = task / chunks * PORTABLE_ROWS, n = task % chunks * PORTABLE_OUTPUTS;
      const int64_t some = rows - row < PORTABLE_ROWS ? rows - row : PORTABLE_ROWS;
      const int64_t outputs = m->outputs - n < PORTABLE_OUTPUTS ? m->outputs - n : PORTABLE_OUTPUTS;
      int32_t sums[(PORTABLE_ROWS + 3) * PORTABLE_OUTPUTS];
      portable_sums(bytes + row * inputs, some, inputs, (const int8_t *)m->weight + n * inputs, outputs, sums);
      for (int64_t r = 0; r < some; r++)
        NAME(write_dynamic_outputs)(sums + r * PORTABLE_OUTPUTS, row_scale[row + r], (const float *)m->scale + n,
                                    m->bias ? (const T *)m->bias + n : 0, outputs, out + (row + r) * m->outputs + n);
    }
  }
  return FINE;
}
