/* Sums with quantized weights, read as bitsandbytes or torchao holds them. 4-bit weights are looked up anew for each strip
   of rows: that is hidden behind the products, and storing them would not be. Of bytes a stretch of a panel is unpacked
   into the cache, multiplied by all rows of a task, and left behind; few rows are multiplied as the weights are read.
   The arithmetic is the library's own, step by step, so that the results are its results. */

#define SEGMENT 1024 /* inputs of a panel that are unpacked at a time as bytes; as pairs half as many */
#define FEW 4        /* rows that bytes are multiplied by without being unpacked */
#define SUMS (MOST_ROWS * AT_ONCE * PANEL)
#define OWN_ROOM (AT_ONCE * PANEL * SEGMENT + 2 * SUMS * 4) /* as in pass_memory.py */

/* Bytes of a row that is quantized, filled up to whole registers */
INLINE int64_t padded(int64_t inputs) { return parts_of(inputs, LINE) * LINE; }

INLINE __mmask16 lanes(int64_t left) { return left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0; }

/* Takes what products of so many rows and inputs at most work in out of the room: see quantized_room_bytes. */
static workroom workroom_of(char **room, int64_t rows, int64_t inputs, int threads) {
  const int64_t width = padded(inputs);
  workroom w;
  w.bytes = carve(room, rows * width);
  w.marks = carve(room, width);
  w.tops = carve(room, rows * sizeof(float));
  w.columns = carve(room, width * sizeof(int32_t));
  w.outliers = carve(room, LINE);
  w.own = carve(room, threads * OWN_ROOM);
  memset(w.marks, 0, width);
  return w;
}

/* Lines of what is multiplied next, as much of each stream at a time */
typedef struct {
  const char *at, *also;
  int64_t each;
} tide;

/* out [16 words][16 rows], `step` words apart, of 64 bytes of each of 16 rows; 0 where there is no row or no byte */
INLINE void deal(const void *rows, int64_t stride, int64_t count, int64_t bytes, uint32_t *out, int64_t step) {
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

/* The sums of the four lines of 16 */
INLINE __m128i gather(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* y [R, stride] = the int32 sums of R quantized rows x with so many outputs of a panel of bytes, as it is held */
INLINE void few_by_bytes(const int R, const uint8_t *x, int64_t inputs, const char *panel, int64_t count, float *y,
                         int64_t stride, const char *next) {
  for (int64_t o = 0; o < count; o += 4) {
    __m512i sum[FEW][4];
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
      _mm_storeu_si128((__m128i *)(y + r * stride + o), gather(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
  }
}

static void sums_of_few(const product *p, const unit *u, int rows, const uint8_t *bytes, float *y, tide next) {
  const int64_t stride = u->second ? 2 * PANEL : PANEL;
  for (int i = 0; i <= !!u->second; i++) {
    const int64_t left = u->of[i]->outputs - u->output[i];
#define CASE(N)                                                                                         \
  case N:                                                                                               \
    few_by_bytes(N, bytes, p->inputs, i ? u->second : u->panel, left < PANEL ? left : PANEL, y + i * PANEL, \
                 stride, i ? next.also : next.at);                                                      \
    break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
  }
}

/* 4 bits. 32 bytes hold a pair of inputs of 32 outputs: those of the first 16 in their lower halves. `table` is there
   twice, so that the upper half of a byte does not matter where the lower one is looked up. */
INLINE void look_up(const char *bytes, __m512i table, __m512i *first, __m512i *second) {
  const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
  *first = _mm512_permutexvar_epi16(both, table);
  *second = _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
}

/* Where a product with 4-bit weights is */
typedef struct {
  const bf16 *x;
  const char *panels[2];
  const bf16 *scales[2];
  int64_t inputs, outputs, steps, blocks, lines; /* of a block: steps, and lines that are asked for meanwhile */
  tide next;
} reading;

/* y [R, stride] = sums of R rows and a panel or two of 4-bit weights. The sums of a block are multiplied by its scale and
   added to those before, which stay in the registers, too: so there are half as many rows or panels as elsewhere. */
INLINE void looked_up(const int R, const int P, reading at, const void *const *tables, float *y, int64_t stride) {
  __m512i table[2];
  __m512 total[ROWS][2 * VECS];
#pragma GCC unroll 2
  for (int i = 0; i < P; i++) table[i] = _mm512_loadu_si512(tables[i]);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) total[r][v] = _mm512_setzero_ps();
  do {
    __asm__ volatile("" : : "r"(&at) : "memory"); /* what a block does not need stays out of its registers */
    const bf16 *x = at.x;
    const char *panel = at.panels[0], *second = at.panels[1];
    const int64_t inputs = at.inputs, steps = at.steps;
    vec sum[ROWS][2 * VECS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < P * VECS; v++) sum[r][v] = (vec){0};
#pragma GCC unroll 2
    for (int64_t s = 0; s < steps; s++) {
      __m512i w[2 * VECS];
      look_up(panel + s * PANEL, table[0], w, w + 1);
      if (P == 2) look_up(second + s * PANEL, table[1], w + 2, w + 3);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const words number = spread_bf16(x + r * inputs + 2 * s);
#pragma GCC unroll 4
        for (int v = 0; v < P * VECS; v++) sum[r][v] = dot_bf16(sum[r][v], number, (words)w[v]);
      }
    }
    __asm__ volatile("" : : "r"(&at) : "memory");
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) {
      const __m512 scale = up_16_bf16(at.scales[v / VECS] + v % VECS * WIDE);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) total[r][v] = _mm512_fmadd_ps((__m512)sum[r][v], scale, total[r][v]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < P; i++) at.panels[i] += at.steps * PANEL, at.scales[i] += at.outputs;
    for (int64_t i = 0; i < at.lines && at.next.each; i++, at.next.each--, at.next.at += LINE, at.next.also += LINE) {
      __builtin_prefetch(at.next.at, 0, 2);
      if (P == 2) __builtin_prefetch(at.next.also, 0, 2);
    }
    at.x += 2 * at.steps;
  } while (--at.blocks);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) _mm512_storeu_ps(y + r * stride + v * WIDE, total[r][v]);
}

