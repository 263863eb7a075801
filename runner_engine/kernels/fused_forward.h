/* A whole forward pass of a decoder in a single call, for one number format (T, PACK, NAME: see kernels.c): one
   region of threads, which go through its phases together. Between two steps that are two operations in torch, numbers
   are rounded as torch rounds them. */

#ifndef FUSED_FORWARD
#define FUSED_FORWARD
#define OWN_CHUNK 4 /* heads of tokens in a chunk, at most: their numbers of keys differ */
#ifdef HAS_TILES
#define MOST_TILE_ROWS TILE_TASK_ROWS
#else
#define MOST_TILE_ROWS TILE_ROWS
#endif

/* A pass in progress */
typedef struct {
  const fused_model *model;
  const fused_layer *layers;
  const fused_tokens *in;
  int64_t q_width, kv_width, qkv_width; /* of all heads of a token */
  int64_t first_key;                    /* where its keys begin, behind queries and their gates */
  void *x, *normed; /* [tokens, hidden] */
  void *qkv, *inner; /* [tokens, qkv_width, or what a mixer reads], [tokens, widest of the rest] */
  void *query_gates, *mixer_space; /* [tokens, q_width]; what mixers need */
  mixed_tokens states;
  void *half, *gates; /* [tokens, hidden]: what is added to x later; [tokens, gates of the model] */
  void *beside;       /* [tokens, hidden]: what a mixer beside attention gives */
  int64_t *part_out, *part_top, *part_sum; /* addresses of each part's outputs, maxima and sums, as in attention_view */
  int64_t *first_tile; /* of each part, counted on over heads and rows; the last entry is the number of all tiles */
  int64_t tile_rows;   /* of a tile of shared keys: rows that are multiplied together */
  int is_interleaved;  /* shared keys and then own keys, tile by tile: own keys are prefetched during products */
  product_workspace work;
  mixture_pass mixed;
  int threads, is_alone;
} fused_pass;

/* Phases of a pass over so many tokens */
INLINE int64_t phases_of(const fused_model *m, int64_t tokens) {
  const int64_t of_mixers = m->mixers * (MIXER_PHASES * ceil_div(tokens, ROUND_TOKENS) + BESIDE_PHASES);
  return m->layers * LAYER_PHASES + of_mixers + PRODUCT_PHASES + 2;
}

/* What each thread does after its part of attention: oneDNN has other shapes of tiles. */
INLINE void end_attention(void) {
#ifdef HAS_TILES
  if (configured_rows) release_tiles();
#endif
}
#endif

/* ------------------------------------------------------------------------------------------ the products of a layer */

/* Whether what comes out of attention or of an MLP is added to the tokens as it is */
INLINE int NAME(adds_at_once)(const fused_pass *s, const fused_layer *layer, const fused_norm *after) {
  return !after->weight && !layer->beside && s->model->residual_scale == 1;
}

INLINE product NAME(fused_product)(const fused_pass *s, const void *x, int64_t rows, int64_t inputs, const matrix *m,
                                   int64_t count, int output_mode, void *out, int64_t stride) {
  return product_of(x, rows, inputs, m, count, output_mode, out, stride, &s->work, sizeof(T), s->threads);
}

static product NAME(qkv_product)(const fused_pass *s, int64_t l) {
  const fused_layer *layer = s->layers + l;
  const void *x = layer->norm_in.weight ? s->normed : s->x;
  return NAME(fused_product)(s, x, s->in->tokens, s->model->hidden, layer->qkv, layer->qkv_count, STORE, s->qkv,
                             layer->mixer ? layer->mixer->width : s->qkv_width);
}

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

/* Attention's or an MLP's last product: it is added to the tokens, or what follows it does so. */
static product NAME(last_product)(const fused_pass *s, const fused_layer *layer, const fused_norm *after, int64_t inputs,
                                  const matrix *m) {
  const int adds = NAME(adds_at_once)(s, layer, after);
  return NAME(fused_product)(s, s->inner, s->in->tokens, inputs, m, 1, adds ? ADD : STORE, adds ? s->x : s->half,
                             s->model->hidden);
}

static product NAME(logits_product)(const fused_pass *s) {
  return NAME(fused_product)(s, s->normed, s->in->kept, s->model->hidden, &s->model->head, 1, STORE, s->in->logits,
                             s->model->head.outputs);
}

/* Computes a product, and waits until all of it is done. */
INLINE void NAME(product_and_wait)(const fused_pass *s, const product *p, const product *then, phase **now) {
  NAME(run_product)(p, then, now, s->threads);
  barrier((*now)++, p->tasks, s->is_alone);
}

