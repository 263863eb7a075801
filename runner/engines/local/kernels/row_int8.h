/* LLM.int8() as bitsandbytes has it: rows are quantized too, but for the columns where one of them has an outlier, which
   are multiplied apart. What is read and written is float32 or bfloat16. */
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)

typedef struct {
  const void *x, *bias; /* bias: or 0 */
  int64_t is_f32, rows, inputs, outputs;
  const int8_t *weight;
  const float *scale;  /* of each output */
  const int32_t *sums; /* of the weights of each output, times what is added to the rows' numbers */
  float threshold;     /* 0: no number is an outlier */
  void *y;
} int8_layer;

#define SHIFT 128 /* products take numbers without a sign on one side */

INLINE __mmask16 lanes(int64_t left) { return left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0; }

INLINE __m512 numbers(const int8_layer *l, const void *from, int64_t at, __mmask16 mask) {
  if (l->is_f32) return _mm512_maskz_loadu_ps(mask, (const float *)from + at);
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const bf16 *)from + at)), 16);
}

INLINE __m512 rounded(const int8_layer *l, __m512 x) {
  if (l->is_f32) return x;
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16);
}

/* rows are first rounded to float16 */
INLINE __m512 half(const int8_layer *l, int64_t row, int64_t at) {
  const __m512 x = numbers(l, l->x, row * l->inputs + at, lanes(l->inputs - at));
  return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Returns the largest number of a row that is no outlier, and marks the columns of its outliers. */
static float look_through(const int8_layer *l, int64_t row, uint8_t *is_outlier) {
  __m512 top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t k = 0; k < l->inputs; k += LANES) {
    const __m512 x = _mm512_abs_ps(half(l, row, k));
    const __mmask16 over = l->threshold > 0 ? _mm512_cmp_ps_mask(x, _mm512_set1_ps(l->threshold), _CMP_GE_OQ) : 0;
    bad |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    for (unsigned rest = over; rest; rest &= rest - 1)
      __atomic_store_n(is_outlier + k + __builtin_ctz(rest), 1, __ATOMIC_RELAXED);
    top = _mm512_mask_max_ps(top, ~over, top, x);
  }
  return bad ? NAN : _mm512_reduce_max_ps(top);
}

static void quantize(const int8_layer *l, int64_t row, float top, const uint8_t *is_outlier, uint8_t *out) {
  const __m512 factor = _mm512_set1_ps(1.0f / top * 127.0f); /* rounded twice, as torch does it */
  for (int64_t k = 0; k < l->inputs; k += LANES) {
    __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(half(l, row, k), factor));
    if (is_outlier) {
      const __m128i marks = _mm_loadu_si128((const __m128i *)(is_outlier + k));
      x = _mm512_mask_mov_epi32(x, _mm_test_epi8_mask(marks, marks), _mm512_setzero_si512());
    }
    _mm_storeu_si128((__m128i *)(out + k), _mm512_cvtepi32_epi8(_mm512_add_epi32(x, _mm512_set1_epi32(SHIFT))));
  }
}

/* sums [R][PANEL_Q] = the products of a strip with a panel, four inputs at a time */
INLINE const char *quads_of(const int R, const uint32_t *strip, const uint32_t *panel, int64_t quads,
                            int32_t sums[][PANEL_Q], const char *next, const char *end) {
  __m512i sum[STRIP_ROWS][2];
  for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int64_t q = 0; q < quads; q++, strip += TURNED, panel += PANEL_Q) {
    const __m512i first = _mm512_loadu_si512(panel), second = _mm512_loadu_si512(panel + LANES);
    next = fetch(next, end);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const __m512i x = _mm512_set1_epi32(strip[r]);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], x, first);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], x, second);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    _mm512_storeu_si512(sums[r], sum[r][0]);
    _mm512_storeu_si512(sums[r] + LANES, sum[r][1]);
  }
  return next;
}

static const char *bytes_of(int rows, const uint32_t *strip, const uint32_t *panel, int64_t quads,
                            int32_t sums[][PANEL_Q], const char *next, const char *end) {
#define CASE(N) \
  case N: return quads_of(N, strip, panel, quads, sums, next, end);
  switch (rows) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
  }
#undef CASE
  return next;
}

/* y of some rows and a panel, from their sums, and the weights of the outliers' columns [outliers][PANEL_Q] */
static void scale(const int8_layer *l, int64_t row, int rows, int64_t output, const float *top,
                  int32_t sums[][PANEL_Q], int64_t outliers, const int32_t *columns, const float *weights) {
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < PANEL_Q; v += LANES) {
      const __mmask16 mask = lanes(l->outputs - output - v);
      const int64_t n = output + v;
      const __m512i moved = _mm512_maskz_loadu_epi32(mask, l->sums + n);
      const __m512i exact = _mm512_sub_epi32(_mm512_loadu_si512(sums[r] + v), moved);
      const __m512 scales = _mm512_mul_ps(_mm512_set1_ps(top[r]), _mm512_maskz_loadu_ps(mask, l->scale + n));
      __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(exact), scales), _mm512_set1_ps(6.200124e-05f));
      if (l->bias) y = _mm512_add_ps(y, numbers(l, l->bias, n, mask));
      if (outliers) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < outliers; i++) {
          const int64_t at = (row + r) * l->inputs + columns[i];
          const float x = l->is_f32 ? ((const float *)l->x)[at] : up_bf16(((const bf16 *)l->x)[at]);
          sum = _mm512_fmadd_ps(_mm512_set1_ps(x), _mm512_loadu_ps(weights + i * PANEL_Q + v), sum);
        }
        y = _mm512_add_ps(rounded(l, y), sum);
      }
      const int64_t at = (row + r) * l->outputs + n;
      if (l->is_f32) _mm512_mask_storeu_ps((float *)l->y + at, mask, y);
      else _mm256_mask_storeu_epi16((bf16 *)l->y + at, mask, (__m256i)_mm512_cvtneps_pbh(y));
    }
}

