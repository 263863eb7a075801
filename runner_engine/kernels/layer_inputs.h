/* The inputs of a layer's own (stream_structs.h) in a fused pass, for one number format (T, PACK, NAME: see kernels.c) */

static void NAME(gate_inputs)(const fused_pass *s, const layer_input *input, phase *now) {
  const int64_t tokens = s->in->tokens, chunk = chunk_of(tokens, s->threads), chunks = ceil_div(tokens, chunk);
  FOR_EACH_CHUNK(i, now, chunks, s->is_alone)
    FOR_EACH_ITEM(t, i, chunk, tokens) {
      T *side = (T *)s->side + t * input->width;
      NAME(activate_row)(input->activation, side, (const T *)s->in->inputs + t * s->model->input_width + input->first,
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
