/* What adapters of low rank add to a product of a fused pass, each to its own tokens, for one number format (T, NAME: see
   kernels.c): the rows of a tile go through its first matrix while the product is computed, and through its second one
   behind it. A token's sums are in one order, whatever tokens and adapters there are beside it. */

#ifndef ADAPTERS
#define ADAPTERS
#define WIDENED_AT_ONCE 512 /* of the second matrix */

/* sum + x * y, rounded once wherever there is an instruction for that: left to the compiler, it would depend on how many sums
   a loop has, and so on how many rows are multiplied together */
INLINE vec add_product(vec sum, vec x, vec y) {
#if defined(__AVX512F__)
  return (vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#elif defined(__aarch64__)
  return (vec)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)y);
#else
  return sum + x * y;
#endif
}

/* y [R, stride] = R rows [padded inputs] by C outputs of a matrix [outputs, inputs] */
INLINE void dots_of_rows(const int R, const int C, const float *x, int64_t padded_inputs, const float *w, int64_t inputs,
                         float *y, int64_t stride) {
  vec sum[REGISTER_ROWS][4];
  const int64_t whole = inputs / VEC_FLOATS * VEC_FLOATS, left = inputs - whole;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) sum[r][c] = (vec){0};
  for (int64_t k = 0; k < whole; k += VEC_FLOATS) {
    vec rows[REGISTER_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) rows[r] = load_f32(x + r * padded_inputs + k);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      const vec weights = load_f32(w + c * inputs + k);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sum[r][c] = add_product(sum[r][c], rows[r], weights);
    }
  }
  for (int c = 0; left && c < C; c++) {
    float of_matrix[VEC_FLOATS] = {0};
    memcpy(of_matrix, w + c * inputs + whole, left * sizeof(float));
    for (int r = 0; r < R; r++)
      sum[r][c] = add_product(sum[r][c], load_f32(x + r * padded_inputs + whole), load_f32(of_matrix));
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) store_sums(C, sum[r], y + r * stride);
}

/* The same for any number of outputs */
static void narrow_tile(int rows, const float *x, int64_t padded_inputs, const float *w, int64_t inputs, int64_t outputs,
                        float *y, int64_t stride) {
  int64_t o = 0;
#define CASE(R, C)                                                                                              \
  case R:                                                                                                       \
    for (; o + C <= outputs; o += C) dots_of_rows(R, C, x, padded_inputs, w + o * inputs, inputs, y + o, stride); \
    break;
  switch (rows) { CASE(1, 4) CASE(2, 4) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2) }
#undef CASE
  for (; o < outputs; o++)
    for (int r = 0; r < rows; r++)
      dots_of_rows(1, 1, x + r * padded_inputs, padded_inputs, w + o * inputs, inputs, y + r * stride + o, 0);
}

/* y [R, V vectors] = R rows [rank] by so many neighbouring outputs of a matrix [rank, outputs] */
INLINE void sums_of_outputs(const int R, const int V, const float *low, int64_t width, const float *w, int64_t rank,
                            int64_t outputs, float *y) {
  vec sum[REGISTER_ROWS][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = (vec){0};
  for (int64_t k = 0; k < rank; k++, w += outputs)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const vec weights = load_f32(w + v * VEC_FLOATS);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sum[r][v] = add_product(sum[r][v], broadcast_f32(low + r * width + k), weights);
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) memcpy(y + r * V * VEC_FLOATS, sum[r], V * sizeof(vec));
}

INLINE int64_t rank_of(const low_rank *of, int64_t adapter) { return of ? of->start[adapter + 1] - of->start[adapter] : 0; }
#endif

/* Adds y [rows, some] to the rows of tokens. */
INLINE void NAME(add_to_tokens)(const int32_t *token, int rows, int64_t some, const float *y, T *out, int64_t stride) {
  for (int r = 0; r < rows; r++, y += some) {
    T *of_token = out + token[r] * stride;
#pragma omp simd
    for (int64_t o = 0; o < some; o++) of_token[o] = NAME(from_float)(NAME(to_float)(of_token[o]) + y[o]);
  }
}

/* Multiplies the rows [rank] of a tile by a matrix [rank, outputs], and adds that to some outputs of their tokens. */
static void NAME(widen_tile)(const int32_t *token, int rows, const float *low, int64_t width, const float *w, int64_t rank,
                             int64_t outputs, int64_t first, int64_t last, T *out, int64_t stride) {
  float y[REGISTER_ROWS * 4 * VEC_FLOATS];
  int64_t o = first;
#define CASE(R, V)                                                                \
  case R:                                                                         \
    for (; o + V * VEC_FLOATS <= last; o += V * VEC_FLOATS) {                     \
      sums_of_outputs(R, V, low, width, w + o, rank, outputs, y);                 \
      NAME(add_to_tokens)(token, R, V * VEC_FLOATS, y, out + o, stride);          \
    }                                                                             \
    break;
  switch (rows) { CASE(1, 4) CASE(2, 4) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2) }
