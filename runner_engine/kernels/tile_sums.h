/* Sums of products of bfloat16 by the tiles of AMX (tiles.h), and by vectors in the same order, bit for bit: so few rows may
   go by vectors and many by tiles, and no row's result depends on how many go along. Weights lie in panels as for all other
   products: each half of a panel, 16 outputs, is a tile as it lies. */

/* Some inputs of rows of x by those of one panel: sums y */
typedef struct {
  const bf16 *x, *panel;
  int64_t stride, inputs; /* of x: from row to row, and those that are multiplied */
  int rows, adds;         /* up to TILE_BLOCK, by vectors up to REGISTER_ROWS; adds: to the sums that are there, else from 0 */
  float *y;
  int64_t y_stride;
  prefetch_queue *next;
} panel_task;

/* Inputs are whole tiles. */
TILE_CODE static void multiply_by_tiles(const panel_task *of) {
  const bf16 *panel = of->panel, *upper = of->x, *lower = of->x + 16 * of->stride;
  const int64_t inputs = of->inputs, bytes = of->stride * (int64_t)sizeof(bf16);
  const int64_t y_bytes = of->y_stride * (int64_t)sizeof(float);
  float *y = of->y, *lower_y = y + 16 * of->y_stride;
  if (configured_rows != of->rows) configure_tiles(of->rows);
  MEMORY_IS_WRITTEN();
  if (of->adds) {
    TILE_LOAD(0, y, y_bytes);
    TILE_LOAD(1, y + 16, y_bytes);
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
  }
  if (of->rows > 16) {
    if (of->adds) {
      TILE_LOAD(2, lower_y, y_bytes);
      TILE_LOAD(3, lower_y + 16, y_bytes);
    } else {
      TILE_ZERO(2);
      TILE_ZERO(3);
    }
    for (int64_t i = 0; i < inputs; i += TILE_INPUTS, panel += TILE_INPUTS * PANEL) {
      prefetch_some(of->next);
      TILE_LOAD(6, panel, 2 * PANEL * sizeof(bf16));
      TILE_LOAD(4, upper + i, bytes);
      TILE_LOAD(7, panel + PANEL, 2 * PANEL * sizeof(bf16));
      TILE_LOAD(5, lower + i, bytes);
      TILE_MULTIPLY_ADD(0, 4, 6);
      TILE_MULTIPLY_ADD(1, 4, 7);
      TILE_MULTIPLY_ADD(2, 5, 6);
      TILE_MULTIPLY_ADD(3, 5, 7);
    }
    TILE_STORE(2, lower_y, y_bytes);
    TILE_STORE(3, lower_y + 16, y_bytes);
  } else {
    for (int64_t i = 0; i < inputs; i += TILE_INPUTS, panel += TILE_INPUTS * PANEL) {
      prefetch_some(of->next);
      TILE_LOAD(4, upper + i, bytes);
      TILE_LOAD(6, panel, 2 * PANEL * sizeof(bf16));
      TILE_LOAD(7, panel + PANEL, 2 * PANEL * sizeof(bf16));
      TILE_MULTIPLY_ADD(0, 4, 6);
      TILE_MULTIPLY_ADD(1, 4, 7);
    }
  }
  TILE_STORE(0, y, y_bytes);
  TILE_STORE(1, y + 16, y_bytes);
  MEMORY_IS_WRITTEN();
}

/* The same sums of R rows by vectors. Rows are widened, even and odd inputs apart, for 32 inputs at a time. codes: 0, or
   instead of the task's panel one of 4-bit weights, whose values are in `table`. */
