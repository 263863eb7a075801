/* What layers with a state compute between their products, in a fused pass and for one number format (T, PACK, NAME: see
   kernels.c): the loops of recurrent.h and delta_rule.h, by the threads of the pass. */

#if !IS_IN(RECURRENT_UNIT)
UNTIL_LINKED void NAME(mix)(const fused_mixer *mixer, const mixed_tokens *in, T *projected, void *workspace, T *out,
                            phase **now, int threads) {
  abort();
}
UNTIL_LINKED void NAME(convolve_channels)(const fused_mixer *mixer, const mixed_tokens *in, const T *projected, T *convolved,
                                          phase *now, int threads) {
  abort();
}
UNTIL_LINKED void NAME(mix_channels)(const fused_mixer *mixer, const mixed_tokens *in, const T *projected,
                                     const T *convolved, const T *parts, const T *steps, T *out, phase *now, int threads) {
  abort();
}
#else

#define RATED_TOKENS 32  /* tokens of a chunk of work */
#define ORDERED_TOKENS 4

/* The gated convolution of a block of channels; what is convolved takes the place of its gate. */
static void NAME(mix_block)(const fused_mixer *mixer, const mixed_tokens *in, int64_t segment, int64_t block, T *projected,
                            T *out) {
  const int64_t channels = mixer->inner, first = block * CONV_BLOCK, left = channels - first;
  const int64_t some = left < CONV_BLOCK ? left : CONV_BLOCK, begin = in->segments.firsts[segment];
  const int64_t end = begin + in->segments.counts[segment];
  for (int64_t t = begin; t < end; t++) {
    T *gate = projected + t * mixer->width + first;
    const T *inputs = gate + 2 * channels;
    for (int64_t c = 0; c < some; c += VEC_FLOATS)
      NAME(store_vec)(gate + c, NAME(load_vec)(gate + c) * NAME(load_vec)(inputs + c));
  }
  NAME(convolve_block)(mixer->conv, &in->segments, segment, block, projected, mixer->width, in->states[0], out, 0, 0);
  for (int64_t t = begin; t < end; t++) {
    const T *gate = projected + t * mixer->width + channels + first;
    T *result = out + t * channels + first;
    for (int64_t c = 0; c < some; c += VEC_FLOATS)
      NAME(store_vec)(result + c, NAME(load_vec)(gate + c) * NAME(load_vec)(result + c));
  }
}

static void NAME(mix_short_conv)(const fused_mixer *mixer, const mixed_tokens *in, T *projected, T *out, phase *now,
                                 int is_alone) {
  const int64_t blocks = ceil_div(mixer->inner, CONV_BLOCK), chunks = in->segments.count * blocks;
  FOR_EACH_CHUNK(i, now, chunks, is_alone) NAME(mix_block)(mixer, in, i / blocks, i % blocks, projected, out);
  barrier(now, chunks, is_alone);
}

/* The logarithm of what is left of each head's state, and the rate at which it learns, of a token. They are rounded as the
   family does. */
static void NAME(rate_token)(const fused_mixer *mixer, const T *rate, const T *step, float *decays, float *rates) {
  for (int64_t h = 0; h < mixer->delta->heads; h++) {
    const float x = NAME(to_float)(step[h]) + mixer->step_bias[h];
    decays[h] = mixer->decay[h] * (x > 20 ? x : log1pf(expf(x)));
    rates[h] = NAME(rounded)(1.0f / (1.0f + expf(-NAME(to_float)(rate[h])))) * mixer->rate_scale;
  }
}

/* Puts the numbers of a token that each key head has side by side in the order of a DELTA_MIXER. */
static void NAME(order_token)(const fused_mixer *mixer, const T *from, T *to) {
  const delta_layer *delta = mixer->delta;
  const int64_t key_heads = delta->key_heads, group = delta->heads / key_heads;
  const int64_t sizes[] = {delta->key_dim, delta->key_dim, group * delta->value_dim, group * delta->value_dim, group, group};
  for (int part = 0; part < 6; part++) {
    const int is_of_heads = part >= 4; /* behind the others of all key heads */
    int64_t before = 0, stride = 0;
    for (int i = is_of_heads ? 4 : 0; i < (is_of_heads ? 6 : 4); i++) before += i < part ? sizes[i] : 0, stride += sizes[i];
    const T *of_key_heads = is_of_heads ? from + mixer->width - 2 * delta->heads : from;
    for (int64_t h = 0; h < key_heads; h++, to += sizes[part])
      memcpy(to, of_key_heads + h * stride + before, sizes[part] * sizeof(T));
  }
}

static void NAME(order_tokens)(const fused_mixer *mixer, int64_t tokens, const T *from, T *to, phase *now, int is_alone) {
  const int64_t chunks = ceil_div(tokens, ORDERED_TOKENS);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(t, i, ORDERED_TOKENS, tokens) NAME(order_token)(mixer, from + t * mixer->width, to + t * mixer->width);
  barrier(now, chunks, is_alone);
}

