/* Products of rows with a model's matrices (matrices.h), for one number format (T, PACK, NAME: see kernels.c). Sums are
   made in float32, or exactly of bytes, and rounded where torch's operations round. */

#ifdef HAS_AVX512
/* write_outputs for LANES sums */
INLINE void NAME(write_16_outputs)(int output_mode, const float *y, const float *second, const T *bias, T *out) {
  __m512 a = _mm512_loadu_ps(y);
  if (output_mode == GATED) {
    a = NAME(round_16)(a);
    a = NAME(round_16)(NAME(silu_16)(a));
    NAME(store_16)(out, _mm512_mul_ps(a, NAME(round_16)(_mm512_loadu_ps(second))));
    return;
  }
  if (bias) a = _mm512_add_ps(a, NAME(load_16)(bias));
  if (output_mode == ADD) a = _mm512_add_ps(NAME(load_16)(out), NAME(round_16)(a));
  NAME(store_16)(out, a);
}
#endif

#if PACK == 2 && defined(HAS_AVX512_BF16)
/* The same for twice as many sums without a bias: they are rounded two vectors at a time. What has to be widened is so as
   the first and the second numbers of pairs. */
INLINE void write_32_outputs(const int output_mode, const float *y, const float *second, bf16 *out) {
  const words a = to_32_bf16(y);
  if (output_mode == STORE) {
    memcpy(out, &a, sizeof a);
    return;
  }
  __m512 x[2];
  if (output_mode == ADD) {
    const words before = load_bf16(out);
    for (int half = 0; half < 2; half++) x[half] = (__m512)(half_of_pairs(before, half) + half_of_pairs(a, half));
  } else {
    for (int half = 0; half < 2; half++) x[half] = silu_16_bf16((__m512)half_of_pairs(a, half));
    const words gate = step_bf16(x), b = to_32_bf16(second);
    for (int half = 0; half < 2; half++) x[half] = (__m512)(half_of_pairs(gate, half) * half_of_pairs(b, half));
  }
  store_step_bf16(x, out);
}
#endif

#ifdef HAS_AVX512
/* write_outputs for whole vectors without a bias */
INLINE void NAME(write_vectors)(const int output_mode, const product *p, const panel_pair *u, const float *y,
                                int64_t y_stride, const float *second, int64_t rows, int64_t row) {
  T *out = (T *)p->out + row * p->stride + u->column;
  for (int64_t r = 0; r < rows; r++, y += y_stride, second += y_stride, out += p->stride) {
    int64_t o = 0;
#if PACK == 2 && defined(HAS_AVX512_BF16)
    for (; o + 2 * LANES <= u->width; o += 2 * LANES) write_32_outputs(output_mode, y + o, second + o, out + o);
#endif
    for (; o < u->width; o += LANES) NAME(write_16_outputs)(output_mode, y + o, second + o, 0, out + o);
  }
}
#endif

/* Writes the sums y [rows, width] of `rows` rows, from `row` on, to the product's output. */
INLINE void NAME(write_outputs)(const product *p, const panel_pair *u, float *y, int64_t y_stride, const float *second,
                                int64_t rows, int64_t row) {
  const matrix *m = u->of[0];
  const int has_own_bias = !is_plain(m) && m->kind != BLOCKS && m->kind != GROUPS && m->kind != FOUR_BIT_ROWS && !has_parted_rows(m);
  const T *bias = m->bias && !has_own_bias ? (const T *)m->bias + u->output[0] : 0;
#ifdef HAS_AVX512
  if (!bias && u->width % LANES == 0) {
    if (p->output_mode == STORE) NAME(write_vectors)(STORE, p, u, y, y_stride, second, rows, row);
    else if (p->output_mode == ADD) NAME(write_vectors)(ADD, p, u, y, y_stride, second, rows, row);
    else NAME(write_vectors)(GATED, p, u, y, y_stride, second, rows, row);
    return;
  }
#endif
  for (int64_t r = 0; r < rows; r++, y += y_stride) {
    T *out = (T *)p->out + (row + r) * p->stride + u->column;
    const float *b = second + r * y_stride;
    int64_t first = 0;
#ifdef HAS_AVX512
    for (; first + LANES <= u->width; first += LANES)
      NAME(write_16_outputs)(p->output_mode, y + first, b + first, bias ? bias + first : 0, out + first);
#endif
    if (p->output_mode == GATED) {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) {
        const float a = NAME(rounded)(y[o]), e = exp_fast(-fabsf(a));
        out[o] = NAME(from_float)(NAME(rounded)(a * (a < 0 ? e : 1.0f) / (1.0f + e)) * NAME(rounded)(b[o]));
      }
      continue;
    }
    if (bias)
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) y[o] += NAME(to_float)(bias[o]);
    if (p->output_mode == ADD) {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++)
        out[o] = NAME(from_float)(NAME(to_float)(out[o]) + NAME(rounded)(y[o]));
    } else {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) out[o] = NAME(from_float)(y[o]);
    }
  }
}

