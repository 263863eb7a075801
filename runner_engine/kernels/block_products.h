/* Products of rows with matrices in blocks (blocks.h), for one number format. Some inputs of a panel are unpacked into the
   first-level cache, each weight rounded to T as if the file had been unpacked, and multiplied by all rows of a task:
   the sums of a row are those of plain weights. */

#ifdef HAS_VECTORS
/* to [inputs / PACK, PANEL, PACK]: a part of a group */
INLINE void NAME(unpack_part)(const block_format f, const uint8_t *group, int part, T *to) {
  const block_bits bits = bits_of_part(f, group, part);
#pragma GCC unroll 2
  for (int o = 0; o < PANEL; o += VEC_FLOATS) {
    const part_vectors s = vectors_of_part(f, group, part, o);
#pragma GCC unroll 4
    for (int k = 0; k < f.part; k += 8) {
      floats weights[8];
      weights_of_eight(f, &s, &bits, k, o, weights);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i += PACK) NAME(store_step)(weights + i, to + (k + i) * PANEL + o * PACK);
    }
  }
}

/* Adds the products of eight inputs x with the weights of two panels to their sums, in the order of register tiles; in that of
   tiles, to those of the even and of the odd inputs apart. Each sum waits for the one before, so they take turns. */
INLINE void NAME(add_eight)(const block_format f, const int in_tile_order, const NAME(operand) *x,
                            part_vectors s[2][PANEL_VECTORS], const block_bits bits[2], int k, floats sum[2][PANEL_VECTORS],
                            floats even[2][PANEL_VECTORS], floats odd[2][PANEL_VECTORS]) {
#ifdef HAS_AVX512
#pragma GCC unroll 2
  for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) {
      floats weights[8];
      weights_of_eight(f, s[p] + v, bits + p, k, v * VEC_FLOATS, weights);
#pragma GCC unroll 8
      for (int j = 0; j < 8; j += IS_WIDENED ? 1 : PACK) {
#if IS_WIDENED
        sum[p][v] = V(fmadd_ps)(V(set1_ps)(x[j]), rounded_weights_bf16(weights[j]), sum[p][v]);
#else
        const NAME(vec) number = NAME(broadcast)(x + j), weight = NAME(step)(weights + j);
        if (!in_tile_order) sum[p][v] = (floats)NAME(dot)((vec)sum[p][v], number, weight);
#if PACK == 2
        else {
          even[p][v] = V(fmadd_ps)((floats)half_of_pairs(number, 0), (floats)half_of_pairs(weight, 0), even[p][v]);
          odd[p][v] = V(fmadd_ps)((floats)half_of_pairs(number, 1), (floats)half_of_pairs(weight, 1), odd[p][v]);
        }
#endif
#endif
      }
    }
#else
#define ADD(j)                                                                                                       \
  {                                                                                                                  \
    const ints four = fours_for_numbers(f, bits + p, k + (j) / 4 * 4, v * VEC_FLOATS);                               \
    const floats weight = weight_of_four(f, four, (j) % 4, scale_of_four(s[p][v].scale, (j) % 4), s[p][v].minimum);   \
    sum[p][v] = V(fmadd_ps)(V(set1_ps)(x[j]), NAME(rounded_weights)(weight), sum[p][v]);                             \
  }
  if (f.high) { /* with bits from two places, four vectors in turns would not stay in 16 registers */
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECTORS; v++)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) ADD(j)
  } else
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
#pragma GCC unroll 2
      for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECTORS; v++) ADD(j)
#undef ADD
#endif
  (void)in_tile_order, (void)even, (void)odd;
}

/* The sums y [2, PANEL] of a single row with two panels, in the order of register tiles or of tiles: no weight goes through
   memory. */
