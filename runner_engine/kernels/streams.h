/* Several streams of a token beside each other (AltUp, stream_structs.h) in a fused pass, for one number format (T, PACK,
   NAME: see kernels.c). Stream i of all tokens begins at s->streams + i * tokens * hidden. */

#define STREAMED_AT_ONCE 64 /* numbers of a token */

INLINE T *NAME(stream_of)(const fused_pass *s, int64_t i, int64_t t) {
  return (T *)s->streams + (i * s->in->tokens + t) * s->model->hidden;
}

/* A row [inputs] by a small matrix [outputs, inputs]; what comes out is rounded. */
INLINE void NAME(multiply_small)(const T *x, const T *by, int64_t inputs, int64_t outputs, T *out) {
  for (int64_t o = 0; o < outputs; o++) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < inputs; i++) sum += NAME(to_float)(x[i]) * NAME(to_float)(by[o * inputs + i]);
    out[o] = NAME(from_float)(sum);
  }
}

/* What a row says of the streams: [count] */
INLINE void NAME(route_streams)(const fused_pass *s, const stream_layer *of, const T *x, T *routed) {
  const int64_t hidden = s->model->hidden, count = s->model->streams->count;
  T normed[hidden];
  NAME(norm_by)(&of->router_norm, x, hidden, normed);
  NAME(scale_numbers)(normed, hidden, of->router_scale);
  NAME(multiply_small)(normed, of->router, hidden, count, routed);
  for (int64_t i = 0; i < count; i++) routed[i] = NAME(from_float)(tanhf(NAME(to_float)(routed[i])));
}

/* All streams of a token as a layer predicts them; the active one is what the layer computes on. */
static void NAME(predict_streams)(const fused_pass *s, const fused_layer *layer, int64_t t) {
  const int64_t hidden = s->model->hidden, count = s->model->streams->count, active = s->model->streams->active;
  T routed[MAX_STREAMS], by[MAX_STREAMS * MAX_STREAMS];
  NAME(route_streams)(s, layer->streams, NAME(stream_of)(s, active, t), routed);
  NAME(multiply_small)(routed, layer->streams->predict, count, count * count, by);
  for (int64_t first = 0; first < hidden; first += STREAMED_AT_ONCE) {
    const int64_t some = hidden - first < STREAMED_AT_ONCE ? hidden - first : STREAMED_AT_ONCE;
    float before[MAX_STREAMS][STREAMED_AT_ONCE];
    for (int64_t i = 0; i < count; i++) {
      const T *from = NAME(stream_of)(s, i, t) + first;
      for (int64_t d = 0; d < some; d++) before[i][d] = NAME(to_float)(from[d]);
    }
    for (int64_t j = 0; j < count; j++) {
      float sum[STREAMED_AT_ONCE] = {0};
      for (int64_t i = 0; i < count; i++) {
        const float factor = NAME(to_float)(by[j * count + i]);
#pragma omp simd
        for (int64_t d = 0; d < some; d++) sum[d] += before[i][d] * factor;
      }
      T *into = NAME(stream_of)(s, j, t) + first;
#pragma omp simd
      for (int64_t d = 0; d < some; d++) into[d] = NAME(from_float)(NAME(rounded)(sum[d]) + before[j][d]);
    }
  }
  T *x = (T *)s->x + t * hidden;
  memcpy(x, NAME(stream_of)(s, active, t), hidden * sizeof(T));
  NAME(norm_token)(s, &layer->norm_in, 0, t, x);
}

