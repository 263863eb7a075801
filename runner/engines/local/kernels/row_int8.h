/* LLM.int8() as bitsandbytes has it, for one number format (see attention_body.h): rows are quantized too, but for the
   columns where one of them has an outlier, which are multiplied apart. */

#ifndef ROW_INT8_BYTES
#define ROW_INT8_BYTES
#define SHIFT 128 /* added to the numbers of rows, since products take bytes without a sign on one side: `more` of a matrix
                     has what its sums grow by */

INLINE __m512 take_16_f32(const float *at, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, at); }

INLINE __m512 take_16_bf16(const bf16 *at, __mmask16 mask) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16);
}

#endif

/* rows are first rounded to float16 */
INLINE __m512 NAME(half)(const T *x, int64_t left) {
  return _mm512_cvtph_ps(_mm512_cvtps_ph(NAME(take_16)(x, lanes(left)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Returns the largest number of a row that is no outlier, and marks the columns of its outliers. */
static float NAME(look_through)(const T *x, int64_t inputs, float threshold, uint8_t *marks) {
  __m512 top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m512 size = _mm512_abs_ps(NAME(half)(x + k, inputs - k));
    const __mmask16 over = threshold > 0 ? _mm512_cmp_ps_mask(size, _mm512_set1_ps(threshold), _CMP_GE_OQ) : 0;
    bad |= _mm512_cmp_ps_mask(size, size, _CMP_UNORD_Q);
    for (unsigned rest = over; rest; rest &= rest - 1)
      __atomic_store_n(marks + k + __builtin_ctz(rest), 1, __ATOMIC_RELAXED);
    top = _mm512_mask_max_ps(top, ~over, top, size);
  }
  return bad ? NAN : _mm512_reduce_max_ps(top);
}

static void NAME(quantize)(const T *x, int64_t inputs, float top, const uint8_t *marks, uint8_t *out) {
  const __m512 factor = _mm512_set1_ps(1.0f / top * 127.0f); /* rounded twice, as torch does it */
  for (int64_t k = 0; k < inputs; k += LANES) {
    const __m128i outliers = _mm_loadu_si128((const __m128i *)(marks + k));
    __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(NAME(half)(x + k, inputs - k), factor));
    number = _mm512_mask_mov_epi32(number, _mm_test_epi8_mask(outliers, outliers), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)(out + k), _mm512_cvtepi32_epi8(_mm512_add_epi32(number, _mm512_set1_epi32(SHIFT))));
  }
}

/* Quantizes the rows of a product, for whatever matrices they are multiplied by: two phases. */
static void NAME(quantize_rows)(const product *p, phase *now, int threads, int alone) {
  const workroom *room = p->room;
  const int64_t width = padded(p->inputs), lot = lot_of(p->rows, threads), lots = parts_of(p->rows, lot);
  const T *x = p->x;
  EACH_TASK(i, now, lots, alone)
    for (int64_t r = i * lot; r < p->rows && r < (i + 1) * lot; r++)
      room->tops[r] = NAME(look_through)(x + r * p->inputs, p->inputs, p->by_bytes->threshold, room->marks);
  meet(now++, lots, alone);
  EACH_TASK(i, now, lots, alone) {
    for (int64_t r = i * lot; r < p->rows && r < (i + 1) * lot; r++)
      NAME(quantize)(x + r * p->inputs, p->inputs, room->tops[r], room->marks, room->bytes + r * width);
    if (i) continue;
    int64_t outliers = 0;
    for (int64_t k = 0; k < width; k += 64) {
      uint64_t rest = _mm512_test_epi8_mask(_mm512_loadu_si512(room->marks + k), _mm512_set1_epi8(1));
      for (; rest; rest &= rest - 1) room->columns[outliers++] = (int32_t)(k + __builtin_ctzll(rest));
    }
    *room->outliers = outliers;
  }
  meet(now, lots, alone);
}

/* apart [rows, panels * PANEL] = the products of the outliers' columns with weights as they would be unquantized */
static void NAME(multiply_apart)(const product *p, const unit *u, int64_t row, int64_t rows, float *apart) {
  const int vecs = u->second ? 2 * VECS : VECS;
  memset(apart, 0, rows * vecs * LANES * sizeof(float));
  for (int64_t i = 0; i < *p->room->outliers; i++) {
    const int64_t column = p->room->columns[i];
    __m512 w[2 * VECS];
    for (int v = 0; v < vecs; v++) {
      const matrix *m = u->of[v / VECS];
      const int64_t n = u->output[v / VECS] + v % VECS * LANES, left = m->outputs - n;
      const int8_t *from = (const int8_t *)m->weight + n * p->inputs + column;
      int8_t numbers[LANES] = {0};
      for (int64_t o = 0; o < left && o < LANES; o++) numbers[o] = from[o * p->inputs];
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)numbers)));
      const __m512 scaled = _mm512_mul_ps(exact, _mm512_maskz_loadu_ps(lanes(left), (const float *)m->scale + n));
      w[v] = NAME(round_16)(_mm512_mul_ps(scaled, _mm512_set1_ps(7.874015718698502e-3f)));
    }
    for (int64_t r = 0; r < rows; r++) {
      const __m512 x = _mm512_set1_ps(UP(((const T *)p->x)[(row + r) * p->inputs + column]));
      for (int v = 0; v < vecs; v++) {
        float *at = apart + (r * vecs + v) * LANES;
        _mm512_storeu_ps(at, _mm512_fmadd_ps(x, w[v], _mm512_loadu_ps(at)));
      }
    }
  }
}

/* y [rows, panels * PANEL]: int32 sums become numbers, with what is multiplied apart and biases */
static void NAME(finish_bytes)(const product *p, const unit *u, int64_t row, int64_t rows, float *y, float *apart) {
  const int panels = u->second ? 2 : 1;
  const int64_t outliers = *p->room->outliers;
  if (outliers) NAME(multiply_apart)(p, u, row, rows, apart);
  for (int v = 0; v < panels * VECS; v++) {
    const matrix *m = u->of[v / VECS];
    const int64_t n = u->output[v / VECS] + v % VECS * LANES;
    const __mmask16 mask = lanes(m->outputs - n);
    const __m512i moved = _mm512_maskz_loadu_epi32(mask, (const int32_t *)m->more + n);
    const __m512 scale = _mm512_maskz_loadu_ps(mask, (const float *)m->scale + n);
    const __m512 bias = m->bias ? NAME(take_16)((const T *)m->bias + n, mask) : _mm512_setzero_ps();
    for (int64_t r = 0; r < rows; r++) {
      float *at = y + (r * panels * VECS + v) * LANES;
      const __m512i exact = _mm512_sub_epi32(_mm512_loadu_si512(at), moved);
      const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(p->room->tops[row + r]), scale);
      __m512 x = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(exact), factor), _mm512_set1_ps(6.200124e-05f));
      if (m->bias) x = _mm512_add_ps(x, bias);
      if (outliers) x = _mm512_add_ps(NAME(round_16)(x), _mm512_loadu_ps(apart + (r * panels * VECS + v) * LANES));
      _mm512_storeu_ps(at, x);
    }
  }
}
