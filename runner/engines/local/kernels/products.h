/* Products of rows with a model's matrices, for one number format (see attention_body.h). A matrix lies in panels of PANEL
   outputs, filled up with zeros; in a panel all outputs of one input lie side by side, in bfloat16 those of two inputs in
   pairs. The sums of a row are made in the same order whatever rows go along, in float32, and rounded once. */

#ifndef PRODUCTS
#define PRODUCTS
#define VECS 2 /* of a panel */
#define PANEL (VECS * WIDE)
#define ROWS 6 /* whose sums stay in the registers */
#ifdef __AVX512F__
#define AT_ONCE 2 /* panels: their loads are shared by fewer rows, but each row's number by more outputs */
#else
#define AT_ONCE 1
#endif
#define LINE 64
#define STAY (384 * 1024) /* bytes of rows that stay in the second-level cache beside a panel */
#define LEAST (16 * 1024) /* bytes of weights that are worth claiming */

const int64_t panel_width = PANEL;

typedef struct {
  const void *panels, *bias; /* bias: or 0 */
  int64_t outputs;
} matrix;

/* What becomes of the sums: they are put down, added to what is there, or go through silu(first) * second */
enum { PUT, ADD, GATED };

typedef struct {
  const void *x; /* [rows, inputs] */
  int64_t rows, inputs;
  const matrix *matrices; /* their outputs side by side; of GATED two */
  int64_t count;
  int how;
  void *out; /* [rows, stride] */
  int64_t stride;
  int64_t units, per, lots, block, tasks; /* a task: so many units of panels, by a block of rows */
} product;

/* One number or pair of a row for all lanes, and sum + x * y */
INLINE vec spread_f32(const float *at) { return *at + (vec){0}; }
INLINE words spread_bf16(const bf16 *at) { return take_bf16(at) + (words){0}; }
INLINE vec dot_f32(vec sum, vec x, vec y) { return sum + x * y; }

INLINE vec dot_bf16(vec sum, words x, words y) {
#ifdef __AVX512BF16__
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
  return sum + (vec)(x << 16) * (vec)(y << 16) + (vec)(x & 0xffff0000u) * (vec)(y & 0xffff0000u);
#endif
}

INLINE int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

static product product_of(const void *x, int64_t rows, int64_t inputs, const matrix *matrices, int64_t count, int how,
                          void *out, int64_t stride, int64_t size, int threads) {
  product p = {x, rows, inputs, matrices, count, how, out, stride};
  for (int64_t m = 0; m < (how == GATED ? 1 : count); m++)
    p.units += parts_of(matrices[m].outputs, how == GATED ? PANEL : AT_ONCE * PANEL);
  const int64_t bytes = inputs * size * PANEL * (how == GATED ? 2 : AT_ONCE), few = rows / (4 * ROWS);
  p.per = LEAST / bytes > 1 ? LEAST / bytes : 1;
  p.lots = parts_of(p.units, p.per);
  int64_t blocks = parts_of(rows * inputs * size, STAY);
  if (threads > 1 && p.lots * blocks < 16 * threads) blocks = parts_of(16 * threads, p.lots); /* so that all end together */
  if (blocks > few) blocks = few > 1 ? few : 1;
  p.block = parts_of(parts_of(rows, blocks), ROWS) * ROWS;
  p.tasks = p.lots * parts_of(rows, p.block);
  return p;
}
#endif

#define UNIT NAME(unit)
typedef struct {
  const T *panel, *second, *bias; /* second: of two at once, or 0 */
  int64_t column, width;
} UNIT;