INLINE void NAME(sums_of_row)(const block_format f, const int in_tile_order, const uint8_t *first, const uint8_t *second,
                              const NAME(operand) *x, int64_t inputs, float *y) {
  floats sum[2][PANEL_VECTORS], even[2][PANEL_VECTORS], odd[2][PANEL_VECTORS]; /* the latter of 32 inputs */
  for (int p = 0; p < 2; p++)
    for (int v = 0; v < PANEL_VECTORS; v++) sum[p][v] = even[p][v] = odd[p][v] = V(set1_ps)(0);
  const int alike = f.high ? 32 / f.high < f.part ? 32 / f.high : f.part : f.low == 2 ? 16 : 8; /* inputs, as any others from there on */
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0; k < inputs; k += f.group, first += bytes, second += bytes) {
    for (int part = 0; part < f.group / f.part; part++, x += f.part) {
      const block_bits bits[2] = {bits_of_part(f, first, part), bits_of_part(f, second, part)};
      part_vectors s[2][PANEL_VECTORS];
      prefetch_ahead(first, part, bytes / (f.group / f.part));
      prefetch_ahead(second, part, bytes / (f.group / f.part));
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECTORS; v++) {
        s[0][v] = vectors_of_part(f, first, part, v * VEC_FLOATS);
        s[1][v] = vectors_of_part(f, second, part, v * VEC_FLOATS);
      }
#pragma GCC unroll 1
      for (int begin = 0; begin < f.part; begin += alike)
#pragma GCC unroll 4
        for (int at = 0; at < alike; at += 8) {
          block_bits here[2];
#pragma GCC unroll 2
          for (int p = 0; p < 2; p++) {
            const uint8_t *low = bits[p].low + begin * f.low / 8 * PANEL, *high = bits[p].high + begin * f.high / 8 * PANEL;
            here[p] = (block_bits){low, high, bits[p].shared};
          }
          NAME(add_eight)(f, in_tile_order, x + begin + at, s, here, at, sum, even, odd);
          if (in_tile_order && (part * f.part + begin + at + 8) % 32 == 0)
#pragma GCC unroll 2
            for (int p = 0; p < 2; p++)
#pragma GCC unroll 2
              for (int v = 0; v < PANEL_VECTORS; v++) {
                sum[p][v] = V(add_ps)(sum[p][v], V(add_ps)(even[p][v], odd[p][v]));
                even[p][v] = odd[p][v] = V(set1_ps)(0);
              }
        }
    }
  }
  memcpy(y, sum, sizeof sum);
}
#else
/* to [PANEL, PACK]: the weights [PACK, PANEL] of one input or of a pair, scaled */
INLINE void NAME(store_weights)(const block_format f, const part_scales *s, const int8_t weights[][PANEL], T *to) {
#pragma omp simd
  for (int o = 0; o < PANEL; o++)
    for (int j = 0; j < PACK; j++) {
      const float x = s->scale[o] * (float)weights[j][o];
      to[o * PACK + j] = NAME(from_float)(f.has_minimum ? x + s->minimum[o] : x);
    }
}

/* to [inputs / PACK, PANEL, PACK]: a part of a group */
INLINE void NAME(unpack_part)(const block_format f, const uint8_t *group, int part, T *to) {
  const block_bits bits = bits_of_part(f, group, part);
  const part_scales s = scales_of_part(f, group, part);
#pragma GCC unroll 4
  for (int k = 0; k < f.part; k += 8) {
    int8_t weights[8][PANEL];
    bits_of_inputs(f, &bits, k, weights);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += PACK) NAME(store_weights)(f, &s, weights + i, to + (k + i) * PANEL);
  }
}
#endif

/* Goes on with a format that the compiler knows, so that every choice by its numbers is made once. */
#define FOR_FORMAT(TYPE, DO)                                                                             \
  for (int i = 0; i < BLOCK_FORMATS; i++) {                                                              \
    FORMAT_CASE(0, TYPE, DO) FORMAT_CASE(1, TYPE, DO) FORMAT_CASE(2, TYPE, DO) FORMAT_CASE(3, TYPE, DO)  \
    FORMAT_CASE(4, TYPE, DO) FORMAT_CASE(5, TYPE, DO) FORMAT_CASE(6, TYPE, DO) FORMAT_CASE(7, TYPE, DO)  \
    FORMAT_CASE(8, TYPE, DO) FORMAT_CASE(9, TYPE, DO) FORMAT_CASE(10, TYPE, DO) FORMAT_CASE(11, TYPE, DO) \
    FORMAT_CASE(12, TYPE, DO)                                                                            \
  }
