/* A whole forward pass of a decoder in a single call, for one number format (T, PACK, NAME: see kernels.c): one
   region of threads, which go through its phases together. Between two steps that are two operations in torch, numbers
   are rounded as torch rounds them. */

#include "fused_pass.h"
#include "fused_ends.h"
#include "mixer_beside.h"
#include "layer_inputs.h"
#include "streams.h"
#include "channels_mixer.h"
#include "latents.h"
#include "mixtures.h"
#include "head_experts.h"
#include "fused_attention.h"
#include "fused_mlp.h"

/* Attention of a layer, or its mixer, up to the norm before its MLP, if it has one; `then` comes next, or 0. */
static void NAME(forward_attention)(const fused_pass *s, int64_t l, const product *then, phase **now) {
  const fused_layer *layer = s->layers + l;
  const product to_qkv = NAME(qkv_product)(s, l);
  const int64_t found = layer->mixer ? layer->mixer->inner : found_width(s->model, layer);
  product to_out = {0};
  if (!layer->head_experts) to_out = NAME(last_product)(s, layer, &layer->after_attention, found, &layer->out);
  const int is_added = NAME(adds_at_once)(s, layer, &layer->after_attention);
  product to_beside = {0};
  if (layer->beside) to_beside = NAME(beside_product)(s, layer);

  const int has_products_between =
      layer->latent || layer->head_experts || (layer->mixer && layer->mixer->kind == CHANNELS_MIXER);
  if (layer->streams) NAME(forward_low_rank)(s, layer->streams, &to_qkv, now);
  if (layer->head_experts) NAME(forward_queries)(s, l, now);
  NAME(product_and_wait)(s, &to_qkv, has_products_between ? 0 : &to_out, now);
  end_part(PRODUCTS_OF_LAYERS);
  if (layer->latent) NAME(expand_latents)(s, layer, &to_out, now);
  if (layer->mixer && layer->mixer->kind == CHANNELS_MIXER) NAME(forward_channels_mixer)(s, layer, &to_out, now);
  else if (layer->mixer) NAME(mix)(layer->mixer, &s->states, s->qkv, s->mixer_space, s->inner, now, s->threads);
  else NAME(attend_layer)(s, l, now);
  end_part(ATTENTION);
  if (layer->head_experts) NAME(forward_found)(s, l, then, now);
  else NAME(product_and_wait)(s, &to_out, layer->beside ? &to_beside : then, now);
  end_part(PRODUCTS_OF_LAYERS);
  if (layer->beside) NAME(forward_beside)(s, layer, &to_beside, then, now);
  if (layer->streams) NAME(end_stream_attention)(s, layer, (*now)++);
  else if (!layer->is_parallel && !layer->has_no_mlp)
    NAME(end_half)(s, &layer->after_attention, s->model->residual_scale, is_added, 1, &layer->norm_mid, 0, s->in->tokens, 0,
                   (*now)++);
  end_part(NORMS_AND_ROPE);
}

/* The end of the last layer, where what the head reads of every token is handed out: the tokens to keep are copied from
   there. */
static void NAME(hand_out)(const fused_pass *s, const fused_norm *after, float scale, int is_added, float whole, phase **now) {
  const int64_t kept = s->in->kept, hidden = s->model->hidden;
  const int64_t chunk = chunk_of(kept, s->threads), chunks = ceil_div(kept, chunk);
  fused_pass all = *s;
  all.normed = s->in->hidden;
  NAME(end_half)(&all, after, scale, is_added, whole, &s->model->norm, 0, s->in->tokens, 0, (*now)++);
  phase *copying = (*now)++;
  FOR_EACH_CHUNK(i, copying, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, kept)
      memcpy((T *)s->normed + t * hidden, (const T *)all.normed + s->in->keep[t] * hidden, hidden * sizeof(T));
  barrier(copying, chunks, s->is_alone);
}

