/* What a fused forward pass gets from Python, and its check; the pass is in fused_forward.h. */

#define LAYER_PHASES (4 * PRODUCT_PHASES + 8) /* beside them: the embedding, what is handed out, the head's product, the rest */

/* What an MLP goes through between its products. SILU_IN_PRODUCT: two matrices gate each other in the registers. */
enum { SILU_IN_PRODUCT, SILU, GELU, TANH_GELU, RELU, SQUARED_RELU };

/* The two numbers of a point that is rotated: as far from each other as half of those that are, or neighbours; these stay
   where they are, or go where halves have theirs. */
enum { POINTS_IN_HALVES, POINTS_OF_NEIGHBOURS, NEIGHBOURS_INTO_HALVES };

#define ROPE_TABLES 2

typedef struct model_streams model_streams; /* stream_structs.h */
typedef struct model_inputs model_inputs;

typedef struct {
  int64_t layers, hidden, inner, kv_heads, group, dim, is_quantized, has_kv_bytes, embedding_rows, positions;
  int64_t attention_tile_rows;   /* as tile_rows of attend_shared */
  int64_t rotated[ROPE_TABLES];  /* numbers of a head that each table rotates */
  int64_t points;                /* which of them are a point */
  int64_t rotates_in_float32;    /* whether cos and sin have more bits than the model's format */
  int64_t gates;                 /* numbers of a token that an MLP computes before they go through its function, or 0 */
  int64_t has_halves;            /* whether attention or an MLP is not added to a token as it is */
  int64_t has_query_gates;       /* whether behind each query is a gate of what it finds */
  int64_t has_heads_together;    /* whether the queries, the key and the value of each head of keys stand side by side */
  int64_t mixers;                /* layers that carry a state instead of attending */
  float embedding_scale, residual_scale, logit_scale, logit_cap; /* logit_cap: 0 where there is none */
  int64_t embedding_in_panels;   /* whether it is a matrix in panels, which the head reads, too */
  const void *embedding;         /* [embedding_rows, hidden] */
  const void *position_embedding; /* [positions, hidden], which is added to it, or 0 */
  const float *cos[ROPE_TABLES], *sin[ROPE_TABLES]; /* [positions, rotated of the table / 2]: of each point */
  const float *query_scales;     /* [positions]: what rotated queries are multiplied by, or 0 */
  const model_inputs *inputs;    /* what layers read beside their tokens, or 0 */
  const model_streams *streams;  /* a token's streams beside each other, or 0 */
  fused_norm norm;
  matrix head;
} fused_model;

typedef struct mixture mixture; /* mixture_structs.h */
typedef struct latent latent;   /* latent_structs.h */
typedef struct head_shape head_shape; /* head_structs.h */
typedef struct layer_input layer_input; /* stream_structs.h */
typedef struct stream_layer stream_layer;

typedef struct {
  fused_norm norm_in, norm_mid;          /* before attention and before the MLP */
  fused_norm after_attention, after_mlp; /* before each is added to the token */
  fused_norm norm_q, norm_k;             /* of each head, or of all together */
  const float *sinks;                    /* of each query head, or 0 */
  float scale, cap;                      /* of scores; cap: 0 where there is none */
  float output_scale, cutoff;            /* of a whole token, in the end; deviations above the mean (has_cutoff) */
  int64_t rope;                          /* which table, or -1: its heads are not rotated */
  int64_t window;                        /* which of a pass's windows; the first one hides nothing */
  int64_t norms_all_heads, is_parallel;  /* is_parallel: the MLP reads what attention reads */
  int64_t norms_rotated;                 /* heads are normed when they have been rotated, and not before */
  int64_t scales_queries;                /* whether its queries are multiplied by the model's query_scales */
  int64_t qkv_count, gated_count;        /* matrices that compute these, side by side */
  int64_t inner, activation, has_gate;   /* has_gate: half of the MLP's numbers gate the other half */
  int64_t has_cutoff;                    /* whether only what is above `cutoff` goes through the MLP's function */
  int64_t mlp_apart, has_no_mlp;         /* mlp_apart: the caller computes its MLP, between two calls */
  const mixture *mixture;                /* the experts in the place of its MLP, or 0 */
  const latent *latent;                  /* what its heads come out of, or 0 */
  const head_shape *shape;               /* of its heads, where layers differ in it, or 0 */
  const layer_input *input;              /* what it reads beside its tokens, after the MLP, or 0 */
  const stream_layer *streams;           /* or 0 */
  const mixture *head_experts;           /* the experts in the place of its queries and of `out`, or 0 */
  kv_layer kv;                           /* how its keys and values are stored, and where in an arena */
  const fused_mixer *mixer;              /* 0: the layer attends; else `qkv` is what the mixer reads */
  const mixer_beside *beside;            /* a mixer beside its attention, or 0 */
  matrix qkv[MIXER_MATRICES], out, gated[2], down;
} fused_layer;

