/* Products of rows with matrices in blocks (blocks.h), for one number format. Some inputs of a panel are unpacked into the
   first-level cache, each weight rounded to T as if the file had been unpacked, and multiplied by all rows of a task:
   the sums of a row are those of plain weights. */

/* to [PANEL, PACK]: the weights [PACK, PANEL] of one input or of a pair, scaled */
INLINE void NAME(store_weights)(const block_format f, const part_scales *s, const int8_t weights[][PANEL], T *to) {
#ifdef HAS_AVX512_BF16
#pragma GCC unroll 2
  for (int o = 0; o < PANEL; o += LANES) {
    const __m512 scale = _mm512_loadu_ps(s->scale + o), minimum = _mm512_loadu_ps(s->minimum + o);
    __m512 x[PACK];
#pragma GCC unroll 2
    for (int j = 0; j < PACK; j++) {
      const __m128i bytes = _mm_loadu_si128((const __m128i *)(weights[j] + o));
      x[j] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
      x[j] = f.has_minimum ? _mm512_fmadd_ps(x[j], scale, minimum) : _mm512_mul_ps(x[j], scale);
    }
    NAME(store_step)(x, to + o * PACK);
  }
#else
#pragma omp simd
  for (int o = 0; o < PANEL; o++)
    for (int j = 0; j < PACK; j++) {
      const float x = s->scale[o] * (float)weights[j][o];
      to[o * PACK + j] = NAME(from_float)(f.has_minimum ? x + s->minimum[o] : x);
    }
#endif
}

/* to [inputs / PACK, PANEL, PACK]: a group of inputs */
INLINE void NAME(unpack_group)(const block_format f, const uint8_t *group, T *to) {
  const int of_part = f.parts_are == TWO_BYTES ? 2 : f.parts_are == NO_PARTS ? 0 : 1;
  const uint8_t *low = group + (2 + 2 * f.has_minimum + f.group / f.part * of_part) * PANEL;
  const uint8_t *high = low + f.group * f.low / 8 * PANEL;
  for (int part = 0; part < f.group / f.part; part++) {
    const part_scales s = scales_of_part(f, group, part);
    for (int k = part * f.part; k < (part + 1) * f.part; k += 8) {
      int8_t weights[8][PANEL];
      bits_of_inputs(f, low + k * f.low / 8 * PANEL, high + k * f.high / 8 * PANEL, weights);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i += PACK) NAME(store_weights)(f, &s, weights + i, to + (k + i) * PANEL);
    }
  }
}

/* to [inputs / PACK, PANEL, PACK]: the inputs from `from` on, a multiple of STRIP, of a panel */
static void NAME(unpack_blocks)(int64_t type, const char *panel, int64_t from, int64_t inputs, T *to) {
  for (int i = 0; i < BLOCK_FORMATS; i++) {
#define CASE(N)                                                                                   \
  if (i == N && block_formats[N].type == type) {                                                  \
    const block_format f = block_formats[N];                                                      \
    const uint8_t *at = (const uint8_t *)panel + from / f.group * group_bytes(&f) * PANEL;        \
    for (int64_t k = 0; k < inputs; k += f.group, at += group_bytes(&f) * PANEL)                  \
      NAME(unpack_group)(f, at, to + k * PANEL);                                                  \
    return;                                                                                       \
  }
    CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
#undef CASE
  }
}

/* Multiplies a pair of panels in blocks, or in groups, by `rows` rows, from `row` on. */
static void NAME(multiply_blocks)(const product *p, const panel_pair *u, int64_t row, int64_t rows, next_weights next) {
  const int64_t width = u->second ? 2 * PANEL : PANEL, tiles = ceil_div(rows, REGISTER_ROWS);
  const int64_t strips = ceil_div(p->inputs, STRIP), ahead = ceil_div(next.lines, tiles * strips) * CACHE_LINE;
  const char *end = next.first + next.lines * CACHE_LINE;
  T strip[2][STRIP * PANEL] __attribute__((aligned(CACHE_LINE)));
  float y[MAX_QUANTIZED_ROWS * 2 * PANEL], *second = y + (PANELS_AT_ONCE == 2 ? PANEL : rows * PANEL);
  for (int64_t k = 0; k < p->inputs; k += STRIP) {
    const int64_t some = p->inputs - k < STRIP ? p->inputs - k : STRIP;
    for (int i = 0; i <= !!u->second; i++) {
      const char *panel = i ? u->second : u->first;
      if (u->of[i]->kind == GROUPS) NAME(unpack_groups)(u->of[i], panel, p->inputs, k, some, strip[i]);
      else NAME(unpack_blocks)(u->of[i]->block, panel, k, some, strip[i]);
    }
    register_tile tile = {.stride = p->inputs, .steps = some / PACK, .panel = strip[0],
                          .second = PANELS_AT_ONCE == 2 && u->second ? strip[1] : 0,
                          .lines = ceil_div(ahead / CACHE_LINE, some / PACK / 4 + 1), .adds_up = k > 0};
    for (int64_t s = 0, r = 0; s < tiles; s++, next.first += ahead, next.second += ahead) {
      const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
      tile.x = (const T *)p->x + (row + r) * p->inputs + k;
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
  NAME(write_outputs)(p, u, y, PANELS_AT_ONCE == 2 ? width : PANEL, second, rows, row);
}
