/* Vectors for weights of 2 to 8 bits, of 512 or 256 bits: V(add_ps) is _mm512_add_ps or _mm256_add_ps. A function that both
   widths have under other names has one of its own here. */

#ifdef HAS_AVX512
#define HAS_VECTORS 1
#define V(name) _mm512_##name
typedef __m512 floats;
typedef __m512i ints;
INLINE ints load_ints(const void *at) { return _mm512_loadu_si512(at); }
INLINE void store_ints(void *at, ints x) { _mm512_storeu_si512(at, x); }
INLINE ints bytes_as_ints(const uint8_t *at) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at)); }
INLINE ints signed_bytes_as_ints(const uint8_t *at) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)); }
INLINE floats halves_as_floats(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }
INLINE ints list_of_bytes(const void *at) { return _mm512_broadcast_i32x4(_mm_loadu_si128(at)); }
/* The bits of a, and where `mask` has none, those of b */
INLINE ints choose_bits(ints mask, ints a, ints b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }
INLINE ints signed_as(ints x, ints sign) { return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(sign), _mm512_setzero_si512(), x); }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && VEC_FLOATS == 8
#define HAS_VECTORS 1
#define V(name) _mm256_##name
typedef __m256 floats;
typedef __m256i ints;
INLINE ints load_ints(const void *at) { return _mm256_loadu_si256(at); }
INLINE void store_ints(void *at, ints x) { _mm256_storeu_si256(at, x); }
INLINE ints bytes_as_ints(const uint8_t *at) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at)); }
INLINE ints signed_bytes_as_ints(const uint8_t *at) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)); }
INLINE floats halves_as_floats(const uint8_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }
INLINE ints list_of_bytes(const void *at) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(at)); }
INLINE ints choose_bits(ints mask, ints a, ints b) {
  return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}
INLINE ints signed_as(ints x, ints sign) { return _mm256_sign_epi8(x, sign); } /* 0 where `sign` is 0 */
#endif

#ifdef HAS_VECTORS
#define PANEL_VECTORS (PANEL / VEC_FLOATS)

/* Each lane's bits, moved by a number that the compiler knows */
INLINE ints shifted(ints x, int right) {
  return right > 0 ? V(srli_epi32)(x, right) : right < 0 ? V(slli_epi32)(x, -right) : x;
}
INLINE ints shifted_16(ints x, int right) {
  return right > 0 ? V(srli_epi16)(x, right) : right < 0 ? V(slli_epi16)(x, -right) : x;
}
INLINE ints and_ints(ints a, ints b) { return (ints)((words)a & (words)b); }

/* Weights as plain ones of a format are, in 32 bits, and one input or a pair of inputs as a panel holds them */
INLINE floats rounded_weights_f32(floats x) { return x; }
INLINE words bits_rounded_to_bf16(floats x) { /* as from_float_bf16; the lower halves mean nothing */
  const words bits = (words)x;
  return bits + ((bits >> 16 & 1) + 0x7fff);
}
INLINE floats rounded_weights_bf16(floats x) { return (floats)(bits_rounded_to_bf16(x) & 0xffff0000u); }
/* The same of numbers of at most 20 bits, in two operations: 65,537 times a number is rounded where its bf16 ends, and to an even
   number where it lies between two, as 65,536 times the number is even there. That part is taken away again, exactly. */
INLINE floats rounded_short_weights_f32(floats x) { return x; }
INLINE floats rounded_short_weights_bf16(floats x) {
  return V(fnmadd_ps)(x, V(set1_ps)(65536), V(mul_ps)(x, V(set1_ps)(65537)));
}
#ifndef HAS_AVX512
INLINE vec step_f32(const floats x[1]) { return (vec)x[0]; }
INLINE words step_bf16(const floats x[2]) {
  return bits_rounded_to_bf16(x[0]) >> 16 | (bits_rounded_to_bf16(x[1]) & 0xffff0000u);
}
INLINE void store_step_f32(const floats x[1], float *at) { _mm256_storeu_ps(at, x[0]); }
INLINE void store_step_bf16(const floats x[2], bf16 *at) { store_ints(at, (ints)step_bf16(x)); }
#endif
#endif
