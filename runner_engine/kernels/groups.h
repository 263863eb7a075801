/* Matrices whose weights are integers of 2 to 8 bits with a scale for each group of inputs (groups.py puts them so). A
   panel has the scales of its PANEL outputs, group by group; their zero points, a byte each or numbers like the scales,
   unless all are the same; then the codes: of eight inputs first the lower bits, of which a byte holds as many
   neighbouring inputs of one output as fit, then the upper ones. A weight is (code - zero point) * scale; where codes are not integers, it is the number that
   the code stands for, times the scale. */

/* as in groups.py; SCALE_E8M0: an exponent of two in a byte; SCALE_E4M3: float8, divided by `scale_divisor` */
enum { SCALE_F32, SCALE_F16, SCALE_BF16, SCALE_E8M0, SCALE_E4M3 };
enum { INTEGERS, TABLE, E4M3 };            /* as in shared_numbers.py; TABLE: 16 values; E4M3: float8, without NaN */
enum { ZEROS_IN_BYTES = -1, ZEROS_LIKE_SCALES = -2 }; /* in place of a zero point that all groups share */

/* What the weights of a group have in common, for the outputs of a panel */
typedef struct {
  float scale[PANEL], zero_point[PANEL];
} group_numbers;

INLINE int64_t scale_size(const matrix *m) {
  return m->scale_type == SCALE_F32 ? 4 : m->scale_type <= SCALE_BF16 ? 2 : 1;
}

INLINE int64_t zero_point_size(const matrix *m) {
  return m->zero_point >= 0 ? 0 : m->zero_point == ZEROS_IN_BYTES ? 1 : scale_size(m);
}

/* Bytes of scales and zero points of one output, and of all that belongs to it */
INLINE int64_t group_number_bytes(const matrix *m, int64_t inputs) {
  return ceil_div(inputs, m->block) * (scale_size(m) + zero_point_size(m));
}

INLINE int64_t grouped_bytes(const matrix *m, int64_t inputs) {
  return group_number_bytes(m, inputs) + inputs / 8 * m->bits;
}

/* Whether the scales have a format that is read; zero points are no bytes of float8 */
INLINE int has_readable_scales(const matrix *m) {
  const int are_bytes = m->scale_type > SCALE_BF16;
  return m->scale_type >= SCALE_F32 && m->scale_type <= SCALE_E4M3 && m->zero_point >= ZEROS_LIKE_SCALES &&
         m->zero_point < 256 && !(are_bytes && m->zero_point == ZEROS_LIKE_SCALES) &&
         (m->scale_type != SCALE_E4M3 || m->scale_divisor > 0);
}

/* Whether a matrix in groups can be multiplied; groups that are not whole eights need the group of each input */
INLINE int has_readable_groups(const matrix *m, int64_t inputs) {
  const int32_t *group_of = m->constants; /* from the checkpoint: each selects numbers of a panel */
  const int64_t groups = m->block > 0 ? ceil_div(inputs, m->block) : 0;
  int are_groups = 1;
  for (int64_t i = 0; group_of && i < inputs; i++) are_groups &= group_of[i] >= 0 && group_of[i] < groups;
  const int are_bits = m->bits == 2 || m->bits == 3 || m->bits == 4 || m->bits == 5 || m->bits == 6 || m->bits == 8;
  return are_bits && has_readable_scales(m) && m->code_type >= INTEGERS && m->code_type <= E4M3 &&
         (m->code_type != TABLE || (m->bits == 4 && m->scale)) && (m->code_type != E4M3 || m->bits == 8) &&
         m->block > 0 && inputs % 8 == 0 && (m->constants || m->block % 8 == 0) && are_groups;
}

/* The same by rows in bytes: groups are whole parts of a row, and in order; a table has its bytes */
INLINE int has_readable_byte_groups(const matrix *m, int64_t inputs) {
  const int are_codes = m->code_type == TABLE ? m->bits == 4 && m->constants && m->row_scale > 0
                                              : m->code_type == INTEGERS && !m->constants;
  const int are_bits = m->bits == 2 || m->bits == 3 || m->bits == 4 || m->bits == 5 || m->bits == 6 || m->bits == 8;
  return are_codes && are_bits && has_readable_scales(m) && m->block > 0 && m->block % 16 == 0 && inputs % 32 == 0;
}

/* The half-precision number that is 1 / 256 of the one a code of E4M3 stands for: the same digits, another exponent */
INLINE uint16_t half_of_e4m3(int code) { return (uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7); }