static void NAME(mix_delta_rule)(const fused_mixer *mixer, const mixed_tokens *in, const T *projected, char *workspace, T *out,
                                 phase *now, int is_alone) {
  const delta_layer *delta = mixer->delta;
  const int64_t channels = mixer->conv->channels, heads = delta->heads, tokens = in->tokens, width = mixer->width;
  const int64_t blocks = ceil_div(channels, CONV_BLOCK), of_blocks = in->segments.count * blocks;
  const int64_t chunks = of_blocks + ceil_div(tokens, RATED_TOKENS), of_heads = in->segments.count * heads;
  float *decays = (float *)workspace, *rates = decays + tokens * heads;
  T *mixed = (T *)(rates + tokens * heads);
  if (mixer->by_key_heads) {
    T *ordered = mixed + tokens * channels;
    NAME(order_tokens)(mixer, tokens, projected, ordered, now++, is_alone);
    projected = ordered;
  }
  FOR_EACH_CHUNK(i, now, chunks, is_alone) {
    if (i < of_blocks)
      NAME(convolve_block)(mixer->conv, &in->segments, i / blocks, i % blocks, projected, width, in->states[0], mixed, 0, 0);
    else
      FOR_EACH_ITEM(t, i - of_blocks, RATED_TOKENS, tokens) {
        const T *rate = projected + t * width + channels + mixer->inner;
        NAME(rate_token)(mixer, rate, rate + heads, decays + t * heads, rates + t * heads);
      }
  }
  barrier(now, chunks, is_alone);
  FOR_EACH_CHUNK(i, now + 1, of_heads, is_alone)
    NAME(read_segment)(delta, &in->segments, i / heads, i % heads, mixed, decays, rates, projected + channels, width,
                       in->states[1], out);
  barrier(now + 1, of_heads, is_alone);
}

/* Multiplies each number of some tokens by that of its column. */
static void NAME(scale_columns)(const float *columns, int64_t width, int64_t tokens, T *x, phase *now, int is_alone) {
  const int64_t chunks = ceil_div(tokens, ORDERED_TOKENS);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(t, i, ORDERED_TOKENS, tokens)
      for (int64_t c = 0; c < width; c++) x[t * width + c] = NAME(from_float)(NAME(to_float)(x[t * width + c]) * columns[c]);
  barrier(now, chunks, is_alone);
}

static void NAME(mix_heads)(const fused_mixer *mixer, const mixed_tokens *in, T *projected, float *workspace, T *out,
                            phase *now, int is_alone) {
  for (int64_t first = 0; first < in->tokens; first += ROUND_TOKENS, now += MIXER_PHASES) {
    const int64_t some = in->tokens - first < ROUND_TOKENS ? in->tokens - first : ROUND_TOKENS;
    T *of_round = projected + first * mixer->width;
    segments_of_round round;
    const pass_segments clipped = clip_segments(&in->segments, first, some, &round);
    if (mixer->columns) NAME(scale_columns)(mixer->columns, mixer->width, some, of_round, now, is_alone);
    NAME(scan_heads_round)(mixer->heads, &clipped, some, of_round, in->states[0], in->states[1], workspace,
                           out + first * mixer->inner, now + 1, is_alone);
    barrier(now + MIXER_PHASES - 1, ceil_div(some, GATED_TOKENS), is_alone);
  }
}

/* out [tokens, inner] of what the products before it gave, projected [tokens, width], which is overwritten */
BETWEEN_UNITS void NAME(mix)(const fused_mixer *mixer, const mixed_tokens *in, T *projected, void *workspace, T *out,
                             phase **now, int threads) {
  const mixed_tokens own = {in->segments, in->tokens, in->states + mixer->number * LAYER_STATES};
  const int is_alone = threads == 1;
  if (mixer->kind == CONVOLUTION_MIXER) NAME(mix_short_conv)(mixer, &own, projected, out, *now, is_alone);
  else if (mixer->kind == DELTA_MIXER) NAME(mix_delta_rule)(mixer, &own, projected, workspace, out, *now, is_alone);
  else NAME(mix_heads)(mixer, &own, projected, workspace, out, *now, is_alone);
  *now += MIXER_PHASES * (mixer->kind == HEADS_MIXER ? ceil_div(in->tokens, ROUND_TOKENS) : 1);
}

/* What a CHANNELS_MIXER convolves: convolved [tokens, inner] of projected [tokens, width] */
BETWEEN_UNITS void NAME(convolve_channels)(const fused_mixer *mixer, const mixed_tokens *in, const T *projected, T *convolved,
                                           phase *now, int threads) {
  T *states = in->states[mixer->number * LAYER_STATES];
  const int64_t blocks = ceil_div(mixer->inner, CONV_BLOCK), chunks = in->segments.count * blocks;
  FOR_EACH_CHUNK(i, now, chunks, threads == 1)
    NAME(convolve_block)(mixer->conv, &in->segments, i / blocks, i % blocks, projected, mixer->width, states, convolved, 0, 0);
  barrier(now, chunks, threads == 1);
}

/* Its recurrence and its gate. parts: [tokens, parts_width], steps: [tokens, inner], before softplus; out: [tokens, inner] */
BETWEEN_UNITS void NAME(mix_channels)(const fused_mixer *mixer, const mixed_tokens *in, const T *projected,
                                      const T *convolved, const T *parts, const T *steps, T *out, phase *now, int threads) {
  const channels_mixer *of = mixer->channels;
  const T *keys = parts + of->rank, *queries = keys + of->scan.size;
  float *states = in->states[mixer->number * LAYER_STATES + 1];
  const int64_t blocks = ceil_div(mixer->inner, CONV_BLOCK), chunks = in->segments.count * blocks;
  FOR_EACH_CHUNK(i, now, chunks, threads == 1)
    NAME(scan_channels_block)(&of->scan, &in->segments, i / blocks, i % blocks, convolved, steps, keys, queries,
                              parts_width(of), projected + mixer->inner, mixer->width, states, out);
  barrier(now, chunks, threads == 1);
}
#endif
