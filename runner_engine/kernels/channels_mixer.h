/* Mamba in a layer of a fused pass, for one number format (T, PACK, NAME: see kernels.c): a mixer with products between its
   convolution and its recurrence, whose loops are in mixers.h. */

/* The norms of a token's low-rank steps, which go where the next product reads them, and of its keys and queries */
static void NAME(norm_channel_parts)(const fused_pass *s, const channels_mixer *of, T *parts, T *low, phase *now) {
  const int64_t tokens = s->in->tokens, size = of->scan.size, chunk = chunk_of(tokens, s->threads);
  const int64_t chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *steps = parts + t * parts_width(of), *keys = steps + of->rank, *queries = keys + size;
      if (of->norms[0].weight) NAME(norm_by)(of->norms, steps, of->rank, low + t * of->rank);
      else memcpy(low + t * of->rank, steps, of->rank * sizeof(T));
      if (of->norms[1].weight) NAME(norm_by)(of->norms + 1, keys, size, keys);
      if (of->norms[2].weight) NAME(norm_by)(of->norms + 2, queries, size, queries);
    }
  barrier(now, chunks, s->is_alone);
}

/* The mixer of a layer, between its input and output products; `then` comes next. */
static void NAME(forward_channels_mixer)(const fused_pass *s, const fused_layer *layer, const product *then, phase **now) {
  const fused_mixer *mixer = layer->mixer;
  const channels_mixer *of = mixer->channels;
  const int64_t tokens = s->in->tokens, channels = mixer->inner;
  char *space = s->mixer_space;
  T *convolved = allocate(&space, tokens * channels * sizeof(T)), *steps = allocate(&space, tokens * channels * sizeof(T));
  T *parts = allocate(&space, tokens * parts_width(of) * sizeof(T)), *low = allocate(&space, tokens * of->rank * sizeof(T));
  const product to_parts = NAME(fused_product)(s, convolved, tokens, channels, &of->to_parts, 1, STORE, parts, parts_width(of));
  const product to_steps = NAME(fused_product)(s, low, tokens, of->rank, &of->to_steps, 1, STORE, steps, channels);
  NAME(convolve_channels)(mixer, &s->states, s->qkv, convolved, (*now)++, s->threads);
  NAME(product_and_wait)(s, &to_parts, &to_steps, now);
  NAME(norm_channel_parts)(s, of, parts, low, (*now)++);
  NAME(product_and_wait)(s, &to_steps, then, now);
  NAME(mix_channels)(mixer, &s->states, s->qkv, convolved, parts, steps, s->inner, (*now)++, s->threads);
}
