/* The inputs of a layer's own (stream_structs.h) in a fused pass, for one number format (T, PACK, NAME: see kernels.c) */

/* The row of a token [width of all layers] that its projected embedding is added to */
INLINE const T *NAME(input_row)(const fused_pass *s, int64_t t) {
  const model_inputs *of = s->model->inputs;
  const int64_t width = of->projection.outputs, id = s->in->ids[t];
  return of->table ? (const T *)of->table + (id < of->rows ? id : 0) * width : (const T *)s->in->input_rows + t * width;
}

/* The inputs of all layers, from embedded tokens */
static void NAME(begin_inputs)(const fused_pass *s, phase **now) {
  const model_inputs *of = s->model->inputs;
  const int64_t tokens = s->in->tokens, all = of->projection.outputs, width = of->width;
  const product projected = NAME(fused_product)(s, s->x, tokens, s->model->hidden, &of->projection, 1, STORE, s->inputs, all);
  NAME(product_and_wait)(s, &projected, 0, now);
  phase *adding = (*now)++;
  const int64_t chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, adding, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      const T *row = NAME(input_row)(s, t);
      for (int64_t first = 0; first < all; first += width) {
        T *x = (T *)s->inputs + t * all + first;
        NAME(scale_numbers)(x, width, of->projected_scale);
        NAME(norm_by)(&of->norm, x, width, x);
#pragma omp simd
        for (int64_t d = 0; d < width; d++) {
          const float of_token = NAME(rounded)(NAME(to_float)(row[first + d]) * of->table_scale);
          x[d] = NAME(from_float)(NAME(rounded)(NAME(to_float)(x[d]) + of_token) * of->scale);
        }
      }
    }
  barrier(adding, chunks, s->is_alone);
}

static void NAME(gate_inputs)(const fused_pass *s, const layer_input *input, phase *now) {
  const int64_t tokens = s->in->tokens, chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *side = (T *)s->side + t * input->width;
      NAME(activate_row)(input->activation, side, (const T *)s->inputs + t * s->model->inputs->projection.outputs + input->first,
                         input->width, side);
    }
  barrier(now, chunks, s->is_alone);
}

/* What a layer's inputs add to its tokens goes to `half`, before its norm. x: [tokens, hidden] */
static void NAME(forward_inputs)(const fused_pass *s, const layer_input *input, const void *x, phase **now) {
  const int64_t tokens = s->in->tokens, hidden = s->model->hidden;
  const product to_side = NAME(fused_product)(s, x, tokens, hidden, &input->gate, 1, STORE, s->side, input->width);
  const product to_half = NAME(fused_product)(s, s->side, tokens, input->width, &input->out, 1, STORE, s->half, hidden);
  NAME(product_and_wait)(s, &to_side, &to_half, now);
  NAME(gate_inputs)(s, input, (*now)++);
  NAME(product_and_wait)(s, &to_half, 0, now);
  end_part(PRODUCTS_OF_LAYERS);
}