#include "mixer_beside.h"

/* ------------------------------------------------------------------------------------------ phases between products */

/* The norms of a token that a layer, or the head, begins with; `also`: of an MLP beside attention, or 0 */
INLINE void NAME(norm_token)(const fused_pass *s, const fused_norm *norm, const fused_norm *also, int64_t t, const T *x) {
  const int64_t hidden = s->model->hidden;
  if (also) NAME(norm_by)(also, x, hidden, (T *)s->half + t * hidden);
  if (norm->weight) NAME(norm_by)(norm, x, hidden, (T *)s->normed + t * hidden);
}

/* The norm of an MLP that reads what attention reads, or 0 */
INLINE const fused_norm *NAME(norm_beside)(const fused_layer *layer) {
  return layer->is_parallel && layer->norm_mid.weight ? &layer->norm_mid : 0;
}

static void NAME(embed_tokens)(const fused_pass *s, phase *now) {
  const fused_model *m = s->model;
  const int64_t tokens = s->in->tokens, chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *x = (T *)s->x + t * m->hidden;
      memcpy(x, (const T *)m->embedding + s->in->ids[t] * m->hidden, m->hidden * sizeof(T));
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

/* RoPE of queries and keys. Where other tokens of a slot see a key, it has to be stored before anyone reads. */
static void NAME(rotate_and_store)(const fused_pass *s, int64_t l, phase *now) {
  const fused_model *m = s->model;
  const fused_tokens *in = s->in;
  const fused_layer *layer = s->layers + l;
  const int64_t dim = m->dim, chunk = chunk_of(in->tokens, s->threads), chunks = ceil_div(in->tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, in->tokens) {
      T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key, *v = k + s->kv_width;
      if (m->has_query_gates) NAME(take_gates)(m, q, (T *)s->query_gates + t * s->q_width);
      if (layer->beside) NAME(scale_heads)(s, layer->beside, q, k);
      NAME(norm_and_rotate)(m, layer, &layer->norm_q, q, m->kv_heads * m->group, in->positions[t]);
      NAME(norm_and_rotate)(m, layer, &layer->norm_k, k, m->kv_heads, in->positions[t]);
      if (layer->kv.rotated) {
        NAME(rotate_heads)(q, m->kv_heads * m->group, dim, layer->kv.rotated);
        NAME(rotate_heads)(k, 2 * m->kv_heads, dim, layer->kv.rotated); /* and the values behind the keys */
      }
      for (int64_t h = 0; h < m->kv_heads && !in->is_step; h++)
        NAME(put)(m, in->arenas + in->slot[t], &layer->kv, h, k + h * dim, v + h * dim, in->place[t]);
    }
  barrier(now, chunks, s->is_alone);
}

/* Adds what attention or an MLP has computed to `count` tokens, or to those to keep, unless its product has done so
   (is_added), and applies the norms of what comes next. after: its own norm; scale: what it is multiplied by */
static void NAME(end_half)(const fused_pass *s, const fused_norm *after, float scale, int is_added, const fused_norm *norm,
                           const fused_norm *also, int64_t count, const int32_t *keep, phase *now) {
  const int64_t hidden = s->model->hidden, chunk = chunk_of(count, s->threads), chunks = ceil_div(count, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, count) {
      const int64_t token = keep ? keep[t] : t;
      T *x = (T *)s->x + token * hidden, *normed = (T *)s->normed + t * hidden;
      if (!is_added) {
        const T *half = (const T *)s->half + token * hidden, *before = x;
        if (after->weight) NAME(norm_by)(after, half, hidden, normed), half = normed;
        if (keep) x = normed; /* nobody reads x any more, and a token may be kept twice */
#pragma omp simd
        for (int64_t d = 0; d < hidden; d++)
          x[d] = NAME(from_float)(NAME(to_float)(before[d]) + NAME(rounded)(scale * NAME(to_float)(half[d])));
      }
      NAME(norm_token)(s, norm, also, t, x);
    }
  barrier(now, chunks, s->is_alone);
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

/* -------------------------------------------------------------------------------------------------------- attention */

/* Whether own keys are multiplied by the processor's tiles (tile_own_keys.h) */
INLINE int NAME(attends_own_by_tiles)(const fused_model *m) {
#if defined(HAS_TILES) && PACK == 2
  return !m->has_kv_bytes && attends_own_by_tiles(m->attention_tile_rows, m->dim);
#else
  (void)m;
  return 0;
#endif
}

/* One token's query heads of a key-value head over its parts and its own keys. Those of token `then` and its head come
   next. */
static void NAME(attend_own)(const fused_pass *s, int64_t layer, int64_t t, int64_t h, int64_t then,
                             int64_t then_head) {
  const fused_model *m = s->model;
  const fused_tokens *in = s->in;
  const fused_layer *of = s->layers + layer;
  const int64_t dim = m->dim, group = m->group;
  const int32_t *from = in->own_from[of->window];
  const kv_arena *arena = in->arenas + in->slot[t];
  T *q = (T *)s->qkv + t * s->qkv_width, *k = q + s->first_key + h * dim;
  int64_t rows[in->parts + 1];
  for (int64_t p = 0; p < in->parts; p++) {
    const int64_t of_part = in->part[p].row_of[t];
    rows[p] = of_part < 0 ? -1 : (h * in->part[p].tokens + of_part) * group;
  }
  if (in->is_step) NAME(put)(m, arena, &of->kv, h, k, k + s->kv_width, in->seen[t] - 1);
  const attention_view view = {from ? from[t] : 0, in->seen[t], &of->kv, of->scale, of->cap,
                               of->sinks ? of->sinks + h * group : 0, in->parts, s->part_out, s->part_top, s->part_sum,
                               NAME(attends_own_by_tiles)(m), rows};
  const kv_arena *next = in->arenas + in->slot[then];
  T *out = (T *)s->inner + t * s->q_width + h * group * dim;
#define ATTEND(NAME)                                                                                              \
  NAME(attend_head)(dim, group, q + h * group * dim, NAME(keys_of)(arena, &of->kv, h, dim),                       \
                    NAME(values_of)(arena, &of->kv, h, dim), &view, out, NAME(keys_of)(next, &of->kv, then_head, dim))
  if (m->has_kv_bytes) ATTEND(BYTES_NAME);
  else ATTEND(NAME);
#undef ATTEND
  if (of->kv.rotated) NAME(rotate_heads)(out, group, dim, of->kv.rotated); /* back */
  if (m->has_query_gates) NAME(open_gates)((T *)s->query_gates + t * s->q_width + h * group * dim, group * dim, out);
}

static void NAME(attend_own_keys)(const fused_pass *s, int64_t layer, phase *now) {
  const int64_t kv_heads = s->model->kv_heads, items = s->in->tokens * kv_heads, some = chunk_of(items, s->threads);
  const int64_t chunk = some < OWN_CHUNK ? some : OWN_CHUNK, chunks = ceil_div(items, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(j, i, chunk, items) {
      const int64_t then = j + 1 < items ? j + 1 : j;
      NAME(attend_own)(s, layer, j / kv_heads, j % kv_heads, then / kv_heads, then % kv_heads);
    }
  end_attention();
  barrier(now, chunks, s->is_alone);
}

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

#include "mixtures.h"

/* ----------------------------------------------------------------------------------------------------------- passes */

/* Attention of a layer between its products */
static void NAME(attend_layer)(const fused_pass *s, int64_t l, phase **now) {
  NAME(rotate_and_store)(s, l, (*now)++);
  end_part(NORMS_AND_ROPE);
  if (s->is_interleaved) NAME(attend_interleaved)(s, l, *now);
  else NAME(attend_parts)(s, l, *now);
  (*now)++;
  if (!s->is_interleaved) NAME(attend_own_keys)(s, l, *now);
  (*now)++;
  end_part(ATTENTION);
}

/* Attention of a layer, or its mixer, up to the norm before its MLP, if it has one; `then` comes next, or 0. */
static void NAME(forward_attention)(const fused_pass *s, int64_t l, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const product to_qkv = NAME(qkv_product)(s, l);
  const int64_t found = layer->mixer ? layer->mixer->inner : s->q_width;
  const product to_out = NAME(last_product)(s, layer, &layer->after_attention, found, &layer->out);
  const int is_added = NAME(adds_at_once)(s, layer, &layer->after_attention);
  product to_beside = {0};
  if (layer->beside) to_beside = NAME(beside_product)(s, layer);

  NAME(product_and_wait)(s, &to_qkv, &to_out, now);
  end_part(PRODUCTS_OF_LAYERS);
  if (layer->mixer) NAME(mix)(layer->mixer, &s->states, s->qkv, s->mixer_space, s->inner, now, s->threads);
  else NAME(attend_layer)(s, l, now);
  end_part(ATTENTION);
  NAME(product_and_wait)(s, &to_out, layer->beside ? &to_beside : then, now);
  end_part(PRODUCTS_OF_LAYERS);
  if (layer->beside) NAME(forward_beside)(s, layer, &to_beside, then, now);
  if (!layer->is_parallel && !layer->has_no_mlp)
    NAME(end_half)(s, &layer->after_attention, s->model->residual_scale, is_added, &layer->norm_mid, 0, s->in->tokens, 0,
                   (*now)++);
  end_part(NORMS_AND_ROPE);
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

/* The end of a layer: the norms of the next one, or of the head */
static void NAME(end_layer)(const fused_pass *s, int64_t l, phase **now) {
  const fused_layer *layer = s->layers + l, *next = layer + 1;
  const int is_apart = layer->mlp_apart || (layer->mixture && layer->mixture->shared_inner);
  const fused_norm *after = layer->has_no_mlp ? &layer->after_attention : &layer->after_mlp;
  const int is_added = !is_apart && NAME(adds_at_once)(s, layer, after);
  const float scale = layer->beside && !layer->has_no_mlp ? layer->beside->mlp : s->model->residual_scale;
  if (l + 1 == s->model->layers)
    NAME(end_half)(s, after, scale, is_added, &s->model->norm, 0, s->in->kept, s->in->keep, (*now)++);
  else
    NAME(end_half)(s, after, scale, is_added, &next->norm_in, NAME(norm_beside)(next), s->in->tokens, 0, (*now)++);
  end_part(NORMS_AND_ROPE);
}

/* The layers from `l` on, up to an MLP that is apart. Returns how many layers are complete. */
static int64_t NAME(forward_layers)(const fused_pass *s, int64_t l, phase **now) {
  for (; l < s->model->layers; l++) {
    if (s->layers[l].mlp_apart) {
      NAME(forward_attention)(s, l, 0, now);
      return l;
    }
    const mixture *mixed = s->layers[l].mixture;
    const int has_shared = mixed && mixed->shared_inner;
    product to_gated = {0};
    if (has_shared) to_gated = NAME(shared_product)(s, s->layers + l);
    else if (!mixed && !s->layers[l].has_no_mlp) to_gated = NAME(gated_product)(s, s->layers + l);
    const product *first = has_shared || !mixed ? &to_gated : 0;
    const product then = l + 1 == s->model->layers ? NAME(logits_product)(s) : NAME(qkv_product)(s, l + 1);
    NAME(forward_attention)(s, l, s->layers[l].has_no_mlp ? &then : first, now);
    if (s->layers[l].has_no_mlp) {
      NAME(end_layer)(s, l, now);
      continue;
    }
    if (mixed) NAME(forward_mixture)(s, l, first, &then, now);
    else NAME(forward_mlp)(s, l, first, &then, now);
    NAME(end_layer)(s, l, now);
  }
  return l;
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

/* The most that any layer computes before attention or its mixer and behind it, of a token, and what its mixer needs */
static void NAME(widest_layer)(const fused_pass *s, int64_t *before, int64_t *behind, int64_t *space) {
  *before = s->qkv_width, *behind = s->q_width > s->model->inner ? s->q_width : s->model->inner, *space = 0;
  for (int64_t l = 0; s->model->mixers && l < s->model->layers; l++) {
    const mixer_beside *beside = s->layers[l].beside;
    const fused_mixer *mixer = beside ? beside->mixer : s->layers[l].mixer;
    if (!mixer) continue;
    const int64_t bytes = mixer_bytes(mixer, s->in->tokens, sizeof(T));
    if (mixer->width > *before) *before = mixer->width;
    if (mixer->inner > *behind) *behind = mixer->inner;
    if (bytes > *space) *space = bytes;
  }
}

/* Allocates the parts' results in the workspace, and decides whether parts and own keys are interleaved. */
static void NAME(lay_out_parts)(fused_pass *s, char **workspace) {
  const fused_model *m = s->model;
  const fused_tokens *in = s->in;
  s->tile_rows = NAME(attends_in_tile_order)(m) ? MOST_TILE_ROWS : TILE_ROWS;
  for (int64_t p = 0; p < in->parts; p++) {
    const int64_t rows = in->part[p].tokens * m->group;
    s->part_out[p] = (int64_t)allocate(workspace, m->kv_heads * rows * m->dim * sizeof(T));
    s->part_top[p] = (int64_t)allocate(workspace, m->kv_heads * rows * sizeof(float));
    s->part_sum[p] = (int64_t)allocate(workspace, m->kv_heads * rows * sizeof(float));
    s->first_tile[p + 1] = s->first_tile[p] + m->kv_heads * ceil_div(rows, s->tile_rows);
  }
  s->is_interleaved = in->is_step && in->parts > 0 && s->tile_rows % m->group == 0 &&
                      s->first_tile[1] >= 8 * s->threads;
  for (int64_t p = 0; p < in->parts; p++)
    s->is_interleaved = s->is_interleaved && !in->part[p].chosen && in->part[p].tokens == in->tokens;
}

/* in->logits: [kept, outputs of the head]. in->workspace: its size is that of fused_forward.py's `_workspace_bytes`.
   Returns what is wrong with the call (checks.h). */
#if IS_IN(PRODUCTS_UNIT)
int64_t NAME(fused_forward)(const fused_model *m, const fused_layer *layers, const fused_tokens *in, int threads) {
  int64_t wrong = check_fused(m, layers, in, PACK);
  if (!wrong) wrong = check_mixtures(m, layers, PACK);
  if (wrong) return wrong;
  const mixture_pass mixed = mixtures_of(m, layers);
  const int64_t tokens = in->tokens, parts = in->parts, phases = phases_of(m, tokens) + mixed.layers * MIXTURE_PHASES;
  int64_t part_out[parts + 1], part_top[parts + 1], part_sum[parts + 1], first_tile[parts + 1];
  char *workspace = in->workspace;
  phase *first = allocate(&workspace, phases * sizeof(phase));
  fused_pass s = {m, layers, in, .part_out = part_out, .part_top = part_top, .part_sum = part_sum,
                  .first_tile = first_tile, .mixed = mixed, .threads = threads, .is_alone = threads == 1};
  s.q_width = m->kv_heads * m->group * m->dim, s.kv_width = m->kv_heads * m->dim;
  s.first_key = s.q_width * (m->has_query_gates ? 2 : 1), s.qkv_width = s.first_key + 2 * s.kv_width;
  s.states = (mixed_tokens){m->mixers ? segments_of(in->segments, in->segment_count) : (pass_segments){0}, tokens, in->states};
  int64_t before, behind, space;
  NAME(widest_layer)(&s, &before, &behind, &space);
  s.x = allocate(&workspace, tokens * m->hidden * sizeof(T));
  s.normed = in->mlp_in ? in->mlp_in : allocate(&workspace, tokens * m->hidden * sizeof(T));
  s.qkv = allocate(&workspace, tokens * before * sizeof(T));
  s.inner = allocate(&workspace, tokens * behind * sizeof(T));
  if (m->has_query_gates) s.query_gates = allocate(&workspace, tokens * s.q_width * sizeof(T));
  if (space) s.mixer_space = allocate(&workspace, space);
  if (in->mlp_out) s.half = in->mlp_out;
  else if (m->has_halves) s.half = allocate(&workspace, tokens * m->hidden * sizeof(T));
  if (m->mixers && m->has_halves) s.beside = allocate(&workspace, tokens * m->hidden * sizeof(T));
  if (m->gates) s.gates = allocate(&workspace, tokens * m->gates * sizeof(T));
  first_tile[0] = 0;
  NAME(lay_out_parts)(&s, &workspace);
  allocate_mixtures(&s.mixed, m, layers, tokens, sizeof(T), &workspace);
  const int64_t of_layers = behind > m->hidden ? behind : m->hidden, rows = tokens * mixed.chosen;
  const int64_t widest = mixed.widest > of_layers ? mixed.widest : of_layers;
  if (m->is_quantized) s.work = allocate_quantized(&workspace, rows, widest, threads);
  if (workspace - (char *)in->workspace > in->workspace_bytes) REFUSE(SMALL_WORKSPACE, 0);
  if (m->is_quantized) prepare_quantized(&s.work);
  prepare_mixtures(&s.mixed, m, layers, tokens);
  if (IS_WIDENED && !allocate_wide_rows(&s.work, rows, widest, threads)) REFUSE(NO_MEMORY, 0);
  memset(first, 0, phases * sizeof(phase));
  start_clock();
#pragma omp parallel num_threads(threads)
  {
    phase *now = first;
    if (in->first_layer) NAME(end_layer)(&s, in->first_layer - 1, &now);
    else NAME(embed_tokens)(&s, now++);
    end_part(NORMS_AND_ROPE);
    if (NAME(forward_layers)(&s, in->first_layer, &now) == m->layers) NAME(forward_head)(&s, &now);
  }
  free(s.work.wide_rows);
  return FINE;
}
#endif
