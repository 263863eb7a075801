/* Attention of a layer whose heads have a shape of their own, in a fused pass: as in Gemma 3n and 4, where heads are stored as
   wide as the widest of all layers, values are normed too, and some layers read the keys and values of an earlier one. */

struct head_shape {
  int64_t kv_heads, dim;    /* of this layer; the store's are a multiple of these heads, and at least as wide */
  int64_t reads_earlier;    /* whether it computes no keys and values, but reads those that an earlier layer has stored */
  int64_t values_are_keys;  /* whether values are projected keys, before their norm */
  fused_norm norm_v;        /* of each head of values, or none */
};

/* Numbers of a token that a layer's matrices give */
INLINE int64_t shaped_width(const fused_model *m, const head_shape *shape) {
  const int64_t pairs = shape->reads_earlier ? 0 : shape->values_are_keys ? 1 : 2;
  return (m->kv_heads * m->group + pairs * shape->kv_heads) * shape->dim;
}

/* Of all layers the widest, or 0 */
static int64_t widest_shaped(const fused_model *m, const fused_layer *layers) {
  int64_t widest = 0;
  for (int64_t l = 0; l < m->layers; l++)
    if (layers[l].shape && shaped_width(m, layers[l].shape) > widest) widest = shaped_width(m, layers[l].shape);
  return widest;
}

/* Whether a layer's keys and values are stored */
INLINE int stores_keys(const fused_layer *layer) { return !layer->shape || !layer->shape->reads_earlier; }

static int64_t check_head_shapes(const fused_model *m, const fused_layer *layers) {
  for (int64_t l = 0; l < m->layers; l++) {
    const head_shape *shape = layers[l].shape;
    if (!shape) continue;
    if (m->has_query_gates || m->has_heads_together || layers[l].mixer || layers[l].beside || layers[l].latent)
      REFUSE(WRONG_MATRIX, l);
    if (layers[l].norms_all_heads || layers[l].norms_rotated || layers[l].scales_queries) REFUSE(WRONG_HEADS, l);
    if (shape->kv_heads < 1 || m->kv_heads % shape->kv_heads || shape->dim < 1 || shape->dim > m->dim) REFUSE(WRONG_HEADS, l);
    if (layers[l].rope >= 0 && m->rotated[layers[l].rope] > shape->dim) REFUSE(WRONG_HEADS, l);
    int64_t width = 0;
    for (int64_t i = 0; i < layers[l].qkv_count; i++) width += layers[l].qkv[i].outputs;
    if (width != shaped_width(m, shape)) REFUSE(WRONG_MATRIX, l);
  }
  return FINE;
}
