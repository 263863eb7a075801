/* Rows as they are multiplied by weights that are numbers, for one number format (T, PACK, NAME: see kernels.c). Where no
   instruction multiplies bfloat16, each thread widens a block of rows once for all of its tasks with it: widened again in
   every register tile they would take as long as the products. Weights are widened there, since a weight that is
   stored in 32 bits takes twice as long to read. */

#ifndef OPERANDS
#define OPERANDS
/* Allocates memory for the rows of a task of each thread, of products with at most so many rows and inputs: row_blocks
   divides them. Returns 0 where there is none. */
static int allocate_wide_rows(product_workspace *w, int64_t rows, int64_t inputs, int threads) {
  int64_t most = CACHED_ROW_BYTES / (inputs * (int64_t)sizeof(float));
  if (most < 2 * MIN_ROW_BLOCK) most = 2 * MIN_ROW_BLOCK;
  if (most > rows) most = rows;
  w->wide_numbers = ceil_div((most + 2 * REGISTER_ROWS) * inputs, CACHE_LINE) * CACHE_LINE;
  w->wide_rows = aligned_alloc(CACHE_LINE, threads * w->wide_numbers * sizeof(float));
  return w->wide_rows != 0;
}
#endif

#if IS_WIDENED
/* Widens some rows of a product for this thread. */
static void NAME(widen_rows)(const product *p, int64_t row, int64_t rows) {
  float *to = p->workspace->wide_rows + omp_get_thread_num() * p->workspace->wide_numbers;
  const T *x = (const T *)p->x + row * p->inputs;
#pragma omp simd
  for (int64_t i = 0; i < rows * p->inputs; i++) to[i] = NAME(to_float)(x[i]);
}

/* Widens a block of a product's rows. */
static void NAME(widen_block)(const product *p, int64_t block) {
  const int64_t row = block * p->row_block, rows = p->rows - row < p->row_block ? p->rows - row : p->row_block;
  NAME(widen_rows)(p, row, rows);
}
#endif

/* Row r of those of a task, which begin at `row` */
INLINE const NAME(operand) *NAME(operands_of)(const product *p, int64_t row, int64_t r) {
#if IS_WIDENED
  (void)row;
  return p->workspace->wide_rows + omp_get_thread_num() * p->workspace->wide_numbers + r * p->inputs;
#else
  return (const T *)p->x + (row + r) * p->inputs;
#endif
}
