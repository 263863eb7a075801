/* LLM.int8() as in bitsandbytes by AVX-512, for one number format (T, PACK, NAME: see kernels.c): rows are quantized too, except
   for the columns where one of them has an outlier: these are multiplied separately. Other processors: int8_products.h. */

#ifndef ROW_INT8_BYTES
#define ROW_INT8_BYTES
INLINE __mmask16 lanes(int64_t left) { return left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0; }
INLINE __m512 load_16_masked_f32(const float *at, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, at); }

INLINE __m512 load_16_masked_bf16(const bf16 *at, __mmask16 mask) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16);
}

/* What turns the int32 sums of 16 outputs into numbers. */
typedef struct {
  __m512i moved; /* what SHIFT has added to the sums */
  __m512 scale, bias;
  int has_bias;
} output_numbers;

/* Lists the columns that are marked. */
static void list_outliers(const product_workspace *work, int64_t width) {
  int64_t count = 0;
  for (int64_t k = 0; k < width; k += 64) {
    uint64_t rest = _mm512_test_epi8_mask(_mm512_loadu_si512(work->outlier_marks + k), _mm512_set1_epi8(1));
    for (; rest; rest &= rest - 1) work->outlier_columns[count++] = (int32_t)(k + __builtin_ctzll(rest));
  }
  *work->outlier_count = count;
}
#endif

/* rows are first rounded to float16 */
INLINE __m512 NAME(round_to_float16)(const T *x, int64_t left) {
  return _mm512_cvtph_ps(
      _mm512_cvtps_ph(NAME(load_16_masked)(x, lanes(left)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Returns the largest number of a row that is not an outlier, and marks the columns of its outliers. */
static float NAME(find_outliers)(const T *x, int64_t inputs, float threshold, uint8_t *marks) {
  __m512 top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 size = _mm512_abs_ps(NAME(round_to_float16)(x + k, inputs - k));
    const __mmask16 over = threshold > 0 ? _mm512_cmp_ps_mask(size, _mm512_set1_ps(threshold), _CMP_GE_OQ) : 0;
    bad |= _mm512_cmp_ps_mask(size, size, _CMP_UNORD_Q);
    for (unsigned rest = over; rest; rest &= rest - 1)
      __atomic_store_n(marks + k + __builtin_ctz(rest), 1, __ATOMIC_RELAXED);
    top = _mm512_mask_max_ps(top, ~over, top, size);
  }
  return bad ? NAN : _mm512_reduce_max_ps(top);
}

static void NAME(quantize_row)(const T *x, int64_t inputs, float top, const uint8_t *marks, uint8_t *out) {
  const __m512 factor = _mm512_set1_ps(1.0f / top * 127.0f); /* rounded twice, as torch does it */
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m128i outliers = _mm_loadu_si128((const __m128i *)(marks + k));
    __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(NAME(round_to_float16)(x + k, inputs - k), factor));
    number = _mm512_mask_mov_epi32(number, _mm_test_epi8_mask(outliers, outliers), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)(out + k), _mm512_cvtepi32_epi8(_mm512_add_epi32(number, _mm512_set1_epi32(SHIFT))));
  }
}

/* Quantizes the rows of a product, once for all its matrices, in two phases. */
static void NAME(quantize_rows_beside_outliers)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t width = padded(p->inputs), chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  const T *x = p->x;
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      work->row_scale[r] = NAME(find_outliers)(x + r * p->inputs, p->inputs, p->of_bytes->threshold, work->outlier_marks);
  barrier(now++, chunks, is_alone);
  FOR_EACH_CHUNK(i, now, chunks, is_alone) {
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      NAME(quantize_row)(x + r * p->inputs, p->inputs, work->row_scale[r], work->outlier_marks, work->bytes + r * width);
    if (!i) list_outliers(work, width);
  }
  barrier(now, chunks, is_alone);
}

/* apart [rows, panels * PANEL] = the products of the outliers' columns with weights as they would be unquantized */
static void NAME(multiply_outliers)(const product *p, const panel_pair *u, int64_t row, int64_t rows, float *apart) {
  const int vecs = u->second ? 2 * PANEL_VECS : PANEL_VECS;
  memset(apart, 0, rows * vecs * LANES * sizeof(float));
  for (int64_t i = 0; i < *p->workspace->outlier_count; i++) {
    const int64_t column = p->workspace->outlier_columns[i];
    __m512 w[2 * PANEL_VECS];
    for (int v = 0; v < vecs; v++) {
      const matrix *m = u->of[v / PANEL_VECS];
      const int64_t n = u->output[v / PANEL_VECS] + v % PANEL_VECS * LANES, left = m->outputs - n;
      const int8_t *from = (const int8_t *)m->weight + n * p->inputs + column;
      int8_t numbers[LANES] = {0};
      for (int64_t o = 0; o < left && o < LANES; o++) numbers[o] = from[o * p->inputs];
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)numbers)));
      const __m512 scaled = _mm512_mul_ps(exact, _mm512_maskz_loadu_ps(lanes(left), (const float *)m->scale + n));
      w[v] = NAME(round_16)(_mm512_mul_ps(scaled, _mm512_set1_ps(7.874015718698502e-3f)));
    }
    for (int64_t r = 0; r < rows; r++) {
      const __m512 x = _mm512_set1_ps(NAME(to_float)(((const T *)p->x)[(row + r) * p->inputs + column]));
      for (int v = 0; v < vecs; v++) {
        float *at = apart + (r * vecs + v) * LANES;
        _mm512_storeu_ps(at, _mm512_fmadd_ps(x, w[v], _mm512_loadu_ps(at)));
      }
    }
  }
}

/* Reads them for vector v of a pair of panels. */
INLINE output_numbers NAME(numbers_of_outputs)(const panel_pair *u, int v) {
  const matrix *m = u->of[v / PANEL_VECS];
  const int64_t n = u->output[v / PANEL_VECS] + v % PANEL_VECS * LANES;
  const __mmask16 mask = lanes(m->outputs - n);
  const output_numbers of = {
      _mm512_maskz_loadu_epi32(mask, (const int32_t *)m->constants + n),
      _mm512_maskz_loadu_ps(mask, (const float *)m->scale + n),
      m->bias ? NAME(load_16_masked)((const T *)m->bias + n, mask) : _mm512_setzero_ps(),
      m->bias != NULL,
  };
  return of;
}

/* y [rows, panels * PANEL]: int32 sums become numbers, and outliers' products and biases are added */
static void NAME(scale_int8_sums)(const product *p, const panel_pair *u, int64_t row, int64_t rows, float *y,
                                  float *apart) {
  const int panels = u->second ? 2 : 1;
  const int64_t outliers = *p->workspace->outlier_count;
  if (outliers) NAME(multiply_outliers)(p, u, row, rows, apart);
  for (int v = 0; v < panels * PANEL_VECS; v++) {
    const output_numbers of = NAME(numbers_of_outputs)(u, v);
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * PANEL_VECS + v) * LANES;
      const __m512i exact = _mm512_sub_epi32(_mm512_loadu_si512(at), of.moved);
      const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(p->workspace->row_scale[row + r]), of.scale);
      __m512 x = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(exact), factor), _mm512_set1_ps(6.200124e-05f));
      if (of.has_bias) x = _mm512_add_ps(x, of.bias);
      if (outliers)
        x = _mm512_add_ps(NAME(round_16)(x), _mm512_loadu_ps(apart + (r * panels * PANEL_VECS + v) * LANES));
      _mm512_storeu_ps(at, x);
    }
  }
}