/* Multiplies a pair of panels of quantized weights by `rows` rows, from `row` on. */
static void NAME(multiply_quantized)(const product *p, const panel_pair *u, int64_t row, int64_t rows,
                                     next_weights next) {
  const int64_t stride = u->second ? 2 * PANEL : PANEL;
#ifdef HAS_AVX512_VNNI
  char *panels = p->workspace->thread_buffers + omp_get_thread_num() * THREAD_BUFFER_BYTES;
  float *y = (float *)(panels + PANELS_AT_ONCE * PANEL * UNPACKED_INPUTS);
  quantized_sums(p, u, row, rows, panels, y, next);
  if (u->of[0]->kind == FOUR_BIT) add_biases(u, rows, y);
  if (u->of[0]->kind == ROW_INT8) NAME(scale_int8_sums)(p, u, row, rows, y, y + MAX_SUMS);
#else
  float y[MAX_QUANTIZED_ROWS * 2 * PANEL] __attribute__((aligned(CACHE_LINE)));
#endif
  for (int i = 0; i <= !!u->second; i++) {
    const matrix *m = u->of[i];
#ifndef HAS_AVX512_VNNI
    const int64_t left = m->outputs - u->output[i];
    portable_sums(p->workspace->bytes + row * padded(p->inputs), rows, p->inputs, (const int8_t *)(i ? u->second : u->first),
                  left < PANEL ? left : PANEL, (int32_t *)y + i * PANEL, stride, i ? next.second : next.first, next.lines,
                  i || !u->second ? next.first : u->second);
#endif
    NAME(scale_byte_sums)(p, m, u->output[i], row, rows, y + i * PANEL, stride);
  }
  NAME(write_outputs)(p, u, y, stride, y + PANEL, rows, row);
}

#include "group_products.h"
#include "block_products.h"
#include "block_bytes.h"
#include "row_major.h"
#undef FORMAT_CASE
#undef FOR_FORMAT
#if defined(HAS_TILES) && PACK == 2
#include "tile_products.h"
#endif

/* Multiplies a panel or two by rows that go through them once, and so wait for memory. Each is prefetched a little ahead of
   where it is read, and what is next only when its end is near: prefetching all of the next ones meanwhile took up to half as
   long again, since memory was then read in four places at once. */
INLINE void NAME(stream_panels)(register_tile tile, int rows, next_weights next) {
  const int64_t steps = tile.steps, size = PANEL * PACK * (int64_t)sizeof(T); /* of a step */
  const int64_t reach = PANEL_REACH / size, begin = steps > reach ? (steps - reach) / 4 * 4 : 0;
  const NAME(operand) *x = tile.x;
  const char *panel = tile.panel, *second = tile.second;
  tile.lines = 4 * size / CACHE_LINE;
  if (begin) {
    const int64_t ahead = (steps - begin) * size;
    tile.steps = begin, tile.ahead = panel + ahead, tile.also = second + ahead, tile.end = panel + steps * size;
    NAME(multiply_register_tile)(rows, &tile);
    tile.x = x + begin * PACK, tile.panel = panel + begin * size, tile.adds_up = 1;
    if (second) tile.second = second + begin * size;
  }
  tile.steps = steps - begin, tile.ahead = next.first, tile.also = next.second;
  tile.end = next.first + next.lines * CACHE_LINE;
  NAME(multiply_register_tile)(rows, &tile);
}