/* What many tokens read of one row: a prefix, or within a span, where each sees one place more than the one before */
typedef struct {
  const kv_arena *arena;
  int64_t sees, causal;
  const int64_t *chosen; /* the tokens, or 0: the first of them and those behind it */
  int64_t first, tokens;
  const int32_t *row_of; /* of each token of the pass: its place among these, or -1 */
  const int32_t *const *from; /* of each window: of each of these tokens the first place that it sees, or 0 */
} shared_part;

/* A flat list of tokens: each with its id, its position in its text, the slot and place where its keys and values go,
   and how many places of the slot it sees. In a step each is the only one of its slot. */
typedef struct {
  const kv_arena *arenas;
  int64_t slots, tokens;
  const int32_t *ids, *positions, *slot, *place, *seen;
  int64_t is_step, kept;
  const int32_t *keep; /* the tokens whose logits are wanted */
  int64_t parts;
  const shared_part *part;
  void *workspace, *logits;
  int64_t workspace_bytes, windows;
  const int32_t *const *own_from; /* of each window: of each token the first place of its slot that it sees, or 0 */
  int64_t first_layer;    /* a call begins behind the MLP before this layer, and ends before the next MLP that is apart */
  void *mlp_in, *mlp_out; /* [tokens, hidden], or 0 where no MLP is apart: what one reads, and what has come out */
  const int32_t *segments;     /* for mixers, as segments_of */
  int64_t segment_count, state_slots;
  void *const *states;         /* [mixers, LAYER_STATES] */
  const adapted_tokens *adapted; /* or 0 */
  void *hidden;                  /* [tokens, hidden]: what the head reads of every token, or 0 where nobody asks */
  const void *input_rows;        /* [tokens, numbers of all layers]: where the table of layers' inputs is no plain one, or 0 */
} fused_tokens;

/* A mixer beside attention: what both give is added up before it is added to the tokens. */
static int is_beside_readable(const fused_model *m, const fused_layer *layer, int64_t pack) {
  const mixer_beside *beside = layer->beside;
  if (!beside) return 1;
  if (!beside->mixer || layer->mixer || layer->is_parallel || layer->after_attention.weight || !m->has_halves) return 0;
  if (beside->mixer->kind == CHANNELS_MIXER) return 0; /* forward_beside has no products within a mixer */
  if (!is_mixer(beside->mixer, m->mixers, &beside->into, 1, pack)) return 0;
  return is_readable(&beside->into, m->hidden, pack) && is_readable(&beside->out, beside->mixer->inner, pack);
}

/* Numbers of a token that attention gives */
static int64_t found_width(const fused_model *m, const fused_layer *layer);

/* What a layer has, and its matrices; pack: how many numbers of a row are in 32 bits */
static int is_layer_readable(const fused_model *m, const fused_layer *layer, int64_t pack) {
  const fused_mixer *mixer = layer->mixer;
  const int64_t width = mixer ? mixer->inner : found_width(m, layer);
  const int64_t gated = layer->mlp_apart ? 0 : layer->gated_count;
  if (layer->qkv_count < 1 || layer->qkv_count > MIXER_MATRICES || gated != layer->gated_count || gated > 2) return 0;
  if (mixer && !is_mixer(mixer, m->mixers, layer->qkv, layer->qkv_count, pack)) return 0;
  if (!is_beside_readable(m, layer, pack)) return 0;
  if (layer->rope < -1 || layer->rope >= ROPE_TABLES || (layer->rope >= 0 && !m->cos[layer->rope])) return 0;
  for (int i = 0; i < layer->qkv_count; i++)
    if (!is_readable(layer->qkv + i, m->hidden, pack)) return 0;
  for (int i = 0; i < gated; i++)
    if (!is_readable(layer->gated + i, m->hidden, pack)) return 0;
  if (layer->inner < 0 || layer->inner > m->inner || (layer->has_cutoff && layer->activation == SILU_IN_PRODUCT)) return 0;
  if (layer->has_no_mlp && (layer->mlp_apart || layer->mixture || layer->is_parallel || gated)) return 0;
  const int has_mlp = layer->has_no_mlp || layer->mlp_apart || layer->mixture || (gated && is_readable(&layer->down, layer->inner, pack));
  return (layer->head_experts || is_readable(&layer->out, width, pack)) && has_mlp;
}

/* Whether the unit is not linked that multiplies by one of the matrices */
static int are_matrices_missing(const fused_model *m, const fused_layer *layers, int64_t pack) {
  int some = is_missing(&m->head, pack);
  for (const fused_layer *l = layers; l < layers + m->layers; l++) {
    for (int i = 0; i < l->qkv_count; i++) some |= is_missing(l->qkv + i, pack);
    for (int i = 0; i < l->gated_count; i++) some |= is_missing(l->gated + i, pack);
    if (l->beside) some |= is_missing(&l->beside->into, pack) || is_missing(&l->beside->out, pack);
    if (l->mixer && l->mixer->kind == CHANNELS_MIXER && l->mixer->channels)
      some |= is_missing(&l->mixer->channels->to_parts, pack) || is_missing(&l->mixer->channels->to_steps, pack);
    some |= is_missing(&l->out, pack) || (!l->mlp_apart && is_missing(&l->down, pack));
  }
  return some;
}

