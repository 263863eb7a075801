/* The innermost loop of products: up to REGISTER_ROWS rows by a panel or two, their sums in the registers, for one kind
   of numbers (T, PACK, NAME: see kernels.c): float32, pairs of bfloat16, or four bytes, those of rows without a sign
   and those of weights with one, whose sums are int32 in the place of floats. The sums of a row are added up in the
   same order whatever other rows there are. */

#ifndef REGISTER_TILE
#define REGISTER_TILE
/* Rows, some inputs of a panel or two, and their sums y [rows, panels * PANEL]. The memory that is read next (`ahead`
   and `also`, of equal length) is prefetched meanwhile: `lines` cache lines every fourth step. */
typedef struct {
  const void *x; /* operands */
  int64_t stride, steps; /* a step: a number, pair or four of each row */
  const void *panel, *second; /* second: or 0 */
  float *y;
  const char *ahead, *end, *also;
  int64_t lines;
  int adds_up; /* to the sums that are there */
} register_tile;

/* One number, pair or four of a row in all lanes, and sum + x * y */
INLINE vec broadcast_f32(const float *at) { return *at + (vec){0}; }
INLINE words broadcast_bf16(const bf16 *at) { return load_one_bf16(at) + (words){0}; }
INLINE vec dot_f32(vec sum, vec x, vec y) { return sum + x * y; }

#ifdef HAS_AVX512_VNNI
typedef words vec_u8;
typedef uint8_t operand_u8;

INLINE words load_u8(const uint8_t *at) {
  words x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE words broadcast_u8(const uint8_t *at) {
  uint32_t x;
  memcpy(&x, at, sizeof x);
  return x + (words){0};
}

INLINE vec dot_u8(vec sum, words x, words y) {
  return (vec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
}
#endif
#endif

/* R rows by P panels */
INLINE void NAME(register_tile_sums)(const int R, const int P, const register_tile *of) {
  const NAME(operand) *x = of->x;
  const T *panel = of->panel, *second = of->second;
  const char *ahead = of->ahead, *also = of->also, *end = of->end;
  const int64_t stride = of->stride, steps = of->steps, lines = of->lines;
  float *y = of->y;
  vec sum[REGISTER_ROWS][2 * PANEL_VECS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) sum[r][v] = (vec){0};
  if (of->adds_up) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < P * PANEL_VECS; v++)
        memcpy(&sum[r][v], y + (r * P * PANEL_VECS + v) * VEC_FLOATS, sizeof(vec));
  }
#define WEIGHTS(s, v) NAME(load)((v < PANEL_VECS ? panel : second) + ((s) * PANEL + v % PANEL_VECS * VEC_FLOATS) * PACK)
#if IS_WIDENED
/* First the first numbers of all pairs, then the second ones: so that few registers hold weights */
#define STEP(s)                                                                                                      \
  _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {                                                     \
    vec w[2 * PANEL_VECS];                                                                                           \
    _Pragma("GCC unroll 4") for (int v = 0; v < P * PANEL_VECS; v++) w[v] = half_of_pairs(WEIGHTS(s, v), half);      \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                                            \
      const vec number = broadcast_f32(x + r * stride + (s) * PACK + half);                                          \
      _Pragma("GCC unroll 4") for (int v = 0; v < P * PANEL_VECS; v++) sum[r][v] = dot_f32(sum[r][v], number, w[v]); \
    }                                                                                                                \
  }
#else
#define STEP(s)                                                                                                    \
  {                                                                                                                \
    NAME(vec) w[2 * PANEL_VECS];                                                                                   \
    _Pragma("GCC unroll 4") for (int v = 0; v < P * PANEL_VECS; v++) w[v] = WEIGHTS(s, v);                         \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                                          \
      const NAME(vec) number = NAME(broadcast)(x + r * stride + (s) * PACK);                                       \
      _Pragma("GCC unroll 4") for (int v = 0; v < P * PANEL_VECS; v++)                                             \
          sum[r][v] = NAME(dot)(sum[r][v], number, w[v]);                                                          \
    }                                                                                                              \
  }
#endif
  int64_t s = 0;
  for (; s + 4 <= steps; s += 4) {
    for (int64_t i = 0; i < lines && ahead < end; i++, ahead += CACHE_LINE) {
      __builtin_prefetch(ahead, 0, 2);
      if (P == 2) __builtin_prefetch(also, 0, 2), also += CACHE_LINE;
    }
    STEP(s) STEP(s + 1) STEP(s + 2) STEP(s + 3)
  }
  for (; s < steps; s++) STEP(s)
#undef STEP
#undef WEIGHTS
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) memcpy(y + (r * P * PANEL_VECS + v) * VEC_FLOATS, &sum[r][v], sizeof(vec));
}

/* Compiled for each number of rows */
static void NAME(multiply_register_tile)(int rows, const register_tile *of) {
#define CASE(N)                                                                \
  case N:                                                                      \
    if ((PANELS_AT_ONCE == 2 || N == 1) && of->second) NAME(register_tile_sums)(N, 2, of); \
    else NAME(register_tile_sums)(N, 1, of);                                   \
    break;
  switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}