#define FORMAT_CASE(N, TYPE, DO)                       \
  if (i == N && block_formats[N].type == TYPE) {       \
    const block_format f = block_formats[N];           \
    DO;                                                \
    return;                                            \
  }

INLINE void NAME(unpack_parts)(const block_format f, const uint8_t *panel, int64_t from, int64_t inputs, T *to) {
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = from; k < from + inputs; k += f.part, to += f.part * PANEL)
    NAME(unpack_part)(f, panel + k / f.group * bytes, (int)(k % f.group / f.part), to);
}

/* to [inputs / PACK, PANEL, PACK]: the inputs from `from` on, a multiple of STRIP, of a panel */
#if !IS_IN(PACKED_UNIT)
UNTIL_LINKED void NAME(unpack_blocks)(int64_t type, const char *panel, int64_t from, int64_t inputs, T *to) { abort(); }
#else
BETWEEN_UNITS void NAME(unpack_blocks)(int64_t type, const char *panel, int64_t from, int64_t inputs, T *to) {
  FOR_FORMAT(type, NAME(unpack_parts)(f, (const uint8_t *)panel, from, inputs, to))
}
#endif

#ifdef HAS_VECTORS
#if !IS_IN(PACKED_UNIT)
UNTIL_LINKED void NAME(multiply_row)(int64_t type, const char *first, const char *second, const NAME(operand) *x,
                                     int64_t inputs, float *y) {
  abort();
}
#else
BETWEEN_UNITS void NAME(multiply_row)(int64_t type, const char *first, const char *second, const NAME(operand) *x,
                                      int64_t inputs, float *y) {
  FOR_FORMAT(type, NAME(sums_of_row)(f, 0, (const uint8_t *)first, (const uint8_t *)second, x, inputs, y))
}
#endif

/* y [2, PANEL]: the sums of a single row with a pair of panels, or with one */
INLINE void NAME(multiply_row_by_pair)(const panel_pair *u, const NAME(operand) *x, int64_t inputs, float *y) {
  const int is_pair = u->second && u->of[0]->block == u->of[1]->block;
  NAME(multiply_row)(u->of[0]->block, u->first, is_pair ? u->second : u->first, x, inputs, y);
  if (u->second && !is_pair) NAME(multiply_row)(u->of[1]->block, u->second, u->second, x, inputs, y + PANEL);
}
#endif

/* strips [panels][inputs / PACK, PANEL, PACK]: some inputs of a pair of panels that are unpacked */
static void NAME(unpack_strips)(const product *p, const panel_pair *u, int64_t from, int64_t inputs, T strips[2][STRIP * PANEL]) {
  for (int i = 0; i <= !!u->second; i++) {
    const char *panel = i ? u->second : u->first;
    if (u->of[i]->kind == GROUPS) NAME(unpack_groups)(u->of[i], panel, p->inputs, from, inputs, strips[i]);
#if PACK == 2
    else if (u->of[i]->kind == FOUR_BIT_ROWS)
      unpack_four_bit_rows(u->of[i], panel, u->output[i], p->inputs, from, inputs, strips[i]);
    else if (u->of[i]->kind == WEIGHT_INT8) unpack_int8_rows(panel, p->inputs, from, inputs, strips[i]);
#endif
    else NAME(unpack_blocks)(u->of[i]->block, panel, from, inputs, strips[i]);
  }
}

#if PACK == 2
/* Whether a single row is multiplied by weights that do not go through memory, but for blocks */
INLINE int has_row_sums(const matrix *m) {
#if defined(__AVX2__) && WIDENS_BF16
  return m->kind == FOUR_BIT_ROWS || m->kind == WEIGHT_INT8;
#else
  (void)m;
  return 0;
#endif
}

/* The sums of a single row with a pair of panels */
INLINE void row_sums(const product *p, const panel_pair *u, int64_t row, float *y, float *second, next_weights next) {
#if defined(__AVX2__) && WIDENS_BF16
  const float *x = operands_of_bf16(p, row, 0);
  if (u->of[0]->kind == WEIGHT_INT8) {
    int8_row_sums(u, x, p->inputs, y, second, next);
    return;
  }
  for (int i = 0; i <= !!u->second; i++)
    four_bit_row_sums(u->of[i], i ? u->second : u->first, u->output[i], x, p->inputs, i ? second : y,
                      i ? next.second : next.first, next.lines);
#else
  (void)p, (void)u, (void)row, (void)y, (void)second, (void)next;
#endif
}

