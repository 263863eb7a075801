/* What layers with a state are to C, and what their functions share for all number formats (recurrent.h). */

#define STATE_LANES 16   /* numbers of channels and of a head are multiples of it: of every processor's vectors */
#define MAX_CONVOLVED 8  /* inputs of a convolution */
#define MAX_KEY_DIM 512  /* of the delta rule */
#define CONV_BLOCK 128   /* channels of a chunk of work */
#define SCAN_TOKENS 32   /* tokens whose inputs stay in the first-level cache */
#define ROUND_TOKENS 128 /* tokens that go through the phases of a layer together: their numbers stay in a cache */
#define GATED_TOKENS 8   /* tokens of a chunk of work */
#define CHANNEL_TILE 4   /* numbers of a channel's state that stay in registers */
#define STATE_TILE 4     /* numbers of a head's state for each of its results that stay in registers, by vectors of results */
#define FEW_NUMBERS 2048 /* fewer are computed sooner than a second thread begins */

typedef struct {
  const float *weight, *bias; /* [kernel, channels], the latest input's at the end; [channels] or 0 */
  int64_t channels, kernel, has_silu;
} conv_layer;

typedef struct {
  conv_layer conv;                           /* over inputs, keys and queries */
  const float *step_bias, *decay, *skip;     /* each [heads] */
  const float *norm;                         /* [heads * width], or 0 */
  int64_t heads, width, size, groups;        /* groups: heads that share keys and queries */
  int64_t norm_groups, norm_before_gate;
  float epsilon, least_step, most_step;
} heads_layer;

typedef struct {
  const float *decay;            /* [size, channels] */
  const float *skip, *step_bias; /* [channels]; the second one, or 0 */
  int64_t channels, size, groups;
} channels_layer;

/* The gate of the delta rule's results */
enum { GATE_BY_SILU, GATE_BY_SIGMOID };

typedef struct {
  int64_t key_heads, heads, key_dim, value_dim;
  int64_t decays; /* of a head and token: 1, or key_dim */
  const float *norm; /* [value_dim] */
  float epsilon;
  int64_t gate;
} delta_layer;

typedef struct {
  const int32_t *slots, *firsts, *counts, *is_decoded;
  int64_t count;
} pass_segments;

/* table: [4, count]: slots, first tokens, numbers of tokens, and whether a token is one that was decoded */
INLINE pass_segments segments_of(const int32_t *table, int64_t count) {
  return (pass_segments){table, table + count, table + 2 * count, table + 3 * count, count};
}

typedef struct { int32_t slots[ROUND_TOKENS], firsts[ROUND_TOKENS], counts[ROUND_TOKENS], is_decoded[ROUND_TOKENS]; } segments_of_round;

/* What of the segments is among `tokens` tokens from `first` on */
static pass_segments clip_segments(const pass_segments *pass, int64_t first, int64_t tokens, segments_of_round *round) {
  int64_t count = 0;
  for (int64_t s = 0; s < pass->count && count < ROUND_TOKENS; s++) {
    const int64_t begin = pass->firsts[s] > first ? pass->firsts[s] : first;
    const int64_t end = pass->firsts[s] + (int64_t)pass->counts[s];
    const int64_t some = (end < first + tokens ? end : first + tokens) - begin;
    if (some < 1) continue;
    round->slots[count] = pass->slots[s];
    round->firsts[count] = (int32_t)(begin - first);
    round->counts[count] = (int32_t)some;
    round->is_decoded[count++] = pass->is_decoded[s];
  }
  return (pass_segments){round->slots, round->firsts, round->counts, round->is_decoded, count};
}

static int64_t check_segments(const pass_segments *pass, int64_t tokens, int64_t slots) {
  if (pass->count < 1 || tokens < 1) REFUSE(NO_TOKENS, 0);
  for (int64_t s = 0; s < pass->count; s++) {
    if (pass->slots[s] < 0 || pass->slots[s] >= slots) REFUSE(WRONG_STATE_SLOT, s);
    if (pass->firsts[s] < 0 || pass->counts[s] < 1 || pass->firsts[s] + (int64_t)pass->counts[s] > tokens)
      REFUSE(WRONG_SEGMENT, s);
  }
  return FINE;
}

