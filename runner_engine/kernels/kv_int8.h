/* Keys or values in 8 bits, for one number format (T, PACK, NAME: see kernels.c). Each place of a head has a scale of its
   own, and a number is a byte from -127 to 127 times it. A block of LANES places is laid out as that of other formats,
   byte by byte, and its LANES scales in float32 follow. bfloat16 holds each of these bytes exactly, so only the scores,
   and the weights of values, are multiplied by scales. torch does the same with the same bits in
   kv_cache/formats/int8.py. */

#ifndef KV_INT8_FORMAT
#define KV_INT8_FORMAT
#define SMALLEST_KV 1e-30f /* of a row's largest number; below it, 127 divided by it could be infinite */
typedef int8_t bytes_vec __attribute__((vector_size(VEC_FLOATS)));
typedef uint16_t pairs_vec __attribute__((vector_size(2 * VEC_FLOATS)));
typedef int32_t ints_vec __attribute__((vector_size(4 * VEC_FLOATS)));

/* Bytes, and numbers of 16 bits, each in 32 bits; gcc widens the vectors of its own number by number */
INLINE ints_vec widened_bytes(const void *at) {
#if defined(HAS_AVX512)
  return (ints_vec)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at));
#elif defined(__AVX2__)
  return (ints_vec)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at));
#else
  bytes_vec x;
  memcpy(&x, at, sizeof x);
  return __builtin_convertvector(x, ints_vec);
#endif
}

INLINE ints_vec widened_halves(const void *at) {
#if defined(HAS_AVX512)
  return (ints_vec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__AVX2__)
  return (ints_vec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
#else
  pairs_vec x;
  memcpy(&x, at, sizeof x);
  return __builtin_convertvector(x, ints_vec);
#endif
}

/* Bytes as what they are multiplied as: floats, or pairs of bfloat16 */
INLINE vec load_int8_f32(const int8_t *at) { return __builtin_convertvector(widened_bytes(at), vec); }

INLINE words load_int8_bf16(const int8_t *at) {
#ifdef HAS_AVX512_BF16
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(at + 16))));
  return (words)_mm512_cvtne2ps_pbh(high, low);
#else
  const ints_vec pair = widened_halves(at);
  const words first = (words)__builtin_convertvector(pair << 24 >> 24, vec);
  const words second = (words)__builtin_convertvector(pair << 16 >> 24, vec);
  return first >> 16 | second; /* a byte has few bits, so the lower half of its float is 0 */
#endif
}
#endif

/* A row [dim] in bytes, of which there is room for MAX_DIM; returns its scale, NaN where one of its numbers is none or infinite */
INLINE float NAME(to_bytes)(const T *x, int64_t dim, int8_t *bytes) {
  float most = 0;
  int is_broken = 0;
  for (int64_t d = 0; d < dim; d++) {
    const float size = fabsf(NAME(to_float)(x[d]));
    most = size > most ? size : most;
    is_broken |= !(size < INFINITY);
  }
  if (is_broken || most < SMALLEST_KV) {
    memset(bytes, 0, MAX_DIM);
    return is_broken ? NAN : 0;
  }
  const float factor = 127.0f / most;
  for (int64_t d = 0; d < dim; d++) bytes[d] = (int8_t)(int)rintf(NAME(to_float)(x[d]) * factor);
  return most / 127.0f;
}

/* Puts k, or v, [dim] of a head into a place of its keys K, or values V. */
INLINE void INT8_NAME(store_key)(int8_t *K, const T *k, int64_t dim, int64_t place) {
  int8_t bytes[MAX_DIM];
  const int64_t block = place / LANES * LANES * (dim + SCALE_BYTES), at = place % LANES;
  ((float *)(K + block + LANES * dim))[at] = NAME(to_bytes)(k, dim, bytes);
  for (int64_t d = 0; d < dim; d++) K[block + d / PACK * PACK * LANES + at * PACK + d % PACK] = bytes[d];
}

INLINE void INT8_NAME(store_value)(int8_t *V, const T *v, int64_t dim, int64_t place) {
  int8_t bytes[MAX_DIM];
  const int64_t block = place / LANES * LANES * (dim + SCALE_BYTES), at = place % LANES;
  ((float *)(V + block + LANES * dim))[at] = NAME(to_bytes)(v, dim, bytes);
  for (int64_t d = 0; d < dim; d++) V[block + at / PACK * PACK * dim + d * PACK + at % PACK] = bytes[d];
}
