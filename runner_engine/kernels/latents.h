/* What a layer of a fused pass with latents of queries, keys and values (latent_structs.h) computes before its attention,
   for one number format (T, PACK, NAME: see kernels.c). */

/* The norms of a token's latents, and the rotation of what the keys of all heads have in common */
static void NAME(norm_latents)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const fused_model *m = s->model;
  const latent *of = layer->latent;
  const int64_t tokens = s->in->tokens, width = first_width_of(m, of), before = before_pairs(m, of);
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *first = (T *)s->latents.first + t * width;
      if (of->query_width)
        NAME(norm_by)(&of->norm_queries, first, of->query_width, (T *)s->latents.of_queries + t * of->query_width);
      NAME(norm_by)(&of->norm_pairs, first + before, of->pair_width, (T *)s->latents.of_pairs + t * of->pair_width);
      NAME(turn_head)(m, layer->rope, first + before + of->pair_width, s->in->positions[t]);
    }
  barrier(now, chunks, s->is_alone);
}

/* Computes heads from the latents of all tokens; `then` comes next. */
static void NAME(expand_latents)(const fused_pass *s, const fused_layer *layer, const product *then, phase **now) {
  const latent *of = layer->latent;
  const int64_t tokens = s->in->tokens;
  NAME(norm_latents)(s, layer, (*now)++);
  end_part(NORMS_AND_ROPE);
  const product to_pairs = NAME(fused_product)(s, s->latents.of_pairs, tokens, of->pair_width, of->to_pairs, 1, STORE,
                                               s->latents.pairs, of->to_pairs->outputs);
  if (of->query_width) {
    const product to_queries = NAME(fused_product)(s, s->latents.of_queries, tokens, of->query_width, of->to_queries, 1,
                                                   STORE, s->latents.queries, of->to_queries->outputs);
    NAME(product_and_wait)(s, &to_queries, &to_pairs, now);
  }
  NAME(product_and_wait)(s, &to_pairs, then, now);
  end_part(PRODUCTS_OF_LAYERS);
}

/* Puts the heads of a token where attention reads them, each as wide as those of the store: narrower ones end with zeros. */
static void NAME(arrange_heads)(const fused_pass *s, const fused_layer *layer, int64_t t) {
  const fused_model *m = s->model;
  const latent *of = layer->latent;
  const int64_t dim = m->dim, wide = of->unrotated + of->rotated, of_pair = of->unrotated + of->value;
  const T *first = (const T *)s->latents.first + t * first_width_of(m, of), *pairs = (const T *)s->latents.pairs;
  const T *queries = of->query_width ? (const T *)s->latents.queries + t * m->kv_heads * wide : first;
  const T *common = first + before_pairs(m, of) + of->pair_width;
  T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key, *v = k + s->kv_width;
  memset(q, 0, s->qkv_width * sizeof(T));
  pairs += t * m->kv_heads * of_pair;
  for (int64_t h = 0; h < m->kv_heads; h++, queries += wide, pairs += of_pair) {
    memcpy(q + h * dim, queries, wide * sizeof(T));
    NAME(turn_head)(m, layer->rope, q + h * dim + of->unrotated, s->in->positions[t]);
    memcpy(k + h * dim, pairs, of->unrotated * sizeof(T));
    memcpy(k + h * dim + of->unrotated, common, of->rotated * sizeof(T));
    memcpy(v + h * dim, pairs + of->unrotated, of->value * sizeof(T));
  }
}