static int is_conv_layer(const conv_layer *layer) {
  return layer->weight && layer->kernel >= 1 && layer->kernel <= MAX_CONVOLVED && layer->channels >= 1 &&
         layer->channels % STATE_LANES == 0;
}

static int is_heads_layer(const heads_layer *layer) {
  const int64_t inner = layer->heads * layer->width;
  if (!is_conv_layer(&layer->conv) || layer->heads < 1 || layer->width < 1 || layer->width % STATE_LANES) return 0;
  if (layer->size < 1 || layer->size % STATE_TILE || layer->groups < 1 || layer->heads % layer->groups) return 0;
  if (layer->norm && (layer->norm_groups < 1 || inner % (layer->norm_groups * STATE_LANES))) return 0;
  return layer->conv.channels == inner + 2 * layer->groups * layer->size;
}

static int is_channels_layer(const channels_layer *layer) {
  if (layer->channels < 1 || layer->channels % STATE_LANES || layer->size < 1 || layer->size % CHANNEL_TILE) return 0;
  return layer->groups >= 1 && layer->channels % (layer->groups * STATE_LANES) == 0;
}

static int is_delta_layer(const delta_layer *layer) {
  if (layer->key_heads < 1 || layer->heads < 1 || layer->heads % layer->key_heads || !layer->norm) return 0;
  if (layer->key_dim < 1 || layer->key_dim > MAX_KEY_DIM || layer->key_dim % STATE_LANES) return 0;
  if (layer->value_dim < 1 || layer->value_dim % STATE_LANES) return 0;
  return layer->decays == 1 || layer->decays == layer->key_dim;
}

typedef uint16_t halfwords __attribute__((vector_size(2 * VEC_FLOATS)));
typedef int32_t signed_words __attribute__((vector_size(4 * VEC_FLOATS)));

INLINE vec one_vec(void) { return (vec){0} + 1.0f; }
INLINE vec larger_vec(vec a, vec b) { return (vec)(((words)(a > b) & (words)a) | (~(words)(a > b) & (words)b)); }

/* exp, within 2e-7 of it, of numbers up to 88; below -87 as there */
INLINE vec exp_vec(vec x) {
  const vec round = (vec){0} + 12582912.0f; /* adding it leaves whole numbers */
  x = larger_vec(x, (vec){0} - 87.0f);
  const vec n = (x * LOG2_E + round) - round;
  vec r = n * -0.693359375f + x;
  r = n * 2.12194440e-4f + r;
  vec p = (vec){0} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const signed_words power = (__builtin_convertvector(n, signed_words) + 127) << 23;
  return p * (vec)power;
}

INLINE vec size_vec(vec x) { return (vec)((words)x & 0x7fffffffu); }

/* 1 / (1 + exp(-x)) by exp(-|x|), which cannot overflow */
INLINE vec sigmoid_vec(vec x) {
  const vec e = exp_vec(-size_vec(x));
  const words is_negative = (words)(x < 0.0f);
  const vec part = (vec)((is_negative & (words)e) | (~is_negative & (words)one_vec()));
  return part / (e + 1.0f);
}
INLINE vec silu_vec(vec x) { return x * sigmoid_vec(x); }

/* log(1 + exp(x)): the larger of x and 0, and log(1 + e) = 2 artanh(e / (2 + e)) of e = exp(-|x|) */
INLINE vec softplus_vec(vec x) {
  const vec e = exp_vec(-size_vec(x)), s = e / (e + 2.0f), square = s * s;
  vec p = (vec){0} + 1.0f / 13;
  p = p * square + 1.0f / 11;
  p = p * square + 1.0f / 9;
  p = p * square + 1.0f / 7;
  p = p * square + 1.0f / 5;
  p = p * square + 1.0f / 3;
  p = p * square + 1.0f;
  return larger_vec(x, (vec){0}) + 2.0f * s * p;
}

INLINE vec root_vec(vec x) {
#if defined(HAS_AVX512)
  return (vec)_mm512_sqrt_ps((__m512)x);
#elif VEC_FLOATS == 8 && defined(__AVX2__)
  return (vec)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < VEC_FLOATS; i++) x[i] = sqrtf(x[i]);
  return x;
#endif
}

