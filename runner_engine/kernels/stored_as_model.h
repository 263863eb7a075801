/* Keys and values in the model's own numbers (T, PACK, NAME: see kernels.c): what attention asks of how they are stored */

INLINE int64_t NAME(key_stride)(const kv_layer *layer, int64_t dim) { return (void)layer, dim; }
INLINE int64_t NAME(value_stride)(const kv_layer *layer, int64_t dim) { return (void)layer, dim; }

INLINE void NAME(put_key)(const kv_layer *layer, T *K, const T *k, int64_t dim, int64_t place) {
  (void)layer;
  NAME(store_key)(K, k, dim, place);
}

INLINE void NAME(put_value)(const kv_layer *layer, T *V, const T *v, int64_t dim, int64_t place) {
  (void)layer;
  NAME(store_value)(V, v, dim, place);
}

INLINE void NAME(score_keys)(const kv_layer *layer, const int D, const int S, const int G, const NAME(operand) *q, const T *k, int count,
                             float s[][MAX_SCORES], const T *v) {
  (void)layer;
  NAME(scores)(D, S, G, q, k, count, s, v);
}

INLINE void NAME(sum_values)(const kv_layer *layer, const int D, const int S, const int G, float s[][MAX_SCORES], const T *v, int count,
                             float *acc, const T *next) {
  (void)layer;
  NAME(add_values)(D, S, G, s, v, count, acc, next);
}

#if IS_WIDENED
/* Whole blocks of keys, or values, as they are multiplied; returns whether they have scales */
INLINE int NAME(unpack_keys)(const kv_layer *layer, const int D, const T *from, int places, NAME(operand) *to, float *scales) {
  (void)layer;
  NAME(unpack_places)(D, LANES, from, places, to, scales);
  return 0;
}

INLINE int NAME(unpack_values)(const kv_layer *layer, const int D, const T *from, int places, NAME(operand) *to,
                               float *scales) {
  (void)layer;
  NAME(unpack_places)(D, D, from, places, to, scales);
  return 0;
}
#endif