/* All streams of a token by what the layer has made of one of them; `normed` gets what its inputs read. */
static void NAME(correct_streams)(const fused_pass *s, const fused_layer *layer, int64_t t) {
  const stream_layer *of = layer->streams;
  const int64_t hidden = s->model->hidden, count = s->model->streams->count, active = s->model->streams->active;
  const T *half = (const T *)s->half + t * hidden;
  T *x = (T *)s->x + t * hidden, *normed = (T *)s->normed + t * hidden;
  T routed[MAX_STREAMS], by[MAX_STREAMS];
  NAME(norm_by)(&layer->after_mlp, half, hidden, normed);
#pragma omp simd
  for (int64_t d = 0; d < hidden; d++) x[d] = NAME(from_float)(NAME(to_float)(x[d]) + NAME(to_float)(normed[d]));
  NAME(route_streams)(s, of, x, routed);
  NAME(multiply_small)(routed, of->correct, count, count, by);
  const T *predicted = NAME(stream_of)(s, active, t);
#pragma omp simd
  for (int64_t d = 0; d < hidden; d++) x[d] = NAME(from_float)(NAME(to_float)(x[d]) - NAME(to_float)(predicted[d]));
  for (int64_t i = 0; i < count; i++) {
    T *stream = NAME(stream_of)(s, i, t);
    const float factor = NAME(rounded)(NAME(to_float)(by[i]) + 1);
#pragma omp simd
    for (int64_t d = 0; d < hidden; d++)
      stream[d] = NAME(from_float)(NAME(rounded)(NAME(to_float)(x[d]) * factor) + NAME(to_float)(stream[d]));
  }
  memcpy(normed, predicted, hidden * sizeof(T));
  const T *scale = of->scale;
  if (!scale) return;
#pragma omp simd
  for (int64_t d = 0; d < hidden; d++) normed[d] = NAME(from_float)(NAME(to_float)(normed[d]) * NAME(to_float)(scale[d]));
}

/* The root of the mean square of a row, rounded after each step */
INLINE float NAME(magnitude)(const T *x, int64_t width, float least) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < width; d++) sum += NAME(rounded)(NAME(to_float)(x[d]) * NAME(to_float)(x[d]));
  const float mean = NAME(rounded)(sum / width);
  return NAME(rounded)(sqrtf(mean < least ? NAME(rounded)(least) : mean));
}

/* Makes a row as large as the first stream of its token: x * target / its own magnitude. out may be x. */
INLINE void NAME(match_magnitude)(const T *x, int64_t width, float target, T *out) {
  const float own = NAME(magnitude)(x, width, 1e-5f);
#pragma omp simd
  for (int64_t d = 0; d < width; d++) out[d] = NAME(from_float)(NAME(rounded)(NAME(to_float)(x[d]) * target) / own);
}

/* Makes the streams of embedded tokens, up to the norm before the first layer's attention. */
static void NAME(begin_streams)(const fused_pass *s, phase **now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden, count = s->model->streams->count;
  for (int64_t i = 1; i < count; i++) {
    const product into = NAME(fused_product)(s, s->x, tokens, hidden, s->model->streams->into + i - 1, 1, STORE,
                                             NAME(stream_of)(s, i, 0), hidden);
    NAME(product_and_wait)(s, &into, 0, now);
  }
  phase *matching = (*now)++;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, matching, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      const T *x = (const T *)s->x + t * hidden;
      const float target = NAME(magnitude)(x, hidden, 0);
      memcpy(NAME(stream_of)(s, 0, t), x, hidden * sizeof(T));
      for (int64_t j = 1; j < count; j++) NAME(match_magnitude)(NAME(stream_of)(s, j, t), hidden, target, NAME(stream_of)(s, j, t));
      NAME(predict_streams)(s, s->layers, t);
    }
  barrier(matching, chunks, s->is_alone);
}

/* What a product of low rank adds to what attention reads: `low_rank` gets the sum of both. */
static void NAME(forward_low_rank)(const fused_pass *s, const stream_layer *of, const product *then, phase **now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden, rank = of->narrow.outputs;
  const product to_side = NAME(fused_product)(s, s->normed, tokens, hidden, &of->narrow, 1, STORE, s->side, rank);
  const product to_wide = NAME(fused_product)(s, s->side, tokens, rank, &of->wide, 1, STORE, s->low_rank, hidden);
  NAME(product_and_wait)(s, &to_side, &to_wide, now);
  NAME(product_and_wait)(s, &to_wide, then, now);
  phase *adding = (*now)++;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, adding, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *row = (T *)s->low_rank + t * hidden;
      const T *normed = (const T *)s->normed + t * hidden;
      NAME(norm_by)(&of->after_narrow, row, hidden, row);
#pragma omp simd
      for (int64_t d = 0; d < hidden; d++) row[d] = NAME(from_float)(NAME(to_float)(normed[d]) + NAME(to_float)(row[d]));
    }
  barrier(adding, chunks, s->is_alone);
}

