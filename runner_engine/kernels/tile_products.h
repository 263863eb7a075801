/* Products of bfloat16 with plain weights by tiles or in their order (tile_sums.h), and whether tiles may be used here. */

#define TILE_STEPS 9      /* of a panel at a time: these and as many inputs of rows stay in the first-level cache */
#define TILE_SUM_ROWS 64  /* whose sums wait until all inputs are multiplied, in the first-level cache, too */

/* A pair of panels by rows: sums y [rows, 2 * PANEL]. Some inputs are multiplied by all rows before the next ones are, so
   that weights and rows are read from the first-level cache. */
static void pair_sums_by_tiles(const panel_pair *u, const bf16 *x, int64_t stride, int64_t rows, float *y,
                               prefetch_queue *next) {
  const int64_t at_once = TILE_STEPS * TILE_INPUTS;
  for (int64_t i = 0; i < stride; i += at_once) {
    const bf16 *const panels[2] = {(const bf16 *)u->first + i * PANEL, u->second ? (const bf16 *)u->second + i * PANEL : 0};
    sums_in_tile_order(panels, x + i, stride, stride - i < at_once ? stride - i : at_once, rows, 1, i > 0, y, 2 * PANEL, next);
  }
}

/* Multiplies a pair of panels by `rows` rows, from `row` on: by tiles where the product has enough rows, and then also
   those that fill no tile. */
static void multiply_pair_in_tile_order(const product *p, const panel_pair *u, int64_t row, int64_t rows,
                                        next_weights next) {
  float y[TILE_SUM_ROWS * 2 * PANEL] __attribute__((aligned(CACHE_LINE)));
  const bf16 *const panels[2] = {(const bf16 *)u->first, (const bf16 *)u->second};
  const int is_by_tiles = goes_by_tiles(p, u->of[0]);
  memory_range ranges[2];
  prefetch_queue queue = prefetch_weights(p, u, rows, is_by_tiles, next, ranges);
  const int64_t most = is_by_tiles ? TILE_SUM_ROWS : REGISTER_ROWS, parts = ceil_div(rows, most);
  for (int64_t r = 0, part = 0, some; r < rows; r += some, part++) {
    const bf16 *x = (const bf16 *)p->x + (row + r) * p->inputs;
    some = is_by_tiles ? (rows - r < most ? rows - r : most) : ceil_div(rows - r, parts - part); /* about equally many */
    const unsigned before = begin_tile_order();
    if (is_by_tiles) pair_sums_by_tiles(u, x, p->inputs, some, y, &queue);
    else sums_in_tile_order(panels, x, p->inputs, p->inputs, some, 0, 0, y, 2 * PANEL, &queue);
    end_tile_order(before);
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
  const unsigned before = begin_tile_order();
  for (int r = 0; r < 16; r += 4) {
    panel_task some = of;
    some.x = x + r * TILE_INPUTS, some.y = expected + r * PANEL, some.rows = 4;
    multiply_by_vectors(&some);
  }
  end_tile_order(before);
  return memcmp(y, expected, sizeof y) || !are_byte_sums_right() ? WRONG_TILE_SUMS : TILES_WORK;
}

/* Whether the system and the processor let this process use tiles, found out by doing it: a flag of the processor is
   no permission. To be called once, before other threads are started or with no other user of SIGILL. */
#if IS_IN(PRODUCTS_UNIT)
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
#endif