/* Applies the scales of weights that are unpacked without them. */
INLINE void scale_sums(const panel_pair *u, int64_t rows, float *y, float *second, int64_t stride) {
  for (int i = 0; i <= !!u->second; i++)
    if (u->of[i]->kind == WEIGHT_INT8) scale_weight_int8(u->of[i], u->output[i], rows, i ? second : y, stride);
}
#endif

/* Multiplies a pair of panels that are unpacked by `rows` rows, from `row` on. */
static void NAME(multiply_blocks)(const product *p, const panel_pair *u, int64_t row, int64_t rows, next_weights next) {
  const int64_t width = u->second ? 2 * PANEL : PANEL, tiles = ceil_div(rows, REGISTER_ROWS);
  const int64_t strips = ceil_div(p->inputs, STRIP), ahead = ceil_div(next.lines, tiles * strips) * CACHE_LINE;
  const char *end = next.first + next.lines * CACHE_LINE;
  T strip[2][STRIP * PANEL] __attribute__((aligned(CACHE_LINE)));
  float y[MAX_QUANTIZED_ROWS * 2 * PANEL], *second = y + (PANELS_AT_ONCE == 2 ? PANEL : rows * PANEL);
#ifdef HAS_VECTORS
  if (rows == 1 && u->of[0]->kind == BLOCKS) {
    NAME(multiply_row_by_pair)(u, NAME(operands_of)(p, row, 0), p->inputs, y);
    NAME(write_outputs)(p, u, y, width, y + PANEL, rows, row);
    return;
  }
#endif
  if (rows == 1 && NAME(has_code_row)(u->of[0]) && (!u->second || NAME(has_code_row)(u->of[1]))) {
    NAME(multiply_code_row)(u, NAME(operands_of)(p, row, 0), p->inputs, y);
    NAME(write_outputs)(p, u, y, width, y + PANEL, rows, row);
    return;
  }
#if PACK == 2
  if (rows == 1 && has_row_sums(u->of[0])) {
    row_sums(p, u, row, y, second, next);
    scale_sums(u, rows, y, second, PANEL);
    NAME(write_outputs)(p, u, y, width, second, rows, row);
    return;
  }
#endif
  for (int64_t k = 0; k < p->inputs; k += STRIP) {
    const int64_t some = p->inputs - k < STRIP ? p->inputs - k : STRIP;
    NAME(unpack_strips)(p, u, k, some, strip);
    register_tile tile = {.stride = p->inputs, .steps = some / PACK, .panel = strip[0],
                          .second = PANELS_AT_ONCE == 2 && u->second ? strip[1] : 0,
                          .lines = ceil_div(ahead / CACHE_LINE, some / PACK / 4 + 1), .adds_up = k > 0};
    for (int64_t s = 0, r = 0; s < tiles; s++, next.first += ahead, next.second += ahead) {
      const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
      tile.x = NAME(operands_of)(p, row, r) + k;
      tile.y = y + r * (PANELS_AT_ONCE == 2 ? width : PANEL);
      tile.ahead = next.first, tile.also = next.second;
      tile.end = next.first + ahead < end ? next.first + ahead : end;
      NAME(multiply_register_tile)((int)count, &tile);
      if (PANELS_AT_ONCE == 1 && u->second) {
        register_tile other = tile;
        other.panel = strip[1], other.y = second + r * PANEL, other.lines = 0;
        NAME(multiply_register_tile)((int)count, &other);
      }
      r += count;
    }
  }
#if PACK == 2
  scale_sums(u, rows, y, second, PANELS_AT_ONCE == 2 ? width : PANEL);
#endif
  NAME(write_outputs)(p, u, y, PANELS_AT_ONCE == 2 ? width : PANEL, second, rows, row);
}

