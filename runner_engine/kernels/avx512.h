/* Sixteen numbers at a time by AVX512: exp, and loads and stores that round as torch's steps do. Of two numbers of which
   one is NaN the larger one is the second: so limits come first, and NaN stays. */

INLINE __m512 exp_16(__m512 x) { /* as exp_fast */
  x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)), 0);
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

/* 2 to the power of x, at most 0, within 4e-6: for what is rounded to 16 bits. Of -infinity it is 0. A result too small to
   be normal takes 30 times as long, unless these count as 0 (ZERO_FOR_DENORMAL). */
INLINE __m512 power_of_two_16(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, 1); /* what is above the integer below */
  __m512 p = _mm512_set1_ps(1.353416685e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.201146379e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.414427549e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.930038333e-1f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0000026226f)), x);
}

/* exp for weights: where they are rounded to 16 bits, in fewer steps */
INLINE __m512 softmax_weight_16_f32(__m512 x) { return exp_16(x); }
INLINE __m512 softmax_weight_16_bf16(__m512 x) {
  return power_of_two_16(_mm512_max_ps(_mm512_set1_ps(-125.0f), _mm512_mul_ps(x, _mm512_set1_ps(LOG2_E))));
}

/* x / (1 + exp(-x)) by exp(-|x|), which cannot overflow */
INLINE __m512 silu_16_f32(__m512 x) {
  const __m512 one = _mm512_set1_ps(1), e = exp_16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
  const __m512 part = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), one, e);
  return _mm512_div_ps(_mm512_mul_ps(x, part), _mm512_add_ps(one, e));
}

/* The same in fewer steps and without a division, within 4e-6 of it where it is rounded to 16 bits */
INLINE __m512 silu_16_bf16(__m512 x) {
  const __m512 sign = (__m512)_mm512_set1_epi32(INT32_MIN), one = _mm512_set1_ps(1);
  const __m512 below = _mm512_mul_ps(_mm512_or_ps(x, sign), _mm512_set1_ps(LOG2_E));
  const __m512 at = _mm512_max_ps(_mm512_set1_ps(-125.0f), below), f = _mm512_reduce_ps(at, 1);
  __m512 e = _mm512_set1_ps(1.877576645e-3f);
  e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(8.989340163e-3f));
  e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(5.582631799e-2f));
  e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(2.401536171e-1f));
  e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(6.931530732e-1f));
  e = _mm512_scalef_ps(_mm512_fmadd_ps(e, f, _mm512_set1_ps(9.999999251e-1f)), at);
  const __m512 divisor = _mm512_add_ps(one, e), near = _mm512_rcp14_ps(divisor);
  const __m512 part = _mm512_mul_ps(near, _mm512_fnmadd_ps(divisor, near, _mm512_set1_ps(2)));
  const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_mask_blend_ps(is_negative, one, e)), part);
}

/* Floats whose upper halves are rounded as from_float_bf16 does it; the lower halves mean nothing */
INLINE __m512i rounded_bits_bf16(__m512 x) {
  const __m512i bits = (__m512i)x, last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
}

/* As from_float_bf16 */
INLINE __m256i to_16_bf16(__m512 x) {
#ifdef HAS_AVX512_BF16
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bits_bf16(x), 16));
#endif
}

INLINE void store_16_bf16(bf16 *at, __m512 x) { _mm256_storeu_si256((__m256i *)at, to_16_bf16(x)); }
INLINE void store_16_f32(float *at, __m512 x) { _mm512_storeu_ps(at, x); }

INLINE __m512 load_16_bf16(const bf16 *at) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
}
INLINE __m512 load_16_f32(const float *at) { return _mm512_loadu_ps(at); }

/* As DOWN and UP, in one instruction instead of five: torch's steps round that often */
INLINE __m512 round_16_bf16(__m512 x) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_16_bf16(x)), 16);
}
INLINE __m512 round_16_f32(__m512 x) { return x; }

/* One input, or a pair of inputs, of 16 outputs as a panel holds them */
INLINE vec step_f32(const __m512 x[1]) { return (vec)x[0]; }

INLINE words step_bf16(const __m512 x[2]) {
#ifdef HAS_AVX512_BF16
  static const uint16_t in_turns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]);
  return (words)_mm512_permutexvar_epi16(_mm512_loadu_si512(in_turns), both);
#else
  return (words)rounded_bits_bf16(x[0]) >> 16 | ((words)rounded_bits_bf16(x[1]) & 0xffff0000u);
#endif
}

#ifdef HAS_AVX512_BF16
/* 32 numbers as bfloat16, in one instruction */
INLINE words to_32_bf16(const float *x) {
  return (words)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + LANES), _mm512_loadu_ps(x));
}
#endif

INLINE void store_step_f32(const __m512 x[1], float *at) { _mm512_storeu_ps(at, x[0]); }
INLINE void store_step_bf16(const __m512 x[2], bf16 *at) { _mm512_storeu_si512(at, (__m512i)step_bf16(x)); }

/* `table` holds the 16 values of the code twice, so that the upper half of a byte does not matter where the lower one
   is looked up. */
INLINE void look_up_four_bit(const char *bytes, __m512i table, __m512i *first, __m512i *second) {
  const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
  *first = _mm512_permutexvar_epi16(both, table);
  *second = _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
}
