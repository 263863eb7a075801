/* Attention of a stream on a CPU: each token's query against its own keys, whatever their number, joined with what it
   shares with other tokens. Compiled on first use by the C compiler of the machine (see native.py), which the loops
   and vector types here leave to choose the instructions; all sums are in float32. */
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16     /* keys whose scores are computed side by side */
#define BLOCK 512    /* keys at a time: their scores stay in the first-level cache */
#define ROOM (BLOCK + 2 * LANES)
#define MAX_GROUP 16 /* the limits stand in native.py, too */
#define MAX_DIM 512
#define AHEAD 8192   /* bytes: the processor's own prefetching stops at the end of a page, and these streams are short */

typedef uint16_t bf16;
/* Vectors as wide as the registers (the compiler makes slow work of wider ones): for the sums of how many query heads
   and dimensions there are registers, side by side */
#ifdef __AVX512F__
#define WIDE 16
#define CHUNK(dim) ((dim) <= 64 || (dim) % 64 == 0 ? 4 : 2)
#define STRETCH(dim) ((dim) % 64 ? (dim) : 64)
#define MOST_STRETCH MAX_DIM
#define PAIRED(group) 1
#else
#define WIDE 8
#define CHUNK(dim) 2
#define STRETCH(dim) ((dim) % 32 ? 16 : 32)
#define MOST_STRETCH 32
#define PAIRED(group) ((group) <= 2)
#endif
typedef float vec __attribute__((vector_size(4 * WIDE)));
typedef uint32_t words __attribute__((vector_size(4 * WIDE)));

/* Asks for a line of a stream that ends at `end` and is followed by one that starts at `next`; where registers are
   narrow, asking takes longer than what it saves. */
INLINE void prefetch(const void *at, const void *end, const void *next) {
#ifdef __AVX512F__
  const char *far = (const char *)at + AHEAD;
  __builtin_prefetch(far < (const char *)end ? far : (const char *)next + (far - (const char *)end));
#endif
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

/* What is read of a stream at once, many numbers or many pairs of bfloat16, and one of them that is multiplied by all */
typedef vec many_f32;
typedef words many_bf16;

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

INLINE float take_f32(const float *at) { return *at; }

INLINE uint32_t take_bf16(const bf16 *at) {
  uint32_t x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE vec add_f32(vec sum, float x, vec y) { return sum + x * y; }

/* sum + x.low * y.low + x.high * y.high for pairs of bfloat16, the same pair x for all lanes */
INLINE vec add_bf16(vec sum, uint32_t x, words y) {
#ifdef __AVX512BF16__
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)y);
#else
  return sum + up_bf16(x & 0xffff) * (vec)(y << 16) + up_bf16(x >> 16) * (vec)(y & 0xffff0000u);
#endif
}

/* exp for x <= 0 is (1 + what this returns) * scale, within 1e-7; a polynomial, because a call would keep the loops from
   being vectorized */
INLINE float exp_steps(float x, float *scale) {
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
  union { int32_t i; float f; } power = {(int32_t)((uint32_t)((int32_t)n + 127) << 23)};
  *scale = power.f;
  return fmaf(p * r, r, r);
}

INLINE float exp_fast(float x) {
  float scale, p = exp_steps(x, &scale);
  return (p + 1.0f) * scale;
}

/* cap * tanh(x / cap), below which some models keep their scores; by exp - 1, so that small scores lose nothing */
INLINE float capped(float x, float cap) {
  float scale, p = exp_steps(-2.0f * fabsf(x) / cap, &scale), e = fmaf(scale, p, scale - 1.0f);
  return copysignf(cap * e / (2.0f + e), x);
}

/* What only some layers need is kept out of the code for each shape, which takes long to compile as it is: count scores
   become capped, where there is a cap, and the first `hidden` of them are not seen. */
static __attribute__((noinline)) void change_apart(float *scores, int count, int64_t hidden, float scale, float cap) {
  if (cap)
#pragma omp simd
    for (int j = 0; j < count; j++) scores[j] = capped(scores[j] * scale, cap);
  for (int j = 0; j < count && j < hidden; j++) scores[j] = -INFINITY;
}

INLINE void change_scores(float *scores, int count, int64_t hidden, float scale, float cap) {
  float copy[ROOM]; /* an array whose address is handed on may overlap with keys, for all that a compiler knows */
  memcpy(copy, scores, count * sizeof(float));
  change_apart(copy, count, hidden, scale, cap);
  memcpy(scores, copy, count * sizeof(float));
}

/* Where a row's keys and values lie: the first head of the first layer, and how many places each head has. All heads of a
   layer, and then those of the next, follow one another. */
