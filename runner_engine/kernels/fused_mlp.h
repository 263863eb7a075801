/* The MLP in a layer of a fused pass, for one number format (T, PACK, NAME: see kernels.c). */

/* Into what the MLP's function reads, or through the function */
static product NAME(gated_product)(const fused_pass *s, const fused_layer *layer) {
  const fused_model *m = s->model;
  const int is_through = layer->activation == SILU_IN_PRODUCT;
  const void *in_parallel = layer->norm_mid.weight ? s->half : s->normed;
  const void *in_turn = layer->norm_mid.weight ? s->normed : s->x;
  return NAME(fused_product)(s, layer->is_parallel ? in_parallel : in_turn, s->in->tokens, m->hidden, layer->gated,
                             layer->gated_count, is_through ? GATED : STORE, is_through ? s->inner : s->gates,
                             is_through ? m->inner : layer->has_gate ? 2 * m->inner : m->inner);
}

#define ACTIVATED_AT_ONCE 512

/* What an MLP has computed goes through its function. */
static void NAME(activate)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const int64_t inner = s->model->inner, pieces = ceil_div(inner, ACTIVATED_AT_ONCE), all = s->in->tokens * pieces;
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

/* The MLP of a layer, after its norm; `then` comes next. */
static void NAME(forward_mlp)(const fused_pass *s, int64_t l, const product *to_gated, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const product to_down = NAME(last_product)(s, layer, &layer->after_mlp, s->model->inner, &layer->down);
  NAME(product_and_wait)(s, to_gated, &to_down, now);
  if (layer->activation != SILU_IN_PRODUCT) NAME(activate)(s, layer, (*now)++);
  NAME(product_and_wait)(s, &to_down, then, now);
  end_part(PRODUCTS_OF_LAYERS);
}
