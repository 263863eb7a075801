/* Sums of rows in bytes with int8 weights (int8_products.h) by AVX-512's products of bytes: weights are unpacked into the cache,
   some inputs of a panel at a time, and multiplied by all rows of a task; few rows are multiplied as the weights are read.
   Also what begins sums with 4-bit weights (four_bit.h). The arithmetic is the library's, step by step. */

#define FEW_ROWS 4 /* are multiplied by bytes that are not unpacked */

/* out [16 words][16 rows], `step` words apart, of 64 bytes of each of 16 rows; 0 where there is no row or no byte */
INLINE void transpose_words(const void *rows, int64_t stride, int64_t count, int64_t bytes, uint32_t *out,
                            int64_t step) {
  const char *at = rows;
  char part[LANES][64];
  if (count < LANES || bytes < 64) {
    memset(part, 0, sizeof part);
    for (int r = 0; r < count && r < LANES; r++) memcpy(part[r], at + r * stride, bytes < 64 ? bytes : 64);
    at = part[0], stride = 64;
  }
  for (int c = 0; c < 4; c++) {
    __m512i v[4]; /* 16 bytes of the rows g, g + 4, g + 8 and g + 12 */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
      const char *from = at + g * stride + 16 * c;
      v[g] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)from));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0x00f0, _mm_loadu_si128((const __m128i *)(from + 4 * stride)));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0x0f00, _mm_loadu_si128((const __m128i *)(from + 8 * stride)));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0xf000, _mm_loadu_si128((const __m128i *)(from + 12 * stride)));
    }
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i d = _mm512_unpackhi_epi32(v[0], v[1]), e = _mm512_unpackhi_epi32(v[2], v[3]);
    _mm512_storeu_si512(out + (4 * c + 0) * step, _mm512_unpacklo_epi64(a, b));
    _mm512_storeu_si512(out + (4 * c + 1) * step, _mm512_unpackhi_epi64(a, b));
    _mm512_storeu_si512(out + (4 * c + 2) * step, _mm512_unpacklo_epi64(d, e));
    _mm512_storeu_si512(out + (4 * c + 3) * step, _mm512_unpackhi_epi64(d, e));
  }
}

/* The sum of the 16 lanes of each of four vectors */
INLINE __m128i sum_of_lanes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* The int32 sums of a single quantized row x with the weights of one output, lane by lane. `end`: of the panel, behind which
   `then` is read */
INLINE __m512i sum_int8_output(const uint8_t *x, int64_t inputs, const char *weights, const char *end, const char *then) {
  __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  int64_t k = 0;
  for (; k + 4 * CACHE_LINE <= inputs; k += 4 * CACHE_LINE) {
    const char *ahead = find_address_ahead(weights + k, PANEL_REACH, end, then);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const int64_t at = k + i * CACHE_LINE;
      __builtin_prefetch(ahead + i * CACHE_LINE, 0, 2);
      sum[i % 2] = _mm512_dpbusd_epi32(sum[i % 2], _mm512_loadu_si512(x + at), _mm512_loadu_si512(weights + at));
    }
  }
  for (; k < inputs; k += CACHE_LINE) {
    const __mmask64 mask = inputs - k < 64 ? (1ull << (inputs - k)) - 1 : ~0ull;
    __builtin_prefetch(find_address_ahead(weights + k, PANEL_REACH, end, then), 0, 2);
    sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_loadu_si512(x + k), _mm512_maskz_loadu_epi8(mask, weights + k));
  }
  return _mm512_add_epi32(sum[0], sum[1]);
}

/* y = the int32 sums of a single quantized row x with `count` outputs of a panel, in the library's layout. A single row waits
   for memory, so weights are read in the order in which they lie there: four outputs at a time took up to 1.6 times as long.
   `then` is read behind the panel. */
