/* What the layers of Gemma 3n and 4 have beside attention and an MLP, in a fused pass, as Python describes it, and its check:
   inputs of each layer's own, and several streams of a token beside each other (AltUp). What is computed is in layer_inputs.h
   and streams.h. */

#define INPUT_PHASES (2 * PRODUCT_PHASES + 2)                      /* of a pass with inputs of layers, and of each such layer */
#define STREAM_PHASES (2 * PRODUCT_PHASES + 3)                     /* of a layer with streams */
#define MAX_STREAMS 4
#define STREAM_ENDS_PHASES (MAX_STREAMS * (2 * PRODUCT_PHASES + 2)) /* of a pass with streams */

/* The inputs of all layers of a token: a row of a table, plus the normed product of its embedding with a matrix */
struct model_inputs {
  matrix projection;
  fused_norm norm;                          /* of each layer's numbers */
  const void *table;                        /* [rows, all numbers], or 0: the pass has them; of other tokens the first row */
  int64_t rows, width;                      /* width: numbers of a layer */
  float table_scale, projected_scale, scale, unused; /* scale: of the sum */
};

/* x goes through `gate` and its function, times the token's numbers for this layer, through `out`, and is added to x. */
struct layer_input {
  matrix gate, out;
  fused_norm after;               /* of what is added */
  int64_t first, width;           /* where the layer's numbers begin in a token's row */
  int64_t activation;
};

/* A layer predicts all streams, computes one of them, and corrects all by it. */
struct stream_layer {
  const void *router, *predict, *correct; /* [count, hidden], [count * count, count], [count, count] */
  const void *scale;                      /* [hidden]: of the stream that goes through the layer's inputs, or 0 */
  fused_norm router_norm, after_narrow;   /* after_narrow: of what a product of low rank adds to what attention reads */
  matrix narrow, wide;                    /* the two matrices of that product */
  float router_scale, unused;
};

struct model_streams {
  int64_t count, active;
  matrix into[MAX_STREAMS - 1], out_of[MAX_STREAMS - 1]; /* of all streams but the first */
};

/* Of all layers, the most numbers of a token that go through the gate of its inputs, or through a product of low rank */
static int64_t widest_side(const fused_model *m, const fused_layer *layers) {
  int64_t widest = 0;
  for (int64_t l = 0; l < m->layers; l++) {
    if (layers[l].input && layers[l].input->width > widest) widest = layers[l].input->width;
    if (layers[l].streams && layers[l].streams->narrow.outputs > widest) widest = layers[l].streams->narrow.outputs;
  }
  return widest;
}

/* Phases of a pass, beside those of other models */
static int64_t side_phases(const fused_model *m, const fused_layer *layers) {
  int64_t phases = (m->streams ? STREAM_ENDS_PHASES : 0) + (m->inputs ? INPUT_PHASES : 0);
  for (int64_t l = 0; l < m->layers; l++)
    phases += (layers[l].input ? INPUT_PHASES : 0) + (layers[l].streams ? STREAM_PHASES : 0);
  return phases;
}

static int64_t check_product_of(const matrix *m, int64_t inputs, int64_t outputs, int64_t pack, int64_t at) {
  if (is_missing(m, pack)) REFUSE(MISSING_UNIT, 0);
  if (m->outputs != outputs || !is_readable(m, inputs, pack)) REFUSE(WRONG_MATRIX, at);
  return FINE;
}

static int64_t check_streams(const fused_model *m, const fused_layer *layers, const fused_tokens *in, int64_t pack) {
  int64_t wrong = FINE;
  if (m->inputs) {
    const model_inputs *inputs = m->inputs;
    if (inputs->width < 1 || inputs->projection.outputs % inputs->width || !inputs->norm.weight) REFUSE(WRONG_MATRIX, m->layers);
    if (inputs->table ? inputs->rows < 1 : !in->input_rows) REFUSE(WRONG_MATRIX, m->layers);
    wrong = check_product_of(&inputs->projection, m->hidden, inputs->projection.outputs, pack, m->layers);
  }
  if (m->streams && (m->streams->count < 2 || m->streams->count > MAX_STREAMS)) REFUSE(WRONG_MATRIX, m->layers);
  if (m->streams && (m->streams->active < 0 || m->streams->active >= m->streams->count)) REFUSE(WRONG_MATRIX, m->layers);
  for (int64_t i = 0; m->streams && !wrong && i + 1 < m->streams->count; i++) {
    wrong = check_product_of(m->streams->into + i, m->hidden, m->hidden, pack, m->layers);
    if (!wrong) wrong = check_product_of(m->streams->out_of + i, m->hidden, m->hidden, pack, m->layers);
  }
  for (int64_t l = 0; !wrong && l < m->layers; l++) {
    const layer_input *input = layers[l].input;
    const stream_layer *streams = layers[l].streams;
    if (!streams != !m->streams) REFUSE(WRONG_MATRIX, l);
    if (input) {
      if (!m->inputs || !m->has_halves || layers[l].has_no_mlp || !input->after.weight) REFUSE(WRONG_MATRIX, l);
      if (input->first < 0 || input->width < 1 || input->first + input->width > m->inputs->projection.outputs) REFUSE(WRONG_MATRIX, l);
      wrong = check_product_of(&input->gate, m->hidden, input->width, pack, l);
      if (!wrong) wrong = check_product_of(&input->out, input->width, m->hidden, pack, l);
    }
    if (!streams || wrong) continue;
    const fused_layer *of = layers + l;
    if (!input || of->mlp_apart || of->mixture || of->mixer || of->beside || of->is_parallel || !of->norm_in.weight ||
        !of->norm_mid.weight || !of->after_attention.weight || !of->after_mlp.weight || of->output_scale != 1 ||
        m->residual_scale != 1) REFUSE(WRONG_MATRIX, l);
    if (!streams->router || !streams->predict || !streams->correct || !streams->router_norm.weight ||
        !streams->after_narrow.weight) REFUSE(WRONG_MATRIX, l);
    wrong = check_product_of(&streams->narrow, m->hidden, streams->narrow.outputs, pack, l);
    if (!wrong) wrong = check_product_of(&streams->wide, streams->narrow.outputs, m->hidden, pack, l);
  }
  return wrong;
}
