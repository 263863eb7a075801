/* What single rows of a fused pass go through between its products, for one number format (T, PACK, NAME: see kernels.c):
   norms, RoPE, the functions of an MLP. Each has one order of sums, whatever the other rows are. */

/* A row [width] by a norm of any kind; out may be x. */
static __attribute__((noinline)) void NAME(norm_by)(const fused_norm *norm, const T *x, int64_t width, T *out) {
  if (norm->kind == RMS_IN_STEPS) {
    NAME(norm_row)(x, norm->weight, width, norm->epsilon, out);
    return;
  }
  const float *weight = norm->weight, *bias = norm->bias;
  float mean = 0, squares = 0;
  if (norm->kind == LAYER_NORM) {
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < width; i++) mean += NAME(to_float)(x[i]);
    mean /= width;
  }
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) {
    const float off = NAME(to_float)(x[i]) - mean;
    squares += off * off;
  }
  const float factor = 1.0f / sqrtf(squares / width + norm->epsilon);
  if (bias)
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
      out[i] = NAME(from_float)((NAME(to_float)(x[i]) - mean) * factor * weight[i] + bias[i]);
  else
#pragma omp simd
    for (int64_t i = 0; i < width; i++) out[i] = NAME(from_float)((NAME(to_float)(x[i]) - mean) * factor * weight[i]);
}

INLINE float NAME(point_product)(float x, int in_float32) { return in_float32 ? x : NAME(rounded)(x); }

/* Rotates the first 2 * half numbers of a head to its position (RoPE): halves have the two numbers of a point. cos, sin:
   of each point; in_float32: the products are not rounded to the model's format before they are added */
INLINE void NAME(rotate_halves)(T *head, int64_t half, const float *cos, const float *sin, int in_float32) {
  int64_t first = 0;
#ifdef HAS_AVX512
  for (; first + LANES <= half; first += LANES) {
    T *low = head + first, *high = low + half;
    const __m512 a = NAME(load_16)(low), b = NAME(load_16)(high);
    const __m512 c = _mm512_loadu_ps(cos + first), s = _mm512_loadu_ps(sin + first);
    __m512 ac = _mm512_mul_ps(a, c), bs = _mm512_mul_ps(b, s), bc = _mm512_mul_ps(b, c), as = _mm512_mul_ps(a, s);
    if (!in_float32) ac = NAME(round_16)(ac), bs = NAME(round_16)(bs), bc = NAME(round_16)(bc), as = NAME(round_16)(as);
    NAME(store_16)(low, _mm512_sub_ps(ac, bs));
    NAME(store_16)(high, _mm512_add_ps(bc, as));
  }
#endif
#pragma omp simd
  for (int64_t d = first; d < half; d++) {
    const float a = NAME(to_float)(head[d]), b = NAME(to_float)(head[d + half]);
    head[d] = NAME(from_float)(NAME(point_product)(a * cos[d], in_float32) - NAME(point_product)(b * sin[d], in_float32));
    head[d + half] = NAME(from_float)(NAME(point_product)(b * cos[d], in_float32) + NAME(point_product)(a * sin[d], in_float32));
  }
}

/* The same where neighbours are the two numbers of a point */
INLINE void NAME(rotate_neighbours)(T *head, int64_t half, const float *cos, const float *sin, int in_float32) {
#pragma omp simd
  for (int64_t d = 0; d < half; d++) {
    const float a = NAME(to_float)(head[2 * d]), b = NAME(to_float)(head[2 * d + 1]);
    head[2 * d] = NAME(from_float)(NAME(point_product)(a * cos[d], in_float32) - NAME(point_product)(b * sin[d], in_float32));
    head[2 * d + 1] = NAME(from_float)(NAME(point_product)(b * cos[d], in_float32) + NAME(point_product)(a * sin[d], in_float32));
  }
}

/* The same where neighbours are the two numbers of a point, and go where halves have theirs */
INLINE void NAME(rotate_into_halves)(T *head, int64_t half, const float *cos, const float *sin, int in_float32) {
  T turned[2 * half + 1];
#pragma omp simd
  for (int64_t d = 0; d < half; d++) {
    const float a = NAME(to_float)(head[2 * d]), b = NAME(to_float)(head[2 * d + 1]);
    turned[d] = NAME(from_float)(NAME(point_product)(a * cos[d], in_float32) - NAME(point_product)(b * sin[d], in_float32));
    turned[d + half] = NAME(from_float)(NAME(point_product)(b * cos[d], in_float32) + NAME(point_product)(a * sin[d], in_float32));
  }
  memcpy(head, turned, 2 * half * sizeof(T));
}