static void multiply_int8_row_in_order(const uint8_t *x, int64_t inputs, const char *panel, int64_t count, float *y,
                                       const char *then) {
  const char *end = panel + count * inputs;
  for (int64_t o = 0; o < count; o += 4) {
    __m512i sum[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
      sum[j] = sum_int8_output(x, inputs, panel + (o + j < count ? o + j : count - 1) * inputs, end, then);
    _mm_storeu_si128((__m128i *)(y + o), sum_of_lanes(sum[0], sum[1], sum[2], sum[3]));
  }
}

/* y [R, stride] = the int32 sums of R quantized rows x with `count` outputs of a panel, in the library's layout: several rows
   share the loads of four outputs. */
INLINE void few_int8_sums(const int R, const uint8_t *x, int64_t inputs, const char *panel, int64_t count, float *y,
                          int64_t stride, const char *next) {
  for (int64_t o = 0; o < count; o += 4) {
    __m512i sum[FEW_ROWS][4];
    const char *at[4];
    for (int j = 0; j < 4; j++) at[j] = panel + (o + j < count ? o + j : count - 1) * inputs;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) sum[r][j] = _mm512_setzero_si512();
    for (int64_t k = 0; k < inputs; k += 64) {
      const __mmask64 mask = inputs - k < 64 ? (1ull << (inputs - k)) - 1 : ~0ull;
      __m512i w[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        w[j] = _mm512_maskz_loadu_epi8(mask, at[j] + k);
        __builtin_prefetch(next + (o + j) * inputs + k, 0, 2);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m512i numbers = _mm512_loadu_si512(x + r * padded(inputs) + k);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[r][j] = _mm512_dpbusd_epi32(sum[r][j], numbers, w[j]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
      _mm_storeu_si128((__m128i *)(y + r * stride + o), sum_of_lanes(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
  }
}

/* The sums of few rows with a pair of panels */
static void few_row_sums(const product *p, const panel_pair *u, int rows, const uint8_t *bytes, float *y,
                         next_weights next) {
  const int64_t stride = u->second ? 2 * PANEL : PANEL;
  for (int i = 0; i <= !!u->second; i++) {
    const int64_t left = u->of[i]->outputs - u->output[i], count = left < PANEL ? left : PANEL;
    const char *panel = i ? u->second : u->first;
    if (rows == 1) {
      multiply_int8_row_in_order(bytes, p->inputs, panel, count, y + i * PANEL, i || !u->second ? next.first : u->second);
      continue;
    }
#define CASE(N)                                                                                                          \
  case N: few_int8_sums(N, bytes, p->inputs, panel, count, y + i * PANEL, stride, i ? next.second : next.first); break;
    switch (rows) { CASE(2) CASE(3) CASE(4) }
#undef CASE
  }
}

/* Some inputs of int8 weights of `count` outputs, which lie `stride` inputs apart, as fours */
INLINE void unpack_fours(const char *from, int64_t stride, int64_t count, int64_t inputs, char *to) {
  for (int64_t o = 0; o < PANEL; o += LANES)
    for (int64_t k = 0; k < inputs; k += 64)
      transpose_words(from + o * stride + k, stride, count - o, inputs - k, (uint32_t *)to + k / 4 * PANEL + o, PANEL);
}

/* Unpacks some inputs, from `from` on, of one of a pair of panels. */
static void unpack(const panel_pair *u, int which, int64_t from, int64_t inputs, int64_t stride, char *to) {
  const char *panel = which ? u->second : u->first;
  unpack_fours(panel + from, stride, u->of[which]->outputs - u->output[which], inputs, to);
}

#ifdef HAS_TILES
/* y [rows, stride] (+)= the int32 sums of up to TILE_BLOCK rows of bytes with a part of a panel that is unpacked, and whole
   tiles. `lines` cache lines from `ahead` on are read next. */
TILE_CODE static void multiply_bytes_by_tiles(const uint8_t *x, int64_t width, int rows, const char *panel, int64_t inputs,
                                              float *y, int64_t stride, int adds_up, const char *ahead, int64_t lines) {
  const int64_t y_bytes = stride * (int64_t)sizeof(int32_t), per_step = ceil_div(lines, inputs / TILE_BYTES);
  if (configured_rows != rows) configure_tiles(rows);
  MEMORY_IS_WRITTEN();
#define BEGIN(tile, at)                       \
  if (adds_up) TILE_LOAD(tile, (at), y_bytes); \
  else TILE_ZERO(tile);
  BEGIN(0, y)
  BEGIN(1, y + LANES)
  if (rows > 16) {
    BEGIN(2, y + 16 * stride)
    BEGIN(3, y + 16 * stride + LANES)
  }
#undef BEGIN
  for (int64_t i = 0; i < inputs; i += TILE_BYTES, panel += TILE_BYTES * PANEL) {
    for (int64_t l = 0; l < per_step && lines > 0; l++, lines--, ahead += CACHE_LINE) __builtin_prefetch(ahead, 0, 2);
    TILE_LOAD(6, panel, 4 * PANEL);
    TILE_LOAD(4, x + i, width);
    TILE_LOAD(7, panel + 4 * LANES, 4 * PANEL);
    TILE_MULTIPLY_ADD_BYTES(0, 4, 6);
    TILE_MULTIPLY_ADD_BYTES(1, 4, 7);
    if (rows <= 16) continue;
    TILE_LOAD(5, x + 16 * width + i, width);
    TILE_MULTIPLY_ADD_BYTES(2, 5, 6);
    TILE_MULTIPLY_ADD_BYTES(3, 5, 7);
  }
  TILE_STORE(0, y, y_bytes);
  TILE_STORE(1, y + LANES, y_bytes);
  if (rows > 16) {
    TILE_STORE(2, y + 16 * stride, y_bytes);
    TILE_STORE(3, y + 16 * stride + LANES, y_bytes);
  }
  MEMORY_IS_WRITTEN();
}

/* As int8_sums, of rows in bytes by tiles */
static void byte_sums_by_tiles(const product *p, const panel_pair *u, int64_t row, int64_t rows, char *panels, float *y,
                               next_weights next) {
  const int64_t inputs = p->inputs, width = u->second ? 2 * PANEL : PANEL, blocks = ceil_div(rows, TILE_BLOCK);
  const int64_t ahead = ceil_div(next.lines, blocks * ceil_div(inputs, UNPACKED_INPUTS)); /* prefetched in each block */
  const uint8_t *bytes = p->workspace->bytes + row * padded(inputs);
  char *second = panels + PANEL * UNPACKED_INPUTS;
  int64_t left = next.lines;
  for (int64_t k = 0; k < inputs; k += UNPACKED_INPUTS) {
    const int64_t some = inputs - k < UNPACKED_INPUTS ? inputs - k : UNPACKED_INPUTS;
    for (int i = 0; i <= !!u->second; i++) unpack(u, i, k, some, inputs, i ? second : panels);
    for (int64_t r = 0; r < rows; r += TILE_BLOCK, left -= ahead, next.first += ahead * CACHE_LINE,
                 next.second += ahead * CACHE_LINE) {
      const int count = rows - r < TILE_BLOCK ? (int)(rows - r) : TILE_BLOCK;
      const int64_t lines = left < 0 ? 0 : left < ahead ? left : ahead;
      for (int i = 0; i <= !!u->second; i++)
        multiply_bytes_by_tiles(bytes + r * padded(inputs) + k, padded(inputs), count, i ? second : panels, padded(some),
                                y + r * width + i * PANEL, width, k > 0, i ? next.second : next.first, lines);
    }
  }
}
#endif

/* y [rows, panels * PANEL]: the int32 sums of `rows` rows in bytes, from `row` on, with a pair of panels: each part of a panel
   is unpacked, and multiplied by all rows while it is in the cache. */
static void int8_sums(const product *p, const panel_pair *u, int64_t row, int64_t rows, char *panels, float *y,
                      next_weights next) {
  const int64_t inputs = p->inputs, width = u->second ? 2 * PANEL : PANEL, tiles = ceil_div(rows, REGISTER_ROWS);
  const uint8_t *bytes = p->workspace->bytes + row * padded(inputs);
  const int64_t ahead = ceil_div(next.lines, tiles * ceil_div(inputs, UNPACKED_INPUTS)) * CACHE_LINE; /* in each tile */
  const char *end = next.first + next.lines * CACHE_LINE;
  char *second = panels + PANEL * UNPACKED_INPUTS;
  for (int64_t k = 0; k < inputs; k += UNPACKED_INPUTS) {
    const int64_t some = inputs - k < UNPACKED_INPUTS ? inputs - k : UNPACKED_INPUTS, steps = ceil_div(some, 4);
    register_tile tile = {.stride = padded(inputs), .steps = steps, .panel = panels, .second = u->second ? second : 0,
                          .lines = ceil_div(ahead / CACHE_LINE, steps / 4 + 1), .adds_up = k > 0};
    for (int i = 0; i <= !!u->second; i++) unpack(u, i, k, some, inputs, i ? second : panels);
    for (int64_t s = 0, r = 0; s < tiles; s++, next.first += ahead, next.second += ahead) {
      const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
      tile.x = bytes + r * padded(inputs) + k;
      tile.y = y + r * width;
      tile.ahead = next.first, tile.also = next.second;
      tile.end = next.first + ahead < end ? next.first + ahead : end;
      multiply_register_tile_u8((int)count, &tile);
      r += count;
    }
  }
}

/* y [rows, panels * PANEL] of a pair of panels and `rows` rows, from `row` on, not yet scaled and without biases: int32
   where rows are bytes */
BETWEEN_UNITS void quantized_sums(const product *p, const panel_pair *u, int64_t row, int64_t rows, char *panels, float *y,
                                  next_weights next);
#if IS_IN(SHARED)
BETWEEN_UNITS void quantized_sums(const product *p, const panel_pair *u, int64_t row, int64_t rows, char *panels, float *y,
                           next_weights next) {
  const bf16 *x = (const bf16 *)p->x + row * p->inputs;
#ifdef HAS_TILES
  if (u->of[0]->kind == FOUR_BIT && has_blocks_in_tile_order(u->of[0])) {
    four_bit_sums_in_tile_order(p, u, x, rows, panels, y, next);
    return;
  }
#endif
  if (u->of[0]->kind == FOUR_BIT) four_bit_sums(p, u, x, rows, y, next);
  else if (rows <= FEW_ROWS)
    few_row_sums(p, u, (int)rows, p->workspace->bytes + row * padded(p->inputs), y, next);
#ifdef HAS_TILES
  else if (u->of[0]->tile_rows && rows >= u->of[0]->tile_rows)
    byte_sums_by_tiles(p, u, row, rows, panels, y, next);
#endif
  else int8_sums(p, u, row, rows, panels, y, next);
}
#endif

/* Biases of FOUR_BIT are added to sums that are rounded, as the library does */
static void add_biases(const panel_pair *u, int64_t rows, float *y) {
  const int panels = u->second ? 2 : 1;
  for (int v = 0; v < panels * PANEL_VECS; v++) {
    const bf16 *bias = u->of[v / PANEL_VECS]->bias;
    if (!bias) continue;
    const __m512 added = load_16_bf16(bias + u->output[v / PANEL_VECS] + v % PANEL_VECS * VEC_FLOATS);
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * PANEL_VECS + v) * VEC_FLOATS;
      _mm512_storeu_ps(at, _mm512_add_ps(round_16_bf16(_mm512_loadu_ps(at)), added));
    }
  }
}
