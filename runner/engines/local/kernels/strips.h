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
  int goes_on;           /* with the sums that are there; not of float32 */
  const void *table[2];  /* or 0: panels are 4-bit weights, to be looked up here, */
  const bf16 *scales[2]; /* and y += sums * these, for so many blocks of `steps`, one after another */
  int64_t blocks, from_scale_to_scale;
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
/* 4 bits. 32 bytes hold a pair of inputs of 32 outputs: those of the first 16 in their lower halves. `table` is there
   twice, so that the upper half of a byte does not matter where the lower one is looked up. */
INLINE void look_up(const char *bytes, __m512i table, __m512i *first, __m512i *second) {
  const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
  *first = _mm512_permutexvar_epi16(both, table);
  *second = _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
}

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

INLINE void NAME(sums)(const int R, const int P, const int IS_PACKED, const strip *of) {
  const T *x = of->x, *panel = of->panel, *second = of->second;
  const char *ahead = of->ahead, *also = of->also, *end = of->end;
  const int64_t stride = of->stride, steps = of->steps, lines = of->lines;
  float *y = of->y;
  vec sum[ROWS][2 * VECS];
  int64_t block = 0;
#ifdef QUANTIZED
  const char *packed = of->panel, *also_packed = of->second;
  const __m512i table = IS_PACKED ? _mm512_loadu_si512(of->table[0]) : (__m512i){0};
  const __m512i also_table = IS_PACKED && P == 2 ? _mm512_loadu_si512(of->table[1]) : table;
#define LOOK_UP(s)                                                                                  \
  {                                                                                                 \
    look_up(packed + (s) * PANEL, table, (__m512i *)w, (__m512i *)w + 1);                           \
    if (P == 2) look_up(also_packed + (s) * PANEL, also_table, (__m512i *)w + 2, (__m512i *)w + 3); \
  }
#else
#define LOOK_UP(s) {}
#endif
next_block:
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) sum[r][v] = (vec){0};
  if (PER > 1 && !IS_PACKED && of->goes_on) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < P * VECS; v++) memcpy(&sum[r][v], y + (r * P * VECS + v) * WIDE, sizeof(vec));
  }
#define STEP(s)                                                                                     \
  {                                                                                                 \
    NAME(many) w[2 * VECS];                                                                         \
    if (IS_PACKED) LOOK_UP(s)                                                                       \
    else                                                                                            \
      _Pragma("GCC unroll 4") for (int v = 0; v < P * VECS; v++)                                    \
          w[v] = NAME(load)((v < VECS ? panel : second) + ((s) * PANEL + v % VECS * WIDE) * PER);   \
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
    if (IS_PACKED)
#pragma GCC unroll 2
      for (int64_t i = s; i < s + 4; i++) STEP(i)
    else { STEP(s) STEP(s + 1) STEP(s + 2) STEP(s + 3) }
  }
  for (; s < steps; s++) STEP(s)
#undef STEP
#undef LOOK_UP
#ifdef QUANTIZED
  if (IS_PACKED) {
    __m512 scale[2 * VECS];
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++)
      scale[v] = up_16(of->scales[v / VECS] + block * of->from_scale_to_scale + v % VECS * WIDE);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < P * VECS; v++) {
        float *to = y + (r * P * VECS + v) * WIDE;
        _mm512_storeu_ps(to, _mm512_fmadd_ps((__m512)sum[r][v], scale[v], _mm512_loadu_ps(to)));
      }
    x += steps * PER, packed += steps * PANEL, also_packed += steps * PANEL;
    if (++block < of->blocks) goto next_block;
    return;
  }
#endif
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) memcpy(y + (r * P * VECS + v) * WIDE, &sum[r][v], sizeof(vec));
}

/* Compiled for each number of rows */
static void NAME(multiply_strip)(int rows, const strip *of) {
#define CASE(N, IS_PACKED)                                           \
  case N:                                                            \
    if (AT_ONCE == 2 && of->second) NAME(sums)(N, 2, IS_PACKED, of); \
    else NAME(sums)(N, 1, IS_PACKED, of);                            \
    break;
#ifdef QUANTIZED
  if (PER == 2 && of->table[0])
    switch (rows) { CASE(1, PER == 2) CASE(2, PER == 2) CASE(3, PER == 2) CASE(4, PER == 2) CASE(5, PER == 2) }
  else
#endif
    switch (rows) { CASE(1, 0) CASE(2, 0) CASE(3, 0) CASE(4, 0) CASE(5, 0) CASE(6, 0) }
#undef CASE
}
