/* Layers that carry a state from token to token, for one number format (T, PACK, NAME: see kernels.c): a causal
   convolution of each channel, and recurrences of heads (Mamba-2), of channels (Mamba) and of single numbers (RG-LRU).

   A pass has segments: tokens that are neighbours, and the slot of their row. A state is read before a segment's first
   token and written after the last one; a decoding step is a pass whose segments have one token each. Tokens are gone
   through one after the other, and each number of a state is computed alike however they are divided into passes: so a
   row's bits depend neither on other rows nor on how its prompt was divided. The lanes of a vector are neighbouring
   channels, and numbers of channels and of a head are multiples of STATE_LANES. */

#if IS_IN(RECURRENT_UNIT)
#if PACK == 2
INLINE vec NAME(load_vec)(const T *at) {
  halfwords x;
  memcpy(&x, at, sizeof x);
  return (vec)(__builtin_convertvector(x, words) << 16);
}
INLINE void NAME(store_vec)(T *at, vec x) {
  const words bits = (words)x;
  const halfwords rounded = __builtin_convertvector((bits + ((bits >> 16 & 1) + 0x7fff)) >> 16, halfwords);
  memcpy(at, &rounded, sizeof rounded);
}
#else
INLINE vec NAME(load_vec)(const T *at) { return load_f32(at); }
INLINE void NAME(store_vec)(T *at, vec x) { memcpy(at, &x, sizeof x); }
#endif

/* The convolution of VEC_FLOATS channels over the tokens of a segment. inputs: the segment's first token, of `stride`
   numbers; state: of its slot, [kernel - 1, channels], oldest first. Exactly one of out and wide is given. */
INLINE void NAME(convolve_vec)(const conv_layer *layer, const T *inputs, int64_t stride, int64_t count, T *state, T *out,
                               float *wide, int64_t wide_stride, int64_t channel, const int64_t kernel) {
  const int64_t channels = layer->channels;
  vec weight[MAX_CONVOLVED], before[MAX_CONVOLVED];
  for (int64_t k = 0; k < kernel; k++) weight[k] = load_f32(layer->weight + k * channels + channel);
  for (int64_t k = 0; k < kernel - 1; k++) before[k] = NAME(load_vec)(state + k * channels + channel);
  const vec bias = layer->bias ? load_f32(layer->bias + channel) : (vec){0};
  for (int64_t t = 0; t < count; t++) {
    const vec x = NAME(load_vec)(inputs + t * stride + channel);
    vec sum = bias;
    for (int64_t k = 0; k < kernel - 1; k++) sum += weight[k] * before[k];
    sum += weight[kernel - 1] * x;
    for (int64_t k = 0; k < kernel - 2; k++) before[k] = before[k + 1];
    if (kernel > 1) before[kernel - 2] = x;
    if (layer->has_silu) sum = silu_vec(sum);
    if (wide) memcpy(wide + t * wide_stride + channel, &sum, sizeof sum);
    else NAME(store_vec)(out + t * channels + channel, sum);
  }
  for (int64_t k = 0; k < kernel - 1; k++) NAME(store_vec)(state + k * channels + channel, before[k]);
}

/* One block of channels of a segment, at inputs [tokens, stride] */
static void NAME(convolve_block)(const conv_layer *layer, const pass_segments *pass, int64_t segment, int64_t block,
                                 const T *inputs, int64_t stride, T *states, T *out, float *wide, int64_t wide_stride) {
  const int64_t first = pass->firsts[segment], count = pass->counts[segment], channels = layer->channels;
  T *state = states + pass->slots[segment] * (layer->kernel - 1) * channels;
  const T *x = inputs + first * stride;
  T *to = out ? out + first * channels : 0;
  float *wide_to = wide ? wide + first * wide_stride : 0;
  for (int64_t c = block * CONV_BLOCK; c < channels && c < (block + 1) * CONV_BLOCK; c += VEC_FLOATS)
    if (layer->kernel == 4) NAME(convolve_vec)(layer, x, stride, count, state, to, wide_to, wide_stride, c, 4);
    else if (layer->kernel == 3) NAME(convolve_vec)(layer, x, stride, count, state, to, wide_to, wide_stride, c, 3);
    else NAME(convolve_vec)(layer, x, stride, count, state, to, wide_to, wide_stride, c, layer->kernel);
}

