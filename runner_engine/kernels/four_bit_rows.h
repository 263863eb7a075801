/* 4-bit weights as bitsandbytes stores them, output by output: a byte holds two neighbouring inputs, the first one in its
   upper half. Some inputs of an output share a scale. A weight is the value of its code, times the scale, rounded to
   bfloat16: what the library unpacks. Its layout for processors that multiply bfloat16 is another one (four_bit.h).
   A block of an output has 16 different weights. These are computed once, and then looked up. */

#ifdef __AVX2__
/* Weights of eight outputs, those of the outputs i and i + 4 in one vector */
typedef struct {
  __m256i firsts[4], seconds[4]; /* the first and the second bytes of the 16 weights of a block */
} weight_tables;

/* Floats whose upper halves are rounded as from_float_bf16 does it */
INLINE __m256i round_upper_halves(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}

/* values [4]: those of the even and the odd codes below 8, and then of the others, in both halves */
INLINE void values_of_codes(const float *of, __m256 values[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const float *at = of + (i / 2 * 8 + i % 2);
    values[i] = _mm256_setr_ps(at[0], at[2], at[4], at[6], at[0], at[2], at[4], at[6]);
  }
}

/* The tables of eight outputs, whose scales of block `n` are at `scale` */
INLINE void make_tables(const __m256 values[4], const float *const scale[8], int64_t n, weight_tables *to) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256 of_two = _mm256_insertf128_ps(_mm256_broadcast_ss(scale[i] + n), _mm_broadcast_ss(scale[i + 4] + n), 1);
    __m256i upper[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) upper[v] = round_upper_halves(_mm256_mul_ps(values[v], of_two));
    const __m256i low = _mm256_blend_epi16(_mm256_srli_epi32(upper[0], 16), upper[1], 0xaa); /* of the codes in order */
    const __m256i high = _mm256_blend_epi16(_mm256_srli_epi32(upper[2], 16), upper[3], 0xaa);
    const __m256i byte = _mm256_set1_epi16(0xff);
    to->firsts[i] = _mm256_packus_epi16(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
    to->seconds[i] = _mm256_packus_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8));
  }
}

/* pairs [4]: 32 inputs of two outputs, as pairs of bfloat16, four pairs of each output in a vector */
INLINE void look_up_pairs(const uint8_t *low, const uint8_t *high, __m256i firsts, __m256i seconds, __m256i pairs[4]) {
  const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                                _mm_loadu_si128((const __m128i *)high), 1);
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i a = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), b = _mm256_and_si256(bytes, mask);
  const __m256i a0 = _mm256_shuffle_epi8(firsts, a), a1 = _mm256_shuffle_epi8(seconds, a);
  const __m256i b0 = _mm256_shuffle_epi8(firsts, b), b1 = _mm256_shuffle_epi8(seconds, b);
  const __m256i aa[2] = {_mm256_unpacklo_epi8(a0, a1), _mm256_unpackhi_epi8(a0, a1)};
  const __m256i bb[2] = {_mm256_unpacklo_epi8(b0, b1), _mm256_unpackhi_epi8(b0, b1)};
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    pairs[2 * i] = _mm256_unpacklo_epi16(aa[i], bb[i]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi16(aa[i], bb[i]);
  }
}

/* words [4]: the pairs of eight outputs, from those of two outputs each, of which each of pairs [4] has four */
INLINE void words_of_pairs(__m256i pairs[4][4], int q, __m256i words[4]) {
  const __m256i a = _mm256_unpacklo_epi32(pairs[0][q], pairs[1][q]), b = _mm256_unpacklo_epi32(pairs[2][q], pairs[3][q]);
  const __m256i c = _mm256_unpackhi_epi32(pairs[0][q], pairs[1][q]), d = _mm256_unpackhi_epi32(pairs[2][q], pairs[3][q]);
  words[0] = _mm256_unpacklo_epi64(a, b), words[1] = _mm256_unpackhi_epi64(a, b);
  words[2] = _mm256_unpacklo_epi64(c, d), words[3] = _mm256_unpackhi_epi64(c, d);
}

/* Where the codes and scales of eight outputs are, from `first` on of those `left`: the last one stands for those that are
   missing. */
typedef struct {
  const uint8_t *codes[8];
  const float *scale[8];
} eight_outputs;

INLINE eight_outputs outputs_at(const matrix *m, const char *panel, int64_t output, int64_t first, int64_t inputs) {
  const int64_t left = m->outputs - output, blocks = inputs / m->block;
  eight_outputs at;
  for (int i = 0; i < 8; i++) {
    const int64_t of = first + i < left ? first + i : left - 1;
    at.codes[i] = (const uint8_t *)panel + of * (inputs / 2);
    at.scale[i] = (const float *)m->scale + (output + of) * blocks;
  }
  return at;
}

/* to [inputs / 2, PANEL, 2]: FOUR_BIT_INPUTS inputs, from `k` on, of eight outputs */
INLINE void unpack_eight_outputs(const eight_outputs *at, const weight_tables *tables, int64_t k, bf16 *to) {
  __m256i pairs[4][4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    look_up_pairs(at->codes[i] + k / 2, at->codes[i + 4] + k / 2, tables->firsts[i], tables->seconds[i], pairs[i]);
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++) {
    __m256i words[4];
    words_of_pairs(pairs, q, words);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(to + (8 * q + 2 * j) * PANEL), words[j]);
  }
}

