/* int8 for weights and rows as compressed-tensors stores them (W8A8), for one number format (T, PACK, NAME: see kernels.c).
   Each row has a scale of its own, or all have that of the checkpoint, perhaps with a zero point. A row's bytes are those
   of the library; their sums are exact, and one product by both scales ends them. Sums of bytes are those of quantized.h. */

#ifndef INT8_STORED_PRODUCTS
#define INT8_STORED_PRODUCTS
/* In these forms the compiler does not join a product and a sum into one operation, which would round less often than
   torch does. */
INLINE __m512 product_rounded(__m512 x, __m512 y) {
  return _mm512_mul_round_ps(x, y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif

/* Quantizes a row, and returns its scale. A number is divided in the format of the rows, and so rounded before it is rounded
   to a byte. */
static float NAME(quantize_row_stored)(const matrix *m, const T *x, int64_t inputs, uint8_t *out) {
  __m512 top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 size = _mm512_abs_ps(NAME(load_16_masked)(x + k, lanes(inputs - k)));
    bad |= _mm512_cmp_ps_mask(size, size, _CMP_UNORD_Q);
    top = _mm512_max_ps(top, size);
  }
  const float scale =
      m->row_scale > 0 ? NAME(rounded)(m->row_scale) : NAME(stored_row_scale_of)(_mm512_reduce_max_ps(top));
  const __m512 divisor = _mm512_set1_ps(scale), zero_point = _mm512_set1_ps((float)m->zero_point);
  const __m512 least = _mm512_set1_ps(-128), most = _mm512_set1_ps(127);
  const __m128i shift = _mm_set1_epi8((char)SHIFT);
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 part = _mm512_div_ps(NAME(load_16_masked)(x + k, lanes(inputs - k)), divisor);
    const __m512 number = NAME(round_16)(_mm512_add_ps(NAME(round_16)(part), zero_point));
    const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(number, most), least));
    _mm_storeu_si128((__m128i *)(out + k), _mm_xor_si128(_mm512_cvtepi32_epi8(whole), shift));
  }
  return bad ? NAN : scale;
}

/* y [rows, panels * PANEL]: int32 sums become numbers, and biases are added */
static void NAME(scale_stored_sums)(const product *p, const panel_pair *u, int64_t row, int64_t rows, float *y) {
  const int panels = u->second ? 2 : 1;
  for (int v = 0; v < panels * PANEL_VECS; v++) {
    const output_numbers of = NAME(numbers_of_outputs)(u, v);
    const __m512i zero_point = _mm512_set1_epi32((int32_t)u->of[v / PANEL_VECS]->zero_point);
    const __m512i of_weights = _mm512_srai_epi32(of.moved, 7); /* their sums: `moved` is SHIFT times as large */
    const __m512i moved = _mm512_add_epi32(of.moved, _mm512_mullo_epi32(of_weights, zero_point));
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * PANEL_VECS + v) * LANES;
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(at), moved));
      const __m512 factor = product_rounded(_mm512_set1_ps(p->workspace->row_scale[row + r]), of.scale);
      const __m512 x = product_rounded(exact, factor);
      _mm512_storeu_ps(at, of.has_bias ? _mm512_add_ps(x, of.bias) : x);
    }
  }
}
