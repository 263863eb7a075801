/* Attention whose queries and output are computed by the experts that a router chooses for each token (JetMoE), in a layer of
   a fused pass, for one number format (T, NAME: see kernels.c). An expert is two matrices: the first computes the queries of
   as many heads as the layer has keys, the second reads what these have found. All chosen experts have the keys and values
   in common, and each of their heads is stored once for each of them. */

/* Queries of the chosen experts, sorted by expert: [rows, inner] in `both` */
static void NAME(forward_queries)(const fused_pass *s, int64_t l, phase **now) {
  const T *read = s->layers[l].norm_in.weight ? s->normed : s->x;
  const expert_pass *e = NAME(route_and_sort)(s, s->model->layers + l, read, now);
  NAME(put_in_order)(e, read, (*now)++, s->threads, s->is_alone);
  NAME(run_experts)(&e->up, 0, now, s->threads);
  barrier((*now)++, e->up.tasks, s->is_alone);
  end_part(PRODUCTS_OF_EXPERTS);
}

/* Puts the queries of a token where attention reads them, and its keys and values beside each other once for each expert;
   both are at k before. */
INLINE void NAME(spread_heads)(const fused_pass *s, int64_t l, int64_t t, T *q, T *k) {
  const expert_pass *e = s->mixed.of_place + s->model->layers + l;
  const int64_t inner = e->set->inner, chosen = e->set->chosen;
  T *v = k + s->kv_width;
  for (int64_t c = 0; c < chosen; c++) memmove(v + c * inner, k + inner, inner * sizeof(T));
  for (int64_t c = 1; c < chosen; c++) memcpy(k + c * inner, k, inner * sizeof(T));
  for (int64_t c = 0; c < chosen; c++)
    memcpy(q + c * inner, (const T *)e->both + e->row_of[t * chosen + c] * inner, inner * sizeof(T));
}

/* Sums up what each chosen expert makes of what its queries have found, weighted; `then` comes next. */
static void NAME(forward_found)(const fused_pass *s, int64_t l, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const expert_pass *e = s->mixed.of_place + s->model->layers + l;
  const int64_t inner = e->set->inner, chunk = chunk_of(e->rows, s->threads), chunks = ceil_div(e->rows, chunk);
  phase *ordering = (*now)++;
  FOR_EACH_CHUNK(i, ordering, chunks, s->is_alone)
    FOR_EACH_ITEM(c, i, chunk, e->rows)
      memcpy((T *)e->inner + e->row_of[c] * inner, (const T *)s->inner + c * inner, inner * sizeof(T));
  barrier(ordering, chunks, s->is_alone);
  expert_product later = {.of = then ? *then : (product){0}};
  const expert_products after = {.by_expert = &later, .count = then != 0};
  NAME(run_experts)(&e->down, &after, now, s->threads);
  barrier((*now)++, e->down.tasks, s->is_alone);
  const int is_added = NAME(adds_at_once)(s, layer, &layer->after_attention);
  NAME(sum_experts)(e, s->mixed.weights, (int)layer->head_experts->rounds_weights, is_added, is_added ? s->x : s->half,
                    (*now)++, s->threads, s->is_alone);
  end_part(PRODUCTS_OF_EXPERTS);
}