INLINE void multiply_in_tile_order(const int R, const panel_task *of, const char *codes, __m512i table) {
  const bf16 *panel = of->panel;
  const __m512i upper_half = _mm512_set1_epi32((int)0xffff0000u);
  for (int r = 0; r < R && !of->adds; r++)
    for (int v = 0; v < PANEL_VECS; v++) _mm512_storeu_ps(of->y + r * of->y_stride + v * LANES, _mm512_setzero_ps());
  for (int64_t i = 0; i < of->inputs; i += TILE_INPUTS) {
    float even[REGISTER_ROWS][LANES], odd[REGISTER_ROWS][LANES];
    const int64_t pairs = of->inputs - i < TILE_INPUTS ? (of->inputs - i) / 2 : TILE_INPUTS / 2;
    const __mmask16 mask = (__mmask16)(0xffffu >> (LANES - pairs));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512i x = _mm512_maskz_loadu_epi32(mask, of->x + r * of->stride + i);
      _mm512_storeu_si512(even[r], _mm512_slli_epi32(x, 16));
      _mm512_storeu_si512(odd[r], _mm512_and_si512(x, upper_half));
    }
    prefetch_some(of->next);
    __m512 low[REGISTER_ROWS][PANEL_VECS], high[REGISTER_ROWS][PANEL_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECS; v++) low[r][v] = high[r][v] = _mm512_setzero_ps();
#pragma GCC unroll 2
    for (int64_t s = 0; s < pairs; s++) {
      __m512i w[PANEL_VECS];
      if (codes) look_up_four_bit(codes + (i / 2 + s) * PANEL, table, w, w + 1);
      else
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECS; v++) w[v] = _mm512_loadu_si512(panel + (i + 2 * s) * PANEL + 2 * LANES * v);
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECS; v++) {
        const __m512 first = (__m512)_mm512_slli_epi32(w[v], 16), second = (__m512)_mm512_and_si512(w[v], upper_half);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          low[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(even[r][s]), first, low[r][v]);
          high[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(odd[r][s]), second, high[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECS; v++) {
        float *at = of->y + r * of->y_stride + v * LANES;
        _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_add_ps(low[r][v], high[r][v])));
      }
  }
}

#define FOR_ROWS(R, DO)                                                                                     \
  switch (R) {                                                                                             \
  case 1: DO(1); break;                                                                                    \
  case 2: DO(2); break;                                                                                    \
  case 3: DO(3); break;                                                                                    \
  case 4: DO(4); break;                                                                                    \
  case 5: DO(5); break;                                                                                    \
  default: DO(REGISTER_ROWS);                                                                              \
  }

/* Between these two, numbers too small to be normal count as 0 for vectors, as they always do for tiles. */
INLINE unsigned begin_tile_order(void) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | ZERO_FOR_DENORMAL);
  MEMORY_IS_WRITTEN();
  return before;
}

INLINE void end_tile_order(unsigned before) {
  MEMORY_IS_WRITTEN();
  _mm_setcsr(before);
}

static __attribute__((noinline)) void multiply_by_vectors(const panel_task *of) {
#define MULTIPLY(R) multiply_in_tile_order(R, of, 0, _mm512_setzero_si512())
  FOR_ROWS(of->rows, MULTIPLY)
#undef MULTIPLY
}

/* Whether a product goes by tiles; else, where sums are in their order, by vectors */
INLINE int goes_by_tiles(const product *p, const matrix *m) {
  return p->rows >= m->tile_rows && p->inputs % TILE_INPUTS == 0;
}

/* y [rows, y_stride] (+)= the sums of some inputs of rows x by those of a panel or two; after begin_tile_order */
INLINE void sums_in_tile_order(const bf16 *const panels[2], const bf16 *x, int64_t stride, int64_t inputs, int64_t rows,
                               const int by_tiles, int adds, float *y, int64_t y_stride, prefetch_queue *next) {
  for (int second = 0; second < (panels[1] ? 2 : 1); second++)
    for (int64_t r = 0, some; r < rows; r += some) {
      some = rows - r < TILE_BLOCK ? rows - r : TILE_BLOCK;
      if (!by_tiles) some = ceil_div(rows - r, ceil_div(rows - r, REGISTER_ROWS)); /* about equally many */
      const panel_task task = {.x = x + r * stride, .panel = panels[second], .stride = stride, .inputs = inputs,
                               .rows = (int)some, .adds = adds, .y = y + r * y_stride + second * PANEL,
                               .y_stride = y_stride, .next = next};
      if (by_tiles) multiply_by_tiles(&task);
      else multiply_by_vectors(&task);
    }
}

/* The next weights, to be prefetched evenly while `rows` rows are multiplied by a pair of panels */
INLINE prefetch_queue prefetch_weights(const product *p, const panel_pair *u, int64_t rows, int by_tiles,
                                       next_weights next, memory_range ranges[2]) {
  const int64_t at_once = by_tiles ? TILE_BLOCK : REGISTER_ROWS;
  const int64_t steps = ceil_div(rows, at_once) * (u->second ? 2 : 1) * ceil_div(p->inputs, TILE_INPUTS);
  const int64_t bytes = next.lines * CACHE_LINE, lines = next.second == next.first ? next.lines : 2 * next.lines;
  ranges[0] = (memory_range){next.first, next.first + bytes}, ranges[1] = (memory_range){next.second, next.second + bytes};
  return (prefetch_queue){ranges->at, ceil_div(16 * lines, steps), 0, ceil_div(lines, next.lines ? next.lines : 1), ranges};
}