/* The end of a layer: the norms of the next one, or of the head */
static void NAME(end_layer)(const fused_pass *s, int64_t l, phase **now) {
  const fused_layer *layer = s->layers + l, *next = layer + 1;
  const int is_apart = layer->mlp_apart || (layer->mixture && layer->mixture->shared_inner);
  const fused_norm *after = layer->has_no_mlp ? &layer->after_attention : &layer->after_mlp;
  const float whole = layer->output_scale;
  int is_added = !is_apart && NAME(adds_at_once)(s, layer, after);
  float scale = layer->beside && !layer->has_no_mlp ? layer->beside->mlp : s->model->residual_scale;
  if (layer->streams) {
    NAME(end_stream_layer)(s, l, now);
    if (l + 1 < s->model->layers) return;
    is_added = 1;
  } else if (layer->input) {
    const fused_norm none = {0};
    NAME(end_half)(s, after, scale, is_added, 1, &none, 0, s->in->tokens, 0, (*now)++);
    NAME(forward_inputs)(s, layer->input, s->x, now);
    after = &layer->input->after, is_added = 0, scale = 1;
  }
  if (l + 1 == s->model->layers && s->in->hidden) NAME(hand_out)(s, after, scale, is_added, whole, now);
  else if (l + 1 == s->model->layers)
    NAME(end_half)(s, after, scale, is_added, whole, &s->model->norm, 0, s->in->kept, s->in->keep, (*now)++);
  else
    NAME(end_half)(s, after, scale, is_added, whole, &next->norm_in, NAME(norm_beside)(next), s->in->tokens, 0, (*now)++);
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
  if (!wrong) wrong = check_latents(m, layers, PACK);
  if (!wrong) wrong = check_head_shapes(m, layers);
  if (!wrong) wrong = check_streams(m, layers, in, PACK);
  if (wrong) return wrong;
  const mixture_pass mixed = mixtures_of(m, layers);
  const latent_pass latents = latents_of(m, layers);
  const int64_t of_some = mixed.count * MIXTURE_PHASES + latents.layers * LATENT_PHASES + side_phases(m, layers);
  const int64_t of_adapters = in->adapted ? m->layers * ADAPTER_PHASES : 0;
  const int64_t tokens = in->tokens, parts = in->parts, phases = phases_of(m, tokens) + of_some + of_adapters;
  int64_t part_out[parts + 1], part_top[parts + 1], part_sum[parts + 1], first_tile[parts + 1];
  char *workspace = in->workspace;
  phase *first = allocate(&workspace, phases * sizeof(phase));
  fused_pass s = {m, layers, in, .part_out = part_out, .part_top = part_top, .part_sum = part_sum,
                  .first_tile = first_tile, .mixed = mixed, .latents = latents, .threads = threads, .is_alone = threads == 1};
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
  if (!s.is_interleaved) s.pieces = own_pieces_of(in, m->kv_heads * state_floats(m->group, m->dim), &workspace);
  allocate_mixtures(&s.mixed, m, layers, tokens, sizeof(T), &workspace);
  allocate_latents(&s.latents, tokens, sizeof(T), &workspace);
  if (widest_shaped(m, layers)) s.shaped = allocate(&workspace, tokens * widest_shaped(m, layers) * sizeof(T));
  if (widest_side(m, layers)) s.side = allocate(&workspace, tokens * widest_side(m, layers) * sizeof(T));
  if (m->inputs) s.inputs = allocate(&workspace, tokens * m->inputs->projection.outputs * sizeof(T));
  if (m->streams) {
    s.streams = allocate(&workspace, m->streams->count * tokens * m->hidden * sizeof(T));
    s.low_rank = allocate(&workspace, tokens * m->hidden * sizeof(T));
  }
  const int64_t rows = tokens * mixed.chosen;
  int64_t widest = mixed.widest;
  raise_to(&widest, behind);
  raise_to(&widest, m->hidden);
  raise_to(&widest, widest_side(m, layers));
  raise_to(&widest, latents.query_width);
  raise_to(&widest, latents.pair_width);
  s.adapted = allocate_adapted(in->adapted, widest, threads, &workspace);
  if (m->is_quantized) s.work = allocate_quantized(&workspace, rows, widest, threads);
  if (workspace - (char *)in->workspace > in->workspace_bytes) REFUSE(SMALL_WORKSPACE, 0);
  if (s.pieces.count) list_own_pieces(in, &s.pieces);
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
    if (m->inputs && !in->first_layer) NAME(begin_inputs)(&s, &now);
    if (m->streams) NAME(begin_streams)(&s, &now);
    end_part(NORMS_AND_ROPE);
    if (NAME(forward_layers)(&s, in->first_layer, &now) == m->layers) NAME(forward_head)(&s, &now);
  }
  free(s.work.wide_rows);
  return FINE;
}
#endif