/* to [inputs / 2, PANEL, 2]: some inputs, from `from` on, of a panel that begins with an output */
static void unpack_four_bit_rows(const matrix *m, const char *panel, int64_t output, int64_t all, int64_t from,
                                 int64_t inputs, bf16 *to) {
  __m256 values[4];
  values_of_codes(m->constants, values);
  for (int64_t o = 0; o < PANEL; o += 8) {
    const eight_outputs at = outputs_at(m, panel, output, o, all);
    for (int64_t k = from; k < from + inputs;) {
      weight_tables tables;
      make_tables(values, at.scale, k / m->block, &tables);
      const int64_t next = (k / m->block + 1) * m->block, end = next < from + inputs ? next : from + inputs;
      for (; k < end; k += FOUR_BIT_INPUTS) unpack_eight_outputs(&at, &tables, k, to + (k - from) * PANEL + 2 * o);
    }
  }
}
#else
static void unpack_four_bit_rows(const matrix *m, const char *panel, int64_t output, int64_t all, int64_t from,
                                 int64_t inputs, bf16 *to) {
  const float *values = m->constants;
  const int64_t left = m->outputs - output;
  for (int64_t o = 0; o < PANEL; o++) {
    const int64_t of = o < left ? o : left - 1;
    const uint8_t *codes = (const uint8_t *)panel + of * (all / 2);
    const float *scale = (const float *)m->scale + (output + of) * (all / m->block);
    for (int64_t k = from; k < from + inputs; k++) {
      const int code = k % 2 ? codes[k / 2] & 15 : codes[k / 2] >> 4;
      to[(k - from) / 2 * 2 * PANEL + 2 * o + k % 2] = from_float_bf16(values[code] * scale[k / m->block]);
    }
  }
}
#endif

#if defined(__AVX2__) && WIDENS_BF16
/* sum [2] += the products of four pairs of inputs, one after another; x: their numbers, words: the weights */
INLINE void add_four_pairs(const float *x, __m256i words[2][4], __m256 sum[2]) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m256 first = _mm256_broadcast_ss(x + 2 * j), second = _mm256_broadcast_ss(x + 2 * j + 1);
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++)
      sum[g] = _mm256_fmadd_ps(first, _mm256_castsi256_ps(_mm256_slli_epi32(words[g][j], 16)), sum[g]);
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
      const __m256i upper = _mm256_and_si256(words[g][j], _mm256_set1_epi32((int)0xffff0000));
      sum[g] = _mm256_fmadd_ps(second, _mm256_castsi256_ps(upper), sum[g]);
    }
  }
}

/* y [PANEL]: the sums of a single row x, whose weights do not go through memory, in the order of register tiles. The next
   inputs are looked up between the sums, of which each waits for the one before. The cache lines from `ahead` on are
   read next. */
static __attribute__((noinline)) void four_bit_row_sums(const matrix *m, const char *panel, int64_t output, const float *x, int64_t inputs, float *y,
                              const char *ahead, int64_t lines) {
  const int64_t each = ceil_div(lines, inputs / FOUR_BIT_INPUTS * (PANEL / 16));
  __m256 values[4];
  values_of_codes(m->constants, values);
  for (int64_t o = 0; o < PANEL; o += 16) {
    const eight_outputs at[2] = {outputs_at(m, panel, output, o, inputs), outputs_at(m, panel, output, o + 8, inputs)};
    weight_tables tables[2];
    __m256i pairs[2][2][4][4]; /* those of now and those of the next inputs */
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#define LOOK_UP(k, g, i)                                                                                       \
  look_up_pairs(at[g].codes[i] + (k) / 2, at[g].codes[i + 4] + (k) / 2, tables[g].firsts[i], tables[g].seconds[i], \
                pairs[(k) / FOUR_BIT_INPUTS % 2][g][i])
    for (int g = 0; g < 2; g++) {
      make_tables(values, at[g].scale, 0, tables + g);
      for (int i = 0; i < 4; i++) LOOK_UP(0, g, i);
    }
    for (int64_t k = 0; k < inputs; k += FOUR_BIT_INPUTS) {
      const int64_t next = k + FOUR_BIT_INPUTS;
      for (int64_t i = 0; i < each && lines > 0; i++, lines--, ahead += CACHE_LINE) __builtin_prefetch(ahead, 0, 2);
      if (next < inputs && next % m->block == 0)
        for (int g = 0; g < 2; g++) make_tables(values, at[g].scale, next / m->block, tables + g);
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        __m256i words[2][4];
#pragma GCC unroll 2
        for (int g = 0; g < 2; g++) words_of_pairs(pairs[k / FOUR_BIT_INPUTS % 2][g], q, words[g]);
        if (next < inputs) {
          LOOK_UP(next, q / 2, q % 2 * 2);
          LOOK_UP(next, q / 2, q % 2 * 2 + 1);
        }
        add_four_pairs(x + k + 8 * q, words, sum);
      }
    }
#undef LOOK_UP
    for (int g = 0; g < 2; g++) _mm256_storeu_ps(y + o + 8 * g, sum[g]);
  }
}
#endif
