/* Attention in a layer of a fused pass, for one number format (T, PACK, NAME: see kernels.c): rotation of heads, what tokens
   share, their own keys. */

#ifndef FUSED_ATTENTION
#define FUSED_ATTENTION
#define OWN_CHUNK 4 /* heads of tokens in a chunk, at most: their numbers of keys differ */
#ifdef HAS_TILES
#define MOST_TILE_ROWS TILE_TASK_ROWS
#else
#define MOST_TILE_ROWS TILE_ROWS
#endif

/* What each thread does after its part of attention: oneDNN has other shapes of tiles. */
INLINE void end_attention(void) {
#ifdef HAS_TILES
  if (configured_rows) release_tiles();
#endif
}
#endif

/* Into queries, keys and values, or into what they come out of, or into what a mixer reads */
static product NAME(qkv_product)(const fused_pass *s, int64_t l) {
  const fused_layer *layer = s->layers + l;
  const void *x = layer->norm_in.weight ? s->normed : s->x;
  int64_t width = layer->mixer ? layer->mixer->width : s->qkv_width;
  void *into = s->qkv;
  if (layer->latent) width = first_width_of(s->model, layer->latent), into = s->latents.first;
  if (layer->shape) width = shaped_width(s->model, layer->shape), into = s->shaped;
  if (layer->head_experts) into = (T *)s->qkv + s->first_key;
  return NAME(fused_product)(s, x, s->in->tokens, s->model->hidden, layer->qkv, layer->qkv_count, STORE, into, width);
}

/* Puts k and v of a token and a head into a place of its arena, in the format of the cache. */
INLINE void NAME(put)(const fused_model *m, const kv_arena *arena, const kv_layer *kv, int64_t head, const T *k, const T *v,
                      int64_t place) {
  if (m->has_kv_bytes) BYTES_NAME(store_head)(arena, kv, head, k, v, m->dim, place);
  else NAME(store_head)(arena, kv, head, k, v, m->dim, place);
}

/* Puts the queries of a token side by side, whose gates were between them. */
INLINE void NAME(take_gates)(const fused_model *m, T *q, T *gates) {
  for (int64_t h = 0; h < m->kv_heads * m->group; h++) {
    memcpy(gates + h * m->dim, q + (2 * h + 1) * m->dim, m->dim * sizeof(T));
    memmove(q + h * m->dim, q + 2 * h * m->dim, m->dim * sizeof(T));
  }
}

/* What queries of a token have found, times their gates, which are before their sigmoids */
INLINE void NAME(open_gates)(const T *gates, int64_t count, T *found) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    const float x = NAME(to_float)(gates[i]), e = exp_fast(-fabsf(x));
    found[i] = NAME(from_float)(NAME(to_float)(found[i]) * NAME(rounded)((x < 0 ? e : 1.0f) / (1.0f + e)));
  }
}

/* Puts the queries of a token side by side, and its keys and its values, where those of each head of keys were together. */
INLINE void NAME(part_heads)(const fused_model *m, T *q) {
  const int64_t dim = m->dim, heads = m->kv_heads, group = m->group, queries = heads * group;
  T together[(queries + 2 * heads) * dim];
  memcpy(together, q, sizeof together);
  const T *from = together;
  for (int64_t h = 0; h < heads; h++, from += (group + 2) * dim) {
    memcpy(q + h * group * dim, from, group * dim * sizeof(T));
    memcpy(q + (queries + h) * dim, from + group * dim, dim * sizeof(T));
    memcpy(q + (queries + heads + h) * dim, from + (group + 1) * dim, dim * sizeof(T));
  }
}

/* The queries, keys and values of a token, normed and rotated */
INLINE void NAME(finish_heads)(const fused_pass *s, const fused_layer *layer, int64_t t) {
  const fused_model *m = s->model;
  const int64_t position = s->in->positions[t];
  T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key;
  if (m->has_query_gates) NAME(take_gates)(m, q, (T *)s->query_gates + t * s->q_width);
  if (m->has_heads_together) NAME(part_heads)(m, q);
  if (layer->head_experts) NAME(spread_heads)(s, layer - s->layers, t, q, k);
  if (layer->beside) NAME(scale_heads)(s, layer->beside, q, k);
  NAME(norm_and_rotate)(m, layer, &layer->norm_q, q, m->kv_heads * m->group, position);
  NAME(norm_and_rotate)(m, layer, &layer->norm_k, k, m->kv_heads, position);
  const float scale = m->query_scales && layer->scales_queries ? m->query_scales[position] : 1;
  if (scale != 1)
#pragma omp simd
    for (int64_t d = 0; d < s->q_width; d++) q[d] = NAME(from_float)(NAME(to_float)(q[d]) * scale);
}

