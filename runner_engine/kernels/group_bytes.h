/* Rows in bytes by matrices in groups: numbers of a group are as in groups.h, and codes lie in fours as those of blocks do
   (blocks.h), 32 inputs after another: first the lower bits, then the upper ones. Codes of a table stand for bytes that
   `constants` lists, 128 too large, times `row_scale`. */

INLINE int part_of_groups(const matrix *m) { return m->block % BYTE_PART ? HALF_PART : BYTE_PART; }

/* What is subtracted from a code where all groups share it */
INLINE int shared_offset(const matrix *m) {
  return m->code_type == TABLE ? 128 : m->zero_point >= 0 ? (int)m->zero_point : 0;
}

/* Whether each group has a zero point of its own, which the sum of a row's bytes brings in */
INLINE int has_own_zeros(const matrix *m) { return m->code_type == INTEGERS && m->zero_point < 0; }

INLINE block_bits codes_at(const matrix *m, const int low, const int high, const uint8_t *panel, int64_t all, int64_t k) {
  const uint8_t *at = panel + (group_number_bytes(m, all) + k / BYTE_PART * BYTE_PART / 8 * (low + high)) * PANEL;
  return (block_bits){at, at + BYTE_PART / 8 * low * PANEL, 0};
}

#if !IS_IN(PACKED_BYTES)
UNTIL_LINKED void sums_of_groups(const matrix *m, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                                 int64_t stride, const char *next, int64_t lines) {
  abort();
}
#elif defined(HAS_VECTORS)
INLINE int group_fours_together(const matrix *m) { return fours_together((int)m->bits, m->code_type == TABLE); }

/* What is subtracted from the bytes as products take them */
INLINE int group_byte_offset(const matrix *m) {
  return (has_own_zeros(m) ? 0 : shared_offset(m)) - (group_fours_together(m) == SIGNED_BYTES ? 128 : 0);
}

/* What the weights of a group have in common */
INLINE void group_vectors(const matrix *m, const uint8_t *panel, int64_t groups, int64_t group, part_vectors of_group[]) {
  const group_numbers g = numbers_of_group(m, panel, groups, group);
  const floats factor = V(set1_ps)(m->code_type == TABLE ? m->row_scale : 1), zero = V(set1_ps)(0);
#pragma GCC unroll 2
  for (int v = 0; v < PANEL_VECTORS; v++) {
    of_group[v].scale = V(mul_ps)(V(loadu_ps)(g.scale + v * VEC_FLOATS), factor);
    of_group[v].minimum = has_own_zeros(m)
        ? V(fnmadd_ps)(V(loadu_ps)(g.zero_point + v * VEC_FLOATS), of_group[v].scale, zero) : zero;
  }
}

/* y [PANEL]: the sums of a single row, whose weights do not go through memory; codes are integers */
INLINE void byte_sums_of_group_row(const int low, const int high, const int part, const matrix *m, const byte_rows *x,
                                   const uint8_t *panel, float *y) {
  const block_format f = {.low = low, .high = high, .is_code = 1};
  const int together = fours_together(low + high, 0);
  const int64_t groups = ceil_div(x->inputs, m->block);
  floats total[1][PANEL_VECTORS] = {{{0}}};
  for (int64_t k = 0, group = 0; k < x->inputs; group++) {
    part_vectors s[PANEL_VECTORS];
    group_vectors(m, panel, groups, group, s);
    const int64_t end = k + m->block < x->inputs ? k + m->block : x->inputs;
    for (; k < end; k += part) {
      block_bits bits = codes_at(m, low, high, panel, x->inputs, k);
      const int first = part == BYTE_PART ? 0 : (int)(k % BYTE_PART);
      bits.low += four_of(low, first), bits.shared = first; /* 16 inputs are whole fours of the lower bits */
#pragma GCC unroll 8
      for (int line = 0; line < part * low / 16; line++) __builtin_prefetch(bits.low + AHEAD + line * CACHE_LINE);
      const int32_t start = -group_byte_offset(m) * x->sum[k / part];
      const part_numbers of_row = {&start, x->scale + k / BYTE_PART, 0, 0};
      if (has_own_zeros(m)) add_part(together, part, 1, 1, x, k / part, &of_row, 0, &f, &bits, s, total);
      else add_part(together, part, 0, 1, x, k / part, &of_row, 0, &f, &bits, s, total);
    }
  }
  memcpy(y, total, sizeof total);
}

