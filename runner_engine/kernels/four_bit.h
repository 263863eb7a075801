/* Sums with 4-bit weights. The weights are looked up again for each tile of rows: the processor does that beside the
   products, but it could not hide the time for storing them. 32 bytes hold a pair of inputs of 32 outputs: those of the
   first 16 in their lower halves. */

#ifndef FOUR_BIT_REACH
#define FOUR_BIT_REACH 4096 /* bytes of a panel that a single row prefetches ahead */
#endif

/* How far a product with 4-bit weights has come */
typedef struct {
  const bf16 *x;
  const char *panels[2];
  const bf16 *scales[2];
  int64_t inputs, outputs, blocks; /* blocks: how many are left */
  int64_t steps, lines;            /* of a block: steps, and cache lines that are prefetched meanwhile */
  next_weights next;
  const char *ahead[2]; /* what a single row prefetches during a block, as far as the block reads */
} four_bit_cursor;

/* sum [R, P panels] = the products of a block of inputs, without its scale */
INLINE void four_bit_block(const int R, const int P, const four_bit_cursor *at, const __m512i *table,
                           vec sum[][2 * PANEL_VECS]) {
  const bf16 *x = at->x;
  const char *panel = at->panels[0], *second = at->panels[1], *ahead = at->ahead[0], *also = at->ahead[1];
  const int64_t inputs = at->inputs, steps = at->steps;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) sum[r][v] = (vec){0};
#pragma GCC unroll 2
  for (int64_t s = 0; s < steps; s++) {
    __m512i w[2 * PANEL_VECS];
    look_up_four_bit(panel + s * PANEL, table[0], w, w + 1);
    if (P == 2) look_up_four_bit(second + s * PANEL, table[1], w + 2, w + 3);
    if (R == 1 && s % 2 == 0) {
      __builtin_prefetch(ahead + s * PANEL, 0, 2);
      if (P == 2) __builtin_prefetch(also + s * PANEL, 0, 2);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const words number = broadcast_bf16(x + r * inputs + 2 * s);
#pragma GCC unroll 4
      for (int v = 0; v < P * PANEL_VECS; v++) sum[r][v] = dot_bf16(sum[r][v], number, (words)w[v]);
    }
  }
}

/* A single row goes through a panel once, and so waits for memory: the panel is prefetched a little ahead of where it is
   read, and the next one only near the end (as stream_panels does). */
INLINE void look_ahead_in_panel(const int P, four_bit_cursor *at) {
  const int64_t size = at->steps * PANEL, blocks = ceil_div(FOUR_BIT_REACH, size);
  const char *const next[2] = {at->next.first, at->next.second};
#pragma GCC unroll 2
  for (int i = 0; i < P; i++)
    at->ahead[i] = at->blocks > blocks ? at->panels[i] + blocks * size : next[i] + (blocks - at->blocks) * size;
}

/* Moves to the next block of inputs, and prefetches some of what is multiplied next. */
INLINE void next_four_bit_block(const int P, four_bit_cursor *at) {
#pragma GCC unroll 2
  for (int i = 0; i < P; i++) at->panels[i] += at->steps * PANEL, at->scales[i] += at->outputs;
  for (int64_t i = 0; i < at->lines && at->next.lines; i++, at->next.lines--) {
    __builtin_prefetch(at->next.first, 0, 2);
    if (P == 2) __builtin_prefetch(at->next.second, 0, 2);
    at->next.first += CACHE_LINE, at->next.second += CACHE_LINE;
  }
  at->x += 2 * at->steps;
}

/* y [R, stride] = sums of R rows and a panel or two of 4-bit weights. The sums of a block are multiplied by its scale
   and added to those before. These stay in the registers, too: a tile has half as many rows or panels as elsewhere. */
INLINE void four_bit_tile(const int R, const int P, four_bit_cursor at, const void *const *tables, float *y,
                          int64_t stride) {
  __m512i table[2];
  __m512 total[REGISTER_ROWS][2 * PANEL_VECS];
#pragma GCC unroll 2
  for (int i = 0; i < P; i++) table[i] = _mm512_loadu_si512(tables[i]);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) total[r][v] = _mm512_setzero_ps();
  do {
    vec sum[REGISTER_ROWS][2 * PANEL_VECS];
    if (R == 1) look_ahead_in_panel(P, &at);
    __asm__ volatile("" : : "r"(&at) : "memory"); /* what a block does not need stays out of its registers */
    four_bit_block(R, P, &at, table, sum);
    __asm__ volatile("" : : "r"(&at) : "memory");
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) {
      const __m512 scale = load_16_bf16(at.scales[v / PANEL_VECS] + v % PANEL_VECS * VEC_FLOATS);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) total[r][v] = _mm512_fmadd_ps((__m512)sum[r][v], scale, total[r][v]);
    }
    next_four_bit_block(P, &at);
  } while (--at.blocks);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * PANEL_VECS; v++) _mm512_storeu_ps(y + r * stride + v * VEC_FLOATS, total[r][v]);
}

