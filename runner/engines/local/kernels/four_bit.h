/* Sums with 4-bit weights. The weights are looked up again for each tile of rows: the processor does that beside the
   products, but it could not hide the time for storing them. 32 bytes hold a pair of inputs of 32 outputs: those of the
   first 16 in their lower halves. */

/* `table` holds the 16 values of the code twice, so that the upper half of a byte does not matter where the lower one
   is looked up. */
INLINE void look_up_four_bit(const char *bytes, __m512i table, __m512i *first, __m512i *second) {
  const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
  *first = _mm512_permutexvar_epi16(both, table);
  *second = _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
}

/* How far a product with 4-bit weights has come */
typedef struct {
  const bf16 *x;
  const char *panels[2];
  const bf16 *scales[2];
  int64_t inputs, outputs, blocks; /* blocks: how many are left */
  int64_t steps, lines;            /* of a block: steps, and cache lines that are prefetched meanwhile */
  next_weights next;
} four_bit_cursor;

/* sum [R, P panels] = the products of a block of inputs, without its scale */
INLINE void four_bit_block(const int R, const int P, const four_bit_cursor *at, const __m512i *table,
                           vec sum[][2 * PANEL_VECS]) {
  const bf16 *x = at->x;
  const char *panel = at->panels[0], *second = at->panels[1];
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
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const words number = broadcast_bf16(x + r * inputs + 2 * s);
#pragma GCC unroll 4
      for (int v = 0; v < P * PANEL_VECS; v++) sum[r][v] = dot_bf16(sum[r][v], number, (words)w[v]);
    }
  }
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