/* out [tokens, channels] = the convolution of inputs [tokens, stride]; states: [slots, kernel - 1, channels] */
int64_t NAME(convolve)(const conv_layer *layer, const int32_t *table, int64_t count, int64_t tokens, int64_t slots,
                       const T *inputs, int64_t stride, T *states, T *out, int threads) {
  const pass_segments pass = segments_of(table, count);
  if (!is_conv_layer(layer) || stride < layer->channels) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_segments(&pass, tokens, slots);
  if (wrong) return wrong;
  const int64_t blocks = ceil_div(layer->channels, CONV_BLOCK), chunks = count * blocks;
  phase phases[1] __attribute__((aligned(CACHE_LINE))) = {0};
  if (tokens * layer->channels < FEW_NUMBERS) threads = 1;
#pragma omp parallel num_threads(threads)
  FOR_EACH_CHUNK(i, phases, chunks, threads == 1)
    NAME(convolve_block)(layer, &pass, i / blocks, i % blocks, inputs, stride, states, out, 0, 0);
  return FINE;
}

/* gated and normed [inner] of a token's results, rounded to T */
INLINE void NAME(gate_token)(const heads_layer *layer, const float *results, const T *gate, T *out) {
  const int64_t inner = layer->heads * layer->width, width = layer->norm ? inner / layer->norm_groups : inner;
  for (int64_t first = 0; first < inner; first += width) {
    vec squares = {0};
    if (layer->norm)
      for (int64_t i = first; i < first + width; i += VEC_FLOATS) {
        vec x = load_f32(results + i);
        if (!layer->norm_before_gate) x *= silu_vec(NAME(load_vec)(gate + i));
        squares += x * x;
      }
    const float factor = layer->norm ? 1.0f / sqrtf(sum_of_vec(squares) / width + layer->epsilon) : 1.0f;
    for (int64_t i = first; i < first + width; i += VEC_FLOATS) {
      vec x = load_f32(results + i) * silu_vec(NAME(load_vec)(gate + i));
      if (layer->norm) x = x * factor * load_f32(layer->norm + i);
      NAME(store_vec)(out + i, x);
    }
  }
}

/* At most ROUND_TOKENS tokens of Mamba-2, whose segments are clipped to them, in three phases; see below. The caller waits
   for the end of the last one. */
static void NAME(scan_heads_round)(const heads_layer *layer, const pass_segments *pass, int64_t tokens,
                                   const T *projected, T *conv_states, float *states, float *workspace, T *out,
                                   phase *phases, int is_alone) {
  const int64_t heads = layer->heads, inner = heads * layer->width, channels = layer->conv.channels;
  const int64_t stride = inner + channels + heads, blocks = ceil_div(channels, CONV_BLOCK);
  const int64_t wide = channels + STATE_LANES, to = inner + STATE_LANES; /* else all rows may be in one set of a cache */
  float *convolved = workspace, *results = workspace + tokens * wide;
  const int64_t token_chunks = ceil_div(tokens, GATED_TOKENS);
  FOR_EACH_CHUNK(i, phases, pass->count * blocks, is_alone)
    NAME(convolve_block)(&layer->conv, pass, i / blocks, i % blocks, projected + inner, stride, conv_states, 0,
                         convolved, wide);
  barrier(phases, pass->count * blocks, is_alone);
  FOR_EACH_CHUNK(i, phases + 1, pass->count * heads, is_alone) {
    const int64_t segment = i / heads, head = i % heads;
    float *state = states + (pass->slots[segment] * heads + head) * layer->size * layer->width;
    float steps[SCAN_TOKENS];
    for (int64_t start = 0; start < pass->counts[segment]; start += SCAN_TOKENS) {
      const int64_t at = pass->firsts[segment] + start, left = pass->counts[segment] - start;
      const int64_t some = left < SCAN_TOKENS ? left : SCAN_TOKENS;
      for (int64_t t = 0; t < some; t++) {
        const float step = NAME(to_float)(projected[(at + t) * stride + inner + channels + head]);
        steps[t] = limited_step(layer, step + layer->step_bias[head], pass->is_decoded[segment]);
      }
      float *head_results = results + at * to + head * layer->width;
      scan_head(layer, head, steps, some, convolved + at * wide, wide, state, head_results, to);
    }
  }
  barrier(phases + 1, pass->count * heads, is_alone);
  FOR_EACH_CHUNK(i, phases + 2, token_chunks, is_alone)
    FOR_EACH_ITEM(t, i, GATED_TOKENS, tokens)
      NAME(gate_token)(layer, results + t * to, projected + t * stride, out + t * inner);
}

