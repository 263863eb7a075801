/* Sums of some rows and a panel or two, for one kind of numbers (see attention_body.h): float32, pairs of bfloat16, or
   four bytes, those of rows without a sign and those of weights with one, whose sums are int32 in the place of floats.
   The sums of a row are made in the same order whatever rows go along. */

#ifndef STRIPS
#define STRIPS
/* Rows, a stretch of a panel or two, and their sums y [rows, panels * PANEL]. What is read next (`ahead` and `also`, both
   as long) is asked for meanwhile: so many lines every fourth step. */
typedef struct {
  const void *x;
  int64_t stride, steps; /* of LANES' numbers, pairs or fours */
  const void *panel, *second; /* second: or 0 */
  float *y;
  const char *ahead, *end, *also;
  int64_t lines;
  int goes_on; /* with the sums that are there; not of float32 */
} strip;

/* One number, pair or four of a row for all lanes, and sum + x * y */
INLINE vec spread_f32(const float *at) { return *at + (vec){0}; }
INLINE words spread_bf16(const bf16 *at) { return take_bf16(at) + (words){0}; }
INLINE vec dot_f32(vec sum, vec x, vec y) { return sum + x * y; }

INLINE vec dot_bf16(vec sum, words x, words y) {
#ifdef __AVX512BF16__
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
  return sum + (vec)(x << 16) * (vec)(y << 16) + (vec)(x & 0xffff0000u) * (vec)(y & 0xffff0000u);
#endif
}

#ifdef QUANTIZED
typedef words many_u8;

INLINE words load_u8(const uint8_t *at) {
  words x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE words spread_u8(const uint8_t *at) {
  uint32_t x;
  memcpy(&x, at, sizeof x);
  return x + (words){0};
}

INLINE vec dot_u8(vec sum, words x, words y) {
  return (vec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
}
#endif
#endif

INLINE void NAME(sums)(const int R, const int P, const strip *of) {
  const T *x = of->x, *panel = of->panel, *second = of->second;
  const char *ahead = of->ahead, *also = of->also, *end = of->end;
  const int64_t stride = of->stride, steps = of->steps, lines = of->lines;
  float *y = of->y;
  vec sum[ROWS][2 * VECS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) sum[r][v] = (vec){0};
  if (PER > 1 && of->goes_on) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < P * VECS; v++) memcpy(&sum[r][v], y + (r * P * VECS + v) * WIDE, sizeof(vec));
  }
#define STEP(s)                                                                                     \
  {                                                                                                 \
    NAME(many) w[2 * VECS];                                                                         \
    _Pragma("GCC unroll 4") for (int v = 0; v < P * VECS; v++)                                      \
        w[v] = NAME(load)((v < VECS ? panel : second) + ((s) * PANEL + v % VECS * WIDE) * PER);     \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                           \
      const NAME(many) number = NAME(spread)(x + r * stride + (s) * PER);                           \
      _Pragma("GCC unroll 4") for (int v = 0; v < P * VECS; v++)                                    \
          sum[r][v] = NAME(dot)(sum[r][v], number, w[v]);                                           \
    }                                                                                               \
  }
  int64_t s = 0;
  for (; s + 4 <= steps; s += 4) {
    for (int64_t i = 0; i < lines && ahead < end; i++, ahead += LINE) {
      __builtin_prefetch(ahead, 0, 2);
      if (P == 2) __builtin_prefetch(also, 0, 2), also += LINE;
    }
    STEP(s) STEP(s + 1) STEP(s + 2) STEP(s + 3)
  }
  for (; s < steps; s++) STEP(s)
#undef STEP
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) memcpy(y + (r * P * VECS + v) * WIDE, &sum[r][v], sizeof(vec));
}

/* Compiled for each number of rows */
static void NAME(multiply_strip)(int rows, const strip *of) {
#define CASE(N)                                           \
  case N:                                                 \
    if (AT_ONCE == 2 && of->second) NAME(sums)(N, 2, of); \
    else NAME(sums)(N, 1, of);                            \
    break;
  switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}
