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
    int64_t first = 0;
#ifdef SHARED
    for (; first + LANES <= half; first += LANES) {
      T *low = heads + first, *high = low + half;
      const __m512 a = NAME(up_16)(low), b = NAME(up_16)(high);
      const __m512 ac = NAME(round_16)(_mm512_mul_ps(a, NAME(up_16)(cos + first))), bs = NAME(round_16)(_mm512_mul_ps(b, NAME(up_16)(sin + first)));
      const __m512 bc = NAME(round_16)(_mm512_mul_ps(b, NAME(up_16)(cos + half + first))), as = NAME(round_16)(_mm512_mul_ps(a, NAME(up_16)(sin + half + first)));
      NAME(put_16)(low, _mm512_sub_ps(ac, bs));
      NAME(put_16)(high, _mm512_add_ps(bc, as));
    }
#endif
#pragma omp simd
    for (int64_t d = first; d < half; d++) {
      const float a = UP(heads[d]), b = UP(heads[d + half]);
      heads[d] = DOWN(UP(DOWN(a * UP(cos[d]))) - UP(DOWN(b * UP(sin[d]))));
      heads[d + half] = DOWN(UP(DOWN(b * UP(cos[d + half]))) + UP(DOWN(a * UP(sin[d + half]))));
    }
  }
}

/* One token's query heads of a key-value head over its parts and its own keys. Those of token `then` and its head come next. */
static void NAME(own)(const whole_model *m, const whole_tokens *w, int64_t layer, int64_t t, int64_t h, int64_t then,
                      int64_t then_head, T *qkv, int64_t heads, const int64_t *part_out, const int64_t *part_top,
                      const int64_t *part_sum, T *inner) {
  const int64_t dim = m->dim, group = m->group, wide = m->kv_heads * group * dim, narrow = m->kv_heads * dim;
  const home *row = w->homes + w->slot[t], *next = w->homes + w->slot[then];
  T *K = NAME(of_head)(row->keys, row, layer * m->kv_heads + h, dim), *V = NAME(of_head)(row->values, row, layer * m->kv_heads + h, dim);
  T *q = qkv + t * heads, *k = q + wide + h * dim;
  int64_t rows[w->parts + 1];
  for (int64_t p = 0; p < w->parts; p++) {
    const int64_t of_part = w->part[p].row_of[t];
    rows[p] = of_part < 0 ? -1 : (h * w->part[p].tokens + of_part) * group;
  }
  if (w->is_step) NAME(put)(K, V, k, k + narrow, dim, w->seen[t] - 1);
  NAME(head)(dim, group, q + h * group * dim, K, V, 0, w->seen[t], m->scale, 0, 0, w->parts, part_out, part_top, part_sum,
             rows, inner + t * wide + h * group * dim, NAME(of_head)(next->keys, next, layer * m->kv_heads + then_head, dim));
}

#ifdef SHARED
#define SOON (512 * 1024) /* bytes that stay in the second-level cache until they are read */
#define MOST_DUE 32       /* two lines for each step of a strip: more than memory delivers would hold up the products */

/* The own keys and values of some tokens, to be asked for while what they share is multiplied, evenly over that time */
static soon NAME(soon_of)(const whole_tokens *w, int64_t head, int64_t first, int64_t after, int64_t dim, stream *streams) {
  int64_t count = 0, bytes = 0, keys = 0;
  for (int64_t t = first; t < after && bytes < SOON; t++) {
    const home *row = w->homes + w->slot[t];
    const int64_t size = parts_of(w->seen[t], LANES) * LANES * dim * sizeof(T);
    const char *of[2] = {(char *)NAME(of_head)(row->keys, row, head, dim), (char *)NAME(of_head)(row->values, row, head, dim)};
    for (int i = 0; i < 2; i++) streams[count++] = (stream){of[i], of[i] + size};
    bytes += 2 * size;
  }
  for (int64_t p = 0; p < w->parts; p++) keys += w->part[p].sees;
  const int64_t steps = 2 * keys * dim / (PER * LANES * MOST_VECS) * (TILE / STRIP) + 1, due = bytes / LINE * 16 / steps + 1;
  return (soon){streams->at, due < MOST_DUE ? due : MOST_DUE, 0, count, streams};
}
#endif

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
  int together = 0; /* what tokens share, and then what is their own, tile by tile: so memory and products work side by side */
#ifdef SHARED
  together = w->is_step && parts && TILE % group == 0 && tile[1] >= 8 * threads;
  for (int64_t p = 0; p < parts; p++) together = together && !w->part[p].chosen && w->part[p].tokens == tokens;
  const int64_t tiles = together ? tile[1] / kv_heads : 1, tasks = together ? tile[1] : tile[parts];
#endif
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
      EACH_TASK(i, now, tasks, alone) {
        int64_t p = 0;
        while (!together && i >= tile[p + 1]) p++;
        const int64_t first = (tiles - 1 - i % tiles) * TILE / group, h = i / tiles; /* as in shared_tile */
        const int64_t after = first + TILE / group < tokens ? first + TILE / group : tokens;
        stream streams[2 * TILE];
        soon next = {0};
        if (together) next = NAME(soon_of)(w, l * kv_heads + h, first, after, dim, streams);
        const int64_t last = together ? parts : p + 1;
        for (const int64_t from = tile[p]; p < last; p++) {
          const whole_part *part = w->part + p;
          NAME(shared_tile)(i - from, qkv + part->first * heads, dim, heads, part->chosen, part->tokens,
                            part->row, l, kv_heads, group, dim, part->sees, part->causal, 0, m->scale, 0, (T *)part_out[p], (float *)part_top[p],
                            (float *)part_sum[p], &next);
        }
        for (int64_t t = first; together && t < after; t++)
          NAME(own)(m, w, l, t, h, t + 1 < after ? t + 1 : t, h, qkv, heads, part_out, part_top, part_sum, inner);
      }
      meet(now, tasks, alone);
#endif
      now++;

      if (!together)
        EACH_TASK(i, now, somes, alone)
          for (int64_t j = i * some; j < items && j < (i + 1) * some; j++) {
            const int64_t then = j + 1 < items ? j + 1 : j;
            NAME(own)(m, w, l, j / kv_heads, j % kv_heads, then / kv_heads, then % kv_heads, qkv, heads, part_out, part_top,
                      part_sum, inner);
          }
      meet(now++, together ? 0 : somes, alone);

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
