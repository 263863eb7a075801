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
#define BLOCK 512    /* keys at a time: their scores stay in the first-level cache */
#define ROOM (BLOCK + 2 * LANES)
#define MAX_GROUP 16 /* the limits stand in native.py, too */
#define MAX_DIM 256
#define CHUNK(dim) ((dim) <= 64 ? 4 : 2) /* query heads whose outputs fit in the registers */
#define AHEAD 8192   /* bytes: the processor's own prefetching stops at the end of a page, and these streams are short */

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));

/* Asks for a line of a stream that ends at `end` and is followed by one that starts at `next`. */
INLINE void prefetch(const void *at, const void *end, const void *next) {
  const char *far = (const char *)at + AHEAD;
  __builtin_prefetch(far < (const char *)end ? far : (const char *)next + (far - (const char *)end));
}

INLINE vec load_f32(const float *at) {
  vec x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE words load_pairs(const bf16 *at) {
  words x;
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

/* sum + x.low * y.low + x.high * y.high for pairs of bfloat16, the same pair x for all lanes */
INLINE vec dot_pairs(vec sum, uint32_t x, words y) {
#ifdef __AVX512BF16__
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)y);
#else
  return sum + up_bf16(x & 0xffff) * (vec)(y << 16) + up_bf16(x >> 16) * (vec)(y & 0xffff0000u);
#endif
}

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

/* How keys and values lie in a slot. Keys: in blocks of LANES places, within a block dimension by dimension, so that
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

/* s[g][j] = q[g] . key j, for count keys and the rest of their two blocks; v is what will be read next */
INLINE void scores_f32(const int D, const int G, const float *q, const float *k, int count, float s[][ROOM], const float *v) {
  const float *end = k + (count + LANES - 1) / LANES * LANES * D;
  for (int j = 0; j < count; j += 2 * LANES) { /* two blocks at a time: one sum need not wait for the other */
    vec a[G], b[G];
    for (int g = 0; g < G; g++) a[g] = b[g] = (vec){0};
    const float *k0 = k + j * D, *k1 = j + LANES < count ? k0 + LANES * D : k0;
    for (int d = 0; d < D; d++) {
      prefetch(k0 + d * LANES, end, v), prefetch(k1 + d * LANES, end, v);
      vec x = load_f32(k0 + d * LANES), y = load_f32(k1 + d * LANES);
      for (int g = 0; g < G; g++) a[g] += q[g * D + d] * x, b[g] += q[g * D + d] * y;
    }
    for (int g = 0; g < G; g++) memcpy(&s[g][j], &a[g], sizeof(vec)), memcpy(&s[g][j + LANES], &b[g], sizeof(vec));
  }
}

INLINE void scores_bf16(const int D, const int G, const bf16 *q, const bf16 *k, int count, float s[][ROOM], const bf16 *v) {
  const bf16 *end = k + (count + LANES - 1) / LANES * LANES * D;
  uint32_t pairs[MAX_GROUP * MAX_DIM / 2];
  memcpy(pairs, q, G * D * sizeof(bf16));
  for (int j = 0; j < count; j += 2 * LANES) {
    vec a[G], b[G];
    for (int g = 0; g < G; g++) a[g] = b[g] = (vec){0};
    const bf16 *k0 = k + j * D, *k1 = j + LANES < count ? k0 + LANES * D : k0;
    for (int d = 0; d < D / 2; d++) {
      prefetch(k0 + d * 2 * LANES, end, v), prefetch(k1 + d * 2 * LANES, end, v);
      words x = load_pairs(k0 + d * 2 * LANES), y = load_pairs(k1 + d * 2 * LANES);
      for (int g = 0; g < G; g++) {
        a[g] = dot_pairs(a[g], pairs[g * D / 2 + d], x);
        b[g] = dot_pairs(b[g], pairs[g * D / 2 + d], y);
      }
    }
    for (int g = 0; g < G; g++) memcpy(&s[g][j], &a[g], sizeof(vec)), memcpy(&s[g][j + LANES], &b[g], sizeof(vec));
  }
}

/* acc[g] += the sum over count places of s[g][j] * value j */
INLINE void mix_f32(const int D, const int G, float s[][ROOM], const float *v, int count, float *acc,
                const float *next) {
  const float *end = v + (count + 1) / 2 * 2 * D;
  for (int g0 = 0; g0 < G; g0 += CHUNK(D)) {
    const int some = G - g0 < CHUNK(D) ? G - g0 : CHUNK(D);
    vec o[CHUNK(D)][D / LANES];
    memset(o, 0, sizeof o);
    for (int j = 0; j < count; j++)
      for (int d = 0; d < D / LANES; d++) {
        prefetch(v + j * D + d * LANES, end, next);
        vec x = load_f32(v + j * D + d * LANES);
        for (int g = 0; g < CHUNK(D); g++)
          if (g < some) o[g][d] += s[g0 + g][j] * x;
      }
    for (int g = 0; g < some; g++)
      for (int d = 0; d < D; d++) acc[(g0 + g) * D + d] += o[g][d / LANES][d % LANES];
  }
}