/* Multiplies a pair of panels of plain weights by `rows` rows, from `row` on, at most REGISTER_ROWS at a time. */
INLINE void NAME(multiply_plain)(const product *p, const panel_pair *u, int64_t row, int64_t rows, next_weights next) {
  const int64_t tiles = ceil_div(rows, REGISTER_ROWS), steps = p->inputs / PACK, per_tile = ceil_div(next.lines, tiles);
  float y[REGISTER_ROWS * 2 * PANEL];
  register_tile tile = {.stride = p->inputs, .steps = steps, .panel = u->first,
                        .second = PANELS_AT_ONCE == 2 || rows == 1 ? u->second : 0, .y = y,
                        .lines = ceil_div(per_tile, steps / 4 + 1)};
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int some = (int)ceil_div(rows - r, tiles - s); /* about equally many in each */
    const int64_t begin = s * per_tile * CACHE_LINE, lines = next.lines - s * per_tile;
    tile.x = NAME(operands_of)(p, row, r);
    tile.ahead = next.first + begin, tile.also = next.second + begin;
    tile.end = tile.ahead + (lines < per_tile ? lines : per_tile) * CACHE_LINE;
    if (tiles == 1) NAME(stream_panels)(tile, some, next);
    else NAME(multiply_register_tile)(some, &tile);
    if (PANELS_AT_ONCE == 1 && u->second && !tile.second) {
      float z[REGISTER_ROWS * PANEL];
      const register_tile other = {.x = tile.x, .stride = tile.stride, .steps = steps, .panel = u->second, .y = z};
      NAME(multiply_register_tile)(some, &other);
      NAME(write_outputs)(p, u, y, PANEL, z, some, row + r);
    } else NAME(write_outputs)(p, u, y, u->second ? 2 * PANEL : PANEL, y + PANEL, some, row + r);
    r += some;
  }
}

/* Multiplies the panel pairs from `first` up to `last` of a product by `rows` rows, from `row` on, which are widened already
   where that is needed. The weights of pair `later` of the product `then` (or 0) are prefetched for what comes next. */
static void NAME(run_pairs)(const product *p, int64_t row, int64_t rows, int64_t first, int64_t last,
                            const product *then, int64_t later) {
  for (int64_t at = first; at < last; at++) {
    const panel_pair u = panel_pair_at(p, at, sizeof(T));
    const product *of = at + 1 < last ? p : then;
    panel_pair ahead = u;
    int64_t lines = 0; /* of each of its panels */
    if (of) {
      ahead = panel_pair_at(of, at + 1 < last ? at + 1 : later, sizeof(T));
      lines = weight_bytes(ahead.of[0], of->inputs, sizeof(T)) * PANEL / CACHE_LINE;
    }
    const next_weights next = {ahead.first, ahead.second ? ahead.second : ahead.first, lines};
#if defined(HAS_TILES) && PACK == 2
    if (is_unpacked(u.of[0]) && u.of[0]->tile_rows) {
      multiply_blocks_in_tile_order(p, &u, row, rows, next);
      continue;
    }
#endif
    if (is_unpacked(u.of[0])) {
      NAME(multiply_blocks)(p, &u, row, rows, next);
      continue;
    }
    if (has_parted_rows(u.of[0])) {
      NAME(multiply_by_byte_rows)(p, &u, row, rows, next);
      continue;
    }
    if (u.of[0]->kind == PLAIN_ROWS) {
      NAME(multiply_row_major)(p, &u, row, rows, next);
      continue;
    }
    if (u.of[0]->kind != PLAIN) {
      NAME(multiply_quantized)(p, &u, row, rows, next);
      continue;
    }
#if defined(HAS_TILES) && PACK == 2
    if (u.of[0]->tile_rows) {
      multiply_pair_in_tile_order(p, &u, row, rows, next);
      continue;
    }
#endif
    NAME(multiply_plain)(p, &u, row, rows, next);
  }
}

