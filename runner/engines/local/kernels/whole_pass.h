/* A whole forward pass of a plain Llama in a single call, for one number format (see attention_body.h): one region of
   threads, which go through its phases together. What lies between two operations of torch is rounded as torch does. */

#ifndef WHOLE_PASS
#define WHOLE_PASS
#define PHASES (4 * PRODUCT + 5) /* of a layer; some stand around all of them */

typedef struct {
  int64_t layers, hidden, inner, kv_heads, group, dim, is_quantized;
  float epsilon, scale;
  const void *embedding, *norm, *cos, *sin; /* the turning by position [positions, dim] */
  matrix head;
} whole_model;

typedef struct {
  const void *norm_in, *norm_mid, *norm_q, *norm_k; /* of each query's and key's head, or 0 */
  matrix qkv[3], out, gated[2], down;
} whole_layer;

/* What many tokens read of one row: a prefix, or within a span, where each sees one place more than the one before */
typedef struct {
  const home *row;
  int64_t sees, causal;
  const int64_t *chosen; /* the tokens, or 0: the first of them and those behind it */
  int64_t first, tokens;
  const int32_t *row_of; /* of each token of the pass: its place among these, or -1 */
} whole_part;

/* A flat list of tokens: each with its id, its position in its text, the slot and place where its keys and values go, and
   how many places of the slot it sees. In a step each is the only one of its slot. */
typedef struct {
  const home *homes;
  int64_t tokens;
  const int32_t *ids, *positions, *slot, *place, *seen;
  int64_t is_step, kept;
  const int32_t *keep; /* the tokens whose logits are wanted */
  int64_t parts;
  const whole_part *part;
  void *room, *logits;
} whole_tokens;
#endif

/* Turns the heads [count, dim] of one token to its place, after their norms where there are any */
INLINE void NAME(turn)(T *heads, int64_t count, int64_t dim, const T *norm, float epsilon, const T *cos, const T *sin) {
  const int64_t half = dim / 2;
  for (int64_t h = 0; h < count; h++, heads += dim) {
    if (norm) NAME(norm_row)(heads, norm, dim, epsilon, heads);
#pragma omp simd
    for (int64_t d = 0; d < half; d++) {
      const float a = UP(heads[d]), b = UP(heads[d + half]);
      heads[d] = DOWN(UP(DOWN(a * UP(cos[d]))) - UP(DOWN(b * UP(sin[d]))));
      heads[d + half] = DOWN(UP(DOWN(b * UP(cos[d + half]))) + UP(DOWN(a * UP(sin[d + half]))));
    }
  }
}

