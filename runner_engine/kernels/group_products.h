/* Weights of matrices in groups (groups.h), for one number format: each is rounded to T, as if the checkpoint had been
   unpacked. block_products.h multiplies them. */

#ifdef HAS_AVX512
INLINE __m512 NAME(numbers_of_codes)(const int type, const uint8_t *codes, const float *zero_point, __m512 table) {
  const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
  if (type == TABLE) return _mm512_permutexvar_ps(code, table);
  if (type == INTEGERS) return _mm512_sub_ps(_mm512_cvtepi32_ps(code), _mm512_loadu_ps(zero_point));
  const __m256i wide = _mm512_cvtepi32_epi16(code); /* as half_of_e4m3 */
  const __m256i half = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(wide, 8), _mm256_set1_epi16((short)0x8000)),
                                       _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3f80)));
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
}
#endif

/* to [8 / PACK, PANEL, PACK]: the weights of eight inputs */
INLINE void NAME(store_codes)(const int type, const group_numbers *const of[8], const float *table,
                              const uint8_t codes[8][PANEL], T *to) {
#ifdef HAS_AVX512
  const __m512 values = type == TABLE ? _mm512_loadu_ps(table) : _mm512_setzero_ps();
#endif
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += PACK, to += PANEL * PACK) {
#ifdef HAS_AVX512
#pragma GCC unroll 2
    for (int o = 0; o < PANEL; o += LANES) {
      __m512 x[PACK];
#pragma GCC unroll 2
      for (int j = 0; j < PACK; j++)
        x[j] = _mm512_mul_ps(NAME(numbers_of_codes)(type, codes[i + j] + o, of[i + j]->zero_point + o, values),
                             _mm512_loadu_ps(of[i + j]->scale + o));
      NAME(store_step)(x, to + o * PACK);
    }
#else
#pragma omp simd
    for (int o = 0; o < PANEL; o++)
      for (int j = 0; j < PACK; j++) {
        const int code = codes[i + j][o];
        const float number = type == TABLE  ? table[code]
                             : type == E4M3 ? from_half(half_of_e4m3(code)) * 256
                                            : (float)code - of[i + j]->zero_point[o];
        to[o * PACK + j] = NAME(from_float)(number * of[i + j]->scale[o]);
      }
#endif
  }
}

INLINE void NAME(unpack_codes)(const int type, const int low, const int high, const matrix *m, const uint8_t *panel,
                               int64_t all, int64_t from, int64_t inputs, T *to) {
  const int64_t groups = ceil_div(all, m->block);
  const int32_t *group_of = m->constants;
  const uint8_t *at = panel + (group_number_bytes(m, all) + from / 8 * (low + high)) * PANEL;
  group_numbers numbers[8];
  const group_numbers *of[8] = {numbers, numbers, numbers, numbers, numbers, numbers, numbers, numbers};
  int64_t end = from; /* of the inputs whose group's numbers are there */
  for (int64_t k = from; k < from + inputs; k += 8, at += (low + high) * PANEL, to += 8 * PANEL) {
    uint8_t codes[8][PANEL];
    codes_of_inputs(low, high, at, codes);
    if (group_of)
      for (int i = 0; i < 8; i++) numbers[i] = numbers_of_group(m, panel, groups, group_of[k + i]), of[i] = numbers + i;
    else if (k >= end) {
      numbers[0] = numbers_of_group(m, panel, groups, k / m->block);
      end = (k / m->block + 1) * m->block;
    }
    NAME(store_codes)(type, of, m->scale, codes, to);
  }
}

/* to [inputs / PACK, PANEL, PACK]: the inputs from `from` on, a multiple of STRIP, of a panel with `all` inputs */
#if !IS_IN(PACKED_UNIT)
UNTIL_LINKED void NAME(unpack_groups)(const matrix *m, const char *panel, int64_t all, int64_t from, int64_t inputs, T *to) {
  abort();
}
#else
BETWEEN_UNITS void NAME(unpack_groups)(const matrix *m, const char *panel, int64_t all, int64_t from, int64_t inputs, T *to) {
  const uint8_t *at = (const uint8_t *)panel;
  if (m->code_type == TABLE) NAME(unpack_codes)(TABLE, 4, 0, m, at, all, from, inputs, to);
  if (m->code_type == E4M3) NAME(unpack_codes)(E4M3, 8, 0, m, at, all, from, inputs, to);
  if (m->code_type != INTEGERS) return;
#define CASE(LOW, HIGH) \
  case LOW + HIGH: NAME(unpack_codes)(INTEGERS, LOW, HIGH, m, at, all, from, inputs, to); break;
  switch (m->bits) { CASE(2, 0) CASE(2, 1) CASE(4, 0) CASE(4, 1) CASE(4, 2) CASE(8, 0) }
#undef CASE
}
#endif
