/* AVX-512 with products of bfloat16 and of bytes, for processors that have AVX2: included before the kernels, which then
   compile as for AMD Zen 4. The instructions are functions of SIMDe (Debian's package libsimde-dev) and, where version 0.7.4
   lacks one or approximates it, those below, with the semantics of Intel's manual. What neither has does not compile.
   Not emulated: the tiles of AMX (emulated_tiles.h), and code of libraries, such as bitsandbytes' packed 4-bit weights. */
#pragma GCC diagnostic ignored "-Wpsabi" /* no function that passes 512 bits is called from another file */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "the emulation of AVX-512 needs AVX2, FMA and F16C"
#endif
#ifdef __AVX512F__
#error "this processor has AVX-512: nothing is emulated"
#endif
#include <immintrin.h>
#define SIMDE_NO_INLINE /* see EMULATED */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* What a compiler for such a processor defines: kernels are chosen by these (numbers.h). */
#define __AVX512F__ 1
#ifndef EMULATED_WITHOUT_BW_AND_DQ
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#endif
#define __AVX512VL__ 1
#ifndef EMULATED_WITHOUT_BF16
#define __AVX512BF16__ 1
#endif
#ifndef EMULATED_WITHOUT_VNNI
#define __AVX512VNNI__ 1
#endif

/* Not inlined, like those of SIMDe: with so many copies of them the compiler would take minutes. */
#define EMULATED static __attribute__((noinline, unused))
typedef union {
  __m512 floats;
  __m512i ints;
  __m256 half_floats[2];
  __m256i half_ints[2];
  __m128i quarters[4];
  float f32[16];
  int32_t i32[16];
  int16_t i16[32];
  int8_t i8[64];
  uint32_t u32[16];
} emulated_512;

#define EACH_HALF(expression)                                                                                          \
  emulated_512 to;                                                                                                     \
  for (int h = 0; h < 2; h++) expression;

/* Conversions */
EMULATED __m512 emulated_cvtepi32_ps(__m512i x) {
  const emulated_512 from = {.ints = x};
  EACH_HALF(to.half_floats[h] = _mm256_cvtepi32_ps(from.half_ints[h]))
  return to.floats;
}
EMULATED __m512i emulated_cvtps_epi32(__m512 x) {
  const emulated_512 from = {.floats = x};
  EACH_HALF(to.half_ints[h] = _mm256_cvtps_epi32(from.half_floats[h]))
  return to.ints;
}
EMULATED __m512 emulated_cvtph_ps(__m256i x) {
  EACH_HALF(to.half_floats[h] = _mm256_cvtph_ps(((__m128i *)&x)[h]))
  return to.floats;
}
EMULATED __m256i emulated_cvtps_ph(__m512 x) { /* to nearest, ties to even */
  const emulated_512 from = {.floats = x};
  __m256i to;
  for (int h = 0; h < 2; h++) ((__m128i *)&to)[h] = _mm256_cvtps_ph(from.half_floats[h], _MM_FROUND_TO_NEAREST_INT);
  return to;
}
EMULATED __m512i emulated_cvtepi8_epi32(__m128i x) {
  EACH_HALF(to.half_ints[h] = _mm256_cvtepi8_epi32(h ? _mm_srli_si128(x, 8) : x))
  return to.ints;
}
EMULATED __m512i emulated_cvtepu8_epi32(__m128i x) {
  EACH_HALF(to.half_ints[h] = _mm256_cvtepu8_epi32(h ? _mm_srli_si128(x, 8) : x))
  return to.ints;
}
EMULATED __m512i emulated_cvtepu16_epi32(__m256i x) {
  EACH_HALF(to.half_ints[h] = _mm256_cvtepu16_epi32(((__m128i *)&x)[h]))
  return to.ints;
}
EMULATED __m512i emulated_cvtepu8_epi16(__m256i x) {
  EACH_HALF(to.half_ints[h] = _mm256_cvtepu8_epi16(((__m128i *)&x)[h]))
  return to.ints;
}
EMULATED __m256i emulated_cvtepi32_epi16(__m512i x) { /* the lower bits */
  const emulated_512 from = {.ints = x};
  union { int16_t lanes[16]; __m256i all; } to;
  for (int i = 0; i < 16; i++) to.lanes[i] = (int16_t)from.i32[i];
  return to.all;
}
EMULATED __m128i emulated_cvtepi32_epi8(__m512i x) {
  const emulated_512 from = {.ints = x};
  union { int8_t lanes[16]; __m128i all; } to;
  for (int i = 0; i < 16; i++) to.lanes[i] = (int8_t)from.i32[i];
  return to.all;
}

/* Loads and stores of some lanes, which touch no memory of the others */
#define MASKED_LOAD(name, vector, type, lanes, mask_type)                                                              \
  EMULATED vector name(vector before, mask_type mask, const void *from) {                                              \
    union { type lane[lanes]; vector all; } to = {.all = before};                                                      \
    for (int i = 0; i < lanes; i++)                                                                                    \
      if (mask >> i & 1) memcpy(&to.lane[i], (const type *)from + i, sizeof(type));                                    \
    return to.all;                                                                                                     \
  }