/* y [rows, panels * PANEL] of a unit of 4-bit weights */
static void four_bit_sums(const product *p, const unit *u, const bf16 *x, int64_t rows, float *y, tide next) {
  const int64_t strips = parts_of(rows, ROWS), stride = u->second ? 2 * PANEL : PANEL, blocks = p->inputs / u->of[0]->block;
  const void *tables[2] = {u->of[0]->more, u->of[1]->more};
  reading at = {x, {u->panel, u->second}, {0}, p->inputs, u->of[0]->outputs, u->of[0]->block / 2, blocks};
  for (int i = 0; i < 2; i++) at.scales[i] = (const bf16 *)u->of[i]->scale + u->output[i];
  const int64_t per_strip = parts_of(next.each, strips);
  at.lines = parts_of(per_strip, blocks), at.next = next;
  for (int64_t s = 0, r = 0; s < strips; s++) {
    const int64_t count = parts_of(rows - r, strips - s), left = next.each - s * per_strip; /* about equally many in each */
    at.next.each = left < 0 ? 0 : left < per_strip ? left : per_strip;
    reading second = at;
    second.panels[0] = at.panels[1], second.scales[0] = at.scales[1], second.next.at = at.next.also;
#define CASE(N)                                                                                          \
  case N:                                                                                                \
    if (2 * N <= ROWS && u->second) looked_up(N, 2 * N <= ROWS ? 2 : 1, at, tables, y, stride);          \
    else {                                                                                               \
      looked_up(N, 1, at, tables, y, stride);                                                            \
      if (u->second) looked_up(N, 1, second, tables + 1, y + PANEL, stride);                             \
    }                                                                                                    \
    break;
    switch (count) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
    r += count, y += count * stride, at.x += count * p->inputs;
    at.next.at += per_strip * LINE, at.next.also += per_strip * LINE;
  }
}

/* A stretch of int8 weights of `count` outputs, `stride` inputs apart, as fours */
INLINE void unpack_fours(const char *from, int64_t stride, int64_t count, int64_t inputs, char *to) {
  for (int64_t o = 0; o < PANEL; o += LANES)
    for (int64_t k = 0; k < inputs; k += 64)
      deal(from + o * stride + k, stride, count - o, inputs - k, (uint32_t *)to + k / 4 * PANEL + o, PANEL);
}