INLINE UNIT NAME(find)(const product *p, int64_t at) {
  const matrix *m = p->matrices;
  const int64_t size = PANEL * p->inputs;
  int64_t column = 0;
  if (p->how == GATED) {
    const int64_t left = m->outputs - at * PANEL;
    return (UNIT){(const T *)m[0].panels + at * size, (const T *)m[1].panels + at * size, 0, at * PANEL, left < PANEL ? left : PANEL};
  }
  for (int64_t units; at >= (units = parts_of(m->outputs, AT_ONCE * PANEL)); m++) at -= units, column += m->outputs;
  const int64_t first = at * AT_ONCE * PANEL, left = m->outputs - first;
  const T *panel = (const T *)m->panels + at * AT_ONCE * size;
  return (UNIT){panel, AT_ONCE == 2 && left > PANEL ? panel + size : 0, m->bias ? (const T *)m->bias + first : 0,
                column + first, left < AT_ONCE * PANEL ? left : AT_ONCE * PANEL};
}

/* y [R, P * PANEL] = R rows of x by P panels, `steps` of LANES' pairs or numbers. What is read next (`ahead` and `also`,
   both as long) is asked for meanwhile: so many lines every fourth step. */
INLINE void NAME(sums)(const int R, const int P, const T *x, int64_t stride, int64_t steps, const T *panel,
                       const T *second, float *y, const char *ahead, const char *end, const char *also, int64_t lines) {
  vec sum[ROWS][2 * VECS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) sum[r][v] = (vec){0};
#define STEP(s)                                                                                     \
  {                                                                                                 \
    NAME(many) w[2 * VECS];                                                                         \
    _Pragma("GCC unroll 4") for (int v = 0; v < P * VECS; v++)                                      \
        w[v] = NAME(load)((v < VECS ? panel : second) + ((s) * PANEL + v % VECS * WIDE) * PER);     \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                           \
      const NAME(many) number = NAME(spread)(x + r * stride + (s) * PER);                           \
      _Pragma("GCC unroll 4") for (int v = 0; v < P * VECS; v++)                                    \
          sum[r][v] = NAME(dot)(sum[r][v], number, w[v]);                                           \
    }                                                                                               \
  }
  int64_t s = 0;
  for (; s + 4 <= steps; s += 4) {
    for (int64_t i = 0; i < lines && ahead < end; i++, ahead += LINE) {
      __builtin_prefetch(ahead, 0, 2);
      if (P == 2) __builtin_prefetch(also, 0, 2), also += LINE;
    }
    STEP(s) STEP(s + 1) STEP(s + 2) STEP(s + 3)
  }
  for (; s < steps; s++) STEP(s)
#undef STEP
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < P * VECS; v++) memcpy(y + (r * P * VECS + v) * WIDE, &sum[r][v], sizeof(vec));
}

/* As `sums`, compiled for each number of rows; `second` 0: one panel alone */
static void NAME(strip_by_panels)(int rows, const T *x, int64_t stride, int64_t steps, const T *panel, const T *second,
                                  float *y, const char *ahead, const char *end, const char *also, int64_t lines) {
#define CASE(N)                                                                                      \
  case N:                                                                                            \
    if (AT_ONCE == 2 && second) NAME(sums)(N, 2, x, stride, steps, panel, second, y, ahead, end, also, lines); \
    else NAME(sums)(N, 1, x, stride, steps, panel, second, y, ahead, end, also, lines);              \
    break;
  switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}

/* The sums y [rows, width] of a strip go where they belong, rounded where torch's operations round. */
INLINE void NAME(settle)(const product *p, const UNIT *u, float *y, int64_t y_stride, const float *second, int rows,
                         int64_t row) {
  for (int r = 0; r < rows; r++, y += y_stride) {
    T *out = (T *)p->out + (row + r) * p->stride + u->column;
    if (p->how == GATED) {
      const float *b = second + r * y_stride;
#pragma omp simd
      for (int64_t o = 0; o < u->width; o++) {
        const float a = UP(DOWN(y[o])), e = exp_fast(-fabsf(a));
        out[o] = DOWN(UP(DOWN(a * (a < 0 ? e : 1.0f) / (1.0f + e))) * UP(DOWN(b[o])));
      }
      continue;
    }
    if (u->bias)
#pragma omp simd
      for (int64_t o = 0; o < u->width; o++) y[o] += UP(u->bias[o]);
    if (p->how == ADD) {
#pragma omp simd
      for (int64_t o = 0; o < u->width; o++) out[o] = DOWN(UP(out[o]) + UP(DOWN(y[o])));
    } else {
#pragma omp simd
      for (int64_t o = 0; o < u->width; o++) out[o] = DOWN(y[o]);
    }
  }
}