/* The same of a layer whose heads have a shape of their own: they go to where those of any layer are, and end with zeros. */
INLINE void NAME(finish_shaped_heads)(const fused_pass *s, const fused_layer *layer, int64_t t) {
  const fused_model *m = s->model;
  const head_shape *shape = layer->shape;
  const int64_t dim = shape->dim, heads = m->kv_heads * m->group, same = m->kv_heads / shape->kv_heads;
  const int64_t position = s->in->positions[t];
  const T *from = (const T *)s->shaped + t * shaped_width(m, shape), *values;
  T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key, *v = k + s->kv_width;
  if (dim < m->dim) memset(q, 0, s->qkv_width * sizeof(T));
  for (int64_t h = 0; h < heads; h++, from += dim) {
    memcpy(q + h * m->dim, from, dim * sizeof(T));
    if (layer->norm_q.weight) NAME(norm_by)(&layer->norm_q, from, dim, q + h * m->dim);
    NAME(turn_head)(m, layer->rope, q + h * m->dim, position);
  }
  if (shape->reads_earlier) return;
  values = shape->values_are_keys ? from : from + shape->kv_heads * dim;
  for (int64_t h = 0; h < m->kv_heads; h++) {
    T *key = k + h * m->dim, *value = v + h * m->dim;
    memcpy(key, from + h / same * dim, dim * sizeof(T));
    memcpy(value, values + h / same * dim, dim * sizeof(T));
    if (layer->norm_k.weight) NAME(norm_by)(&layer->norm_k, key, dim, key);
    if (shape->norm_v.weight) NAME(norm_by)(&shape->norm_v, value, dim, value);
    NAME(turn_head)(m, layer->rope, key, position);
  }
}

/* RoPE of queries and keys. Where other tokens of a slot see a key, it has to be stored before anyone reads. */
static void NAME(rotate_and_store)(const fused_pass *s, int64_t l, phase *now) {
  const fused_model *m = s->model;
  const fused_tokens *in = s->in;
  const fused_layer *layer = s->layers + l;
  const int64_t dim = m->dim, chunk = chunk_of(in->tokens, s->threads), chunks = ceil_div(in->tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, in->tokens) {
      T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key, *v = k + s->kv_width;
      if (layer->latent) NAME(arrange_heads)(s, layer, t);
      else if (layer->shape) NAME(finish_shaped_heads)(s, layer, t);
      else NAME(finish_heads)(s, layer, t);
      if (layer->kv.rotated) {
        NAME(rotate_heads)(q, m->kv_heads * m->group, dim, layer->kv.rotated);
        NAME(rotate_heads)(k, 2 * m->kv_heads, dim, layer->kv.rotated); /* and the values behind the keys */
      }
      for (int64_t h = 0; h < m->kv_heads && !in->is_step && stores_keys(layer); h++)
        NAME(put)(m, in->arenas + in->slot[t], &layer->kv, h, k + h * dim, v + h * dim, in->place[t]);
    }
  barrier(now, chunks, s->is_alone);
}

#include "fused_own_keys.h"

#define PREFETCH_BYTES (512 * 1024) /* these stay in the second-level cache until they are read */
#define MAX_SIXTEENTHS 32 /* two lines for each step of a tile: more than memory delivers would delay the products */

/* Whether shared keys are multiplied in the order of the processor's tiles (tile_attention.h) */
INLINE int NAME(attends_in_tile_order)(const fused_model *m) {
#if defined(HAS_TILES) && PACK == 2
  return is_in_tile_order(m->attention_tile_rows, m->dim);
#else
  (void)m;
  return 0;
#endif
}

/* The own keys and values of some tokens, to be prefetched evenly while the keys that they share are multiplied. begins: of
   each token the first place that it sees, or 0 */
static prefetch_queue NAME(prefetch_own_keys)(const fused_model *m, const fused_tokens *in, const int32_t *begins,
                                              const kv_layer *kv, int64_t head, int64_t first, int64_t after,
                                              memory_range *ranges) {
  const int64_t dim = m->dim, key_bytes = kv_place_bytes(kv->keys, dim, sizeof(T));
  const int64_t value_bytes = kv_place_bytes(kv->values, dim, sizeof(T));
  int64_t count = 0, bytes = 0, keys = 0;
  for (int64_t t = first; t < after && bytes < PREFETCH_BYTES; t++) {
    const kv_arena *arena = in->arenas + in->slot[t];
    const int64_t begin = begins ? begins[t] / LANES * LANES : 0, end = ceil_div(in->seen[t], LANES) * LANES;
    const int64_t some = end > begin ? end - begin : 0;
    const char *keys_at = (char *)arena->keys + arena->capacity * (kv->keys_before + head * key_bytes) + begin * key_bytes;
    const char *values_at =
        (char *)arena->values + arena->capacity * (kv->values_before + head * value_bytes) + begin * value_bytes;
    ranges[count++] = (memory_range){keys_at, keys_at + some * key_bytes};
    ranges[count++] = (memory_range){values_at, values_at + some * value_bytes};
    bytes += some * (key_bytes + value_bytes);
  }
  for (int64_t p = 0; p < in->parts; p++) keys += in->part[p].sees;
  const int64_t numbers = (IS_WIDENED ? 1 : PACK) * LANES * TILE_BLOCKS; /* of a step of tile_products */
  const int64_t steps = 2 * keys * dim / numbers * (TILE_ROWS / REGISTER_ROWS) + 1;
#if defined(HAS_TILES) && PACK == 2
  if (is_in_tile_order(m->attention_tile_rows, dim)) {
    const int64_t of_products = 2 * keys * dim / (TILE_INPUTS * TILE_INPUTS) * ceil_div(TILE_TASK_ROWS, TILE_BLOCK);
    const int64_t of_weights = keys * TILE_TASK_ROWS / TILE_PLACES, of_tiles = of_products + of_weights + 1;
    const int64_t some = bytes / CACHE_LINE * 16 / of_tiles + 1;
    return (prefetch_queue){ranges->at, some < MAX_TILE_SIXTEENTHS ? some : MAX_TILE_SIXTEENTHS, 0, count, ranges};
  }
#endif
  const int64_t per_step = bytes / CACHE_LINE * 16 / steps + 1;
  return (prefetch_queue){ranges->at, per_step < MAX_SIXTEENTHS ? per_step : MAX_SIXTEENTHS, 0, count, ranges};
}

