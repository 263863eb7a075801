/* Both ends of a fused pass, for one number format (T, PACK, NAME: see kernels.c): from ids to the first norm, and from the
   last one to logits. */

/* A row of the embedding; in a panel its pairs of numbers are far from each other. */
INLINE void NAME(embedding_row)(const fused_model *m, int64_t id, T *out) {
  const T *embedding = m->embedding;
  if (!m->embedding_in_panels) {
    memcpy(out, embedding + id * m->hidden, m->hidden * sizeof(T));
    return;
  }
  const int64_t steps = m->hidden / PACK;
  const T *row = embedding + (id / PANEL * steps * PANEL + id % PANEL) * PACK;
  for (int64_t s = 0; s < steps; s++) memcpy(out + s * PACK, row + s * PANEL * PACK, PACK * sizeof(T));
}

static void NAME(embed_tokens)(const fused_pass *s, phase *now) {
  const fused_model *m = s->model;
  const int64_t tokens = s->in->tokens, chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *x = (T *)s->x + t * m->hidden;
      NAME(embedding_row)(m, s->in->ids[t], x);
      if (m->embedding_scale != 1)
#pragma omp simd
        for (int64_t d = 0; d < m->hidden; d++) x[d] = NAME(from_float)(NAME(to_float)(x[d]) * m->embedding_scale);
      if (m->position_embedding) {
        const T *place = (const T *)m->position_embedding + s->in->positions[t] * m->hidden;
#pragma omp simd
        for (int64_t d = 0; d < m->hidden; d++) x[d] = NAME(from_float)(NAME(to_float)(x[d]) + NAME(to_float)(place[d]));
      }
      NAME(norm_token)(s, &s->layers->norm_in, NAME(norm_beside)(s->layers), t, x);
    }
  barrier(now, chunks, s->is_alone);
}

static product NAME(logits_product)(const fused_pass *s) {
  return NAME(fused_product)(s, s->normed, s->in->kept, s->model->hidden, &s->model->head, 1, STORE, s->in->logits,
                             s->model->head.outputs);
}

#define LOGITS_AT_ONCE 2048

/* Scales and caps the logits. */
static void NAME(finish_logits)(const fused_pass *s, phase *now) {
  const fused_model *m = s->model;
  const int64_t all = s->in->kept * m->head.outputs, chunks = ceil_div(all, LOGITS_AT_ONCE);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone) {
    const int64_t first = i * LOGITS_AT_ONCE, end = first + LOGITS_AT_ONCE < all ? first + LOGITS_AT_ONCE : all;
    T *logits = (T *)s->in->logits;
#pragma omp simd
    for (int64_t j = first; j < end; j++) {
      const float x = NAME(to_float)(logits[j]) * m->logit_scale;
      logits[j] = NAME(from_float)(m->logit_cap ? soft_cap(x, m->logit_cap) : x);
    }
  }
  barrier(now, chunks, s->is_alone);
}

static void NAME(forward_head)(const fused_pass *s, phase **now) {
  const product to_logits = NAME(logits_product)(s);
  NAME(run_product)(&to_logits, 0, now, s->threads);
  if (s->model->logit_scale != 1 || s->model->logit_cap) {
    barrier((*now)++, to_logits.tasks, s->is_alone);
    NAME(finish_logits)(s, *now);
  }
  end_part(PRODUCT_OF_HEAD);
}