#define MASKED_STORE(name, vector, type, lanes, mask_type)                                                             \
  EMULATED void name(void *to, mask_type mask, vector x) {                                                             \
    const union { vector all; type lane[lanes]; } from = {.all = x};                                                   \
    for (int i = 0; i < lanes; i++)                                                                                    \
      if (mask >> i & 1) memcpy((type *)to + i, &from.lane[i], sizeof(type));                                          \
  }
MASKED_LOAD(emulated_load_some_ps, __m512, float, 16, __mmask16)
MASKED_LOAD(emulated_load_some_epi32, __m512i, int32_t, 16, __mmask16)
MASKED_LOAD(emulated_load_some_epi8, __m512i, int8_t, 64, __mmask64)
MASKED_LOAD(emulated_load_some_epi16_256, __m256i, int16_t, 16, __mmask16)
MASKED_STORE(emulated_store_some_ps, __m512, float, 16, __mmask16)
MASKED_STORE(emulated_store_some_epi16, __m512i, int16_t, 32, __mmask32)

/* Arithmetic */
EMULATED __m512i emulated_srai_epi32(__m512i x, unsigned count) {
  const emulated_512 from = {.ints = x};
  EACH_HALF(to.half_ints[h] = _mm256_sra_epi32(from.half_ints[h], _mm_cvtsi32_si128((int)count)))
  return to.ints;
}
EMULATED __m512i emulated_madd_epi16(__m512i x, __m512i y) {
  const emulated_512 a = {.ints = x}, b = {.ints = y};
  EACH_HALF(to.half_ints[h] = _mm256_madd_epi16(a.half_ints[h], b.half_ints[h]))
  return to.ints;
}
EMULATED __mmask16 emulated_test_epi8_mask_128(__m128i a, __m128i b) {
  return (__mmask16)~_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(a, b), _mm_setzero_si128()));
}
/* The order in which gcc adds lanes: halves of halves */
#define REDUCE(name, vector, type, start, combine)                                                                     \
  EMULATED type name(vector x) {                                                                                       \
    union { vector all; type lane[16]; } it = {.all = x};                                                              \
    for (int width = 8; width; width /= 2)                                                                             \
      for (int i = 0; i < width; i++) {                                                                                \
        const type a = it.lane[i], b = it.lane[i + width];                                                             \
        it.lane[i] = combine;                                                                                          \
      }                                                                                                                \
    return it.lane[0];                                                                                                 \
  }
REDUCE(emulated_reduce_add_ps, __m512, float, 0, a + b)
REDUCE(emulated_reduce_max_ps, __m512, float, 0, a > b ? a : b) /* the second one where one is NaN */
REDUCE(emulated_reduce_add_epi32, __m512i, uint32_t, 0, a + b)

/* Two quarters of x, then two of y */
EMULATED __m512 emulated_shuffle_f32x4(__m512 x, __m512 y, int which) {
  const emulated_512 a = {.floats = x}, b = {.floats = y};
  emulated_512 to;
  for (int i = 0; i < 4; i++) to.quarters[i] = (i < 2 ? a : b).quarters[which >> 2 * i & 3];
  return to.floats;
}

/* 1 / x, off by almost what the manual allows: less than 2^-14 of it */
EMULATED __m512 emulated_rcp14_ps(__m512 x) {
  const emulated_512 from = {.floats = x};
  EACH_HALF(to.half_floats[h] = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1), from.half_floats[h]),
                                              _mm256_castsi256_ps(_mm256_set1_epi32(~0x1ff))))
  return to.floats;
}
/* x less the whole number below it; 0 of an infinity */
EMULATED __m512 emulated_above_floor(__m512 x) {
  const emulated_512 from = {.floats = x};
  emulated_512 to;
  for (int h = 0; h < 2; h++) {
    const __m256 a = from.half_floats[h], size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
    const __m256 above = _mm256_sub_ps(a, _mm256_floor_ps(a));
    to.half_floats[h] = _mm256_andnot_ps(_mm256_cmp_ps(size, _mm256_set1_ps(INFINITY), _CMP_EQ_OQ), above);
  }
  return to.floats;
}
/* x times 2 to the power of the whole number below y, rounded once */
EMULATED __m512 emulated_scalef_ps(__m512 x, __m512 y) {
  emulated_512 of = {.floats = x}, power = {.floats = y};
  for (int i = 0; i < 16; i++) {
    const float by = floorf(power.f32[i]);
    of.f32[i] = by != by ? by : (float)ldexp(of.f32[i], by > 500 ? 500 : by < -500 ? -500 : (int)by);
  }
  return of.floats;
}

