/* A mixer beside the attention of a layer, as in Falcon-H1, for one number format (T, PACK, NAME: see kernels.c): both read
   the same, and what they give is added up. What goes in and out of them and of the MLP is multiplied by numbers. */

/* Queries, keys and values of a token */
INLINE void NAME(scale_heads)(const fused_pass *s, const mixer_beside *beside, T *q, T *k) {
  NAME(scale_numbers)(q, s->q_width, beside->heads);
  NAME(scale_numbers)(k, 2 * s->kv_width, beside->heads);
  NAME(scale_numbers)(k, s->kv_width, beside->keys);
}

/* What attention has found, and what the mixer gives, as one: it is added to the tokens later. */
static void NAME(join_beside)(const fused_pass *s, const mixer_beside *beside, phase *now) {
  const int64_t hidden = s->model->hidden, chunk = chunk_of(s->in->tokens, s->threads);
  const int64_t chunks = ceil_div(s->in->tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, s->in->tokens) {
      T *half = (T *)s->half + t * hidden;
      const T *mixed = (const T *)s->beside + t * hidden;
#pragma omp simd
      for (int64_t d = 0; d < hidden; d++)
        half[d] = NAME(from_float)(NAME(rounded)(NAME(to_float)(mixed[d]) * beside->mixed) +
                                   NAME(rounded)(NAME(to_float)(half[d]) * beside->attention));
    }
  barrier(now, chunks, s->is_alone);
}

static product NAME(beside_product)(const fused_pass *s, const fused_layer *layer) {
  const mixer_beside *beside = layer->beside;
  return NAME(fused_product)(s, layer->norm_in.weight ? s->normed : s->x, s->in->tokens, s->model->hidden, &beside->into, 1,
                             STORE, s->qkv, beside->mixer->width);
}

/* The mixer, after attention; `then` comes next. */
static void NAME(forward_beside)(const fused_pass *s, const fused_layer *layer, const product *into, const product *then,
                                 phase **now) {
  const mixer_beside *beside = layer->beside;
  const product to_out = NAME(fused_product)(s, s->inner, s->in->tokens, beside->mixer->inner, &beside->out, 1, STORE,
                                             s->beside, s->model->hidden);
  NAME(product_and_wait)(s, into, &to_out, now);
  end_part(PRODUCTS_OF_LAYERS);
  NAME(mix)(beside->mixer, &s->states, s->qkv, s->mixer_space, s->inner, now, s->threads);
  end_part(ATTENTION);
  NAME(product_and_wait)(s, &to_out, then, now);
  end_part(PRODUCTS_OF_LAYERS);
  NAME(join_beside)(s, beside, (*now)++);
}