/* y [rows, panels * PANEL] of a pair of panels of 4-bit weights */
static void four_bit_sums(const product *p, const panel_pair *u, const bf16 *x, int64_t rows, float *y,
                          next_weights next) {
  const int64_t tiles = ceil_div(rows, REGISTER_ROWS), stride = u->second ? 2 * PANEL : PANEL;
  const int64_t blocks = p->inputs / u->of[0]->block, per_tile = ceil_div(next.lines, tiles);
  const void *tables[2] = {u->of[0]->constants, u->of[1]->constants};
  four_bit_cursor at = {.x = x, .panels = {u->first, u->second}, .inputs = p->inputs, .outputs = u->of[0]->outputs,
                        .blocks = blocks, .steps = u->of[0]->block / 2, .lines = ceil_div(per_tile, blocks),
                        .next = next};
  for (int i = 0; i < 2; i++) at.scales[i] = (const bf16 *)u->of[i]->scale + u->output[i];
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
    const int64_t left = next.lines - s * per_tile;
    at.next.lines = left < 0 ? 0 : left < per_tile ? left : per_tile;
    if (rows == 1) at.next.lines = 0; /* look_ahead_in_panel instead */
    four_bit_cursor second = at;
    second.panels[0] = at.panels[1], second.scales[0] = at.scales[1], second.next.first = at.next.second;
#define CASE(N)                                                                                                   \
  case N:                                                                                                         \
    if (2 * N <= REGISTER_ROWS && u->second) four_bit_tile(N, 2 * N <= REGISTER_ROWS ? 2 : 1, at, tables, y, stride); \
    else {                                                                                                        \
      four_bit_tile(N, 1, at, tables, y, stride);                                                                 \
      if (u->second) four_bit_tile(N, 1, second, tables + 1, y + PANEL, stride);                                  \
    }                                                                                                             \
    break;
    switch (count) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
    r += count, y += count * stride, at.x += count * p->inputs;
    at.next.first += per_tile * CACHE_LINE, at.next.second += per_tile * CACHE_LINE;
  }
}

#ifdef HAS_TILES
#define TILED_INPUTS (UNPACKED_INPUTS / 2) /* of 4-bit weights that are unpacked at a time for tiles: whole blocks */

/* Whether the sums of blocks are in the order of tiles */
INLINE int has_blocks_in_tile_order(const matrix *m) {
  return m->tile_rows && m->block % TILE_INPUTS == 0 && TILED_INPUTS % m->block == 0;
}

/* to [inputs / 2, PANEL, 2]: the values of some inputs of a panel, without their scales */
static void unpack_four_bit(const char *codes, int64_t inputs, __m512i table, bf16 *to) {
  for (int64_t s = 0; s < inputs / 2; s++, codes += PANEL, to += 2 * PANEL) {
    __m512i first, second;
    look_up_four_bit(codes, table, &first, &second);
    _mm512_storeu_si512(to, first);
    _mm512_storeu_si512(to + 2 * LANES, second);
  }
}

/* y [rows, stride] (+)= the sums [rows, PANEL] of a block, times its scale */
INLINE void add_scaled_block(const float *sums, const bf16 *scale, int64_t rows, int adds, float *y, int64_t stride) {
  const __m512 low = load_16_bf16(scale), high = load_16_bf16(scale + LANES);
  for (int64_t r = 0; r < rows; r++, sums += PANEL, y += stride) {
    const __m512 before = adds ? _mm512_loadu_ps(y) : _mm512_setzero_ps();
    const __m512 other = adds ? _mm512_loadu_ps(y + LANES) : _mm512_setzero_ps();
    _mm512_storeu_ps(y, _mm512_fmadd_ps(_mm512_loadu_ps(sums), low, before));
    _mm512_storeu_ps(y + LANES, _mm512_fmadd_ps(_mm512_loadu_ps(sums + LANES), high, other));
  }
}

/* The same as four_bit_sums, in the order of tiles; panels: memory for one that is unpacked */
static void four_bit_sums_in_tile_order(const product *p, const panel_pair *u, const bf16 *x, int64_t rows, char *panels,
                                        float *y, next_weights next) {
  const int64_t inputs = p->inputs, block = u->of[0]->block, width = u->second ? 2 * PANEL : PANEL;
  const int by_tiles = goes_by_tiles(p, u->of[0]);
  const unsigned before = begin_tile_order();
  float sums[TILE_BLOCK * PANEL] __attribute__((aligned(CACHE_LINE)));
  memory_range ranges[2];
  prefetch_queue queue = prefetch_weights(p, u, rows, by_tiles, next, ranges);
  for (int64_t k = 0; k < inputs; k += TILED_INPUTS) {
    const int64_t end = inputs - k < TILED_INPUTS ? inputs : k + TILED_INPUTS;
    for (int i = 0; i <= !!u->second; i++) {
      const char *codes = i ? u->second : u->first;
      const bf16 *scale = (const bf16 *)u->of[i]->scale + u->output[i];
      const __m512i table = _mm512_loadu_si512(u->of[i]->constants);
      bf16 *unpacked = (bf16 *)panels;
      if (by_tiles) unpack_four_bit(codes + k / 2 * PANEL, end - k, table, unpacked);
      for (int64_t r = 0, some; r < rows; r += some) {
        some = rows - r < TILE_BLOCK ? rows - r : TILE_BLOCK;
        if (!by_tiles) some = ceil_div(rows - r, ceil_div(rows - r, REGISTER_ROWS)); /* about equally many */
        for (int64_t at = k; at < end; at += block) {
          const panel_task task = {.x = x + r * inputs + at, .panel = unpacked + (at - k) * PANEL, .stride = inputs,
                                   .inputs = block, .rows = (int)some, .y = sums, .y_stride = PANEL, .next = &queue};
          if (by_tiles) multiply_by_tiles(&task);
          else {
#define MULTIPLY(R) multiply_in_tile_order(R, &task, codes + at / 2 * PANEL, table)
            FOR_ROWS(some, MULTIPLY)
#undef MULTIPLY
          }
          add_scaled_block(sums, scale + at / block * u->of[i]->outputs, some, at > 0, y + r * width + i * PANEL, width);
        }
      }
    }
  }
  end_tile_order(before);
}
#endif