typedef struct {
  int64_t keys, values, capacity;
} home;

/* How they lie there, head by head. Keys: in blocks of LANES places, within a block dimension by dimension, so that
   the scores of LANES keys are computed side by side. Values: place by place. In bfloat16 two dimensions of a key, and
   two places of a value, lie side by side, since products of pairs are quicker than widening. */

INLINE void put_f32(float *K, float *V, const float *k, const float *v, int64_t dim, int64_t place) {
  float *block = K + place / LANES * LANES * dim + place % LANES;
  for (int64_t d = 0; d < dim; d++) block[d * LANES] = k[d];
  memcpy(V + place * dim, v, dim * sizeof(float));
}

INLINE void put_bf16(bf16 *K, bf16 *V, const bf16 *k, const bf16 *v, int64_t dim, int64_t place) {
  bf16 *block = K + place / LANES * LANES * dim + place % LANES * 2, *pair = V + place / 2 * 2 * dim + place % 2;
  for (int64_t d = 0; d < dim; d++) block[d / 2 * 2 * LANES + d % 2] = k[d];
  for (int64_t d = 0; d < dim; d++) pair[2 * d] = v[d];
}

/* The weights of count values as they are multiplied: in bfloat16 with a 0 behind them, the other half of the last pair */
INLINE const float *pack_f32(float *s, int count, float *room) { return s; }

INLINE const bf16 *pack_bf16(float *s, int count, bf16 *room) {
  s[count] = 0;
  for (int j = 0; j <= count; j++) room[j] = down_bf16(s[j]);
  return room;
}

#define LINE 64 /* of the cache */

/* What many rows share is read in tiles: rows by keys, the scores of a tile in the first-level cache, the sums of STRIP
   rows in the registers. Worth writing only where the registers are wide; elsewhere torch's products do it. */
#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define SHARED 1
#define STRIP 6
#define TILE 24 /* rows, a multiple of STRIP */
#define KEYS 512
#define MOST_VECS 4

/* Memory that is read next, stream by stream. It is asked for from `at` on, so many sixteenths of a line at each step of a
   strip; `owed`: sixteenths that are left over. */
typedef struct {
  const char *at, *end;
} stream;

typedef struct {
  const char *at;
  int64_t due, owed, streams; /* streams: how many are left */
  const stream *stream;
} soon;

INLINE __m512 exp_16(__m512 x) { /* as exp_fast */
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

/* exp for weights: where they are rounded to 16 bits, within 4e-6 in fewer steps */
INLINE __m512 weight_16_f32(__m512 x) { return exp_16(x); }
INLINE __m512 weight_16_bf16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.69314718f), x);
  __m512 p = _mm512_set1_ps(4.187564e-2f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6792143e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.9999372e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9996229e-1f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f)), n);
}

INLINE void put_16_bf16(bf16 *at, __m512 x) { _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh(x)); }
INLINE void put_16_f32(float *at, __m512 x) { _mm512_storeu_ps(at, x); }

INLINE __m512 up_16_bf16(const bf16 *at) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
}
INLINE __m512 up_16_f32(const float *at) { return _mm512_loadu_ps(at); }

/* As DOWN and UP, in one instruction instead of five: torch's steps round that often */
INLINE __m512 round_16_bf16(__m512 x) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16);
}
INLINE __m512 round_16_f32(__m512 x) { return x; }
#endif

/* And where it multiplies bytes, too */
#if defined(SHARED) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define QUANTIZED 1
const int64_t has_quantized = 1;
#endif

#include "crew.h"
#include "matrices.h"

#ifdef QUANTIZED
#define T uint8_t
#define PER 4
#define NAME(x) x##_u8
#include "strips.h"
#undef T
#undef PER
#undef NAME
#endif

#define T bf16
#define PER 2
#define UP up_bf16
#define DOWN down_bf16
#define NAME(x) x##_bf16
#include "attention_body.h"
#ifdef SHARED /* elsewhere products of bfloat16 are torch's */
#include "strips.h"
#ifdef QUANTIZED
#include "quantized.h"
#include "row_int8.h"
#endif
#include "products.h"
#include "whole_pass.h"
#endif
#undef T
#undef PER
#undef UP
#undef DOWN
#undef NAME

#define T float
#define PER 1
#define UP up_f32
#define DOWN down_f32
#define NAME(x) x##_f32
#include "attention_body.h"
#include "strips.h"
#ifdef QUANTIZED
#include "row_int8.h"
#endif
#include "products.h"
#include "sampling.h"
#include "whole_pass.h"
