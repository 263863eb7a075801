/* A rotation of a head by Hadamard's matrix, for one number format (T, NAME): in sums and differences of its numbers, in
   pieces of `piece` numbers, a power of two. It is its own inverse. torch computes the same bits in kv_cache/rotation.py. */

INLINE void NAME(rotate_head)(T *x, int64_t dim, int64_t piece) {
  float in[MAX_DIM], out[MAX_DIM], *from = in, *to = out;
  const float share = (float)(1 / sqrt((double)piece));
  for (int64_t d = 0; d < dim; d++) in[d] = NAME(to_float)(x[d]);
  for (int64_t step = 1; step < piece; step *= 2) {
    for (int64_t first = 0; first < dim; first += 2 * step)
      for (int64_t d = first; d < first + step; d++)
        to[d] = from[d] + from[d + step], to[d + step] = from[d] - from[d + step];
    float *before = from;
    from = to, to = before;
  }
  for (int64_t d = 0; d < dim; d++) x[d] = NAME(from_float)(from[d] * share);
}

static __attribute__((noinline)) void NAME(rotate_heads)(T *x, int64_t heads, int64_t dim, int64_t piece) {
  for (int64_t h = 0; h < heads; h++) NAME(rotate_head)(x + h * dim, dim, piece);
}

/* Rotates so many heads [heads, dim] in place. Returns what is wrong with the call (checks.h). */
#if IS_IN(ROTATION_UNIT)
int64_t NAME(rotate)(T *x, int64_t heads, int64_t dim, int64_t piece, int threads) {
  if (dim < 1 || dim > MAX_DIM || piece < 1 || piece & (piece - 1) || dim % piece) REFUSE(WRONG_HEADS, 0);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t h = 0; h < heads; h++) NAME(rotate_head)(x + h * dim, dim, piece);
  return FINE;
}
#endif