/* Tile i of a part */
static void NAME(attend_part)(const fused_pass *s, int64_t layer, int64_t p, int64_t i, prefetch_queue *next) {
  const fused_model *m = s->model;
  const fused_layer *of = s->layers + layer;
  const shared_part *part = s->in->part + p;
  const int32_t *from = part->from[of->window];
  const T *q = (const T *)s->qkv + part->first * s->qkv_width;
#if defined(HAS_TILES) && PACK == 2
#define ATTEND(NAME)                                                                                               \
  NAME(attend_task)(i, q, m->dim, s->qkv_width, part->chosen, part->tokens, part->arena, &of->kv, m->group, \
                    m->dim, part->sees, part->causal, from, of->scale, of->cap, (T *)s->part_out[p], (float *)s->part_top[p],    \
                    (float *)s->part_sum[p], m->attention_tile_rows, next)
  if (is_in_tile_order(m->attention_tile_rows, m->dim)) {
    if (m->has_kv_bytes) ATTEND(BYTES_NAME);
    else ATTEND(NAME);
    return;
  }
#undef ATTEND
#endif
#define ATTEND(NAME)                                                                                               \
  NAME(attend_tile)(i, q, m->dim, s->qkv_width, part->chosen, part->tokens, part->arena, &of->kv, m->group, \
                    m->dim, part->sees, part->causal, from, of->scale, of->cap, (T *)s->part_out[p], (float *)s->part_top[p],    \
                    (float *)s->part_sum[p], next)
  if (m->has_kv_bytes) ATTEND(BYTES_NAME);
  else ATTEND(NAME);
#undef ATTEND
}

static void NAME(attend_parts)(const fused_pass *s, int64_t layer, phase *now) {
  const int64_t tiles = s->first_tile[s->in->parts];
  FOR_EACH_CHUNK(i, now, tiles, s->is_alone) {
    int64_t p = 0;
    while (i >= s->first_tile[p + 1]) p++;
    NAME(attend_part)(s, layer, p, i - s->first_tile[p], &(prefetch_queue){0});
  }
  end_attention();
  barrier(now, tiles, s->is_alone);
}

/* The keys that the tokens of a tile share, in all parts, and then their own keys. All parts have the same tokens, so
   tile i of each part has the same ones. */
static void NAME(attend_interleaved)(const fused_pass *s, int64_t layer, phase *now) {
  const fused_model *m = s->model;
  const int64_t all = s->first_tile[1], tiles = all / m->kv_heads, tokens = s->in->tokens;
  FOR_EACH_CHUNK(i, now, all, s->is_alone) {
    const int64_t first = (tiles - 1 - i % tiles) * s->tile_rows / m->group, h = i / tiles; /* as in attend_tile */
    const int64_t after = first + s->tile_rows / m->group < tokens ? first + s->tile_rows / m->group : tokens;
    memory_range ranges[2 * MOST_TILE_ROWS];
    prefetch_queue next = NAME(prefetch_own_keys)(m, s->in, s->in->own_from[s->layers[layer].window],
                                                  &s->layers[layer].kv, h, first, after, ranges);
    for (int64_t p = 0; p < s->in->parts; p++) NAME(attend_part)(s, layer, p, i, &next);
    for (int64_t t = first; t < after; t++) NAME(attend_own)(s, layer, t, h, t + 1 < after ? t + 1 : t, h);
  }
  end_attention();
  barrier(now, all, s->is_alone);
}

/* Attention of a layer between its products */
static void NAME(attend_layer)(const fused_pass *s, int64_t l, phase **now) {
  NAME(rotate_and_store)(s, l, (*now)++);
  end_part(NORMS_AND_ROPE);
  if (s->is_interleaved) NAME(attend_interleaved)(s, l, *now);
  else NAME(attend_parts)(s, l, *now);
  (*now)++;
  if (!s->is_interleaved) NAME(attend_own_keys)(s, l, *now);
  (*now)++;
  if (s->pieces.count) NAME(join_own_pieces)(s, l, (*now)++);
  end_part(ATTENTION);
}