/* weights [outliers][PANEL_Q] of some columns as they would be without quantization */
static void unpack_columns(const int8_layer *l, int64_t output, int64_t outliers, const int32_t *columns,
                           float *weights) {
  for (int64_t i = 0; i < outliers; i++)
    for (int64_t o = 0; o < PANEL_Q; o++) {
      const int64_t n = output + o;
      const float w = n < l->outputs ? l->weight[n * l->inputs + columns[i]] * l->scale[n] * 7.874015718698502e-3f : 0;
      weights[i * PANEL_Q + o] = l->is_f32 ? w : up_bf16(down_bf16(w));
    }
}

/* Quantizes up to STRIP_ROWS rows and deals them out. */
static void deal_bytes(const int8_layer *l, int64_t row, int64_t count, const float *top, const uint8_t *is_outlier,
                       int64_t padded, uint8_t *bytes, uint32_t *strip) {
  for (int64_t r = 0; r < count; r++) quantize(l, row + r, top[r], is_outlier, bytes + r * padded);
  for (int64_t k = 0; k < padded; k += 64) deal(bytes + k, padded, TURNED, 64, strip + k / 4 * TURNED, TURNED);
}

/* y [rows, outputs] = x [rows, inputs] times int8 weights [outputs, inputs]. room: see quantized_room_bytes. */
void row_int8(const int8_layer *l, char *room, int threads) {
  const int64_t padded = (l->inputs + 63) / 64 * 64;
  const int64_t strip_words = padded / 4 * TURNED, panel_words = padded / 4 * PANEL_Q;
  const int each = l->rows <= FEW && threads <= STRIPS; /* thread quantizes these rows itself: quicker than to wait */
  uint32_t *dealt = (uint32_t *)room, *panels = dealt + STRIPS * strip_words;
  float *weights = (float *)(panels + threads * panel_words), *tops = weights + threads * padded * PANEL_Q;
  int32_t *columns = (int32_t *)(tops + l->rows + 16 * threads);
  uint8_t *marks = (uint8_t *)(columns + threads * padded), *bytes = marks + threads * padded;
  memset(marks, 0, threads * padded);
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num();
    uint32_t *panel = panels + me * panel_words, *strip = dealt + each * me * strip_words;
    float *top = tops + each * me * 16, *own_weights = weights + me * padded * PANEL_Q;
    uint8_t *is_outlier = marks + each * me * padded, *own_bytes = bytes + me * TURNED * padded;
    int32_t *own_columns = columns + me * padded;
    int64_t outliers = 0;
    if (each)
      for (int64_t r = 0; r < l->rows; r++) top[r] = look_through(l, r, is_outlier);
    else {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < l->rows; r++) top[r] = look_through(l, r, is_outlier);
    }
    for (int64_t k = 0; k < l->inputs; k += 64) {
      uint64_t rest = _mm512_test_epi8_mask(_mm512_loadu_si512(is_outlier + k), _mm512_set1_epi8(1));
      for (; rest; rest &= rest - 1)
        own_columns[outliers++] = (int32_t)(k + __builtin_ctzll(rest));
    }
    for (int64_t start = 0; start < l->rows; start += STRIPS * STRIP_ROWS) {
      const int64_t some = l->rows - start < STRIPS * STRIP_ROWS ? l->rows - start : STRIPS * STRIP_ROWS;
      const int64_t strips = (some + STRIP_ROWS - 1) / STRIP_ROWS;
      if (each) deal_bytes(l, 0, l->rows, top, outliers ? is_outlier : 0, padded, own_bytes, strip);
      else {
#pragma omp for schedule(static)
        for (int64_t s = 0; s < strips; s++) {
          const int64_t row = start + s * STRIP_ROWS, rest = some - s * STRIP_ROWS;
          deal_bytes(l, row, rest < STRIP_ROWS ? rest : STRIP_ROWS, top + row, outliers ? is_outlier : 0, padded,
                     own_bytes, strip + s * strip_words);
        }
      }
#pragma omp for schedule(static)
      for (int64_t p = 0; p < l->outputs; p += PANEL_Q) {
        const char *next = (const char *)(l->weight + (p + PANEL_Q) * l->inputs);
        const char *end = next + (p + 2 * PANEL_Q <= l->outputs) * PANEL_Q * l->inputs;
        for (int64_t o = 0; o < PANEL_Q; o += LANES)
          for (int64_t k = 0; k < padded; k += 64)
            deal(l->weight + (p + o) * l->inputs + k, l->inputs, l->outputs - p - o, l->inputs - k,
                 panel + k / 4 * PANEL_Q + o, PANEL_Q);
        unpack_columns(l, p, outliers, own_columns, own_weights);
        for (int64_t s = 0; s < strips; s++) {
          const int64_t row = start + s * STRIP_ROWS, rest = some - s * STRIP_ROWS;
          const int count = rest < STRIP_ROWS ? (int)rest : STRIP_ROWS;
          int32_t sums[STRIP_ROWS][PANEL_Q];
          next = bytes_of(count, strip + s * strip_words, panel, padded / 4, sums, next, end);
          scale(l, row, count, p, top + row, sums, outliers, own_columns, own_weights);
        }
      }
    }
  }
}
#endif