INLINE float sum_of_vec(vec x) {
  float sum = 0;
  for (int i = 0; i < VEC_FLOATS; i++) sum += x[i];
  return sum;
}

/* The length of a head's time step. Families limit those of prompts alone, not that of a token which is decoded. */
INLINE float limited_step(const heads_layer *layer, float x, int is_decoded) {
  const float step = x > 20 ? x : log1pf(expf(x));
  if (is_decoded) return step;
  return step < layer->least_step ? layer->least_step : step > layer->most_step ? layer->most_step : step;
}

/* A tile of a head's state, STATE_TILE numbers for each of `vectors` vectors of results, over the tokens of a block */
INLINE void scan_tile(const float *decay, const float *inputs, const float *keys, const float *queries, int64_t stride,
                      int64_t count, float *state, int64_t width, float *results, int64_t results_stride,
                      const int64_t vectors) {
  vec current[STATE_TILE][4];
  for (int64_t n = 0; n < STATE_TILE; n++)
    for (int64_t v = 0; v < vectors; v++) current[n][v] = load_f32(state + n * width + v * VEC_FLOATS);
  for (int64_t t = 0; t < count; t++) {
    vec sum[4];
    for (int64_t v = 0; v < vectors; v++) sum[v] = load_f32(results + t * results_stride + v * VEC_FLOATS);
    for (int64_t n = 0; n < STATE_TILE; n++) {
      const float key = keys[t * stride + n], query = queries[t * stride + n];
      for (int64_t v = 0; v < vectors; v++) {
        const vec added = key * load_f32(inputs + (t * vectors + v) * VEC_FLOATS);
        current[n][v] = current[n][v] * decay[t] + added;
        sum[v] += query * current[n][v];
      }
    }
    for (int64_t v = 0; v < vectors; v++) memcpy(results + t * results_stride + v * VEC_FLOATS, &sum[v], sizeof(vec));
  }
  for (int64_t n = 0; n < STATE_TILE; n++)
    for (int64_t v = 0; v < vectors; v++) memcpy(state + n * width + v * VEC_FLOATS, &current[n][v], sizeof(vec));
}

#if IS_IN(RECURRENT_BF16) || IS_IN(RECURRENT_F32)
#define TILE_VECTORS (VEC_FLOATS == 16 ? 4 : 2) /* as many as there are registers for */

/* A head over the tokens of a block. convolved: of rows of `stride` numbers, the inputs of all heads, the keys and the
   queries of all groups; state: [size, width]; results: the head's, of rows of `to_stride` numbers */
static void scan_head(const heads_layer *layer, int64_t head, const float *steps, int64_t count, const float *convolved,
                      int64_t stride, float *state, float *results, int64_t to_stride) {
  const int64_t width = layer->width, size = layer->size, inner = layer->heads * width;
  const int64_t group = head / (layer->heads / layer->groups);
  const float *keys = convolved + inner + group * size, *queries = keys + layer->groups * size;
  float decay[SCAN_TOKENS], inputs[SCAN_TOKENS * 4 * VEC_FLOATS];
  for (int64_t t = 0; t < count; t++) decay[t] = expf(steps[t] * layer->decay[head]);
  for (int64_t first = 0; first < width;) {
    const int64_t left = (width - first) / VEC_FLOATS, vectors = left < TILE_VECTORS ? 1 : TILE_VECTORS;
    const int64_t tile = vectors * VEC_FLOATS;
    for (int64_t t = 0; t < count; t++)
      for (int64_t i = 0; i < tile; i += VEC_FLOATS) {
        const vec x = load_f32(convolved + t * stride + head * width + first + i);
        const vec weighted = x * steps[t], skipped = x * layer->skip[head];
        memcpy(inputs + t * tile + i, &weighted, sizeof weighted);
        memcpy(results + t * to_stride + first + i, &skipped, sizeof skipped);
      }
    for (int64_t n = 0; n < size; n += STATE_TILE) {
      float *at = state + n * width + first;
      float *to = results + first;
      if (vectors == 1) scan_tile(decay, inputs, keys + n, queries + n, stride, count, at, width, to, to_stride, 1);
      else scan_tile(decay, inputs, keys + n, queries + n, stride, count, at, width, to, to_stride, TILE_VECTORS);
    }
    first += tile;
  }
}
#endif