#if defined(HAS_TILES) && PACK == 2
#if !IS_IN(PACKED_UNIT)
UNTIL_LINKED void multiply_row_in_tile_order(int64_t type, const char *first, const char *second, const bf16 *x, int64_t inputs,
                                             float *y) {
  abort();
}
#else
BETWEEN_UNITS void multiply_row_in_tile_order(int64_t type, const char *first, const char *second, const bf16 *x, int64_t inputs,
                                              float *y) {
  FOR_FORMAT(type, sums_of_row_bf16(f, 1, (const uint8_t *)first, (const uint8_t *)second, x, inputs, y))
}
#endif

/* The same by tiles, or by vectors in their order. Weights are unpacked as elsewhere: only in products, numbers too small to
   be normal count as 0. A single row unpacks weights of blocks meanwhile, whose scales are of half precision: never as small. */
static void multiply_blocks_in_tile_order(const product *p, const panel_pair *u, int64_t row, int64_t rows, next_weights next) {
  const int64_t inputs = p->inputs, width = u->second ? 2 * PANEL : PANEL;
  const int by_tiles = goes_by_tiles(p, u->of[0]);
  const bf16 *x = (const bf16 *)p->x + row * inputs;
  bf16 strip[2][STRIP * PANEL] __attribute__((aligned(CACHE_LINE)));
  const bf16 *const panels[2] = {strip[0], u->second ? strip[1] : 0};
  float y[MAX_QUANTIZED_ROWS * 2 * PANEL];
  memory_range ranges[2];
  prefetch_queue queue = prefetch_weights(p, u, rows, by_tiles, next, ranges);
  if (rows == 1 && u->of[0]->kind == BLOCKS) {
    const unsigned before = begin_tile_order();
    const int is_pair = u->second && u->of[0]->block == u->of[1]->block;
    multiply_row_in_tile_order(u->of[0]->block, u->first, is_pair ? u->second : u->first, x, inputs, y);
    if (u->second && !is_pair) multiply_row_in_tile_order(u->of[1]->block, u->second, u->second, x, inputs, y + PANEL);
    end_tile_order(before);
  } else {
    for (int64_t k = 0; k < inputs; k += STRIP) {
      const int64_t some = inputs - k < STRIP ? inputs - k : STRIP;
      unpack_strips_bf16(p, u, k, some, strip);
      const unsigned before = begin_tile_order();
      sums_in_tile_order(panels, x + k, inputs, some, rows, by_tiles, k > 0, y, width, &queue);
      end_tile_order(before);
    }
    scale_sums(u, rows, y, y + PANEL, width);
  }
  write_outputs_bf16(p, u, y, width, y + PANEL, rows, row);
}
#endif

/* out [count, inputs]: rows of a matrix in blocks, such as an embedding that is the head, too. A panel is unpacked for
   each, and one output of it is taken. Returns what is wrong with the call (checks.h). */
#if IS_IN(PRODUCTS_UNIT)
int64_t NAME(rows_of_blocks)(const int32_t *ids, int64_t count, int64_t inputs, const matrix *m, T *out,
                             int threads) {
  if (is_missing(m, PACK)) REFUSE(MISSING_UNIT, 0);
  if (!has_blocks(m) || !is_readable(m, inputs, PACK)) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_range(ids, count, 0, m->outputs - 1, WRONG_TOKEN_ID);
  if (wrong) return wrong;
  const int64_t bytes = weight_bytes(m, inputs, sizeof(T)) * PANEL;
#pragma omp parallel for num_threads(count < 2 * threads ? 1 : threads)
  for (int64_t r = 0; r < count; r++) {
    const int64_t panel = ids[r] / PANEL, output = ids[r] % PANEL;
    T strip[STRIP * PANEL] __attribute__((aligned(CACHE_LINE)));
    for (int64_t k = 0; k < inputs; k += STRIP) {
      const int64_t some = inputs - k < STRIP ? inputs - k : STRIP;
      NAME(unpack_blocks)(m->block, (const char *)m->weight + panel * bytes, k, some, strip);
      T *to = out + r * inputs + k;
      for (int64_t i = 0; i < some; i += PACK)
        memcpy(to + i, strip + i * PANEL + output * PACK, PACK * sizeof(T));
    }
  }
  return FINE;
}
#endif
