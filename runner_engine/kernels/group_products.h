/* Weights of matrices in groups (groups.h), for one number format: each is rounded to T, as if the checkpoint had been
   unpacked. block_products.h multiplies them. */

/* Whether a single row is multiplied by codes of 4 bits that do not go through memory */
#ifndef HAS_CODE_ROWS
#ifdef HAS_AVX512
#define HAS_CODE_ROWS (!IS_WIDENED)
#elif defined(HAS_VECTORS)
#define HAS_CODE_ROWS 1
#else
#define HAS_CODE_ROWS 0
#endif
#endif

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

#if defined(HAS_AVX512) && HAS_CODE_ROWS
/* The weights of eight inputs, of some outputs of a panel, whose codes have 4 bits: as store_codes makes them */
INLINE void NAME(weights_of_eight_codes)(const int type, const uint8_t *at, const float *scale, const float *zero_point,
                                         __m512 table, __m512 weights[8]) {
  const __m512 scales = _mm512_loadu_ps(scale), zero = type == INTEGERS ? _mm512_loadu_ps(zero_point) : _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2, at += PANEL) {
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at)), upper = _mm512_srli_epi32(both, 4);
    const __m512i lower = _mm512_and_si512(both, _mm512_set1_epi32(15));
    weights[i] = type == TABLE ? _mm512_permutexvar_ps(both, table) : _mm512_sub_ps(_mm512_cvtepi32_ps(lower), zero);
    weights[i + 1] = type == TABLE ? _mm512_permutexvar_ps(upper, table) : _mm512_sub_ps(_mm512_cvtepi32_ps(upper), zero);
    weights[i] = _mm512_mul_ps(weights[i], scales), weights[i + 1] = _mm512_mul_ps(weights[i + 1], scales);
  }
}

/* The sums y [2, PANEL] of a single row with a panel of each of two matrices, in the order of register tiles: no weight goes
   through memory. Each sum waits for the one before, so panels take turns. */
INLINE void NAME(sums_of_code_row)(const int type, const matrix *const of[2], const uint8_t *const panel[2],
                                   const NAME(operand) *x, int64_t inputs, float *y) {
  const int64_t block = of[0]->block, groups = ceil_div(inputs, block);
  const uint8_t *at[2];
  __m512 table[2], sum[2][PANEL / LANES];
  group_numbers numbers[2];
  for (int p = 0; p < 2; p++) {
    at[p] = panel[p] + group_number_bytes(of[p], inputs) * PANEL;
    table[p] = type == TABLE ? _mm512_loadu_ps(of[p]->scale) : _mm512_setzero_ps();
    for (int v = 0; v < PANEL / LANES; v++) sum[p][v] = _mm512_setzero_ps();
  }
  for (int64_t group = 0, k = 0; group < groups; group++) {
    const int64_t end = k + block < inputs ? k + block : inputs;
    for (int p = 0; p < 2; p++)
      if (type == TABLE) read_scales(of[p], panel[p] + group * PANEL * scale_size(of[p]), numbers[p].scale);
      else numbers[p] = numbers_of_group(of[p], panel[p], groups, group);
    for (; k < end; k += 8) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; p++) {
        __builtin_prefetch(at[p] + AHEAD), __builtin_prefetch(at[p] + AHEAD + CACHE_LINE);
#pragma GCC unroll 2
        for (int v = 0; v < PANEL / LANES; v++) {
          __m512 weights[8];
          NAME(weights_of_eight_codes)(type, at[p] + v * LANES, numbers[p].scale + v * LANES,
                                       numbers[p].zero_point + v * LANES, table[p], weights);
#pragma GCC unroll 8
          for (int j = 0; j < 8; j += PACK)
            sum[p][v] = (__m512)NAME(dot)((vec)sum[p][v], NAME(broadcast)(x + k + j), NAME(step)(weights + j));
        }
        at[p] += 4 * PANEL;
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
    for (int v = 0; v < PANEL / LANES; v++) _mm512_storeu_ps(y + p * PANEL + v * LANES, sum[p][v]);
}

#if PACK == 2
/* Pairs of neighbouring inputs of some outputs, as numbers: codes become the digits of 128 and of 2048, whose products with a
   scale of 11 bits are exact, so that one subtraction takes the zero point away, too */
typedef struct {
  __m512i places[2], digits, number; /* where 8 outputs' codes are in 16 bytes, each twice; their bits; 128 and 2048 */
  __m512i twice[2];                  /* 8 outputs of 16, each twice */
} pairs_of_codes;

INLINE pairs_of_codes how_codes_become_pairs(void) {
  pairs_of_codes how = {.digits = _mm512_set1_epi64(0x0000f000000f0000), .number = _mm512_set1_epi64(0x4500000043000000)};
  for (int half = 0; half < 2; half++) {
    uint8_t place[64];
    int32_t output[16];
    memset(place, 0x80, sizeof place); /* zero */
    for (int o = 0; o < 8; o++) {
      place[8 * o + 2] = place[8 * o + 5] = (uint8_t)(8 * half + o);
      output[2 * o] = output[2 * o + 1] = 8 * half + o;
    }
    how.places[half] = _mm512_loadu_si512(place), how.twice[half] = _mm512_loadu_si512(output);
  }
  return how;
}

/* The same sums where the product of a code without its zero point and the scale has few bits (has_short_weights) */
INLINE void NAME(sums_of_short_code_row)(const matrix *const of[2], const uint8_t *const panel[2], const NAME(operand) *x,
                                         int64_t inputs, float *y) {
  const int64_t block = of[0]->block, groups = ceil_div(inputs, block);
  const pairs_of_codes how = how_codes_become_pairs();
  const __m512 number = _mm512_castsi512_ps(how.number);
  const uint8_t *at[2];
  __m512 sum[2][PANEL / LANES], scale[2][PANEL / LANES][2], offset[2][PANEL / LANES][2];
  for (int p = 0; p < 2; p++) {
    at[p] = panel[p] + group_number_bytes(of[p], inputs) * PANEL;
    for (int v = 0; v < PANEL / LANES; v++) sum[p][v] = _mm512_setzero_ps();
  }
  for (int64_t group = 0, k = 0; group < groups; group++) {
    const int64_t end = k + block < inputs ? k + block : inputs;
    for (int p = 0; p < 2; p++) {
      const group_numbers numbers = numbers_of_group(of[p], panel[p], groups, group);
      for (int v = 0; v < PANEL / LANES; v++)
        for (int half = 0; half < 2; half++) {
          const __m512 zero = _mm512_permutexvar_ps(how.twice[half], _mm512_loadu_ps(numbers.zero_point + v * LANES));
          scale[p][v][half] = _mm512_permutexvar_ps(how.twice[half], _mm512_loadu_ps(numbers.scale + v * LANES));
          offset[p][v][half] = _mm512_mul_ps(_mm512_add_ps(number, zero), scale[p][v][half]);
        }
    }
    for (; k < end; k += 8) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; p++) __builtin_prefetch(at[p] + AHEAD), __builtin_prefetch(at[p] + AHEAD + CACHE_LINE);
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2) {
        const words of_row = NAME(broadcast)(x + k + i);
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
          for (int v = 0; v < PANEL / LANES; v++) {
            const __m512i codes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(at[p] + i / 2 * PANEL + v * LANES)));
            __m512 weights[2];
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
              const __m512i placed = _mm512_shuffle_epi8(codes, how.places[half]);
              const __m512 code = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(placed, how.digits, how.number, 0xea));
              weights[half] = _mm512_fmsub_ps(code, scale[p][v][half], offset[p][v][half]);
            }
            const words pairs = (words)_mm512_cvtne2ps_pbh(weights[1], weights[0]);
            sum[p][v] = (__m512)NAME(dot)((vec)sum[p][v], of_row, pairs);
          }
      }
