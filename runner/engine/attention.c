/* Attention of a stream on a CPU: each token's query against its own keys, whatever their number, joined with what it
   shares with other tokens. Compiled on first use by the C compiler of the machine (see native.py), which the loops
   and vector types here leave to choose the instructions; all sums are in float32. */
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16     /* keys whose scores are computed side by side */
#define BLOCK 128    /* keys at a time: their scores stay in the first-level cache */
#define MAX_PARTS 8  /* the limits stand in native.py, too */
#define MAX_GROUP 16
#define MAX_DIM 256
#define CHUNK(dim) ((dim) <= 64 ? 4 : 2) /* query heads whose outputs fit in the registers */

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));

INLINE vec load_bf16(const bf16 *at) {
#ifdef __AVX512F__ /* gcc 12 takes the conversion below apart */
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
#else
  halves x;
  memcpy(&x, at, sizeof x);
  return (vec)(__builtin_convertvector(x, words) << 16);
#endif
}

INLINE vec load_f32(const float *at) {
  vec x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE float up_bf16(bf16 x) {
  union { uint32_t i; float f; } u = {(uint32_t)x << 16};
  return u.f;
}

INLINE bf16 down_bf16(float x) { /* to nearest, ties to even */
  union { float f; uint32_t i; } u = {x};
  return (bf16)((u.i + 0x7fff + ((u.i >> 16) & 1)) >> 16);
}

INLINE float up_f32(float x) { return x; }
INLINE float down_f32(float x) { return x; }

/* exp for x <= 0 within 1e-7 of its value; a polynomial, because a call would keep the loops from being vectorized */
INLINE float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : x;
  float n = rintf(x * 1.44269504f);
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p * r, r, r) + 1.0f;
  union { int32_t i; float f; } scale = {((int32_t)n + 127) << 23};
  return p * scale.f;
}

#define T bf16
#define UP up_bf16
#define DOWN down_bf16
#define LOAD load_bf16
#define NAME(x) x##_bf16
#include "attention_body.h"
#undef T
#undef UP
#undef DOWN
#undef LOAD
#undef NAME

#define T float
#define UP up_f32
#define DOWN down_f32
#define LOAD load_f32
#define NAME(x) x##_f32
#include "attention_body.h"