/* logits [kept, outputs of the head]. room: of whole_pass.py's `_room` bytes */
void NAME(whole_pass)(const whole_model *m, const whole_layer *layers, const whole_tokens *w, int threads) {
  const int64_t hidden = m->hidden, dim = m->dim, kv_heads = m->kv_heads, group = m->group, tokens = w->tokens;
  const int64_t wide = kv_heads * group * dim, narrow = kv_heads * dim, heads = wide + 2 * narrow, size = sizeof(T);
  const int64_t phases = m->layers * PHASES + PRODUCT + 1, parts = w->parts, items = tokens * kv_heads;
  const int alone = threads == 1;
  char *room = w->room;
  phase *all = carve(&room, phases * sizeof(phase));
  T *x = carve(&room, tokens * hidden * size), *normed = carve(&room, tokens * hidden * size);
  T *qkv = carve(&room, tokens * heads * size);
  T *inner = carve(&room, tokens * (wide > m->inner ? wide : m->inner) * size);
  int64_t part_out[parts + 1], part_top[parts + 1], part_sum[parts + 1], tile[parts + 1];
  tile[0] = 0;
#ifdef SHARED
  for (int64_t p = 0; p < parts; p++) {
    const int64_t rows = w->part[p].tokens * group;
    part_out[p] = (int64_t)carve(&room, kv_heads * rows * dim * size);
    part_top[p] = (int64_t)carve(&room, kv_heads * rows * sizeof(float));
    part_sum[p] = (int64_t)carve(&room, kv_heads * rows * sizeof(float));
    tile[p + 1] = tile[p] + kv_heads * parts_of(rows, TILE);
  }
#endif
#ifdef QUANTIZED
  const int64_t widest = wide > hidden ? wide : hidden;
  const workroom work = m->is_quantized ? workroom_of(&room, tokens, widest > m->inner ? widest : m->inner, threads) : (workroom){0};
#else
  const workroom work = {0};
#endif
  memset(all, 0, phases * sizeof(phase));
#pragma omp parallel num_threads(threads)
  {
    const int64_t lot = lot_of(tokens, threads), lots = parts_of(tokens, lot);
    const int64_t some = lot_of(items, threads) < 4 ? lot_of(items, threads) : 4, somes = parts_of(items, some);
    phase *now = all;
    const product to_logits = product_of(normed, w->kept, hidden, &m->head, 1, PUT, w->logits, m->head.outputs, &work, size, threads);
    EACH_TASK(i, now, lots, alone)
      for (int64_t t = i * lot; t < tokens && t < (i + 1) * lot; t++) {
        memcpy(x + t * hidden, (const T *)m->embedding + w->ids[t] * hidden, hidden * size);
        NAME(norm_row)(x + t * hidden, layers->norm_in, hidden, m->epsilon, normed + t * hidden);
      }
    meet(now++, lots, alone);
    for (int64_t l = 0; l < m->layers; l++) {
      const whole_layer *layer = layers + l;
      const product to_qkv = product_of(normed, tokens, hidden, layer->qkv, 3, PUT, qkv, heads, &work, size, threads);
      const product to_out = product_of(inner, tokens, wide, &layer->out, 1, ADD, x, hidden, &work, size, threads);
      const product to_gated = product_of(normed, tokens, hidden, layer->gated, 2, GATED, inner, m->inner, &work, size, threads);
      const product to_down = product_of(inner, tokens, m->inner, &layer->down, 1, ADD, x, hidden, &work, size, threads);
      const product later = l + 1 == m->layers ? to_logits : product_of(normed, tokens, hidden, layers[l + 1].qkv, 3, PUT, qkv, heads, &work, size, threads);
      NAME(multiply_all)(&to_qkv, &to_out, &now, threads);
      meet(now++, to_qkv.tasks, alone);

      EACH_TASK(i, now, lots, alone)
        for (int64_t t = i * lot; t < tokens && t < (i + 1) * lot; t++) {
          T *q = qkv + t * heads, *k = q + wide, *v = k + narrow;
          const T *cos = (const T *)m->cos + w->positions[t] * dim, *sin = (const T *)m->sin + w->positions[t] * dim;
          NAME(turn)(q, kv_heads * group, dim, layer->norm_q, m->epsilon, cos, sin);
          NAME(turn)(k, kv_heads, dim, layer->norm_k, m->epsilon, cos, sin);
          for (int64_t h = 0; h < kv_heads && !w->is_step; h++) { /* others of its slot see it, so all of it comes first */
            const home *row = w->homes + w->slot[t];
            NAME(put)(NAME(of_head)(row->keys, row, l * kv_heads + h, dim), NAME(of_head)(row->values, row, l * kv_heads + h, dim),
                      k + h * dim, v + h * dim, dim, w->place[t]);
          }
        }
      meet(now++, lots, alone);

#ifdef SHARED
      EACH_TASK(i, now, tile[parts], alone) {
        int64_t p = 0;
        while (i >= tile[p + 1]) p++;
        const whole_part *part = w->part + p;
        NAME(shared_tile)(i - tile[p], qkv + part->first * heads, dim, heads, part->chosen, part->tokens,
                          part->row, l, kv_heads, group, dim, part->sees, part->causal, 0, m->scale, 0, (T *)part_out[p], (float *)part_top[p],
                          (float *)part_sum[p]);
      }
      meet(now, tile[parts], alone);
#endif
      now++;

      EACH_TASK(i, now, somes, alone)
        for (int64_t j = i * some; j < items && j < (i + 1) * some; j++) {
          const int64_t t = j / kv_heads, h = j % kv_heads, after = j + 1 < items ? j + 1 : j;
          const home *row = w->homes + w->slot[t], *then = w->homes + w->slot[after / kv_heads];
          T *K = NAME(of_head)(row->keys, row, l * kv_heads + h, dim);
          T *V = NAME(of_head)(row->values, row, l * kv_heads + h, dim);
          const T *next = NAME(of_head)(then->keys, then, l * kv_heads + after % kv_heads, dim);
          const T *q = qkv + t * heads, *k = q + wide + h * dim;
          int64_t rows[parts + 1];
          for (int64_t p = 0; p < parts; p++) {
            const int64_t of_part = w->part[p].row_of[t];
            rows[p] = of_part < 0 ? -1 : (h * w->part[p].tokens + of_part) * group;
          }
          if (w->is_step) NAME(put)(K, V, k, k + narrow, dim, w->seen[t] - 1);
          NAME(head)(dim, group, q + h * group * dim, K, V, 0, w->seen[t], m->scale, 0, 0, parts, part_out, part_top,
                     part_sum, rows, inner + t * wide + h * group * dim, next);
        }
      meet(now++, somes, alone);

      NAME(multiply_all)(&to_out, &to_gated, &now, threads);
      meet(now++, to_out.tasks, alone);

      EACH_TASK(i, now, lots, alone)
        for (int64_t t = i * lot; t < tokens && t < (i + 1) * lot; t++)
          NAME(norm_row)(x + t * hidden, layer->norm_mid, hidden, m->epsilon, normed + t * hidden);
      meet(now++, lots, alone);

      NAME(multiply_all)(&to_gated, &to_down, &now, threads);
      meet(now++, to_gated.tasks, alone);

      NAME(multiply_all)(&to_down, &later, &now, threads);
      meet(now++, to_down.tasks, alone);

      const int is_last = l + 1 == m->layers;
      const int64_t count = is_last ? w->kept : tokens;
      const T *norm = is_last ? m->norm : layers[l + 1].norm_in;
      const int64_t each = lot_of(count, threads), normings = parts_of(count, each);
      EACH_TASK(i, now, normings, alone)
        for (int64_t t = i * each; t < count && t < (i + 1) * each; t++)
          NAME(norm_row)(x + (is_last ? w->keep[t] : t) * hidden, norm, hidden, m->epsilon, normed + t * hidden);
      meet(now++, normings, alone);
    }
    NAME(multiply_all)(&to_logits, 0, &now, threads);
  }
}
