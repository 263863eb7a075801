/* A layer of experts, for one number format (T, PACK, NAME: see kernels.c): rows are sorted by expert, and each expert that
   has rows is multiplied by them at once, so that its weights are read once, and those of others are not touched. */

/* Does this thread's share of the tasks of all experts; `then` comes later. The caller waits for the end. */
static void NAME(run_experts)(const expert_products *all, const expert_products *then, phase **now, int threads) {
  const int is_alone = threads == 1;
  NAME(quantize_product_rows)(&all->all_rows, *now, threads, is_alone);
  phase *at = *now += PRODUCT_PHASES - 1;
#if IS_WIDENED
  int64_t widened = -1; /* the rows that this thread has widened */
#endif
  int64_t n = 0, next = 0;
  for (int64_t task = claim(at, is_alone), after; task < all->tasks; task = after) {
    after = claim(at, is_alone);
    n = expert_of_task(all, task, n);
    const product *p = &all->by_expert[n].of, *later = then && then->count ? &then->by_expert->of : 0;
    const int64_t of_expert = task - all->by_expert[n].first_task, from = of_expert / p->chunks * p->row_block;
    const int64_t row = all->by_expert[n].first_row + from, rows = p->rows - from < p->row_block ? p->rows - from : p->row_block;
    const int64_t first = of_expert % p->chunks * p->pairs_per_chunk, end = first + p->pairs_per_chunk;
    int64_t pair = later ? omp_get_thread_num() % later->chunks * later->pairs_per_chunk : 0;
    if (after < all->tasks) {
      next = expert_of_task(all, after, n), later = &all->by_expert[next].of;
      pair = (after - all->by_expert[next].first_task) % later->chunks * later->pairs_per_chunk;
    }
#if IS_WIDENED
    if (p->has_number_rows && row != widened) NAME(widen_rows)(p, widened = row, rows);
#endif
    NAME(run_pairs)(p, row, rows, first, end < p->pairs ? end : p->pairs, later, pair);
    if (p->of_bytes && !task) memset(p->workspace->outlier_marks, 0, padded(p->inputs)); /* nobody reads them any more */
    finish(at, all->tasks, is_alone);
  }
#ifdef HAS_TILES
  if (configured_rows) release_tiles();
#endif
}

/* ----------------------------------------------------------------------------------------------------------- gates */

/* x / (1 + exp(-alpha x)), rounded where torch's operations round */
INLINE float NAME(scaled_silu)(float alpha, float x) {
  const float scaled = NAME(rounded)(alpha * x), e = exp_fast(-fabsf(scaled));
  return NAME(rounded)(x * NAME(rounded)((scaled < 0 ? e : 1.0f) / (1.0f + e)));
}

/* The inner numbers of a row from the sums of its gate and of what is gated, or without a gate from the latter */
static void NAME(gate_row)(const expert_set *s, const T *both, T *out) {
  const T *up = s->has_gate ? both + s->inner : 0;
  if (s->limit == 0 && s->shift == 0 && s->alpha == 1) {
    NAME(activate_row)(s->activation, both, up, s->inner, out);
    return;
  }
  const float limit = s->limit > 0 ? s->limit : INFINITY, alpha = s->alpha, shift = s->shift;
#define EACH(ACT)                                                                                              \
  _Pragma("omp simd") for (int64_t o = 0; o < s->inner; o++) {                                                   \
    const float sum = NAME(to_float)(both[o]), gate = sum > limit ? limit : sum, act = ACT;                     \
    const float x = NAME(to_float)(up[o]), bounded = x < -limit ? -limit : x > limit ? limit : x;               \
    out[o] = NAME(from_float)(act * NAME(rounded)(bounded + shift));                                            \
  }
  if (up && s->activation == SILU) { /* the usual one, several numbers at a time */
    if (alpha == 1) EACH(NAME(rounded)(mlp_function(SILU, gate)))
    else EACH(NAME(scaled_silu)(alpha, gate))
    return;
  }
#undef EACH
  for (int64_t o = 0; o < s->inner; o++) {
    const float sum = NAME(to_float)(both[o]), gate = sum > limit ? limit : sum;
    const float act = alpha == 1 ? NAME(rounded)(mlp_function(s->activation, gate)) : NAME(scaled_silu)(alpha, gate);
    const float x = up ? NAME(to_float)(up[o]) : 1, bounded = x < -limit ? -limit : x > limit ? limit : x;
    out[o] = NAME(from_float)(up ? act * NAME(rounded)(bounded + shift) : act);
  }
}