/* Mamba-2 between its two projections. projected: [tokens, inner + channels + heads], the gate, what is convolved, and
   the time steps before softplus; conv_states: [slots, kernel - 1, channels]; states: [slots, heads, size, width];
   workspace: floats [the lesser of tokens and ROUND_TOKENS, channels + inner + 2 * STATE_LANES]; out: [tokens, inner]. */
int64_t NAME(scan_heads)(const heads_layer *layer, const int32_t *table, int64_t count, int64_t tokens, int64_t slots,
                         const T *projected, T *conv_states, float *states, float *workspace, T *out, int threads) {
  const pass_segments pass = segments_of(table, count);
  if (!is_heads_layer(layer)) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_segments(&pass, tokens, slots);
  if (wrong) return wrong;
  const int64_t inner = layer->heads * layer->width, stride = inner + layer->conv.channels + layer->heads;
  for (int64_t first = 0; first < tokens; first += ROUND_TOKENS) {
    const int64_t some = tokens - first < ROUND_TOKENS ? tokens - first : ROUND_TOKENS;
    segments_of_round round;
    const pass_segments clipped = clip_segments(&pass, first, some, &round);
    phase phases[3] __attribute__((aligned(CACHE_LINE))) = {0};
    const int some_threads = some * inner < FEW_NUMBERS ? 1 : threads;
#pragma omp parallel num_threads(some_threads)
    NAME(scan_heads_round)(layer, &clipped, some, projected + first * stride, conv_states, states, workspace,
                           out + first * inner, phases, some_threads == 1);
  }
  return FINE;
}

/* VEC_FLOATS channels of a segment of Mamba, over some of its `size` numbers of a state at once; results are added up in
   `sums` [tokens of a block, VEC_FLOATS] */
INLINE void NAME(scan_channels_vec)(const channels_layer *layer, const vec *steps, const vec *inputs, const T *keys,
                                    const T *queries, int64_t stride, int64_t count, float *state, vec *sums,
                                    int64_t channel, int64_t number, const int64_t numbers) {
  vec current[CHANNEL_TILE], decay[CHANNEL_TILE];
  for (int64_t n = 0; n < numbers; n++) {
    current[n] = load_f32(state + (number + n) * layer->channels + channel);
    decay[n] = load_f32(layer->decay + (number + n) * layer->channels + channel);
  }
  for (int64_t t = 0; t < count; t++) {
    const vec input = steps[t] * inputs[t];
    vec sum = sums[t];
    for (int64_t n = 0; n < numbers; n++) {
      const float key = NAME(to_float)(keys[t * stride + number + n]);
      current[n] = current[n] * exp_vec(steps[t] * decay[n]) + key * input;
      sum += current[n] * NAME(to_float)(queries[t * stride + number + n]);
    }
    sums[t] = sum;
  }
  for (int64_t n = 0; n < numbers; n++) memcpy(state + (number + n) * layer->channels + channel, &current[n], sizeof(vec));
}

/* One block of channels of a segment of Mamba. The arguments are those of scan_channels. */
static void NAME(scan_channels_block)(const channels_layer *layer, const pass_segments *pass, int64_t segment, int64_t block,
                                      const T *inputs, const T *steps, const T *keys, const T *queries, int64_t stride,
                                      const T *gate, int64_t gate_stride, float *states, T *out) {
  const int64_t channels = layer->channels, size = layer->size, per_group = channels / layer->groups;
  const int64_t end = pass->firsts[segment] + pass->counts[segment];
  float *state = states + pass->slots[segment] * size * channels;
  vec step[SCAN_TOKENS], input[SCAN_TOKENS], sums[SCAN_TOKENS];
  for (int64_t at = pass->firsts[segment]; at < end; at += SCAN_TOKENS) {
    const int64_t some = end - at < SCAN_TOKENS ? end - at : SCAN_TOKENS;
    for (int64_t c = block * CONV_BLOCK; c < channels && c < (block + 1) * CONV_BLOCK; c += VEC_FLOATS) {
      const int64_t group = c / per_group * size;
      for (int64_t t = 0; t < some; t++) {
        input[t] = NAME(load_vec)(inputs + (at + t) * channels + c);
        const vec bias = layer->step_bias ? load_f32(layer->step_bias + c) : (vec){0};
        step[t] = softplus_vec(NAME(load_vec)(steps + (at + t) * channels + c) + bias);
        sums[t] = (vec){0};
      }
      const T *key = keys + at * stride + group, *query = queries + at * stride + group;
      for (int64_t n = 0; n < size; n += CHANNEL_TILE)
        NAME(scan_channels_vec)(layer, step, input, key, query, stride, some, state, sums, c, n, CHANNEL_TILE);
      const vec skip = load_f32(layer->skip + c);
      for (int64_t t = 0; t < some; t++) {
        const vec result = sums[t] + skip * input[t];
        NAME(store_vec)(out + (at + t) * channels + c, result * silu_vec(NAME(load_vec)(gate + (at + t) * gate_stride + c)));
      }
    }
  }
}

