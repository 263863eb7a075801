/* Products of bfloat16 by the tiles of AMX (tiles.h), and by vectors in the same order of sums, bit for bit: so few rows may
   go by vectors and many by tiles, and no row's result depends on how many go along. Weights lie in panels as for all other
   products: each half of a panel, 16 outputs, is a tile as it lies. */

#include "tiles.h"

#define TILE_STEPS 9      /* of a panel at a time: these and as many inputs of rows stay in the first-level cache */
#define TILE_SUM_ROWS 64  /* whose sums wait until all inputs are multiplied, in the first-level cache, too */

/* Some inputs of rows of x by those of one panel: sums y */
typedef struct {
  const bf16 *x, *panel;
  int64_t stride, inputs; /* of x: from row to row, and those that are multiplied */
  int rows, adds;         /* up to TILE_BLOCK; adds: to the sums that are there, else from 0 */
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

/* The same sums of R rows by vectors, from 0. Rows are widened, even and odd inputs apart, for 32 inputs at a time. */
INLINE void multiply_in_tile_order(const int R, const panel_task *of) {
  const bf16 *panel = of->panel;
  const __m512i upper_half = _mm512_set1_epi32((int)0xffff0000u);
  for (int r = 0; r < R; r++)
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
    for (int64_t s = 0; s < pairs; s++, panel += 2 * PANEL)
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECS; v++) {
        const __m512i w = _mm512_loadu_si512(panel + 2 * LANES * v);
        const __m512 first = (__m512)_mm512_slli_epi32(w, 16), second = (__m512)_mm512_and_si512(w, upper_half);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          low[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(even[r][s]), first, low[r][v]);
          high[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(odd[r][s]), second, high[r][v]);
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

static __attribute__((noinline)) void multiply_by_vectors(const panel_task *of) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | ZERO_FOR_DENORMAL);
  MEMORY_IS_WRITTEN();
  switch (of->rows) {
  case 1: multiply_in_tile_order(1, of); break;
  case 2: multiply_in_tile_order(2, of); break;
  case 3: multiply_in_tile_order(3, of); break;
  case 4: multiply_in_tile_order(4, of); break;
  case 5: multiply_in_tile_order(5, of); break;
  default: multiply_in_tile_order(REGISTER_ROWS, of);
  }
  MEMORY_IS_WRITTEN();
  _mm_setcsr(before);
}

/* A pair of panels by rows: sums y [rows, 2 * PANEL]. Some inputs are multiplied by all rows before the next ones are, so
   that weights and rows are read from the first-level cache. */
static void pair_sums_by_tiles(const panel_pair *u, const bf16 *x, int64_t stride, int64_t rows, float *y,
                               prefetch_queue *next) {
  const int64_t at_once = TILE_STEPS * TILE_INPUTS;
  for (int64_t i = 0; i < stride; i += at_once)
    for (int second = 0; second < (u->second ? 2 : 1); second++)
      for (int64_t r = 0; r < rows; r += TILE_BLOCK)
        multiply_by_tiles(&(panel_task){
            .x = x + r * stride + i, .panel = (const bf16 *)(second ? u->second : u->first) + i * PANEL, .stride = stride,
            .inputs = stride - i < at_once ? stride - i : at_once, .adds = i > 0, .y_stride = 2 * PANEL, .next = next,
            .rows = (int)(rows - r < TILE_BLOCK ? rows - r : TILE_BLOCK), .y = y + r * 2 * PANEL + second * PANEL});
}

/* The next weights, to be prefetched evenly while `rows` rows are multiplied by a pair of panels, `at_once` at a time */
INLINE prefetch_queue prefetch_weights(const product *p, const panel_pair *u, int64_t rows, int64_t at_once,
                                       next_weights next, memory_range ranges[2]) {
  const int64_t steps = ceil_div(rows, at_once) * (u->second ? 2 : 1) * ceil_div(p->inputs, TILE_INPUTS);
  const int64_t bytes = next.lines * CACHE_LINE, lines = next.second == next.first ? next.lines : 2 * next.lines;
  ranges[0] = (memory_range){next.first, next.first + bytes}, ranges[1] = (memory_range){next.second, next.second + bytes};
  return (prefetch_queue){ranges->at, ceil_div(16 * lines, steps), 0, ceil_div(lines, next.lines ? next.lines : 1), ranges};
}

