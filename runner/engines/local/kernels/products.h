/* Products of rows with a model's matrices (matrices.h), for one number format (see attention_body.h). Sums are made in
   float32, or exactly of bytes, and rounded where torch's operations round. */

#ifdef SHARED
/* What `settle` does, for LANES sums */
INLINE void NAME(settle_16)(int how, const float *y, const float *second, const T *bias, T *out) {
  __m512 a = _mm512_loadu_ps(y);
  if (how == GATED) {
    a = NAME(round_16)(a);
    const __m512 one = _mm512_set1_ps(1), e = exp_16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(a)));
    const __m512 part = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), one, e);
    a = NAME(round_16)(_mm512_div_ps(_mm512_mul_ps(a, part), _mm512_add_ps(one, e)));
    NAME(put_16)(out, _mm512_mul_ps(a, NAME(round_16)(_mm512_loadu_ps(second))));
    return;
  }
  if (bias) a = _mm512_add_ps(a, NAME(up_16)(bias));
  if (how == ADD) a = _mm512_add_ps(NAME(up_16)(out), NAME(round_16)(a));
  NAME(put_16)(out, a);
}
#endif

/* The sums y [rows, width] of rows from one on go where they belong. */
INLINE void NAME(settle)(const product *p, const unit *u, float *y, int64_t y_stride, const float *second, int64_t rows,
                         int64_t row) {
  const matrix *m = u->of[0];
  const T *bias = m->bias && m->kind == PLAIN ? (const T *)m->bias + u->output[0] : 0;
  for (int64_t r = 0; r < rows; r++, y += y_stride) {
    T *out = (T *)p->out + (row + r) * p->stride + u->column;
    const float *b = second + r * y_stride;
    int64_t first = 0;
#ifdef SHARED
    for (; first + LANES <= u->width; first += LANES)
      NAME(settle_16)(p->how, y + first, b + first, bias ? bias + first : 0, out + first);
#endif
    if (p->how == GATED) {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) {
        const float a = UP(DOWN(y[o])), e = exp_fast(-fabsf(a));
        out[o] = DOWN(UP(DOWN(a * (a < 0 ? e : 1.0f) / (1.0f + e))) * UP(DOWN(b[o])));
      }
      continue;
    }
    if (bias)
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) y[o] += UP(bias[o]);
    if (p->how == ADD) {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) out[o] = DOWN(UP(out[o]) + UP(DOWN(y[o])));
    } else {
#pragma omp simd
      for (int64_t o = first; o < u->width; o++) out[o] = DOWN(y[o]);
    }
  }
}

#ifdef QUANTIZED
/* A unit of quantized weights by rows from one on */
static void NAME(multiply_quantized)(const product *p, const unit *u, int64_t row, int64_t rows, tide next) {
  char *panels = p->room->own + omp_get_thread_num() * OWN_ROOM;
  float *y = (float *)(panels + AT_ONCE * PANEL * SEGMENT);
  quantized_sums(p, u, row, rows, panels, y, next);
  if (u->of[0]->kind == ROW_INT8) NAME(finish_bytes)(p, u, row, rows, y, y + SUMS);
  else finish_pairs(u, rows, y);
  NAME(settle)(p, u, y, u->second ? 2 * PANEL : PANEL, y + PANEL, rows, row);
}
#endif

/* Does one task of a product. `after` is what this thread does next, of the product `then` (or 0): its weights are asked
   for meanwhile. */
