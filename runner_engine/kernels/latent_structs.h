/* Attention whose queries, keys and values come out of latents (MLA) in a layer of a fused pass, as Python describes it, and
   its check; what is computed is in latents.h.

   A token's matrices give, side by side, the latent of its queries (or these themselves), the latent of its keys and
   values, and the numbers that the keys of all heads have in common, which are rotated. Normed latents then give the rest of
   each head. Keys and values are kept as those of any other attention. */

#define LATENT_PHASES (2 * PRODUCT_PHASES + 1) /* of a layer, beside LAYER_PHASES */

struct latent {
  fused_norm norm_queries, norm_pairs; /* of the two latents */
  int64_t query_width, pair_width;     /* numbers of these; query_width 0: queries are computed at once */
  int64_t unrotated, rotated, value;   /* numbers of a head: of queries and keys the first and the last ones, of values */
  const matrix *to_queries, *to_pairs; /* of each head: its query; its unrotated key and its value */
};

/* What a pass has in memory for its latents: of the widest layer, for each token */
typedef struct {
  void *first;                /* what the matrices of a token give */
  void *of_queries, *of_pairs; /* normed latents */
  void *queries, *pairs;      /* what these give */
  int64_t layers;             /* that have latents */
  int64_t first_width, query_width, pair_width, queries_width, pairs_width;
} latent_pass;

/* Numbers of a token that stand before the latent of its keys and values */
INLINE int64_t before_pairs(const fused_model *m, const latent *of) {
  return of->query_width ? of->query_width : m->kv_heads * m->group * (of->unrotated + of->rotated);
}

/* Numbers of a token that its matrices give */
INLINE int64_t first_width_of(const fused_model *m, const latent *of) {
  return before_pairs(m, of) + of->pair_width + of->rotated;
}

/* Numbers of a head of values: what is found is cut off to so many */
INLINE int64_t value_width(const fused_model *m, const fused_layer *layer) {
  return layer->latent ? layer->latent->value : layer->shape ? layer->shape->dim : m->dim;
}

static int64_t found_width(const fused_model *m, const fused_layer *layer) {
  return m->kv_heads * m->group * value_width(m, layer);
}

INLINE void raise_to(int64_t *most, int64_t number) { *most = number > *most ? number : *most; }

/* Looks through a model's layers. */
static latent_pass latents_of(const fused_model *m, const fused_layer *layers) {
  latent_pass w = {0};
  for (int64_t l = 0; l < m->layers; l++) {
    const latent *of = layers[l].latent;
    if (!of) continue;
    w.layers++;
    raise_to(&w.first_width, first_width_of(m, of));
    raise_to(&w.query_width, of->query_width);
    raise_to(&w.pair_width, of->pair_width);
    if (of->query_width) raise_to(&w.queries_width, m->kv_heads * m->group * (of->unrotated + of->rotated));
    raise_to(&w.pairs_width, m->kv_heads * (of->unrotated + of->value));
  }
  return w;
}

/* size: of a number */
static void allocate_latents(latent_pass *w, int64_t tokens, int64_t size, char **workspace) {
  if (!w->layers) return;
  w->first = allocate(workspace, tokens * w->first_width * size);
  w->of_queries = allocate(workspace, tokens * w->query_width * size);
  w->of_pairs = allocate(workspace, tokens * w->pair_width * size);
  w->queries = allocate(workspace, tokens * w->queries_width * size);
  w->pairs = allocate(workspace, tokens * w->pairs_width * size);
}

/* What is wrong with the latents of a model */
static int64_t check_latents(const fused_model *m, const fused_layer *layers, int64_t pack) {
  for (int64_t l = 0; l < m->layers; l++) {
    const latent *of = layers[l].latent;
    if (!of) continue;
    if (m->group != 1 || m->has_query_gates || layers[l].mixer || layers[l].beside ||
        layers[l].norm_q.weight) REFUSE(WRONG_MATRIX, l);
    if (of->query_width < 0 || of->pair_width < 1 || of->unrotated < 0 || of->rotated < 0) REFUSE(WRONG_HEADS, l);
    if (of->value < 1 || of->value > m->dim || of->unrotated + of->rotated > m->dim) REFUSE(WRONG_HEADS, l);
    if (layers[l].rope >= 0 && of->rotated != m->rotated[layers[l].rope]) REFUSE(WRONG_HEADS, l);
    if (!of->norm_pairs.weight || !of->to_pairs || (of->query_width && (!of->norm_queries.weight || !of->to_queries)))
      REFUSE(WRONG_MATRIX, l);
    int64_t width = 0;
    for (int64_t i = 0; i < layers[l].qkv_count; i++) width += layers[l].qkv[i].outputs;
    if (width != first_width_of(m, of)) REFUSE(WRONG_MATRIX, l);
    const int64_t of_query = m->kv_heads * (of->unrotated + of->rotated), of_pair = m->kv_heads * (of->unrotated + of->value);
    if (is_missing(of->to_pairs, pack) || (of->query_width && is_missing(of->to_queries, pack))) REFUSE(MISSING_UNIT, 0);
    if (of->to_pairs->outputs != of_pair || !is_readable(of->to_pairs, of->pair_width, pack)) REFUSE(WRONG_MATRIX, l);
    if (of->query_width && (of->to_queries->outputs != of_query || !is_readable(of->to_queries, of->query_width, pack)))
      REFUSE(WRONG_MATRIX, l);
  }
  return FINE;
}