/* Multiplies a pair of panels by `rows` rows, from `row` on: by tiles where the product has enough rows, and then also
   those that fill no tile. */
static void multiply_pair_in_tile_order(const product *p, const panel_pair *u, int64_t row, int64_t rows,
                                        next_weights next) {
  float y[TILE_SUM_ROWS * 2 * PANEL] __attribute__((aligned(CACHE_LINE)));
  const int is_by_tiles = p->rows >= u->of[0]->tile_rows && p->inputs % TILE_INPUTS == 0;
  memory_range ranges[2];
  prefetch_queue queue = prefetch_weights(p, u, rows, is_by_tiles ? TILE_BLOCK : REGISTER_ROWS, next, ranges);
  const int64_t most = is_by_tiles ? TILE_SUM_ROWS : REGISTER_ROWS, parts = ceil_div(rows, most);
  for (int64_t r = 0, part = 0, some; r < rows; r += some, part++) {
    const bf16 *x = (const bf16 *)p->x + (row + r) * p->inputs;
    some = is_by_tiles ? (rows - r < most ? rows - r : most) : ceil_div(rows - r, parts - part); /* about equally many */
    if (is_by_tiles) pair_sums_by_tiles(u, x, p->inputs, some, y, &queue);
    for (int second = 0; second < (u->second ? 2 : 1) && !is_by_tiles; second++)
      multiply_by_vectors(&(panel_task){.x = x, .panel = (const bf16 *)(second ? u->second : u->first),
                                        .stride = p->inputs, .inputs = p->inputs, .rows = (int)some,
                                        .y = y + second * PANEL, .y_stride = 2 * PANEL, .next = &queue});
    write_outputs_bf16(p, u, y, 2 * PANEL, y + PANEL, some, row + r);
  }
}

/* ------------------------------------------------------------------------------- whether the tiles may be used here */

enum { TILES_WORK, NO_TILE_CODE, NO_TILE_PERMISSION, NO_TILE_INSTRUCTIONS, WRONG_TILE_SUMS }; /* as in native.py */

static sigjmp_buf after_bad_instruction;
static void on_bad_instruction(int signal) { siglongjmp(after_bad_instruction, signal); }

/* Multiplies once by tiles. */
static int try_tiles(void) {
  bf16 x[16 * TILE_INPUTS], panel[TILE_INPUTS * PANEL];
  float y[16 * PANEL], expected[16 * PANEL];
  for (int i = 0; i < 16 * TILE_INPUTS; i++) x[i] = from_float_bf16((float)(i * 7 % 31 - 15));
  for (int i = 0; i < TILE_INPUTS * PANEL; i++) panel[i] = from_float_bf16((float)(i * 5 % 29 - 14));
  prefetch_queue nothing = {0};
  const panel_task of = {.x = x, .panel = panel, .stride = TILE_INPUTS, .inputs = TILE_INPUTS, .rows = 16, .y = y,
                         .y_stride = PANEL, .next = &nothing};
  multiply_by_tiles(&of);
  release_tiles();
  for (int r = 0; r < 16; r += 4) {
    panel_task some = of;
    some.x = x + r * TILE_INPUTS, some.y = expected + r * PANEL, some.rows = 4;
    multiply_by_vectors(&some);
  }
  return memcmp(y, expected, sizeof y) || !are_byte_sums_right() ? WRONG_TILE_SUMS : TILES_WORK;
}

/* Whether the system and the processor let this process use tiles, found out by doing it: a flag of the processor is
   no permission. To be called once, before other threads are started or with no other user of SIGILL. */
int64_t tiles_state(void) {
  struct sigaction ours = {0}, before;
  if (!TILE_PERMISSION()) return NO_TILE_PERMISSION;
  ours.sa_handler = on_bad_instruction;
  if (sigaction(SIGILL, &ours, &before)) return NO_TILE_PERMISSION;
  const int64_t state = sigsetjmp(after_bad_instruction, 1) ? NO_TILE_INSTRUCTIONS : try_tiles();
  sigaction(SIGILL, &before, 0);
  configured_rows = 0;
  return state;
}
