/* The gated delta rule, for one number format (T, NAME: see kernels.c): a head's state [key_dim, value_dim] decays, and
   what it knows of a key is corrected towards its value. As in recurrent.h, tokens are gone through one after the other:
   a part of the state with some of the value's columns stays in the first-level cache, and is read and written once for
   each token, since what it knows of the next token's key is added up in the same loop. */

#ifndef DELTA_RULE
#define DELTA_RULE
#define COLUMNS 4 /* vectors of a value at once */
#define KEY_EPSILON 1e-6f

/* What a token tells a head: its query and key, how much of each row of the state is left, and the key times that */
typedef struct {
  float query[MAX_KEY_DIM], key[MAX_KEY_DIM], left[MAX_KEY_DIM], left_key[MAX_KEY_DIM];
} told;

/* x * y + z, rounded once where the processor can. The compiler would round some loops so and others not, as it thinks
   quicker, and bits must not depend on where a text is cut. */
INLINE vec fused_vec(vec x, vec y, vec z) {
#if defined(HAS_AVX512)
  return (vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif VEC_FLOATS == 8 && defined(__AVX2__) && defined(__FMA__)
  return (vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#elif defined(__ARM_FEATURE_FMA)
  for (int i = 0; i < VEC_FLOATS; i++) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return z;
#else
  return x * y + z;
#endif
}

/* Reads one token into some columns of a state. known: what these have known of the token's key, and afterwards what they
   know of the next one's */
INLINE void learn(float *state, const delta_layer *layer, const told *now, const told *next, const vec *value, float beta,
                  vec *known, vec *result, const int vectors) {
  vec correction[COLUMNS], sum[COLUMNS], coming[COLUMNS];
  for (int v = 0; v < vectors; v++) {
    correction[v] = (value[v] - known[v]) * beta;
    sum[v] = coming[v] = (vec){0};
  }
  for (int64_t i = 0; i < layer->key_dim; i++) {
    float *row = state + i * layer->value_dim;
    for (int v = 0; v < vectors; v++) {
      const vec added = now->key[i] * correction[v];
      const vec learned = fused_vec(load_f32(row + v * VEC_FLOATS), (vec){0} + now->left[i], added);
      memcpy(row + v * VEC_FLOATS, &learned, sizeof learned);
      sum[v] = fused_vec(learned, (vec){0} + now->query[i], sum[v]);
      coming[v] = fused_vec(learned, (vec){0} + next->left_key[i], coming[v]);
    }
  }
  for (int v = 0; v < vectors; v++) result[v] = sum[v], known[v] = coming[v];
}

#endif

#if IS_IN(RECURRENT_UNIT)
/* query, key: [key_dim] of a token; decay: the logs of what is left. It is compiled once, so that the squares are added up
   in the same order for a segment's first token and for later ones. */
static __attribute__((noinline)) void NAME(tell)(const delta_layer *layer, const T *query, const T *key, const float *decay, told *token) {
  vec of_query = {0}, of_key = {0};
  for (int64_t i = 0; i < layer->key_dim; i += VEC_FLOATS) {
    const vec q = NAME(load_vec)(query + i), k = NAME(load_vec)(key + i);
    of_query += q * q, of_key += k * k;
  }
  const float query_factor = 1.0f / sqrtf((sum_of_vec(of_query) + KEY_EPSILON) * layer->key_dim);
  const float key_factor = 1.0f / sqrtf(sum_of_vec(of_key) + KEY_EPSILON);
  const vec of_head = exp_vec((vec){0} + decay[0]);
  for (int64_t i = 0; i < layer->key_dim; i += VEC_FLOATS) {
    const vec q = NAME(load_vec)(query + i) * query_factor, k = NAME(load_vec)(key + i) * key_factor;
    const vec left = layer->decays > 1 ? exp_vec(load_f32(decay + i)) : of_head, left_key = k * left;
    memcpy(token->query + i, &q, sizeof q);
    memcpy(token->key + i, &k, sizeof k);
    memcpy(token->left + i, &left, sizeof left);
    memcpy(token->left_key + i, &left_key, sizeof left_key);
  }
}

/* Reads a segment into some columns of one head's state, [key_dim, value_dim] from the first of these columns on */
INLINE void NAME(learn_columns)(const delta_layer *layer, const T *mixed, const float *decay, const float *beta,
                                int64_t head, int64_t count, float *state, int64_t first, T *out, const int vectors) {
  const int64_t wide = layer->key_heads * layer->key_dim, of_values = 2 * wide + head * layer->value_dim + first;
  const int64_t stride = 2 * wide + layer->heads * layer->value_dim, decays = layer->heads * layer->decays;
  const T *query = mixed + head / (layer->heads / layer->key_heads) * layer->key_dim;
  told tokens[2];
  vec known[COLUMNS], value[COLUMNS], result[COLUMNS];
  decay += head * layer->decays;
  NAME(tell)(layer, query, query + wide, decay, tokens);
  for (int v = 0; v < vectors; v++) known[v] = (vec){0};
  for (int64_t i = 0; i < layer->key_dim; i++)
    for (int v = 0; v < vectors; v++)
      known[v] = fused_vec(load_f32(state + i * layer->value_dim + v * VEC_FLOATS), (vec){0} + tokens->left_key[i], known[v]);
  for (int64_t t = 0; t < count; t++) {
    const told *now = tokens + t % 2;
    told *next = tokens + (t + 1) % 2;
    if (t + 1 < count)
      NAME(tell)(layer, query + (t + 1) * stride, query + (t + 1) * stride + wide, decay + (t + 1) * decays, next);
    else memset(next->left_key, 0, layer->key_dim * sizeof(float));
    for (int v = 0; v < vectors; v++) value[v] = NAME(load_vec)(mixed + t * stride + of_values + v * VEC_FLOATS);
    learn(state, layer, now, next, value, beta[t * layer->heads + head], known, result, vectors);
    T *to = out + (t * layer->heads + head) * layer->value_dim + first;
    for (int v = 0; v < vectors; v++) NAME(store_vec)(to + v * VEC_FLOATS, result[v]);
  }
}

/* A head's results of one token, normed, weighted and gated */
INLINE void NAME(gate_head)(const delta_layer *layer, const T *gate, T *x) {
  vec squares = {0};
  for (int64_t i = 0; i < layer->value_dim; i += VEC_FLOATS) {
    const vec part = NAME(load_vec)(x + i);
    squares += part * part;
  }
  const float factor = 1.0f / sqrtf(sum_of_vec(squares) / layer->value_dim + layer->epsilon);
  for (int64_t i = 0; i < layer->value_dim; i += VEC_FLOATS) {
    const vec by = NAME(load_vec)(gate + i), opened = layer->gate == GATE_BY_SILU ? silu_vec(by) : sigmoid_vec(by);
    NAME(store_vec)(x + i, NAME(load_vec)(x + i) * factor * load_f32(layer->norm + i) * opened);
  }
}

/* Reads a segment into the state of one head; as below, but for a gate of rows of `gate_stride` numbers */
static void NAME(read_segment)(const delta_layer *layer, const pass_segments *pass, int64_t segment, int64_t head,
                               const T *mixed, const float *decay, const float *beta, const T *gate, int64_t gate_stride,
                               float *states, T *out) {
  const int64_t heads = layer->heads, value_dim = layer->value_dim, first = pass->firsts[segment];
  const int64_t some = pass->counts[segment], stride = 2 * layer->key_heads * layer->key_dim + heads * value_dim;
  float *state = states + (pass->slots[segment] * heads + head) * layer->key_dim * value_dim;
  const T *x = mixed + first * stride;
  const float *logs = decay + first * heads * layer->decays, *rates = beta + first * heads;
  T *to = out + first * heads * value_dim;
  int64_t column = 0;
  for (; column + COLUMNS * VEC_FLOATS <= value_dim; column += COLUMNS * VEC_FLOATS)
    NAME(learn_columns)(layer, x, logs, rates, head, some, state + column, column, to, COLUMNS);
  for (; column < value_dim; column += VEC_FLOATS)
    NAME(learn_columns)(layer, x, logs, rates, head, some, state + column, column, to, 1);
  for (int64_t t = 0; t < some; t++)
    NAME(gate_head)(layer, gate + (first + t) * gate_stride + head * value_dim, to + (t * heads + head) * value_dim);
}

/* The rule between a layer's convolution and its last projection. mixed: [tokens, queries and keys of key_heads, values
   of heads]; decay: logs [tokens, heads, decays]; beta: [tokens, heads]; gate, out: [tokens, heads, value_dim]; states:
   [slots, heads, key_dim, value_dim] */
int64_t NAME(delta_rule)(const delta_layer *layer, const int32_t *table, int64_t count, int64_t tokens, int64_t slots,
                         const T *mixed, const float *decay, const float *beta, const T *gate, float *states, T *out,
                         int threads) {
  const pass_segments pass = segments_of(table, count);
  if (!is_delta_layer(layer)) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_segments(&pass, tokens, slots);
  if (wrong) return wrong;
  const int64_t heads = layer->heads;
  phase phases[1] __attribute__((aligned(CACHE_LINE))) = {0};
#pragma omp parallel num_threads(threads)
  FOR_EACH_CHUNK(i, phases, count * heads, threads == 1)
    NAME(read_segment)(layer, &pass, i / heads, i % heads, mixed, decay, beta, gate, heads * layer->value_dim, states, out);
  return FINE;
}
#endif