/* Does one task of a product. `after` is what this thread does next, of the product `then` (or 0): its weights are asked
   for meanwhile. */
static void NAME(multiply)(const product *p, int64_t task, const product *then, int64_t after) {
  const int64_t from = task / p->lots * p->block, rows = p->rows - from < p->block ? p->rows - from : p->block;
  const int64_t first = task % p->lots * p->per, last = first + p->per < p->units ? first + p->per : p->units;
  const int64_t strips = parts_of(rows, ROWS), steps = p->inputs / PER;
  for (int64_t at = first; at < last; at++) {
    const UNIT u = NAME(find)(p, at);
    UNIT next = {0};
    int64_t more = 0; /* lines of each of its panels */
    if (at + 1 < last) {
      next = NAME(find)(p, at + 1);
      more = p->inputs * PANEL * sizeof(T) / LINE;
    } else if (then) {
      next = NAME(find)(then, after % then->lots * then->per);
      more = then->inputs * PANEL * sizeof(T) / LINE;
    }
    const char *ahead = (const char *)next.panel, *also = (const char *)(next.second ? next.second : next.panel);
    const int64_t per_strip = parts_of(more, strips), per_steps = parts_of(per_strip, steps / 4 + 1);
    for (int64_t s = 0, r = 0; s < strips; s++) {
      const int some = (int)parts_of(rows - r, strips - s); /* about equally many in each */
      const T *x = (const T *)p->x + (from + r) * p->inputs;
      const int64_t begin = s * per_strip * LINE, lines = more - s * per_strip;
      const char *end = ahead + begin + (lines < per_strip ? lines : per_strip) * LINE;
      float y[ROWS * 2 * PANEL];
      if (AT_ONCE == 1 && u.second) {
        float z[ROWS * PANEL];
        NAME(strip_by_panels)(some, x, p->inputs, steps, u.panel, 0, y, ahead + begin, end, also + begin, per_steps);
        NAME(strip_by_panels)(some, x, p->inputs, steps, u.second, 0, z, end, end, end, 0);
        NAME(settle)(p, &u, y, PANEL, z, some, from + r);
      } else {
        NAME(strip_by_panels)(some, x, p->inputs, steps, u.panel, u.second, y, ahead + begin, end, also + begin, per_steps);
        NAME(settle)(p, &u, y, u.second ? 2 * PANEL : PANEL, y + PANEL, some, from + r);
      }
      r += some;
    }
  }
}

/* Does what this thread gets of a product's tasks; the next one is claimed before the last is done. `then`: the product
   that comes later, or 0 */
static void NAME(multiply_all)(const product *p, const product *then, phase *now, int alone) {
  for (int64_t task = claim(now, alone), after; task < p->tasks; task = after) {
    after = claim(now, alone);
    const int is_last = after >= p->tasks;
    NAME(multiply)(p, task, is_last ? then : p, is_last ? omp_get_thread_num() : after);
    finish(now, p->tasks, alone);
  }
}

/* out [rows, outputs] = x [rows, inputs] by a matrix in panels, with a bias or 0 */
void NAME(product)(const T *x, int64_t rows, int64_t inputs, const T *panels, const T *bias, int64_t outputs, T *out,
                   int threads) {
  phase only __attribute__((aligned(LINE))) = {0};
  const matrix one = {panels, bias, outputs};
  const product p = product_of(x, rows, inputs, &one, 1, PUT, out, outputs, sizeof(T), threads);
  if (p.tasks < 2) threads = 1;
#pragma omp parallel num_threads(threads)
  NAME(multiply_all)(&p, 0, &only, threads == 1);
}

#undef UNIT