static void NAME(multiply)(const product *p, int64_t task, const product *then, int64_t after) {
  const int64_t from = task / p->lots * p->block, rows = p->rows - from < p->block ? p->rows - from : p->block;
  const int64_t first = task % p->lots * p->per, last = first + p->per < p->units ? first + p->per : p->units;
  const int64_t strips = parts_of(rows, ROWS), steps = p->inputs / PER;
  for (int64_t at = first; at < last; at++) {
    const unit u = find(p, at, sizeof(T));
    const product *of = at + 1 < last ? p : then;
    unit next = u;
    int64_t more = 0; /* lines of each of its panels */
    if (of) {
      next = find(of, at + 1 < last ? at + 1 : after % then->lots * then->per, sizeof(T));
      more = bytes_of(next.of[0], of->inputs, sizeof(T)) * PANEL / LINE;
    }
    const char *ahead = next.panel, *also = next.second ? next.second : next.panel;
#ifdef QUANTIZED
    if (u.of[0]->kind != PLAIN) {
      NAME(multiply_quantized)(p, &u, from, rows, (tide){ahead, also, more});
      continue;
    }
#endif
    const int64_t per_strip = parts_of(more, strips);
    float y[ROWS * 2 * PANEL];
    strip one = {.stride = p->inputs, .steps = steps, .panel = u.panel, .second = AT_ONCE == 2 ? u.second : 0, .y = y,
                 .lines = parts_of(per_strip, steps / 4 + 1)};
    for (int64_t s = 0, r = 0; s < strips; s++) {
      const int some = (int)parts_of(rows - r, strips - s); /* about equally many in each */
      const int64_t begin = s * per_strip * LINE, lines = more - s * per_strip;
      one.x = (const T *)p->x + (from + r) * p->inputs;
      one.ahead = ahead + begin, one.also = also + begin;
      one.end = one.ahead + (lines < per_strip ? lines : per_strip) * LINE;
      NAME(multiply_strip)(some, &one);
      if (AT_ONCE == 1 && u.second) {
        float z[ROWS * PANEL];
        const strip other = {.x = one.x, .stride = one.stride, .steps = steps, .panel = u.second, .y = z};
        NAME(multiply_strip)(some, &other);
        NAME(settle)(p, &u, y, PANEL, z, some, from + r);
      } else NAME(settle)(p, &u, y, u.second ? 2 * PANEL : PANEL, y + PANEL, some, from + r);
      r += some;
    }
  }
#ifdef QUANTIZED
  if (p->by_bytes && !task) memset(p->room->marks, 0, padded(p->inputs)); /* nobody reads them any more */
#endif
}

/* Does what this thread gets of a product's tasks; the next one is claimed before the last is done. `then`: the product
   that comes later, or 0. It takes PRODUCT phases, and leaves the last one to be waited for. */
#define PRODUCT 3
static void NAME(multiply_all)(const product *p, const product *then, phase **now, int threads) {
  const int alone = threads == 1;
#ifdef QUANTIZED
  if (p->by_bytes) NAME(quantize_rows)(p, *now, threads, alone);
#endif
  phase *at = *now += PRODUCT - 1;
  for (int64_t task = claim(at, alone), after; task < p->tasks; task = after) {
    after = claim(at, alone);
    const int is_last = after >= p->tasks;
    NAME(multiply)(p, task, is_last ? then : p, is_last ? omp_get_thread_num() : after);
    finish(at, p->tasks, alone);
  }
}

/* out [rows, outputs] = x [rows, inputs] by a matrix; room: for quantized ones, of quantized_room_bytes */
void NAME(product)(const T *x, int64_t rows, int64_t inputs, const matrix *m, char *room, T *out, int threads) {
  phase all[PRODUCT] __attribute__((aligned(LINE))) = {0}, *now = all;
#ifdef QUANTIZED
  const workroom work = m->kind == PLAIN ? (workroom){0} : workroom_of(&room, rows, inputs, threads);
#else
  const workroom work = {0};
#endif
  const product p = product_of(x, rows, inputs, m, 1, PUT, out, m->outputs, &work, sizeof(T), threads);
  if (p.tasks < 2 && !p.by_bytes) threads = 1;
#pragma omp parallel num_threads(threads)
  {
    phase *mine = now;
    NAME(multiply_all)(&p, 0, &mine, threads);
  }
}
