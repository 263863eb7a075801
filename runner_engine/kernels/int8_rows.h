/* int8 weights of torchao whose rows stay bfloat16 (WEIGHT_INT8). bfloat16 holds every byte exactly, so some inputs of a panel
   are unpacked to it, in the order of plain weights. Scales are applied to the sums. Outputs are whole panels. */

#ifdef __AVX2__
/* words [4]: 16 inputs, from `k` on, of eight outputs, four bytes of each output in a word */
INLINE void words_of_bytes(const int8_t *const at[8], int64_t k, __m256i words[4]) {
  __m256i bytes[4][4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    bytes[i][0] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(at[i] + k))),
                                          _mm_loadu_si128((const __m128i *)(at[i + 4] + k)), 1);
  words_of_pairs(bytes, 0, words);
}

/* The bytes at place i of eight words, as numbers. Shifts and conversions wait for the same ports as the shuffles do, so a byte
   becomes the last places of a larger float, from which that is subtracted: its sign bit is turned, which adds 128. */
INLINE __m256 numbers_of_bytes(__m256i words, const int i) {
  if (i == 3) return _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 24));
  const __m256i low = i == 2 ? _mm256_srli_epi32(words, 16) : words, mask = _mm256_set1_epi32(i == 1 ? 0xff00 : 0xff);
  const __m256i large = _mm256_set1_epi32(i == 1 ? 0x47008000 : 0x4b000080);
  const __m256i bits = _mm256_xor_si256(_mm256_and_si256(low, mask), large);
  return _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(i == 1 ? 0x1p15f + 128 : 0x1p23f + 128));
}

INLINE void places_of_bytes(const char *panel, int64_t first, int64_t inputs, const int8_t *at[8]) {
  for (int i = 0; i < 8; i++) at[i] = (const int8_t *)panel + (first + i) * inputs;
}
#endif

/* to [inputs / 2, PANEL, 2]: some inputs, from `from` on, of a panel with `all` inputs */
static void unpack_int8_rows(const char *panel, int64_t all, int64_t from, int64_t inputs, bf16 *to) {
  int64_t whole = 0;
#ifdef __AVX2__
  whole = inputs / 16 * 16;
  for (int64_t o = 0; o < PANEL; o += 8) {
    const int8_t *at[8];
    places_of_bytes(panel, o, all, at);
    for (int64_t k = 0; k < whole; k += 16) {
      __m256i words[4];
      words_of_bytes(at, from + k, words);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
#pragma GCC unroll 2
        for (int i = 0; i < 4; i += 2) {
          const __m256i first = _mm256_castps_si256(numbers_of_bytes(words[j], i));
          const __m256i second = _mm256_castps_si256(numbers_of_bytes(words[j], i + 1));
          const __m256i pairs = _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xaa);
          _mm256_storeu_si256((__m256i *)(to + (k + 4 * j + i) * PANEL + 2 * o), pairs);
        }
    }
  }
#endif
  for (int64_t o = 0; o < PANEL; o++) {
    const int8_t *at = (const int8_t *)panel + o * all + from;
    for (int64_t k = whole; k < inputs; k++) to[k / 2 * 2 * PANEL + 2 * o + k % 2] = from_float_bf16(at[k]);
  }
}

/* y [rows, PANEL]: the sums become outputs of a matrix, from `output` on, rounded each time as the library does it */
static void scale_weight_int8(const matrix *m, int64_t output, int64_t rows, float *y, int64_t stride) {
  const bf16 *scale = (const bf16 *)m->scale + output, *bias = m->bias ? (const bf16 *)m->bias + output : 0;
  for (int64_t r = 0; r < rows; r++, y += stride) {
    for (int64_t o = 0; o < PANEL; o++) y[o] = rounded_bf16(y[o]) * to_float_bf16(scale[o]);
    if (bias)
      for (int64_t o = 0; o < PANEL; o++) y[o] = rounded_bf16(y[o]) + to_float_bf16(bias[o]);
  }
}

#if defined(__AVX2__) && WIDENS_BF16
/* y [G][8]: the sums of a single row x with G times eight outputs, whose weights are at at [G] and do not go through memory, in
   the order of register tiles. A sum waits for the one before, and meanwhile those of the other outputs are made. */
INLINE void sums_of_bytes(const int G, const int8_t *const at[4][8], const float *x, int64_t inputs, next_weights next,
                          float *const y[4]) {
  const int64_t whole = inputs / 16 * 16, each = ceil_div(next.lines, whole / 16 + 1);
  __m256i words[2][4][4]; /* those of now and those of the next inputs */
  __m256 sum[4];
#pragma GCC unroll 4
  for (int g = 0; g < G; g++) {
    sum[g] = _mm256_setzero_ps();
    if (whole) words_of_bytes(at[g], 0, words[0][g]);
  }
  for (int64_t k = 0; k < whole; k += 16) {
    for (int64_t i = 0; i < each && next.lines > 0; i++, next.lines--, next.first += CACHE_LINE, next.second += CACHE_LINE) {
      __builtin_prefetch(next.first, 0, 2);
      __builtin_prefetch(next.second, 0, 2);
    }
    const int odd = k / 16 & 1;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      if (j < G && k + 16 < whole) words_of_bytes(at[j], k + 16, words[!odd][j]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const __m256 number = _mm256_broadcast_ss(x + k + 4 * j + i);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) sum[g] = _mm256_fmadd_ps(number, numbers_of_bytes(words[odd][g][j], i), sum[g]);
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < G; g++) {
    _mm256_storeu_ps(y[g], sum[g]);
    for (int64_t k = whole; k < inputs; k++)
      for (int i = 0; i < 8; i++) y[g][i] = fmaf(x[k], at[g][i][k], y[g][i]);
  }
}

/* y, second [PANEL]: the sums of a single row with a pair of panels, or one */
static void int8_row_sums(const panel_pair *u, const float *x, int64_t inputs, float *y, float *second, next_weights next) {
  const int64_t all = next.lines, each = ceil_div(all, PANEL / 16);
  for (int64_t o = 0; o < PANEL; o += 16, next.first += each * CACHE_LINE, next.second += each * CACHE_LINE) {
    const int8_t *at[4][8];
    float *const to[4] = {y + o, y + o + 8, second + o, second + o + 8};
    for (int g = 0; g < (u->second ? 4 : 2); g++)
      places_of_bytes(g / 2 ? u->second : u->first, o + g % 2 * 8, inputs, at[g]);
    const int64_t left = all - o / 16 * each;
    next.lines = left < each ? left : each;
    if (u->second) sums_of_bytes(4, (const int8_t *const(*)[8])at, x, inputs, next, to);
    else sums_of_bytes(2, (const int8_t *const(*)[8])at, x, inputs, next, to);
  }
}
#endif