/* Each layer has a window of the pass, and what these begin with are places. */
static int64_t check_windows(const fused_model *m, const fused_layer *layers, const fused_tokens *in) {
  for (int64_t l = 0; l < m->layers; l++)
    if (layers[l].window < 0 || layers[l].window >= in->windows) REFUSE(WRONG_MATRIX, l);
  for (int64_t w = 0; w < in->windows; w++) {
    int64_t wrong = check_range(in->own_from[w], in->tokens, 0, INT32_MAX, WRONG_FIRST);
    for (int64_t p = 0; !wrong && p < in->parts; p++)
      wrong = check_range(in->part[p].from[w], in->part[p].tokens, 0, INT32_MAX, WRONG_FIRST);
    if (wrong) return wrong;
  }
  return FINE;
}

/* Layers that carry a state have one for each segment. */
static int64_t check_mixers(const fused_model *m, const fused_tokens *in, int64_t pack) {
  if (!m->mixers) return FINE;
  if (!(pack == 2 ? has_recurrent_bf16 : has_recurrent_f32)) REFUSE(MISSING_UNIT, 2);
  const pass_segments segments = segments_of(in->segments, in->segment_count);
  return check_segments(&segments, in->tokens, in->state_slots);
}

/* A call begins behind an MLP that is apart, or with the first layer. */
static int64_t check_pieces(const fused_model *m, const fused_layer *layers, const fused_tokens *in) {
  const int64_t first = in->first_layer;
  if (first < 0 || first > m->layers || (first && !layers[first - 1].mlp_apart)) REFUSE(WRONG_MATRIX, first);
  for (int64_t l = 0; l < m->layers; l++)
    if (layers[l].mlp_apart && (!in->mlp_in || !in->mlp_out)) REFUSE(WRONG_MATRIX, l);
  return FINE;
}

static int64_t check_fused(const fused_model *m, const fused_layer *layers, const fused_tokens *in, int64_t pack) {
  if (in->tokens < 1 || in->kept < 1) REFUSE(NO_TOKENS, 0);
  int64_t wrong = check_heads(m->kv_heads, m->group, m->dim);
  if (!wrong) wrong = check_range(in->ids, in->tokens, 0, m->embedding_rows - 1, WRONG_TOKEN_ID);
  if (!wrong) wrong = check_range(in->positions, in->tokens, 0, m->positions - 1, WRONG_POSITION);
  if (!wrong) wrong = check_range(in->keep, in->kept, 0, in->tokens - 1, WRONG_KEPT);
  if (!wrong)
    wrong = check_places(in->arenas, in->slots, in->tokens, in->slot, in->place, in->seen, in->is_step ? 1 : 0);
  if (wrong) return wrong;
  for (int64_t p = 0; p < in->parts; p++) {
    const shared_part *one = in->part + p;
    wrong = check_part(one->arena, one->sees, one->causal, one->chosen, one->first, one->tokens, in->tokens);
    if (!wrong) wrong = check_range(one->row_of, in->tokens, -1, one->tokens - 1, WRONG_PART_ROW);
    if (wrong) return wrong;
  }
  if ((wrong = check_windows(m, layers, in)) || (wrong = check_pieces(m, layers, in))) return wrong;
  if ((wrong = check_mixers(m, in, pack)) || (wrong = check_adapted(in->adapted, in->tokens))) return wrong;
  if (m->points < POINTS_IN_HALVES || m->points > NEIGHBOURS_INTO_HALVES) REFUSE(WRONG_HEADS, 0);
  if (m->has_heads_together && m->has_query_gates) REFUSE(WRONG_HEADS, 0);
  for (int64_t i = 0; i < ROPE_TABLES; i++)
    if (m->rotated[i] < 0 || m->rotated[i] > m->dim || m->rotated[i] % 2) REFUSE(WRONG_HEADS, 0);
  if (m->has_kv_bytes && !(pack == 2 ? has_kv_bytes_bf16 : has_kv_bytes_f32)) REFUSE(MISSING_UNIT, 1);
  if (are_matrices_missing(m, layers, pack)) REFUSE(MISSING_UNIT, 0);
  for (int64_t l = 0; l < m->layers; l++) {
    if (!is_layer_readable(m, layers + l, pack)) REFUSE(WRONG_MATRIX, l);
    if (!layers[l].mixer && (wrong = check_kv_layer(&layers[l].kv, m->dim, m->has_kv_bytes != 0, l))) return wrong;
  }
  if (!is_readable(&m->head, m->hidden, pack)) REFUSE(WRONG_MATRIX, m->layers);
  return FINE;
}