/* Rotates the first numbers of a head to its position. rope: which table, or -1: it stays as it is */
INLINE void NAME(turn_head)(const fused_model *m, int64_t rope, T *head, int64_t position) {
  if (rope < 0) return;
  const int64_t half = m->rotated[rope] / 2;
  const float *cos = m->cos[rope] + position * half, *sin = m->sin[rope] + position * half;
  const int in_float32 = m->rotates_in_float32 != 0;
  if (m->points == POINTS_IN_HALVES) NAME(rotate_halves)(head, half, cos, sin, in_float32);
  else if (m->points == POINTS_OF_NEIGHBOURS) NAME(rotate_neighbours)(head, half, cos, sin, in_float32);
  else NAME(rotate_into_halves)(head, half, cos, sin, in_float32);
}

/* The heads [count, dim] of one token: their norm, if there is one, and RoPE. position: of the token */
INLINE void NAME(norm_and_rotate)(const fused_model *m, const fused_layer *layer, const fused_norm *norm, T *heads,
                                  int64_t count, int64_t position) {
  const int has_norm = norm->weight != 0, is_of_each = has_norm && !layer->norms_all_heads;
  const int64_t dim = m->dim;
  if (has_norm && layer->norms_all_heads && !layer->norms_rotated) NAME(norm_by)(norm, heads, count * dim, heads);
  for (int64_t h = 0; h < count; h++) {
    T *head = heads + h * dim;
    if (is_of_each && !layer->norms_rotated) NAME(norm_by)(norm, head, dim, head);
    NAME(turn_head)(m, layer->rope, head, position);
    if (is_of_each && layer->norms_rotated) NAME(norm_by)(norm, head, dim, head);
  }
  if (has_norm && layer->norms_all_heads && layer->norms_rotated) NAME(norm_by)(norm, heads, count * dim, heads);
}

#ifndef FUSED_ROWS
#define FUSED_ROWS
/* The integral of the bell curve, within 1.5e-7 (Abramowitz and Stegun, 7.1.26) */
INLINE float error_function(float x) {
  const float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
  float p = 1.061405429f;
  p = fmaf(p, t, -1.453152027f);
  p = fmaf(p, t, 1.421413741f);
  p = fmaf(p, t, -0.284496736f);
  p = fmaf(p, t, 0.254829592f);
  return copysignf(1.0f - p * t * exp_fast(-size * size), x);
}

INLINE float mlp_function(int64_t activation, float x) {
  const float e = exp_fast(-fabsf(x));
  switch (activation) {
    case GELU: return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    case TANH_GELU: return 0.5f * x * (1.0f + soft_cap(0.79788456f * (x + 0.044715f * x * x * x), 1.0f));
    case RELU: return x < 0 ? 0 : x;
    case SQUARED_RELU: return x < 0 ? 0 : x * x;
    default: return x * (x < 0 ? e : 1.0f) / (1.0f + e);
  }
}
#endif

/* `count` numbers of an MLP through its function; times those of `up`, unless 0. out may be x. */
static void NAME(activate_row)(int64_t activation, const T *x, const T *up, int64_t count, T *out) {
#define EACH(KIND)                                                                                \
  case KIND:                                                                                      \
    if (up)                                                                                       \
      _Pragma("omp simd") for (int64_t i = 0; i < count; i++) out[i] = NAME(from_float)(          \
          NAME(rounded)(mlp_function(KIND, NAME(to_float)(x[i]))) * NAME(to_float)(up[i]));          \
    else                                                                                          \
      _Pragma("omp simd") for (int64_t i = 0; i < count; i++) out[i] = NAME(from_float)(mlp_function(KIND, NAME(to_float)(x[i]))); \
    break;
  switch (activation) { EACH(SILU) EACH(GELU) EACH(TANH_GELU) EACH(RELU) EACH(SQUARED_RELU) }
#undef EACH
}
