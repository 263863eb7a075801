/* Layers of a fused pass that carry a state from token to token instead of attending to keys, and their check. What they
   compute between their products is in mixers.h. */

#define MIXER_MATRICES 6 /* that compute side by side what one reads */
#define MIXER_PHASES 4   /* for ROUND_TOKENS tokens */
#define BESIDE_PHASES (2 * PRODUCT_PHASES + 1)
#define LAYER_STATES 2   /* tensors of a layer's state */

/* What a token has before it, side by side: of a CONVOLUTION_MIXER the gate before its convolution, the gate behind it and its
   inputs; of a DELTA_MIXER queries, keys and values, then a gate, and of each head the rate and the decay (by_key_heads: all
   but the last two of each key head side by side, and then these); of HEADS_MIXER what scan_heads reads; of CHANNELS_MIXER
   what is convolved, and the gate. */
enum { CONVOLUTION_MIXER, DELTA_MIXER, HEADS_MIXER, CHANNELS_MIXER };

/* Mamba: what is convolved is multiplied into `rank` numbers of a token's time steps, keys and queries; these steps are
   multiplied into those of the channels. */
typedef struct {
  channels_layer scan;
  fused_norm norms[3]; /* of the `rank` numbers, the keys and the queries; without a weight there is none */
  matrix to_parts, to_steps;
  int64_t rank;
} channels_mixer;

typedef struct {
  int64_t kind;
  int64_t number;                        /* among those of the model */
  int64_t width, inner;                  /* numbers of a token before and behind it */
  int64_t by_key_heads;                  /* of DELTA_MIXER: how they are ordered */
  const conv_layer *conv;                /* of all but HEADS_MIXER */
  const delta_layer *delta;
  const heads_layer *heads;
  const channels_mixer *channels;
  const float *step_bias, *decay;        /* of DELTA_MIXER: of each head */
  const float *columns;                  /* of HEADS_MIXER: what each number before it is multiplied by, or 0 */
  float rate_scale, unused;              /* what its rates are multiplied by */
} fused_mixer;

/* A mixer beside the attention of a layer (mixer_beside.h), and what numbers of the layer are multiplied by */
typedef struct {
  const fused_mixer *mixer;
  matrix into, out;
  float heads, keys;      /* queries, keys and values; keys once more */
  float attention, mixed; /* what comes out of attention, and of the mixer */
  float gate, mlp;        /* the gate of the MLP before its function; what comes out of the MLP */
} mixer_beside;

/* The tokens of a pass, and where their rows' states are: [slots, ...] each */
typedef struct {
  pass_segments segments;
  int64_t tokens;
  void *const *states;
} mixed_tokens;

/* Numbers of a token that to_parts gives */
static int64_t parts_width(const channels_mixer *of) { return of->rank + 2 * of->scan.size; }

/* Bytes of memory that a mixer needs for so many tokens; size: of a number */
static int64_t mixer_bytes(const fused_mixer *mixer, int64_t tokens, int64_t size) {
  const int64_t some = tokens < ROUND_TOKENS ? tokens : ROUND_TOKENS;
  if (mixer->kind == HEADS_MIXER)
    return some * (mixer->heads->conv.channels + mixer->inner + 2 * STATE_LANES) * (int64_t)sizeof(float);
  if (mixer->kind == DELTA_MIXER) {
    const int64_t numbers = mixer->conv->channels + (mixer->by_key_heads ? mixer->width : 0);
    return tokens * (numbers * size + 2 * mixer->delta->heads * (int64_t)sizeof(float)) + CACHE_LINE;
  }
  if (mixer->kind == CHANNELS_MIXER) {
    const channels_mixer *of = mixer->channels;
    return tokens * (2 * mixer->inner + parts_width(of) + of->rank) * size + 4 * CACHE_LINE;
  }
  return 0;
}

/* pack: how many numbers of a row are in 32 bits */
static int is_channels_mixer(const fused_mixer *mixer, int64_t pack) {
  const channels_mixer *of = mixer->channels;
  const int64_t channels = mixer->conv->channels;
  if (!of || !is_channels_layer(&of->scan) || of->scan.groups != 1 || of->scan.channels != channels || of->rank < 1) return 0;
  if (mixer->inner != channels || mixer->width != 2 * channels) return 0;
  if (of->to_parts.outputs != parts_width(of) || of->to_steps.outputs != channels) return 0;
  return is_readable(&of->to_parts, channels, pack) && is_readable(&of->to_steps, of->rank, pack);
}

static int is_mixer(const fused_mixer *mixer, int64_t mixers, const matrix *into, int64_t count, int64_t pack) {
  int64_t width = 0;
  for (int64_t i = 0; i < count; i++) width += into[i].outputs;
  if (width != mixer->width || mixer->number < 0 || mixer->number >= mixers) return 0;
  if (mixer->kind == HEADS_MIXER) {
    const heads_layer *heads = mixer->heads;
    if (!heads || !is_heads_layer(heads) || mixer->inner != heads->heads * heads->width) return 0;
    return width == mixer->inner + heads->conv.channels + heads->heads;
  }
  if (!mixer->conv || !is_conv_layer(mixer->conv)) return 0;
  const int64_t channels = mixer->conv->channels;
  if (mixer->kind == CHANNELS_MIXER) return is_channels_mixer(mixer, pack);
  if (mixer->kind == CONVOLUTION_MIXER) return mixer->inner == channels && width == 3 * channels;
  const delta_layer *delta = mixer->delta;
  if (mixer->kind != DELTA_MIXER || !delta || !is_delta_layer(delta) || delta->decays != 1) return 0;
  if (!mixer->step_bias || !mixer->decay || mixer->inner != delta->heads * delta->value_dim) return 0;
  return channels == 2 * delta->key_heads * delta->key_dim + mixer->inner &&
         width == channels + mixer->inner + 2 * delta->heads;
}