/* Mamba between its projections. inputs: [tokens, channels], convolved; steps: before softplus, [tokens, channels]; keys
   and queries: [tokens, groups, size], of rows of `stride` numbers; gate: of rows of `gate_stride`; states:
   [slots, size, channels]; out: [tokens, channels] */
int64_t NAME(scan_channels)(const channels_layer *layer, const int32_t *table, int64_t count, int64_t tokens,
                            int64_t slots, const T *inputs, const T *steps, const T *keys, const T *queries,
                            int64_t stride, const T *gate, int64_t gate_stride, float *states, T *out, int threads) {
  const pass_segments pass = segments_of(table, count);
  if (!is_channels_layer(layer)) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_segments(&pass, tokens, slots);
  if (wrong) return wrong;
  const int64_t blocks = ceil_div(layer->channels, CONV_BLOCK), chunks = count * blocks;
  phase phases[1] __attribute__((aligned(CACHE_LINE))) = {0};
  if (tokens * layer->channels < FEW_NUMBERS) threads = 1;
#pragma omp parallel num_threads(threads)
  FOR_EACH_CHUNK(i, phases, chunks, threads == 1)
    NAME(scan_channels_block)(layer, &pass, i / blocks, i % blocks, inputs, steps, keys, queries, stride, gate, gate_stride,
                              states, out);
  return FINE;
}

/* RG-LRU behind its convolution. inputs, input_gates, open_gates (before their sigmoids) and gates: [tokens, channels];
   rate: what a sigmoid is multiplied by for the logarithm of the decay; states: [slots, channels]; started: [slots], 0
   for a row without tokens, whose first token is not scaled */
int64_t NAME(scan_numbers)(const float *rate, int64_t channels, const int32_t *table, int64_t count, int64_t tokens,
                           int64_t slots, const T *inputs, const T *input_gates, const T *open_gates, const T *gates,
                           float *states, float *started, T *out, int threads) {
  const pass_segments pass = segments_of(table, count);
  if (channels < 1 || channels % STATE_LANES) REFUSE(WRONG_MATRIX, 0);
  const int64_t wrong = check_segments(&pass, tokens, slots);
  if (wrong) return wrong;
  const int64_t blocks = ceil_div(channels, CONV_BLOCK), chunks = count * blocks;
  phase phases[1] __attribute__((aligned(CACHE_LINE))) = {0};
  if (tokens * channels < FEW_NUMBERS) threads = 1;
#pragma omp parallel num_threads(threads)
  FOR_EACH_CHUNK(i, phases, chunks, threads == 1) {
    const int64_t segment = i / blocks, block = i % blocks, first = pass.firsts[segment], slot = pass.slots[segment];
    for (int64_t c = block * CONV_BLOCK; c < channels && c < (block + 1) * CONV_BLOCK; c += VEC_FLOATS) {
      const vec one = one_vec(), rates = load_f32(rate + c);
      vec current = load_f32(states + slot * channels + c);
      for (int64_t t = 0; t < pass.counts[segment]; t++) {
        const int64_t at = (first + t) * channels + c;
        const vec logarithm = rates * sigmoid_vec(NAME(load_vec)(open_gates + at));
        vec input = NAME(load_vec)(inputs + at) * sigmoid_vec(NAME(load_vec)(input_gates + at));
        if (t > 0 || started[slot] != 0) input *= root_vec(one - exp_vec(2 * logarithm));
        current = current * exp_vec(logarithm) + input;
        NAME(store_vec)(out + at, current * NAME(load_vec)(gates + at));
      }
      memcpy(states + slot * channels + c, &current, sizeof current);
    }
  }
  for (int64_t s = 0; s < count; s++) started[pass.slots[s]] = 1;
  return FINE;
}
#endif
