/* A mixture of experts in a layer of a fused pass, for one number format (T, PACK, NAME: see kernels.c): the MLP for all
   tokens, the router and its choice, and then the experts by their rows (experts.h). */

#define ROUTED_AT_ONCE 16 /* experts whose scores are one piece of work */

/* What the MLP beside the experts, and these, read: [tokens, hidden] */
INLINE const T *NAME(mixture_input)(const fused_pass *s, const fused_layer *layer) {
  return layer->norm_mid.weight ? s->normed : s->x;
}

/* Into what the function of the MLP for all tokens reads, or through it */
static product NAME(shared_product)(const fused_pass *s, const fused_layer *layer) {
  const mixture *of = layer->mixture;
  const int is_through = of->shared_activation == SILU_IN_PRODUCT;
  return NAME(fused_product)(s, NAME(mixture_input)(s, layer), s->in->tokens, s->model->hidden, of->shared_into,
                             of->shared_count, is_through ? GATED : STORE, is_through ? s->mixed.inner : s->mixed.gates,
                             is_through || !of->shared_has_gate ? of->shared_inner : 2 * of->shared_inner);
}

/* Sends the MLP's numbers through its function, and scales those of each token, where a family does so. */
static void NAME(finish_shared)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const mixture *of = layer->mixture;
  const int64_t inner = of->shared_inner, hidden = s->model->hidden, tokens = s->in->tokens;
  const int64_t wide = of->shared_has_gate ? 2 * inner : inner, chunk = chunk_of(tokens, s->threads);
  const int64_t chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *row = (T *)s->mixed.inner + t * inner;
      const T *x = NAME(mixture_input)(s, layer) + t * hidden, *gates = (const T *)s->mixed.gates + t * wide;
      if (of->shared_activation != SILU_IN_PRODUCT)
        NAME(activate_row)(of->shared_activation, gates, of->shared_has_gate ? gates + inner : 0, inner, row);
      if (!of->shared_scale) continue;
      const T *by = of->shared_scale;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < hidden; d++) sum += NAME(to_float)(x[d]) * NAME(to_float)(by[d]);
      const float rounded = NAME(rounded)(sum), small = exp_fast(-fabsf(rounded));
      const float scale = NAME(rounded)((rounded < 0 ? small : 1.0f) / (1.0f + small));
#pragma omp simd
      for (int64_t d = 0; d < inner; d++) row[d] = NAME(from_float)(scale * NAME(to_float)(row[d]));
    }
  barrier(now, chunks, s->is_alone);
}

/* The router's sums for all tokens [tokens, hidden] and experts, in float32 */
static void NAME(route_tokens)(const fused_pass *s, const mixture *of, const T *read, phase *now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden, experts = of->set.experts;
  const int64_t blocks = ceil_div(experts, ROUTED_AT_ONCE), all = ceil_div(tokens, REGISTER_ROWS) * blocks;
  FOR_EACH_CHUNK(i, now, all, s->is_alone) {
    const int64_t row = i / blocks * REGISTER_ROWS, first = i % blocks * ROUTED_AT_ONCE;
    const int64_t rows = tokens - row < REGISTER_ROWS ? tokens - row : REGISTER_ROWS;
    const int64_t some = experts - first < ROUTED_AT_ONCE ? experts - first : ROUTED_AT_ONCE;
    const T *weights = (const T *)of->router + first * hidden, *x = read + row * hidden;
#if IS_WIDENED
    float *wide = s->work.wide_rows + omp_get_thread_num() * s->work.wide_numbers;
#pragma omp simd
    for (int64_t d = 0; d < rows * hidden; d++) wide[d] = NAME(to_float)(x[d]);
#else
    const T *wide = x;
#endif
    NAME(multiply_outputs)((int)rows, wide, weights, hidden, some, 1, 0, s->mixed.logits + row * experts + first, experts);
  }
  barrier(now, all, s->is_alone);
}

static void NAME(choose_of_tokens)(const fused_pass *s, const mixture *of, phase *now) {
  const int64_t tokens = s->in->tokens, experts = of->set.experts, chosen = of->set.chosen;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      float *logits = s->mixed.logits + t * experts, *weights = s->mixed.weights + t * chosen;
      for (int64_t e = 0; e < experts; e++) {
        if (of->bias) logits[e] += of->bias[e];
        if (of->rounds_logits) logits[e] = NAME(rounded)(logits[e]);
      }
      choose_experts(of, logits, s->mixed.ids + t * chosen, weights);
      for (int64_t c = 0; of->rounds_weights && c < chosen; c++) weights[c] = NAME(rounded)(weights[c]);
    }
  barrier(now, chunks, s->is_alone);
}

/* Sorts the rows of the chosen experts, and counts them: one thread does so, and the others wait. */
static void NAME(sort_choices)(const fused_pass *s, const mixture *of, expert_pass *e, phase *now) {
  FOR_EACH_CHUNK(i, now, 1, s->is_alone) {
    sort_by_expert(e, s->mixed.ids);
    for (int64_t n = 0; of->counts && n < of->set.experts; n++) of->counts[n] += e->first_row[n + 1] - e->first_row[n];
    lay_out_experts(e, &s->work, sizeof(T));
  }
  barrier(now, 1, s->is_alone);
}

/* Chooses the experts of the mixture at a place for all tokens [tokens, hidden], and sorts their rows. */
static expert_pass *NAME(route_and_sort)(const fused_pass *s, int64_t place, const T *read, phase **now) {
  const mixture *of = mixture_at(s->model, s->layers, place);
  expert_pass *e = s->mixed.of_place + place;
  NAME(route_tokens)(s, of, read, (*now)++);
  NAME(choose_of_tokens)(s, of, (*now)++);
  NAME(sort_choices)(s, of, e, (*now)++);
  end_part(ROUTING);
  return e;
}

/* A layer's mixture, after its norm; `then` comes next. With an MLP for all tokens the sum of both is in `half`. */
static void NAME(forward_mixture)(const fused_pass *s, int64_t l, const product *to_shared, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const mixture *of = layer->mixture;
  if (to_shared) {
    const product to_down = NAME(fused_product)(s, s->mixed.inner, s->in->tokens, of->shared_inner, of->shared_down, 1,
                                                STORE, s->half, s->model->hidden);
    NAME(product_and_wait)(s, to_shared, &to_down, now);
    if (of->shared_scale || of->shared_activation != SILU_IN_PRODUCT) NAME(finish_shared)(s, layer, (*now)++);
    NAME(product_and_wait)(s, &to_down, 0, now);
    end_part(PRODUCTS_OF_LAYERS);
  }
  const T *read = NAME(mixture_input)(s, layer);
  const expert_pass *e = NAME(route_and_sort)(s, l, read, now);
  const int is_added = !to_shared && NAME(adds_at_once)(s, layer, &layer->after_mlp);
  NAME(run_expert_phases)(e, read, s->mixed.weights, (int)of->scales_inputs, (int)of->rounds_weights, is_added || to_shared,
                          is_added ? s->x : s->half, then, now, s->threads);
  end_part(PRODUCTS_OF_EXPERTS);
}