#pragma GCC unroll 2
      for (int p = 0; p < 2; p++) at[p] += 4 * PANEL;
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
    for (int v = 0; v < PANEL / LANES; v++) _mm512_storeu_ps(y + p * PANEL + v * LANES, sum[p][v]);
}
#endif
#elif HAS_CODE_ROWS
/* The weights that some codes of 4 bits stand for, as store_codes makes them. table: both halves of it */
INLINE floats NAME(weights_of_codes)(const int made, ints code, const floats table[2], const float *scale,
                                     const float *zero_point) {
  const floats scales = _mm256_loadu_ps(scale);
  if (made == OF_TABLE) {
    const floats lower = _mm256_permutevar8x32_ps(table[0], code), upper = _mm256_permutevar8x32_ps(table[1], code);
    const floats number = _mm256_blendv_ps(lower, upper, (floats)_mm256_slli_epi32(code, 28));
    return NAME(rounded_weights)(_mm256_mul_ps(number, scales));
  }
  const floats number = _mm256_cvtepi32_ps(code), offset = _mm256_loadu_ps(zero_point);
  if (made == OF_OFFSETS) return NAME(rounded_short_weights)(_mm256_fmsub_ps(number, scales, offset));
  return NAME(rounded_weights)(_mm256_mul_ps(_mm256_sub_ps(number, offset), scales));
}

/* The sums y [2, PANEL] of a single row with a panel of each of two matrices, in the order of register tiles: no weight goes
   through memory. Each sum waits for the one before, so they take turns. */