/* ------------------------------------------------------------------------------------------------- a layer of experts */

/* Puts the rows of tokens x [tokens, hidden] in the order of experts, each times its weight. */
static void NAME(scale_in_order)(const expert_pass *e, const T *x, const float *weights, phase *now, int threads, int is_alone) {
  const int64_t hidden = e->set->hidden, chosen = e->set->chosen, all = e->tokens * chosen;
  const int64_t chunk = chunk_of(all, threads), chunks = ceil_div(all, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(c, i, chunk, all) {
      if (e->row_of[c] < 0) continue;
      const T *from = x + c / chosen * hidden;
      T *to = (T *)e->x + e->row_of[c] * hidden;
      const float weight = weights[c];
#pragma omp simd
      for (int64_t d = 0; d < hidden; d++) to[d] = NAME(from_float)(weight * NAME(to_float)(from[d]));
    }
  barrier(now, chunks, is_alone);
}

/* Puts the rows of tokens x [tokens, hidden] in the order of experts. */
static void NAME(put_in_order)(const expert_pass *e, const T *x, phase *now, int threads, int is_alone) {
  const int64_t hidden = e->set->hidden, chunk = chunk_of(e->rows, threads), chunks = ceil_div(e->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, e->rows)
      memcpy((T *)e->x + r * hidden, x + e->token_of[r] * hidden, hidden * sizeof(T));
  barrier(now, chunks, is_alone);
}

static void NAME(gate_rows)(const expert_pass *e, phase *now, int threads, int is_alone) {
  const expert_set *s = e->set;
  if (gates_in_registers(s)) return;
  const int64_t wide = s->has_gate ? 2 * s->inner : s->inner;
  const int64_t chunk = chunk_of(e->rows, threads), chunks = ceil_div(e->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, e->rows)
      NAME(gate_row)(s, (const T *)e->both + r * wide, (T *)e->inner + r * s->inner);
  barrier(now, chunks, is_alone);
}

/* out [hidden] = the sum of a token's experts, weighted (weights 0: not), in the order in which they were chosen; added to
   what is there, or not. rounds: whether weighted numbers are rounded before they are summed */
INLINE void NAME(sum_experts_of_token)(const expert_pass *e, int64_t token, const float *weights, int rounds, int adds, T *out) {
  const int64_t hidden = e->set->hidden, chosen = e->set->chosen;
  enum { AT_ONCE = 256 };
  for (int64_t first = 0; first < hidden; first += AT_ONCE) {
    const int64_t some = hidden - first < AT_ONCE ? hidden - first : AT_ONCE;
    float sum[AT_ONCE] = {0};
    for (int64_t c = token * chosen; c < (token + 1) * chosen; c++) {
      const T *y = (const T *)e->y + e->row_of[c] * hidden + first;
      const float weight = weights ? weights[c] : 1;
      if (e->row_of[c] < 0) continue;
      if (rounds)
#pragma omp simd
        for (int64_t o = 0; o < some; o++) sum[o] += NAME(rounded)(weight * NAME(to_float)(y[o]));
      else
#pragma omp simd
        for (int64_t o = 0; o < some; o++) sum[o] += weight * NAME(to_float)(y[o]);
    }
    if (adds)
#pragma omp simd
      for (int64_t o = 0; o < some; o++)
        out[first + o] = NAME(from_float)(NAME(to_float)(out[first + o]) + NAME(rounded)(sum[o]));
    else
#pragma omp simd
      for (int64_t o = 0; o < some; o++) out[first + o] = NAME(from_float)(sum[o]);
  }
}

static void NAME(sum_experts)(const expert_pass *e, const float *weights, int rounds, int adds, T *out, phase *now,
                              int threads, int is_alone) {
  const int64_t chunk = chunk_of(e->tokens, threads), chunks = ceil_div(e->tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(t, i, chunk, e->tokens)
      NAME(sum_experts_of_token)(e, t, weights, rounds, adds, out + t * e->set->hidden);
  barrier(now, chunks, is_alone);
}

/* Goes through the phases of a layer whose rows are sorted: EXPERT_PHASES. scales_inputs: whether weights are of what experts
   read, and not of what they give; `then`: the product that comes later, or 0 */
static void NAME(run_expert_phases)(const expert_pass *e, const T *x, const float *weights, int scales_inputs, int rounds,
                                    int adds, T *out, const product *then, phase **now, int threads) {
  const int is_alone = threads == 1;
  expert_product later = {.of = then ? *then : (product){0}};
  const expert_products after = {.by_expert = &later, .count = then != 0};
  if (scales_inputs) NAME(scale_in_order)(e, x, weights, (*now)++, threads, is_alone);
  else NAME(put_in_order)(e, x, (*now)++, threads, is_alone);
  NAME(run_experts)(&e->up, &e->down, now, threads);
  barrier((*now)++, e->up.tasks, is_alone);
  NAME(gate_rows)(e, (*now)++, threads, is_alone);
  NAME(run_experts)(&e->down, &after, now, threads);
  barrier((*now)++, e->down.tasks, is_alone);
  NAME(sum_experts)(e, scales_inputs ? 0 : weights, rounds, adds, out, (*now)++, threads, is_alone);
}

/* out [tokens, hidden] = what the experts `ids` [tokens, chosen] make of x [tokens, hidden], times their weights. workspace: of
   expert_workspace_bytes. Returns what is wrong with the call (checks.h). */
#if IS_IN(PRODUCTS_UNIT)
int64_t NAME(experts)(const T *x, int64_t tokens, const expert_set *set, const int64_t *ids, const float *weights,
                      int64_t rounds, char *workspace, int64_t workspace_bytes, T *out, int threads) {
  if (tokens < 1) return FINE;
  int64_t wrong = check_experts(set, PACK);
  if (!wrong) wrong = check_choices(ids, tokens * set->chosen);
  if (wrong) return wrong;
  const char *end = workspace + workspace_bytes;
  expert_pass e = allocate_experts(set, tokens, sizeof(T), &workspace);
  const int64_t widest = set->hidden > set->inner ? set->hidden : set->inner;
  product_workspace work = {0};
  if (set->needs_workspace) work = allocate_quantized(&workspace, e.rows, widest, threads);
  if (workspace > end) REFUSE(SMALL_WORKSPACE, 0);
  if (set->needs_workspace) prepare_quantized(&work);
  if (IS_WIDENED && !allocate_wide_rows(&work, e.rows, widest, threads)) REFUSE(NO_MEMORY, 0);
  sort_by_expert(&e, ids);
  if (!e.rows) memset(out, 0, tokens * set->hidden * sizeof(T)), tokens = 0;
  lay_out_experts(&e, &work, sizeof(T));
  phase phases[EXPERT_PHASES] __attribute__((aligned(CACHE_LINE))) = {0};
#pragma omp parallel num_threads(threads) if (tokens)
  {
    phase *now = phases;
    if (tokens) NAME(run_expert_phases)(&e, x, weights, 0, (int)rounds, 0, out, 0, &now, threads);
  }
  free(work.wide_rows);
  return FINE;
}
#endif
