/* int8 for weights and rows, as in torchao, for one number format (T, PACK, NAME: see kernels.c): each row gets a scale
   of its own, so its outputs do not depend on other rows. Sums of bytes are those of quantized.h. */

/* Quantizes a row, and returns its scale. */
static float NAME(quantize_row_dynamic)(const T *x, int64_t inputs, uint8_t *out) {
  __m512 top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 size = _mm512_abs_ps(NAME(load_16_masked)(x + k, lanes(inputs - k)));
    bad |= _mm512_cmp_ps_mask(size, size, _CMP_UNORD_Q);
    top = _mm512_max_ps(top, size);
  }
  const float scale = bad ? NAN : NAME(row_scale_of)(_mm512_reduce_max_ps(top));
  const __m512 factor = _mm512_set1_ps(1.0f / scale);
  const __m128i shift = _mm_set1_epi8((char)SHIFT);
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 number = _mm512_mul_ps(NAME(load_16_masked)(x + k, lanes(inputs - k)), factor);
    const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(number)); /* from -128 to 127 */
    _mm_storeu_si128((__m128i *)(out + k), _mm_xor_si128(bytes, shift));
  }
  return scale;
}

/* Quantizes the rows of a product, once for all its matrices, in one phase. */
static void NAME(quantize_rows)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t width = padded(p->inputs), chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows) {
      const T *x = (const T *)p->x + r * p->inputs;
      uint8_t *out = work->bytes + r * width;
      work->row_scale[r] = p->of_bytes->kind == INT8_STORED ? NAME(quantize_row_stored)(p->of_bytes, x, p->inputs, out)
                                                            : NAME(quantize_row_dynamic)(x, p->inputs, out);
    }
  barrier(now, chunks, is_alone);
}

/* y [rows, panels * PANEL]: int32 sums become numbers, rounded each time as the library does, and biases are added */
static void NAME(scale_dynamic_sums)(const product *p, const panel_pair *u, int64_t row, int64_t rows, float *y) {
  const int panels = u->second ? 2 : 1;
  for (int v = 0; v < panels * PANEL_VECS; v++) {
    const output_numbers of = NAME(numbers_of_outputs)(u, v);
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * PANEL_VECS + v) * LANES;
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(at), of.moved));
      const __m512 of_row = NAME(round_16)(_mm512_mul_ps(exact, _mm512_set1_ps(p->workspace->row_scale[row + r])));
      const __m512 x = product_rounded(of_row, of.scale);
      _mm512_storeu_ps(at, of.has_bias ? _mm512_add_ps(x, of.bias) : x);
    }
  }
}