INLINE void mix_bf16(const int D, const int G, float s[][ROOM], const bf16 *v, int count, float *acc,
                 const bf16 *next) {
  const bf16 *end = v + (count + 1) / 2 * 2 * D;
  uint32_t weights[MAX_GROUP][ROOM / 2];
  for (int g = 0; g < G; g++) {
    s[g][count] = 0; /* the other half of the last pair */
    for (int j = 0; j < (count + 1) / 2; j++)
      weights[g][j] = down_bf16(s[g][2 * j]) | (uint32_t)down_bf16(s[g][2 * j + 1]) << 16;
  }
  for (int g0 = 0; g0 < G; g0 += CHUNK(D)) {
    const int some = G - g0 < CHUNK(D) ? G - g0 : CHUNK(D);
    vec o[CHUNK(D)][D / LANES];
    memset(o, 0, sizeof o);
    for (int j = 0; j < (count + 1) / 2; j++)
      for (int d = 0; d < D / LANES; d++) {
        prefetch(v + j * 2 * D + d * 2 * LANES, end, next);
        words x = load_pairs(v + j * 2 * D + d * 2 * LANES);
        for (int g = 0; g < CHUNK(D); g++)
          if (g < some) o[g][d] = dot_pairs(o[g][d], weights[g0 + g][j], x);
      }
    for (int g = 0; g < some; g++)
      for (int d = 0; d < D; d++) acc[(g0 + g) * D + d] += o[g][d / LANES][d % LANES];
  }
}

/* What many rows share is read in tiles: rows by keys, the scores of a tile in the first-level cache, the sums of STRIP
   rows in the registers. Worth writing only where the registers are wide; elsewhere torch's products do it. */
#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define SHARED 1
#define STRIP 6
#define TILE 24 /* rows, a multiple of STRIP */
#define KEYS 512
#define MOST_VECS 4

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

INLINE void put_16_bf16(bf16 *at, __m512 x) { _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh(x)); }
INLINE void put_16_f32(float *at, __m512 x) { _mm512_storeu_ps(at, x); }

/* c[r][v] (+)= the sum over `steps` of a[r][step] * b[v][step], for STRIP rows and N vectors of LANES; a step is one
   number, or a pair in bfloat16 */
INLINE void strip_bf16(const int N, const bf16 *a, int64_t a_row, const bf16 *b, int64_t b_vec, int64_t b_step,
                       int64_t steps, float *c, int64_t c_row, const int add) {
  vec o[STRIP][MOST_VECS];
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) o[r][v] = add ? load_f32(c + r * c_row + v * LANES) : (vec){0};
  for (int64_t p = 0; p < steps; p++) {
    words x[MOST_VECS];
    for (int v = 0; v < N; v++) x[v] = load_pairs(b + v * b_vec + p * b_step);
    for (int r = 0; r < STRIP; r++) {
      uint32_t w;
      memcpy(&w, a + r * a_row + 2 * p, sizeof w);
      for (int v = 0; v < N; v++) o[r][v] = dot_pairs(o[r][v], w, x[v]);
    }
  }
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) memcpy(c + r * c_row + v * LANES, &o[r][v], sizeof(vec));
}

INLINE void strip_f32(const int N, const float *a, int64_t a_row, const float *b, int64_t b_vec, int64_t b_step,
                      int64_t steps, float *c, int64_t c_row, const int add) {
  vec o[STRIP][MOST_VECS];
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) o[r][v] = add ? load_f32(c + r * c_row + v * LANES) : (vec){0};
  for (int64_t p = 0; p < steps; p++) {
    vec x[MOST_VECS];
    for (int v = 0; v < N; v++) x[v] = load_f32(b + v * b_vec + p * b_step);
    for (int r = 0; r < STRIP; r++)
      for (int v = 0; v < N; v++) o[r][v] += a[r * a_row + p] * x[v];
  }
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) memcpy(c + r * c_row + v * LANES, &o[r][v], sizeof(vec));
}
#endif

#define T bf16
#define PER 2
#define UP up_bf16
#define DOWN down_bf16
#define NAME(x) x##_bf16
#include "attention_body.h"
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
