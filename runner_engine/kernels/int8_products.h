/* Products of rows that become bytes with int8 weights, for one number format (T, PACK, NAME: see kernels.c): what is done
   before the sums of bytes and after them, with the formulas of the libraries. INT8_DYNAMIC is torchao's; INT8_STORED is
   compressed-tensors' (W8A8), whose rows may all have the checkpoint's scale; ROW_INT8 is bitsandbytes' LLM.int8(), whose
   columns with an outlier are multiplied separately (by AVX-512: row_int8.h). Sums of bytes are exact, so they are the same in
   any order: quantized.h and int8_portable.h make them. */

#ifndef INT8_PRODUCTS
#define INT8_PRODUCTS
#ifdef HAS_AVX512_VNNI
#define ROW_SHIFT SHIFT
#else
#include "int8_portable.h"
#endif

/* As `rounded`, of a vector */
INLINE vec rounded_vec_f32(vec x) { return x; }
INLINE vec rounded_vec_bf16(vec x) { return (vec)(((words)x + ((words)x >> 16 & 1) + 0x7fff) & 0xffff0000u); }
#endif

/* The largest of some numbers without their signs; NaN if one of them is */
INLINE float NAME(largest)(const T *x, int64_t count) {
  NAME(size_bits) top = 0;
#pragma omp simd reduction(max : top)
  for (int64_t k = 0; k < count; k++) {
    const NAME(size_bits) size = NAME(size_of)(x[k]);
    top = size > top ? size : top;
  }
  return NAME(number_of_size)(top);
}

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
static float NAME(quantize_row_stored)(const matrix *m, const T *x, int64_t inputs, int8_t *out) {
  const float top = NAME(largest)(x, inputs);
  const float scale = m->row_scale > 0 ? NAME(rounded)(m->row_scale) : NAME(stored_row_scale_of)(top);
  const float zero_point = (float)m->zero_point;
#pragma omp simd
  for (int64_t k = 0; k < inputs; k++) {
    float number = NAME(rounded)(NAME(rounded)(NAME(to_float)(x[k]) / scale) + zero_point);
    number = number < 127 ? number : 127; /* also NaN */
    number = number > -128 ? number : -128;
    out[k] = (int8_t)((int32_t)rintf(number) + ROW_SHIFT);
  }
  return top != top ? NAN : scale;
}

/* The same for INT8_DYNAMIC */
static float NAME(quantize_row_dynamic)(const T *x, int64_t inputs, int8_t *out) {
  const float top = NAME(largest)(x, inputs);
  const float scale = top != top ? NAN : NAME(row_scale_of)(top), factor = 1.0f / scale;
#pragma omp simd
  for (int64_t k = 0; k < inputs; k++) {
    float number = rintf(NAME(to_float)(x[k]) * factor);
    number = number < 127 ? number : 127; /* also NaN, whose scale tells */
    number = number > -128 ? number : -128;
    out[k] = (int8_t)((int32_t)number + ROW_SHIFT);
  }
  return scale;
}

/* Quantizes the rows of a product, once for all its matrices, in one phase. */
static void NAME(quantize_rows)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t width = padded(p->inputs), chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows) {
      const T *x = (const T *)p->x + r * p->inputs;
      int8_t *out = (int8_t *)work->bytes + r * width;
      work->row_scale[r] = p->of_bytes->kind == INT8_STORED
          ? NAME(quantize_row_stored)(p->of_bytes, x, p->inputs, out)
          : NAME(quantize_row_dynamic)(x, p->inputs, out);
    }
  barrier(now, chunks, is_alone);
}

#ifndef HAS_AVX512_VNNI
#ifndef ROW_INT8_BYTES
#define ROW_INT8_BYTES
/* A number as float16 holds it */
INLINE float as_float16(float x) {
  union { float f; uint32_t i; } u = {fabsf(x)}, whole = u;
  whole.i = (u.i + 0xfff + (u.i >> 13 & 1)) & ~(uint32_t)0x1fff;
  float size = u.f < 0x1p-14f ? (u.f + 0.5f) - 0.5f : whole.f; /* below, its last place is 2 to the -24th */
  size = size > 65504.0f ? INFINITY : size;
  return x != x ? x : x < 0 ? -size : size;
}

/* Lists the columns that are marked, of which most are not. */
static void list_outliers(const product_workspace *work, int64_t width) {
  int64_t count = 0;
  for (int64_t k = 0; k < width; k += 8) {
    uint64_t eight;
    memcpy(&eight, work->outlier_marks + k, sizeof eight);
    for (int64_t i = k; eight && i < k + 8; i++)
      if (work->outlier_marks[i]) work->outlier_columns[count++] = (int32_t)i;
  }
  *work->outlier_count = count;
}
#endif

