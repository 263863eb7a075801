/* The MLP in a layer of a fused pass, for one number format (T, PACK, NAME: see kernels.c). */

/* Into what the MLP's function reads, or through the function */
static product NAME(gated_product)(const fused_pass *s, const fused_layer *layer) {
  const fused_model *m = s->model;
  const int is_through = layer->activation == SILU_IN_PRODUCT;
  const void *in_parallel = layer->norm_mid.weight ? s->half : s->normed;
  const void *in_turn = layer->norm_mid.weight ? s->normed : s->x;
  return NAME(fused_product)(s, layer->is_parallel ? in_parallel : in_turn, s->in->tokens, m->hidden, layer->gated,
                             layer->gated_count, is_through ? GATED : STORE, is_through ? s->inner : s->gates,
                             is_through || !layer->has_gate ? layer->inner : 2 * layer->inner);
}

#define ACTIVATED_AT_ONCE 512

/* What an MLP has computed goes through its function. */
static void NAME(activate)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const int64_t inner = layer->inner, pieces = ceil_div(inner, ACTIVATED_AT_ONCE), all = s->in->tokens * pieces;
  const int64_t chunk = chunk_of(all, s->threads), chunks = ceil_div(all, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(j, i, chunk, all) {
      const int64_t t = j / pieces, first = j % pieces * ACTIVATED_AT_ONCE;
      const int64_t some = inner - first < ACTIVATED_AT_ONCE ? inner - first : ACTIVATED_AT_ONCE;
      T *x = (T *)s->gates + t * (layer->has_gate ? 2 * inner : inner) + first;
      if (layer->beside) NAME(scale_numbers)(x, some, layer->beside->gate);
      NAME(activate_row)(layer->activation, x, layer->has_gate ? x + inner : 0, some, (T *)s->inner + t * inner + first);
    }
  barrier(now, chunks, s->is_alone);
}

/* Leaves of a token's gates what is above their mean and so many standard deviations. */
static void NAME(cut_gates)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const int64_t inner = layer->inner, tokens = s->in->tokens;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *x = (T *)s->gates + t * (layer->has_gate ? 2 * inner : inner);
      float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < inner; d++) sum += NAME(to_float)(x[d]);
      const float mean = sum / inner;
#pragma omp simd reduction(+ : squares)
      for (int64_t d = 0; d < inner; d++) {
        const float off = NAME(to_float)(x[d]) - mean;
        squares += off * off;
      }
      const float above = NAME(rounded)(NAME(rounded)(sqrtf(squares / inner)) * layer->cutoff);
      const float limit = NAME(rounded)(NAME(rounded)(mean) + above);
#pragma omp simd
      for (int64_t d = 0; d < inner; d++) {
        const float left = NAME(to_float)(x[d]) - limit;
        x[d] = NAME(from_float)(left < 0 ? 0 : left);
      }
    }
  barrier(now, chunks, s->is_alone);
}

/* The MLP of a layer, after its norm; `then` comes next. */
static void NAME(forward_mlp)(const fused_pass *s, int64_t l, const product *to_gated, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const product to_down = NAME(last_product)(s, layer, &layer->after_mlp, layer->inner, &layer->down);
  NAME(product_and_wait)(s, to_gated, &to_down, now);
  if (layer->has_cutoff) NAME(cut_gates)(s, layer, (*now)++);
  if (layer->activation != SILU_IN_PRODUCT) NAME(activate)(s, layer, (*now)++);
  NAME(product_and_wait)(s, &to_down, then, now);
  end_part(PRODUCTS_OF_LAYERS);
}