/* A stretch of int8 weights as pairs of bfloat16: they are exact */
INLINE void unpack_bytes(const char *from, int64_t stride, int64_t inputs, char *to) {
  for (int64_t o = 0; o < PANEL; o += LANES)
    for (int64_t k = 0; k < inputs; k += 64) {
      uint32_t fours[16][LANES];
      deal(from + o * stride + k, stride, LANES, inputs - k, fours[0], LANES);
      for (int64_t q = 0; q < 16 && k + 4 * q < inputs; q++) {
        const __m512i x = _mm512_loadu_si512(fours[q]);
        bf16 *at = (bf16 *)to + (k + 4 * q) * PANEL + o * 2;
        __m512i v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
          v[i] = (__m512i)_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * i), 24));
        _mm512_storeu_si512(at, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(v[0], 16), v[1]));
        _mm512_storeu_si512(at + 2 * PANEL, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(v[2], 16), v[3]));
      }
    }
}

/* A stretch of a unit's panel of bytes, from an input on */
static void unpack(const unit *u, int which, int64_t from, int64_t inputs, int64_t of_all, char *to) {
  const matrix *m = u->of[which];
  const char *panel = which ? u->second : u->panel;
  if (m->kind == ROW_INT8) unpack_fours(panel + from, of_all, m->outputs - u->output[which], inputs, to);
  else unpack_bytes(panel + from, of_all, inputs, to);
}

/* y [rows, panels * PANEL] of a unit and rows from one on, without what comes behind: int32 of ROW_INT8 */
static void quantized_sums(const product *p, const unit *u, int64_t row, int64_t rows, char *panels, float *y, tide next) {
  const matrix *m = u->of[0];
  const int64_t inputs = p->inputs, width = u->second ? 2 * PANEL : PANEL;
  const int by_bytes = m->kind == ROW_INT8;
  const bf16 *x = (const bf16 *)p->x + row * inputs;
  const uint8_t *bytes = p->room->bytes + row * padded(inputs);
  if (rows <= FEW && by_bytes) {
    sums_of_few(p, u, (int)rows, bytes, y, next);
    return;
  }
  if (m->kind == FOUR_BIT) {
    four_bit_sums(p, u, x, rows, y, next);
    return;
  }
  const int64_t most = SEGMENT / (by_bytes ? 1 : 2), strips = parts_of(rows, ROWS);
  const int64_t per_call = parts_of(next.each, strips * parts_of(inputs, most)) * LINE;
  const char *end = next.at + next.each * LINE;
  char *second = panels + PANEL * SEGMENT;
  for (int64_t k = 0; k < inputs; k += most) {
    const int64_t some = inputs - k < most ? inputs - k : most, steps = parts_of(some, by_bytes ? 4 : 2);
    strip one = {.stride = by_bytes ? padded(inputs) : inputs, .steps = steps,
                 .lines = parts_of(per_call / LINE, steps / 4 + 1)};
    one.panel = panels, one.second = u->second ? second : 0, one.goes_on = k > 0;
    for (int i = 0; i <= !!u->second; i++) unpack(u, i, k, some, inputs, i ? second : panels);
    for (int64_t s = 0, r = 0; s < strips; s++, next.at += per_call, next.also += per_call) {
      const int64_t count = parts_of(rows - r, strips - s); /* about equally many in each */
      one.y = y + r * width;
      one.ahead = next.at, one.also = next.also, one.end = next.at + per_call < end ? next.at + per_call : end;
      if (by_bytes) {
        one.x = bytes + r * padded(inputs) + k;
        multiply_strip_u8((int)count, &one);
      } else {
        one.x = x + r * inputs + k;
        multiply_strip_bf16((int)count, &one);
      }
      r += count;
    }
  }
}

/* What comes behind the sums of FOUR_BIT and WEIGHT_INT8, rounded each time as the libraries do */
static void finish_pairs(const unit *u, int64_t rows, float *y) {
  const int panels = u->second ? 2 : 1;
  for (int v = 0; v < panels * VECS; v++) {
    const matrix *m = u->of[v / VECS];
    const int64_t output = u->output[v / VECS] + v % VECS * WIDE;
    const int is_scaled = m->kind == WEIGHT_INT8;
    if (!is_scaled && !m->bias) continue;
    const __m512 scale = is_scaled ? up_16_bf16((const bf16 *)m->scale + output) : _mm512_set1_ps(1);
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * VECS + v) * WIDE;
      __m512 x = round_16_bf16(_mm512_loadu_ps(at));
      if (is_scaled) x = _mm512_mul_ps(x, scale);
      if (m->bias) {
        if (is_scaled) x = round_16_bf16(x);
        x = _mm512_add_ps(x, up_16_bf16((const bf16 *)m->bias + output));
      }
      _mm512_storeu_ps(at, x);
    }
  }
}