/* bfloat16: numbers too small to be normal count as 0, in what is read and in what is returned. */
EMULATED __m256 emulated_flush(__m256 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f), size = _mm256_andnot_ps(sign, x);
  const __m256 tiny = _mm256_cmp_ps(size, _mm256_set1_ps(1.17549435e-38f), _CMP_LT_OQ);
  return _mm256_andnot_ps(_mm256_andnot_ps(sign, tiny), x);
}
/* Two fused multiply-adds of a lane: the odd numbers first */
EMULATED __m512 emulated_dpbf16_ps(__m512 sum, __m512i x, __m512i y) {
  const emulated_512 from = {.floats = sum}, a = {.ints = x}, b = {.ints = y};
  const __m256i odd = _mm256_set1_epi32((int)0xffff0000u);
  emulated_512 to;
  for (int h = 0; h < 2; h++) {
    const __m256 p = emulated_flush(_mm256_castsi256_ps(_mm256_and_si256(a.half_ints[h], odd)));
    const __m256 q = emulated_flush(_mm256_castsi256_ps(_mm256_and_si256(b.half_ints[h], odd)));
    const __m256 r = emulated_flush(_mm256_castsi256_ps(_mm256_slli_epi32(a.half_ints[h], 16)));
    const __m256 s = emulated_flush(_mm256_castsi256_ps(_mm256_slli_epi32(b.half_ints[h], 16)));
    const __m256 first = emulated_flush(_mm256_fmadd_ps(p, q, emulated_flush(from.half_floats[h])));
    to.half_floats[h] = emulated_flush(_mm256_fmadd_ps(r, s, first));
  }
  return to.floats;
}
EMULATED __m256i emulated_cvtneps_pbh(__m512 x) { /* to nearest, ties to even; NaN stays NaN */
  const emulated_512 from = {.floats = x};
  union { uint16_t lanes[16]; __m256i all; } to;
  for (int h = 0; h < 2; h++) {
    const __m256 flushed = emulated_flush(from.half_floats[h]);
    const __m256i bits = _mm256_castps_si256(flushed);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(flushed, flushed, _CMP_UNORD_Q));
    const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(near, quiet, is_nan), 16);
    for (int i = 0; i < 8; i++) to.lanes[8 * h + i] = (uint16_t)((uint32_t *)&upper)[i];
  }
  return to.all;
}
EMULATED __m512i emulated_cvtne2ps_pbh(__m512 upper, __m512 lower) {
  emulated_512 to;
  to.half_ints[0] = emulated_cvtneps_pbh(lower), to.half_ints[1] = emulated_cvtneps_pbh(upper);
  return to.ints;
}

/* Names of the instructions; newer versions of SIMDe have some of them, too. */
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(x) emulated_cvtepi32_ps(x)
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32(x) emulated_cvtps_epi32(x)
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(x) emulated_cvtph_ps(x)
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(x, rounding)                                                                                   \
  ({                                                                                                                   \
    _Static_assert((rounding) == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), "only this rounding is emulated");  \
    emulated_cvtps_ph(x);                                                                                              \
  })
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32(x) emulated_cvtepi8_epi32(x)
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32(x) emulated_cvtepu8_epi32(x)
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(x) emulated_cvtepu16_epi32(x)
#undef _mm512_cvtepu8_epi16
#define _mm512_cvtepu8_epi16(x) emulated_cvtepu8_epi16(x)
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(x) emulated_cvtepi32_epi16(x)
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(x) emulated_cvtepi32_epi8(x)
#undef _mm512_mask_loadu_ps
#define _mm512_mask_loadu_ps(before, mask, from) emulated_load_some_ps(before, mask, from)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, from) emulated_load_some_ps(_mm512_setzero_ps(), mask, from)
#undef _mm512_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi32(mask, from) emulated_load_some_epi32(_mm512_setzero_si512(), mask, from)
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8(mask, from) emulated_load_some_epi8(_mm512_setzero_si512(), mask, from)
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16(mask, from) emulated_load_some_epi16_256(_mm256_setzero_si256(), mask, from)
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(to, mask, x) emulated_store_some_ps(to, mask, x)
#undef _mm512_mask_storeu_epi16
#define _mm512_mask_storeu_epi16(to, mask, x) emulated_store_some_epi16(to, mask, x)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(x, count) emulated_srai_epi32(x, count)
#undef _mm512_madd_epi16 /* SIMDe's alias wants two arguments more */
#define _mm512_madd_epi16(x, y) emulated_madd_epi16(x, y)
#undef _mm_test_epi8_mask
#define _mm_test_epi8_mask(a, b) emulated_test_epi8_mask_128(a, b)
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps(x) emulated_reduce_add_ps(x)
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps(x) emulated_reduce_max_ps(x)
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32(x) ((int)emulated_reduce_add_epi32(x))
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(x, y, which) emulated_shuffle_f32x4(x, y, which)
#undef _mm512_rcp14_ps
#define _mm512_rcp14_ps(x) emulated_rcp14_ps(x)
#undef _mm512_reduce_ps
#define _mm512_reduce_ps(x, rounding)                                                                                  \
  ({                                                                                                                   \
    _Static_assert((rounding) == 1, "only whole numbers, and rounding down, are emulated");                           \
    emulated_above_floor(x);                                                                                           \
  })
#undef _mm512_scalef_ps
#define _mm512_scalef_ps(x, y) emulated_scalef_ps(x, y)
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, x, y) emulated_dpbf16_ps(sum, (__m512i)(x), (__m512i)(y))
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh(x) emulated_cvtneps_pbh(x)
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh(upper, lower) emulated_cvtne2ps_pbh(upper, lower)
