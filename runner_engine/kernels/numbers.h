/* Number formats, vectors and exp: what every kernel is written in. Vectors are of the compiler's own types, so that it
   chooses the instructions; all sums are in float32. Functions end in their format (_f32, _bf16, _u8), by which files
   that are compiled once per format find them through NAME. */

#include "units.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif
#if defined(__aarch64__) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define HAS_NEON_BF16 1
#endif
#include <float.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16      /* keys in a block of the KV layout, whose scores are computed side by side */
#define CACHE_LINE 64 /* bytes */
#define LOG2_E 1.44269504f

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define HAS_AVX512 1 /* registers are wide: kernels in register tiles are worth writing only here */
#endif
#if defined(HAS_AVX512) && defined(__AVX512BF16__)
#define HAS_AVX512_BF16 1 /* and they multiply bfloat16 */
#endif
/* Every processor with AMX has these, too; whether it has tiles is tried out at run time (tile_products.h). */
#if defined(HAS_AVX512_BF16) && defined(__linux__) && defined(__x86_64__) && !defined(NO_TILES)
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define HAS_TILES 1
#endif
#endif
#if defined(HAS_AVX512) && defined(__AVX512VNNI__)
#define HAS_AVX512_VNNI 1 /* they multiply bytes, some of them no bfloat16 */
#endif

#if IS_IN(SHARED)
#ifdef HAS_AVX512_VNNI
const int64_t has_quantized = 1;
#endif

/* What products are computed with, for the facts of a job */
const char *vector_instructions =
#if defined(HAS_AVX512_BF16)
    "AVX-512 with bfloat16";
#elif defined(HAS_AVX512)
    "AVX-512";
#elif defined(__AVX2__)
    "AVX2";
#elif defined(HAS_NEON_BF16)
    "NEON with bfloat16";
#elif defined(__aarch64__)
    "NEON";
#else
    "narrow vectors";
#endif
#endif

/* Floats of a register: wider vectors would be slow, since the compiler splits them badly. */
#ifdef __AVX512F__
#define VEC_FLOATS 16
#elif defined(__AVX__)
#define VEC_FLOATS 8
#else
#define VEC_FLOATS 4
#endif
/* Whether bfloat16 is widened to float32, since no instruction multiplies it */
#if defined(HAS_AVX512_BF16) || defined(HAS_NEON_BF16)
#define WIDENS_BF16 0
#else
#define WIDENS_BF16 1
#endif
#define IS_WIDENED (WIDENS_BF16 && PACK == 2) /* in a file that is compiled for each number format */

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(4 * VEC_FLOATS)));
typedef uint32_t words __attribute__((vector_size(4 * VEC_FLOATS)));

INLINE float to_float_bf16(bf16 x) {
  union { uint32_t i; float f; } u = {(uint32_t)x << 16};
  return u.f;
}

INLINE bf16 from_float_bf16(float x) { /* to nearest, ties to even */
  union { float f; uint32_t i; } u = {x};
  return (bf16)((u.i + 0x7fff + ((u.i >> 16) & 1)) >> 16);
}

INLINE float to_float_f32(float x) { return x; }
INLINE float from_float_f32(float x) { return x; }

/* A float as the format would hold it */
INLINE float rounded_bf16(float x) { return to_float_bf16(from_float_bf16(x)); }
INLINE float rounded_f32(float x) { return x; }

/* The bits of numbers without their signs: as integers they have the order of the numbers, with NaN above all others */
typedef uint32_t size_bits_f32;
typedef uint16_t size_bits_bf16;

INLINE size_bits_f32 size_of_f32(float x) {
  union { float f; uint32_t i; } u = {x};
  return u.i & 0x7fffffff;
}

INLINE size_bits_bf16 size_of_bf16(bf16 x) { return x & 0x7fff; }

INLINE float number_of_size_f32(size_bits_f32 x) {
  union { uint32_t i; float f; } u = {x};
  return u.f;
}

INLINE float number_of_size_bf16(size_bits_bf16 x) { return to_float_bf16(x); }

/* A vector in memory: floats, pairs of bfloat16 or fours of bytes, 32 bits in each lane */
typedef vec vec_f32;
typedef words vec_bf16;

INLINE vec load_f32(const float *at) {
  vec x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE words load_bf16(const bf16 *at) {
  words x;
  memcpy(&x, at, sizeof x);
  return x;
}

/* What rows, queries and the weights of values are multiplied as: bfloat16 that has to be widened, is so once, before
   it is multiplied by many others */
typedef float operand_f32;
#if WIDENS_BF16
typedef float operand_bf16;
#else
typedef bf16 operand_bf16;
#endif

INLINE uint32_t load_one_bf16(const bf16 *at) {
  uint32_t x;
  memcpy(&x, at, sizeof x);
  return x;
}

/* The first or the second numbers of pairs, as floats */
INLINE vec half_of_pairs(words x, int half) { return (vec)(half ? x & 0xffff0000u : x << 16); }

/* sum + x.low * y.low + x.high * y.high for pairs of bfloat16 */
INLINE vec dot_bf16(vec sum, words x, words y) {
#if defined(HAS_AVX512_BF16)
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#elif defined(HAS_NEON_BF16)
  return (vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)x, (bfloat16x8_t)y);
#else
  return sum + half_of_pairs(x, 0) * half_of_pairs(y, 0) + half_of_pairs(x, 1) * half_of_pairs(y, 1);
#endif
}

/* sum + x * y with one number x, or one pair, for all lanes */
INLINE vec multiply_add_f32(vec sum, const float *x, vec y) { return sum + *x * y; }

INLINE vec multiply_add_bf16(vec sum, const operand_bf16 *x, words y) {
#if WIDENS_BF16
  return sum + x[0] * half_of_pairs(y, 0) + x[1] * half_of_pairs(y, 1);
#else
  return dot_bf16(sum, load_one_bf16(x) + (words){0}, y);
#endif
}

/* exp for x <= 0 is (1 + what this returns) * scale, within 1e-7; a polynomial, because a call would keep the loops
   from being vectorized. */
INLINE float exp_minus_one(float x, float *scale) {
  x = x < -87.0f ? -87.0f : x;
  float n = rintf(x * LOG2_E);
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  union { int32_t i; float f; } power = {(int32_t)((uint32_t)((int32_t)n + 127) << 23)};
  *scale = power.f;
  return fmaf(p * r, r, r);
}

INLINE float exp_fast(float x) {
  float scale, p = exp_minus_one(x, &scale);
  return (p + 1.0f) * scale;
}

/* cap * tanh(x / cap), the soft cap of some models' scores; by exp - 1, so that small scores lose nothing. */
INLINE float soft_cap(float x, float cap) {
  float scale, p = exp_minus_one(-2.0f * fabsf(x) / cap, &scale), e = fmaf(scale, p, scale - 1.0f);
  return copysignf(cap * e / (2.0f + e), x);
}

INLINE int64_t ceil_div(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

/* Takes bytes out of a workspace, from a cache line on. */
INLINE void *allocate(char **workspace, int64_t bytes) {
  void *at = (void *)(((uintptr_t)*workspace + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
  *workspace = (char *)at + bytes;
  return at;
}