#undef CASE
  for (; o < last; o += VEC_FLOATS) {
    const int64_t left = last - o < VEC_FLOATS ? last - o : VEC_FLOATS;
    for (int r = 0; r < rows; r++) {
      vec sum = {0};
      for (int64_t k = 0; k < rank; k++) {
        vec weights = {0};
        memcpy(&weights, w + k * outputs + o, left * sizeof(float));
        sum = add_product(sum, broadcast_f32(low + r * width + k), weights);
      }
      memcpy(y, &sum, sizeof sum);
      NAME(add_to_tokens)(token + r, 1, left, y, out + o, stride);
    }
  }
}

/* Multiplies the rows of a product by the first matrices of their adapters. */
static void NAME(narrow_rows)(const fused_pass *s, const product *p, phase *now) {
  const adapted_tokens *in = s->in->adapted;
  const int64_t chunks = in->tiles * p->count, padded_inputs = ceil_div(p->inputs, LANES) * LANES;
  float *rows = s->adapted.rows + omp_get_thread_num() * s->adapted.row_numbers;
  int64_t copied = -1; /* the tile whose rows this thread has copied */
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone) {
    const int64_t at = i / p->count, number = i % p->count;
    const adapter_tile *tile = in->tile + at;
    const low_rank *of = p->matrices[number].adapters;
    const int64_t rank = rank_of(of, tile->adapter);
    if (!rank) continue;
    if (copied != at)
      for (int r = 0; r < tile->count; r++) {
        const T *x = (const T *)p->x + in->token[tile->first + r] * p->inputs;
        float *row = rows + r * padded_inputs;
#pragma omp simd
        for (int64_t k = 0; k < p->inputs; k++) row[k] = NAME(to_float)(x[k]);
        memset(row + p->inputs, 0, (padded_inputs - p->inputs) * sizeof(float));
      }
    copied = at;
    float *low = s->adapted.low + tile->first * s->adapted.width + number * in->most_rank;
    narrow_tile(tile->count, rows, padded_inputs, of->a + of->start[tile->adapter] * p->inputs, p->inputs, rank, low,
                s->adapted.width);
    for (int r = 0; r < tile->count; r++)
      for (int64_t k = 0; k < rank; k++) low[r * s->adapted.width + k] *= of->scaling[tile->adapter];
  }
}

/* Multiplies what that has given by the second matrices, and adds it to what the product has given. */
static void NAME(add_adapters)(const fused_pass *s, const product *p, phase *now) {
  const adapted_tokens *in = s->in->adapted;
  int64_t pieces = 0;
  for (int64_t m = 0; m < p->count; m++) pieces += ceil_div(p->matrices[m].outputs, WIDENED_AT_ONCE);
  const int64_t chunks = in->tiles * pieces;
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone) {
    const adapter_tile *tile = in->tile + i / pieces;
    const matrix *m = p->matrices;
    int64_t piece = i % pieces, column = 0;
    for (int64_t some; piece >= (some = ceil_div(m->outputs, WIDENED_AT_ONCE)); m++) piece -= some, column += m->outputs;
    const low_rank *of = m->adapters;
    const int64_t rank = rank_of(of, tile->adapter), first = piece * WIDENED_AT_ONCE;
    if (!rank) continue;
    const int64_t last = first + WIDENED_AT_ONCE < m->outputs ? first + WIDENED_AT_ONCE : m->outputs;
    const float *low = s->adapted.low + tile->first * s->adapted.width + (m - p->matrices) * in->most_rank;
    NAME(widen_tile)(in->token + tile->first, tile->count, low, s->adapted.width, of->b + of->start[tile->adapter] * m->outputs,
                     rank, m->outputs, first, last, (T *)p->out + column, p->stride);
  }
  barrier(now, chunks, s->is_alone);
}

/* Whether an adapter changes one of a product's matrices, and a token of the pass has one */
INLINE int NAME(has_adapters)(const fused_pass *s, const product *p) {
  int some = 0;
  for (int64_t m = 0; s->in->adapted && m < p->count; m++) some |= p->matrices[m].adapters != 0;
  return some;
}