INLINE void NAME(sums_of_code_row)(const int made, const matrix *const of[2], const uint8_t *const panel[2],
                                   const NAME(operand) *x, int64_t inputs, float *y) {
  const int64_t block = of[0]->block, groups = ceil_div(inputs, block);
  const uint8_t *at[2];
  floats table[2][2], sum[2][PANEL_VECTORS];
  group_numbers numbers[2];
  for (int p = 0; p < 2; p++) {
    at[p] = panel[p] + group_number_bytes(of[p], inputs) * PANEL;
    for (int half = 0; half < 2; half++)
      table[p][half] = made == OF_TABLE ? _mm256_loadu_ps((const float *)of[p]->scale + half * VEC_FLOATS) : _mm256_setzero_ps();
    for (int v = 0; v < PANEL_VECTORS; v++) sum[p][v] = _mm256_setzero_ps();
  }
  for (int64_t group = 0, k = 0; group < groups; group++) {
    const int64_t end = k + block < inputs ? k + block : inputs;
    for (int p = 0; p < 2; p++) {
      if (made == OF_TABLE) read_scales(of[p], panel[p] + group * PANEL * scale_size(of[p]), numbers[p].scale);
      else numbers[p] = numbers_of_group(of[p], panel[p], groups, group);
      if (made == OF_OFFSETS)
        for (int o = 0; o < PANEL; o++) numbers[p].zero_point[o] *= numbers[p].scale[o];
    }
    for (; k < end; k += 8) {
      for (int p = 0; p < 2; p++) __builtin_prefetch(at[p] + AHEAD);
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2) {
        const floats first = _mm256_set1_ps(x[k + i]), second = _mm256_set1_ps(x[k + i + 1]);
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
          for (int v = 0; v < PANEL_VECTORS; v++) {
            const float *scale = numbers[p].scale + v * VEC_FLOATS, *zero_point = numbers[p].zero_point + v * VEC_FLOATS;
            const ints both = bytes_as_ints(at[p] + i / 2 * PANEL + v * VEC_FLOATS);
            const ints lower = and_ints(both, _mm256_set1_epi32(15)), upper = shifted(both, 4);
            sum[p][v] = _mm256_fmadd_ps(first, NAME(weights_of_codes)(made, lower, table[p], scale, zero_point), sum[p][v]);
            sum[p][v] = _mm256_fmadd_ps(second, NAME(weights_of_codes)(made, upper, table[p], scale, zero_point), sum[p][v]);
          }
      }
      for (int p = 0; p < 2; p++) at[p] += 4 * PANEL;
    }
  }
  memcpy(y, sum, sizeof sum);
}
#endif

INLINE int NAME(has_code_row)(const matrix *m) {
#if HAS_CODE_ROWS
  return m->kind == GROUPS && m->bits == 4 && m->code_type != E4M3 && !m->constants;
#else
  (void)m;
  return 0;
#endif
}

/* y [2, PANEL]: the sums of a single row with a panel of each of two matrices, which may be the same */
#if !IS_IN(PACKED_UNIT)
UNTIL_LINKED void NAME(multiply_row_by_codes)(const matrix *const of[2], const char *first, const char *second,
                                              const NAME(operand) *x, int64_t inputs, float *y) {
  abort();
}
#else
BETWEEN_UNITS void NAME(multiply_row_by_codes)(const matrix *const of[2], const char *first, const char *second,
                                               const NAME(operand) *x, int64_t inputs, float *y) {
#if HAS_CODE_ROWS
  const uint8_t *const panels[2] = {(const uint8_t *)first, (const uint8_t *)second};
#ifdef HAS_AVX512
  if (of[0]->code_type == TABLE) NAME(sums_of_code_row)(TABLE, of, panels, x, inputs, y);
#if PACK == 2
  else if (has_short_weights(of[0]) && has_short_weights(of[1])) NAME(sums_of_short_code_row)(of, panels, x, inputs, y);
#endif
  else NAME(sums_of_code_row)(INTEGERS, of, panels, x, inputs, y);
#else
  if (of[0]->code_type == TABLE) NAME(sums_of_code_row)(OF_TABLE, of, panels, x, inputs, y);
  else if (has_short_weights(of[0]) && has_short_weights(of[1])) NAME(sums_of_code_row)(OF_OFFSETS, of, panels, x, inputs, y);
  else NAME(sums_of_code_row)(OF_ZERO_POINTS, of, panels, x, inputs, y);
#endif
#endif
  (void)of, (void)first, (void)second, (void)x, (void)inputs, (void)y;
}
#endif

/* y [2, PANEL]: the sums of a single row with a pair of panels, or with one */
INLINE void NAME(multiply_code_row)(const panel_pair *u, const NAME(operand) *x, int64_t inputs, float *y) {
  const matrix *const first[2] = {u->of[0], u->of[0]}, *const both[2] = {u->of[0], u->of[1]}, *const second[2] = {u->of[1], u->of[1]};
  const int is_pair = u->second && NAME(has_code_row)(u->of[1]) && u->of[0]->code_type == u->of[1]->code_type &&
                      u->of[0]->block == u->of[1]->block;
  NAME(multiply_row_by_codes)(is_pair ? both : first, u->first, is_pair ? u->second : u->first, x, inputs, y);
  if (u->second && !is_pair) NAME(multiply_row_by_codes)(second, u->second, u->second, x, inputs, y + PANEL);
}