/* Does one task of a product. `after` is the task that this thread does next, of the product `then` (or 0). */
static void NAME(run_product_task)(const product *p, int64_t task, const product *then, int64_t after) {
  const int64_t row = task / p->chunks * p->row_block;
  const int64_t rows = p->rows - row < p->row_block ? p->rows - row : p->row_block;
  const int64_t first = task % p->chunks * p->pairs_per_chunk, end = first + p->pairs_per_chunk;
  NAME(run_pairs)(p, row, rows, first, end < p->pairs ? end : p->pairs, then,
                  then ? after % then->chunks * then->pairs_per_chunk : 0);
  if (p->of_bytes && !task) memset(p->workspace->outlier_marks, 0, padded(p->inputs)); /* nobody reads them any more */
}

/* Quantizes the rows of a product where they become bytes, in the phases before its last one. */
static void NAME(quantize_product_rows)(const product *p, phase *now, int threads, int is_alone) {
  if (!p->of_bytes) return;
  if (has_parted_rows(p->of_bytes)) NAME(quantize_rows_by_parts)(p, now, threads, is_alone);
  else if (p->of_bytes->kind == ROW_INT8) NAME(quantize_rows_beside_outliers)(p, now, threads, is_alone);
  else NAME(quantize_rows)(p, now, threads, is_alone);
}

/* Does this thread's share of a product's tasks. The next task is claimed before the current one is done, so that its
   weights can be prefetched. `then`: the product that comes later, or 0. It goes through PRODUCT_PHASES phases; the
   caller waits for the end of the last one. */
static void NAME(run_product)(const product *p, const product *then, phase **now, int threads) {
  const int is_alone = threads == 1;
  NAME(quantize_product_rows)(p, *now, threads, is_alone);
  phase *at = *now += PRODUCT_PHASES - 1;
#if IS_WIDENED
  int64_t widened = -1; /* the block of rows that this thread has widened */
#endif
  for (int64_t task = claim(at, is_alone), after; task < p->tasks; task = after) {
    after = claim(at, is_alone);
    const int is_last = after >= p->tasks;
#if IS_WIDENED
    if (p->has_number_rows && task / p->chunks != widened) NAME(widen_block)(p, widened = task / p->chunks);
#endif
    NAME(run_product_task)(p, task, is_last ? then : p, is_last ? omp_get_thread_num() : after);
    finish(at, p->tasks, is_alone);
  }
#ifdef HAS_TILES
  if (configured_rows) release_tiles();
#endif
}

/* out [rows, outputs] = x [rows, inputs] by a matrix; workspace: for quantized ones, of quantized_workspace_bytes.
   Returns what is wrong with the call (checks.h). */
#if IS_IN(PRODUCTS_UNIT)
int64_t NAME(product)(const T *x, int64_t rows, int64_t inputs, const matrix *m, char *workspace,
                      int64_t workspace_bytes, T *out, int threads) {
  if (is_missing(m, PACK)) REFUSE(MISSING_UNIT, 0);
  if (!is_readable(m, inputs, PACK)) REFUSE(WRONG_MATRIX, 0);
  if (rows < 1) return FINE;
  phase phases[PRODUCT_PHASES] __attribute__((aligned(CACHE_LINE))) = {0};
  product_workspace work = {0};
  if (!is_plain(m) && !is_unpacked(m)) {
    const char *end = workspace + workspace_bytes;
    work = allocate_quantized(&workspace, rows, inputs, threads);
    if (workspace > end) REFUSE(SMALL_WORKSPACE, 0);
    prepare_quantized(&work);
  }
  if (IS_WIDENED && !has_byte_rows(m) && !allocate_wide_rows(&work, rows, inputs, threads)) REFUSE(NO_MEMORY, 0);
  const product p = product_of(x, rows, inputs, m, 1, STORE, out, m->outputs, &work, sizeof(T), threads);
  if (p.tasks < 2 && !p.of_bytes) threads = 1;
#pragma omp parallel num_threads(threads)
  {
    phase *now = phases;
    NAME(run_product)(&p, 0, &now, threads);
  }
  free(work.wide_rows);
  return FINE;
}
#endif