/* Adds attention and the product of low rank to the active stream, and applies the norm before the MLP. */
static void NAME(end_stream_attention)(const fused_pass *s, const fused_layer *layer, phase *now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *x = (T *)s->x + t * hidden, *normed = (T *)s->normed + t * hidden;
      const T *low_rank = (const T *)s->low_rank + t * hidden;
      NAME(norm_by)(&layer->after_attention, (const T *)s->half + t * hidden, hidden, normed);
#pragma omp simd
      for (int64_t d = 0; d < hidden; d++) {
        const float gated = NAME(rounded)(NAME(to_float)(x[d]) + NAME(to_float)(normed[d]));
        x[d] = NAME(from_float)(NAME(rounded)(gated + NAME(to_float)(low_rank[d])) / 1.41421356f);
      }
      NAME(norm_token)(s, &layer->norm_mid, 0, t, x);
    }
  barrier(now, chunks, s->is_alone);
}

/* The streams after the last layer as one row of each token, in x */
static void NAME(join_streams)(const fused_pass *s, phase **now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden, count = s->model->streams->count;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  for (int64_t j = 1; j < count; j++) {
    const product out_of = NAME(fused_product)(s, NAME(stream_of)(s, j, 0), tokens, hidden, s->model->streams->out_of + j - 1, 1,
                                               STORE, s->half, hidden);
    NAME(product_and_wait)(s, &out_of, 0, now);
    phase *matching = (*now)++;
    FOR_EACH_CHUNK(i, matching, chunks, s->is_alone)
      FOR_EACH_ITEM(t, i, chunk, tokens)
        NAME(match_magnitude)((const T *)s->half + t * hidden, hidden, NAME(magnitude)(NAME(stream_of)(s, 0, t), hidden, 0),
                              NAME(stream_of)(s, j, t));
    barrier(matching, chunks, s->is_alone);
  }
  phase *joining = (*now)++;
  FOR_EACH_CHUNK(i, joining, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *x = (T *)s->x + t * hidden;
      for (int64_t d = 0; d < hidden; d++) {
        float sum = 0;
        for (int64_t j = 0; j < count; j++) sum += NAME(to_float)(NAME(stream_of)(s, j, t)[d]);
        x[d] = NAME(from_float)(sum / count);
      }
    }
  barrier(joining, chunks, s->is_alone);
}

/* The end of layer `l`, after its MLP: up to the norm of the next one, or to the tokens that the head's norm reads */
static void NAME(end_stream_layer)(const fused_pass *s, int64_t l, phase **now) {
  const fused_layer *layer = s->layers + l;
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden, count = s->model->streams->count;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  phase *correcting = (*now)++;
  FOR_EACH_CHUNK(i, correcting, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) NAME(correct_streams)(s, layer, t);
  barrier(correcting, chunks, s->is_alone);
  end_part(NORMS_AND_ROPE);
  NAME(forward_inputs)(s, layer->input, s->normed, now);
  phase *adding = (*now)++;
  FOR_EACH_CHUNK(i, adding, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *half = (T *)s->half + t * hidden;
      NAME(norm_by)(&layer->input->after, half, hidden, half);
      for (int64_t j = 1; j < count; j++) {
        T *stream = NAME(stream_of)(s, j, t);
#pragma omp simd
        for (int64_t d = 0; d < hidden; d++) stream[d] = NAME(from_float)(NAME(to_float)(stream[d]) + NAME(to_float)(half[d]));
      }
      if (l + 1 < s->model->layers) NAME(predict_streams)(s, layer + 1, t);
    }
  barrier(adding, chunks, s->is_alone);
  if (l + 1 == s->model->layers) NAME(join_streams)(s, now);
}
