/* A fused pass in progress, and what its phases share, for one number format (T, PACK, NAME: see kernels.c): the products
   of a layer, and the norms between them. */

#ifndef FUSED_PASS
#define FUSED_PASS
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
  void *shaped;       /* [tokens, widest_shaped]: queries, keys and values of layers with a shape of their own */
  void *side;         /* [tokens, widest_side] */
  void *inputs;       /* [tokens, numbers of all layers]: what layers read beside their tokens */
  void *streams, *low_rank; /* [count, tokens, hidden], [tokens, hidden] */
  int64_t *part_out, *part_top, *part_sum; /* addresses of each part's outputs, maxima and sums, as in attention_view */
  int64_t *first_tile; /* of each part, counted on over heads and rows; the last entry is the number of all tiles */
  int64_t tile_rows;   /* of a tile of shared keys: rows that are multiplied together */
  int is_interleaved;  /* shared keys and then own keys, tile by tile: own keys are prefetched during products */
  own_pieces pieces;   /* of tokens with many own keys, where those are not interleaved */
  product_workspace work;
  adapter_work adapted;
  mixture_pass mixed;
  latent_pass latents;
  int threads, is_alone;
} fused_pass;

/* Phases of a pass over so many tokens */
INLINE int64_t phases_of(const fused_model *m, int64_t tokens) {
  const int64_t of_mixers = m->mixers * (MIXER_PHASES * ceil_div(tokens, ROUND_TOKENS) + BESIDE_PHASES);
  return m->layers * LAYER_PHASES + of_mixers + PRODUCT_PHASES + 3;
}
#endif

/* Whether what comes out of attention or of an MLP is added to the tokens as it is */
INLINE int NAME(adds_at_once)(const fused_pass *s, const fused_layer *layer, const fused_norm *after) {
  return !after->weight && !layer->beside && s->model->residual_scale == 1;
}

INLINE product NAME(fused_product)(const fused_pass *s, const void *x, int64_t rows, int64_t inputs, const matrix *m,
                                   int64_t count, int output_mode, void *out, int64_t stride) {
  return product_of(x, rows, inputs, m, count, output_mode, out, stride, &s->work, sizeof(T), s->threads);
}

/* Attention's or an MLP's last product: it is added to the tokens, or what follows it does so. */
static product NAME(last_product)(const fused_pass *s, const fused_layer *layer, const fused_norm *after, int64_t inputs,
                                  const matrix *m) {
  const int adds = NAME(adds_at_once)(s, layer, after);
  return NAME(fused_product)(s, s->inner, s->in->tokens, inputs, m, 1, adds ? ADD : STORE, adds ? s->x : s->half,
                             s->model->hidden);
}

#include "adapters.h"

/* Computes a product with what adapters add to it, and waits until all of it is done. */
INLINE void NAME(product_and_wait)(const fused_pass *s, const product *p, const product *then, phase **now) {
  const int is_adapted = NAME(has_adapters)(s, p);
  phase *narrowing = *now;
  if (is_adapted) NAME(narrow_rows)(s, p, (*now)++);
  NAME(run_product)(p, then, now, s->threads);
  barrier((*now)++, p->tasks, s->is_alone);
  if (!is_adapted) return;
  barrier(narrowing, s->in->adapted->tiles * p->count, s->is_alone);
  NAME(add_adapters)(s, p, (*now)++);
}

/* Multiplies `count` numbers, and rounds them. */
INLINE void NAME(scale_numbers)(T *x, int64_t count, float by) {
  if (by == 1) return;
#pragma omp simd
  for (int64_t i = 0; i < count; i++) x[i] = NAME(from_float)(NAME(to_float)(x[i]) * by);
}

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

/* Adds what attention or an MLP has computed to `count` tokens, or to those to keep, unless its product has done so
   (is_added), and applies the norms of what comes next. after: its own norm; scale: what it is multiplied by; whole: what
   each token is then multiplied by */
static void NAME(end_half)(const fused_pass *s, const fused_norm *after, float scale, int is_added, float whole,
                           const fused_norm *norm, const fused_norm *also, int64_t count, const int32_t *keep, phase *now) {
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
      if (whole != 1) {
        if (keep && is_added) x = memcpy(normed, x, hidden * sizeof(T));
        NAME(scale_numbers)(x, hidden, whole);
      }
      NAME(norm_token)(s, norm, also, t, x);
    }
  barrier(now, chunks, s->is_alone);
}
