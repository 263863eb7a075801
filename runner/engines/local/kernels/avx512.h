/* Sixteen numbers at a time by AVX512: exp, and loads and stores that round as torch's steps do. */

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
INLINE __m512 softmax_weight_16_f32(__m512 x) { return exp_16(x); }
INLINE __m512 softmax_weight_16_bf16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.69314718f), x);
  __m512 p = _mm512_set1_ps(4.187564e-2f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6792143e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.9999372e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9996229e-1f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f)), n);
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

INLINE void store_step_f32(const __m512 x[1], float *at) { _mm512_storeu_ps(at, x[0]); }
INLINE void store_step_bf16(const __m512 x[2], bf16 *at) { _mm512_storeu_si512(at, (__m512i)step_bf16(x)); }