INLINE void unpack_codes_as_bytes(const int low, const int high, const int part, const matrix *m, const uint8_t *panel,
                                  int64_t all, int64_t from, int64_t inputs, byte_strip *to) {
  const int64_t groups = ceil_div(all, m->block);
  const int is_table = m->code_type == TABLE;
  const int is_signed = group_fours_together(m) == SIGNED_BYTES;
  const ints list = is_table ? list_of_bytes(m->constants) : V(set1_epi32)(0);
  part_vectors of_group[PANEL_VECTORS];
  int64_t end = from; /* of the inputs whose group's numbers are there */
  for (int64_t k = from, n = 0; k < from + inputs; k += part, n++) {
    if (k >= end) {
      group_vectors(m, panel, groups, k / m->block, of_group);
      end = (k / m->block + 1) * m->block;
    }
    const block_bits bits = codes_at(m, low, high, panel, all, k);
    const int first = part == BYTE_PART ? 0 : (int)(k % BYTE_PART);
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) {
      to->scales[n][v] = of_group[v];
#pragma GCC unroll 8
      for (int i = 0; i < part; i += 4) {
        const ints codes = fours_of_codes(low, high, &bits, first + i, v * VEC_FLOATS);
        const ints x = is_table ? V(shuffle_epi8)(list, codes) : codes;
        store_ints(to->fours + (k - from + i) * PANEL + 4 * v * VEC_FLOATS, is_signed ? with_other_sign(x) : x);
      }
    }
  }
}

/* y [rows, stride]: the sums of a panel */
BETWEEN_UNITS void sums_of_groups(const matrix *m, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                                  int64_t stride, const char *next, int64_t lines) {
  const int64_t each = ceil_div(lines, ceil_div(p->inputs, BYTE_STRIP));
  const int part = part_of_groups(m), is_single = rows == 1 && m->code_type == INTEGERS;
  const uint8_t *at = (const uint8_t *)panel;
  const byte_rows x = byte_rows_at(part, p, row, 0);
  byte_strip strip;
  for (int64_t k = 0; k < p->inputs; k += BYTE_STRIP, next += each * CACHE_LINE, lines -= each) {
    const int64_t some = p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP;
#define CASE(LOW, HIGH)                                                                                          \
  case LOW + HIGH:                                                                                               \
    if (is_single && part == BYTE_PART) byte_sums_of_group_row(LOW, HIGH, BYTE_PART, m, &x, at, y);              \
    else if (is_single) byte_sums_of_group_row(LOW, HIGH, HALF_PART, m, &x, at, y);                              \
    else if (part == BYTE_PART) unpack_codes_as_bytes(LOW, HIGH, BYTE_PART, m, at, p->inputs, k, some, &strip);  \
    else unpack_codes_as_bytes(LOW, HIGH, HALF_PART, m, at, p->inputs, k, some, &strip);                         \
    break;
    switch (m->bits) { CASE(2, 0) CASE(2, 1) CASE(4, 0) CASE(4, 1) CASE(4, 2) CASE(8, 0) }
#undef CASE
    if (is_single) return;
    add_tiles(group_fours_together(m), part, has_own_zeros(m), 0, group_byte_offset(m), p, row, rows, k, &strip, y, stride, next,
              lines < each ? lines : each);
  }
}
#else
/* y [rows, stride]: the sums of a panel, on any processor */
BETWEEN_UNITS void sums_of_groups(const matrix *m, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                                  int64_t stride, const char *next, int64_t lines) {
  const int low = m->bits < 4 ? 2 : m->bits < 8 ? 4 : 8, high = (int)m->bits - low, part = part_of_groups(m);
  const block_format f = {.low = low, .high = high, .offset = low == 8 ? 128 : 0};
  const int is_table = m->code_type == TABLE, has_zeros = has_own_zeros(m);
  const int offset = is_table ? 0 : shared_offset(m) - f.offset; /* codes of 8 bits get a sign, so that they are bytes */
  (void)next, (void)lines;
  for (int64_t r = 0; r < rows; r++) memset(y + r * stride, 0, PANEL * sizeof *y);
  for (int64_t k = 0; k < p->inputs; k += part) {
    const group_numbers g = numbers_of_group(m, (const uint8_t *)panel, ceil_div(p->inputs, m->block), k / m->block);
    const block_bits bits = codes_at(m, low, high, (const uint8_t *)panel, p->inputs, k);
    int8_t weights[BYTE_PART][PANEL];
    for (int i = 0; i < part; i += 8) bits_of_inputs(f, &bits, (int)(k % BYTE_PART) + i, weights + i);
    for (int i = 0; is_table && i < part; i++)
      for (int o = 0; o < PANEL; o++)
        weights[i][o] = (int8_t)(((const uint8_t *)m->constants)[(uint8_t)weights[i][o]] - 128);
    for (int64_t r = 0; r < rows; r++) {
      const byte_rows x = byte_rows_at(part, p, row + r, k);
      const int32_t of_row = *x.sum, moved = has_zeros ? f.offset * of_row : -offset * of_row;
      int32_t sum[PANEL] = {0};
      for (int i = 0; i < part; i++)
#pragma omp simd
        for (int o = 0; o < PANEL; o++) sum[o] += x.bytes[i] * weights[i][o];
#pragma omp simd
      for (int o = 0; o < PANEL; o++) {
        const float scale = g.scale[o] * (is_table ? m->row_scale : 1);
        const float total = fmaf((float)(sum[o] + moved), scale * *x.scale, y[r * stride + o]);
        y[r * stride + o] = has_zeros ? fmaf(-g.zero_point[o] * scale, *x.moved, total) : total;
      }
    }
  }
}
#endif