/* Numbers from the exponents of two that are in bytes; 2^-127 has none in a float32 */
INLINE void read_exponents(const uint8_t *at, float to[PANEL]) {
#ifdef HAS_AVX512
#pragma GCC unroll 2
  for (int o = 0; o < PANEL; o += LANES) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(at + o))), 23);
    _mm512_storeu_si512(to + o, _mm512_max_epu32(exponent, _mm512_set1_epi32(1 << 22)));
  }
#else
#pragma omp simd
  for (int o = 0; o < PANEL; o++) {
    const uint32_t exponent = (uint32_t)at[o] << 23;
    union { uint32_t i; float f; } u = {exponent | (exponent ? 0 : 1u << 22)};
    to[o] = u.f;
  }
#endif
}

/* Numbers of E4M3, divided by one that all have in common, each rounded once */
INLINE void read_float8(const uint8_t *at, float divisor, float to[PANEL]) {
#ifdef HAS_AVX512
#pragma GCC unroll 2
  for (int o = 0; o < PANEL; o += LANES) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(at + o))); /* as half_of_e4m3 */
    const __m256i half = _mm256_or_si256(_mm256_and_si256(wide, _mm256_set1_epi16((short)0x8000)),
                                         _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3f80)));
    const __m512 number = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
    _mm512_storeu_ps(to + o, _mm512_div_ps(number, _mm512_set1_ps(divisor)));
  }
#else
#pragma omp simd
  for (int o = 0; o < PANEL; o++) to[o] = from_half(half_of_e4m3(at[o])) * 256 / divisor;
#endif
}

INLINE void read_scales(const matrix *m, const uint8_t *at, float to[PANEL]) {
  uint16_t halves[PANEL];
  if (m->scale_type == SCALE_F32) memcpy(to, at, PANEL * sizeof *to);
  else if (m->scale_type <= SCALE_BF16) memcpy(halves, at, sizeof halves);
  if (m->scale_type == SCALE_F16)
#pragma omp simd
    for (int o = 0; o < PANEL; o++) to[o] = from_half(halves[o]);
  if (m->scale_type == SCALE_BF16)
#pragma omp simd
    for (int o = 0; o < PANEL; o++) {
      union { uint32_t i; float f; } u = {(uint32_t)halves[o] << 16};
      to[o] = u.f;
    }
  if (m->scale_type == SCALE_E8M0) read_exponents(at, to);
  if (m->scale_type == SCALE_E4M3) read_float8(at, m->scale_divisor, to);
}

INLINE group_numbers numbers_of_group(const matrix *m, const uint8_t *panel, int64_t groups, int64_t group) {
  const uint8_t *zero_points = panel + (groups * scale_size(m) + group * zero_point_size(m)) * PANEL;
  group_numbers g;
  read_scales(m, panel + group * PANEL * scale_size(m), g.scale);
  if (m->zero_point == ZEROS_LIKE_SCALES) read_scales(m, zero_points, g.zero_point);
  else if (m->zero_point == ZEROS_IN_BYTES)
#pragma omp simd
    for (int o = 0; o < PANEL; o++) g.zero_point[o] = zero_points[o];
  else
    for (int o = 0; o < PANEL; o++) g.zero_point[o] = (float)m->zero_point;
  return g;
}

/* What the weights of a row of codes are made of: a number of a table times the scale, a code without its zero point times the
   scale, or, where that product has few bits, the code times the scale without the zero point's product */
enum { OF_TABLE, OF_ZERO_POINTS, OF_OFFSETS };

/* Whether a code without its zero point, times a scale, has few bits, so that the zero point's product may be taken away instead */
INLINE int has_short_weights(const matrix *m) {
  return (m->scale_type == SCALE_F16 || m->scale_type == SCALE_BF16) && m->zero_point != ZEROS_LIKE_SCALES;
}

/* codes [8, PANEL] of eight inputs */
INLINE void codes_of_inputs(const int low, const int high, const uint8_t *at, uint8_t codes[8][PANEL]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const uint8_t *lower = at + i * low / 8 * PANEL, *upper = at + (low + i * high / 8) * PANEL;
#pragma omp simd
    for (int o = 0; o < PANEL; o++) {
      int x = lower[o] >> i * low % 8 & ((1 << low) - 1);
      if (high) x |= (upper[o] >> i * high % 8 & ((1 << high) - 1)) << low;
      codes[i][o] = (uint8_t)x;
    }
  }
}