/* ROW_INT8: the largest number of a row that is not an outlier; marks the columns of its outliers */
static float NAME(find_outliers)(const T *x, int64_t inputs, float threshold, uint8_t *marks) {
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

/* ROW_INT8: quantizes a row, whose outliers become 0 */
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
          NAME(find_outliers)(x + r * p->inputs, p->inputs, p->of_bytes->threshold, work->outlier_marks);
  barrier(now++, chunks, is_alone);
  FOR_EACH_CHUNK(i, now, chunks, is_alone) {
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      NAME(quantize_row_beside_outliers)(x + r * p->inputs, p->inputs, work->row_scale[r], work->outlier_marks,
                                         work->bytes + r * width);
    if (!i) list_outliers(work, width);
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
#endif

/* y [rows, stride]: int32 sums with the outputs of a panel, from the n-th on, become numbers; rounded each time as the libraries
   do. apart: what outliers add, or 0 */
INLINE void NAME(scale_outputs)(const int kind, const product *p, const matrix *m, int64_t n, int64_t row, int64_t rows,
                                const float *apart, float *y, int64_t stride) {
  typedef int32_t integers __attribute__((vector_size(sizeof(vec))));
  const int64_t left = m->outputs - n, count = left < PANEL ? left : PANEL;
  const int32_t *constants = (const int32_t *)m->constants + n, zero_point = kind == INT8_STORED ? (int32_t)m->zero_point : 0;
  vec scale[PANEL_VECS] = {{0}}, bias[PANEL_VECS] = {{0}}, x[PANEL_VECS];
  words moved[PANEL_VECS] = {{0}}; /* what is in the sums besides: constants are SHIFT times the sums of an output's weights */
  memcpy(scale, (const float *)m->scale + n, count * sizeof(float));
  for (int64_t o = 0; o < count; o++) {
    const int32_t of_zero = zero_point ? constants[o] / SHIFT * zero_point : 0;
    ((uint32_t *)moved)[o] = (ROW_SHIFT ? (uint32_t)constants[o] : 0) + (uint32_t)of_zero;
    ((float *)bias)[o] = m->bias ? NAME(to_float)(((const T *)m->bias)[n + o]) : 0;
  }
  for (int64_t r = 0; r < rows; r++, y += stride) {
    const float of_row = p->workspace->row_scale[row + r];
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++) {
      words sums;
      memcpy(&sums, y + v * VEC_FLOATS, sizeof sums);
      const vec exact = __builtin_convertvector((integers)(sums - moved[v]), vec);
      x[v] = kind == INT8_DYNAMIC  ? NAME(rounded_vec)(exact * of_row) * scale[v]
             : kind == INT8_STORED ? exact * (of_row * scale[v])
                                   : exact * (of_row * scale[v]) * 6.200124e-05f;
    }
    if (m->bias) {
      __asm__ volatile("" : : "r"(x) : "memory"); /* or the compiler would join the product and the sum */
      for (int v = 0; v < PANEL_VECS; v++) x[v] += bias[v];
    }
    for (int v = 0; apart && v < PANEL_VECS; v++)
      x[v] = NAME(rounded_vec)(x[v]) + load_f32(apart + r * PANEL + v * VEC_FLOATS);
    memcpy(y, x, sizeof x);
  }
}

/* The same for a kind that the compiler does not know */
static void NAME(scale_byte_sums)(const product *p, const matrix *m, int64_t n, int64_t row, int64_t rows, float *y,
                                  int64_t stride) {
  if (m->kind == INT8_DYNAMIC) NAME(scale_outputs)(INT8_DYNAMIC, p, m, n, row, rows, 0, y, stride);
  if (m->kind == INT8_STORED) NAME(scale_outputs)(INT8_STORED, p, m, n, row, rows, 0, y, stride);
#ifndef HAS_AVX512_VNNI
  if (m->kind != ROW_INT8) return;
  const int64_t left = m->outputs - n, has_outliers = *p->workspace->outlier_count > 0;
  float apart[MAX_QUANTIZED_ROWS * PANEL];
  if (has_outliers) NAME(multiply_outliers)(p, m, n, left < PANEL ? left : PANEL, row, rows, apart);
  NAME(scale_outputs)(ROW_INT8, p, m, n, row, rows, has_outliers ? apart : 0, y, stride);
#endif
}
