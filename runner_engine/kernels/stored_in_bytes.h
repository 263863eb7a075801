/* Keys and values of which some are in bytes (T, PACK, NAME: see kernels.c): what attention asks of how they are stored, by
   the format that a layer names for its keys, and for its values. A choice is made once for many places. */

INLINE int64_t BYTES_NAME(key_stride)(const kv_layer *layer, int64_t dim) {
  return kv_place_bytes(layer->keys, dim, sizeof(T));
}

INLINE int64_t BYTES_NAME(value_stride)(const kv_layer *layer, int64_t dim) {
  return kv_place_bytes(layer->values, dim, sizeof(T));
}

INLINE void BYTES_NAME(put_key)(const kv_layer *layer, char *K, const T *k, int64_t dim, int64_t place) {
  if (layer->keys == KV_INT4) INT4_NAME(store_key)(K, k, dim, place);
  else if (layer->keys == KV_INT8) INT8_NAME(store_key)((int8_t *)K, k, dim, place);
  else NAME(store_key)((T *)K, k, dim, place);
}

INLINE void BYTES_NAME(put_value)(const kv_layer *layer, char *V, const T *v, int64_t dim, int64_t place) {
  if (layer->values == KV_INT4) INT4_NAME(store_value)(V, v, dim, place);
  else if (layer->values == KV_INT8) INT8_NAME(store_value)((int8_t *)V, v, dim, place);
  else NAME(store_value)((T *)V, v, dim, place);
}

/* Of the model's own numbers beside bytes: for every shape, since each of its own takes the compiler most of a second */
static __attribute__((noinline)) void BYTES_NAME(score_plain)(int D, int G, const NAME(operand) *q, const T *k, int count,
                                                              float s[][MAX_SCORES], const T *v) {
  NAME(scores)(D, D, G, q, k, count, s, v);
}

static __attribute__((noinline)) void BYTES_NAME(add_plain)(int D, int G, float s[][MAX_SCORES], const T *v, int count,
                                                            float *acc, const T *next) {
  NAME(add_values)(D, D, G, s, v, count, acc, next);
}

INLINE void BYTES_NAME(score_keys)(const kv_layer *layer, const int D, const int S, const int G, const NAME(operand) *q, const char *k,
                                   int count, float s[][MAX_SCORES], const char *v) {
  if (layer->keys == KV_INT4) INT4_NAME(scores)(D, G, q, k, count, s, v);
  else if (layer->keys == KV_INT8) INT8_NAME(scores)(D, S, G, q, (const int8_t *)k, count, s, (const int8_t *)v);
  else BYTES_NAME(score_plain)(D, G, q, (const T *)k, count, s, (const T *)v);
}

INLINE void BYTES_NAME(sum_values)(const kv_layer *layer, const int D, const int S, const int G, float s[][MAX_SCORES], const char *v,
                                   int count, float *acc, const char *next) {
  if (layer->values == KV_INT4) INT4_NAME(add_values)(D, G, s, v, count, acc, next);
  else if (layer->values == KV_INT8) INT8_NAME(add_values)(D, S, G, s, (const int8_t *)v, count, acc, (const int8_t *)next);
  else BYTES_NAME(add_plain)(D, G, s, (const T *)v, count, acc, (const T *)next);
}

/* Whole blocks of keys, or values, of one format as they are multiplied; returns whether they have scales still */
INLINE int BYTES_NAME(unpack)(int64_t format, int is_keys, const int D, const char *from, int places, NAME(operand) *to,
                              float *scales) {
  const int side = is_keys ? LANES : D;
  if (format == KV_INT8) {
    INT8_NAME(unpack_places)(D, side, (const int8_t *)from, places, to, scales);
    return 1;
  }
  if (format == KV_INT4) INT4_NAME(unpack_places)(D, is_keys, from, places, to);
#if IS_WIDENED
  else NAME(unpack_places)(D, side, (const T *)from, places, to, scales);
#else
  else memcpy(to, from, (int64_t)places * D * sizeof(T));
#endif
  return 0;
}

INLINE int BYTES_NAME(unpack_keys)(const kv_layer *layer, const int D, const char *from, int places, NAME(operand) *to,
                                   float *scales) {
  return BYTES_NAME(unpack)(layer->keys, 1, D, from, places, to, scales);
}

INLINE int BYTES_NAME(unpack_values)(const kv_layer *layer, const int D, const char *from, int places, NAME(operand) *to,
                                     float *scales) {
  return BYTES_NAME(unpack)(layer->values, 0, D, from, places, to, scales);
}

/* The first LANES places of keys, or values, which are in the model's own numbers, in the place of those that were unpacked */
INLINE void BYTES_NAME(unpack_plain)(int is_keys, const int D, const T *from, NAME(operand) *to, float *scales) {
  BYTES_NAME(unpack)(KV_AS_MODEL, is_keys, D, (const char *)from, LANES, to, scales);
  for (int j = 0; j < LANES; j++) scales[j] = 1;
}
