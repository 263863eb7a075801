/* Keys or values in 4 bits, for one number format (T, PACK, NAME: see kernels.c). 32 numbers of a head are a group with a
   bfloat16 scale; a number is an integer from -8 to 7 times it. A byte has a number of a group in its lower half, and the one
   16 behind it in its upper half. A block of LANES places is the bytes of its keys, dimension by dimension, or of its
   values, place by place, and behind them the scales of its places, group by group. torch does the same with the same bits
   in kv_cache/formats/int4.py.

   Two rows of bytes side by side (of two dimensions of keys, or of two places of values) are looked up at once: as pairs of
   bfloat16, which hold each integer exactly, so that only sums over a group are multiplied by scales. */

#ifndef KV_INT4_FORMAT
#define KV_INT4_FORMAT
#define CODE_BYTES (INT4_GROUP / 2) /* of a group */
#define CODE_GROUPS(D) (((D) + INT4_GROUP - 1) / INT4_GROUP)
#define SMALLEST_IN_GROUP 1e-30f /* of its numbers; smaller ones count as 0 */
/* Groups of values whose sums are in the registers side by side */
#ifdef __AVX512F__
#define GROUPS_AT_ONCE 2
#else
#define GROUPS_AT_ONCE 1
#endif
/* The lower, or the upper, halves of bytes that have been widened, as floats. Where they are not looked up, the
   lower ones are 1 / LOWER_SHARE times as large: shifted up, they have their sign, and the shift back is saved. */
#ifdef HAS_AVX512
#define LOWER_SHARE 1.0f
#else
#define LOWER_SHARE 0x1p-28f
#endif
INLINE vec half_of_codes(ints_vec wide, int upper) {
#ifdef HAS_AVX512
  const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return (vec)_mm512_permutexvar_ps(upper ? _mm512_srli_epi32((__m512i)wide, 4) : (__m512i)wide, values);
#else
  return __builtin_convertvector(upper ? wide >> 4 : wide << 28, vec);
#endif
}

/* Two rows of bytes side by side; and their lower, or their upper, halves as pairs of bfloat16 */
#ifdef HAS_AVX512_BF16
typedef ints_vec code_pairs;
INLINE code_pairs paired_codes(const char *first, const char *second) {
  const __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)first));
  return (ints_vec)_mm512_or_si512(low, (__m512i)(widened_bytes(second) << 16));
}

INLINE words half_of_code_pairs(code_pairs both, int upper) {
  static const uint16_t values[32] = {0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
                                      0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80}; /* twice: of 5 bits */
  const __m512i at = upper ? _mm512_srli_epi32((__m512i)both, 4) : (__m512i)both;
  return (words)_mm512_permutexvar_epi16(at, _mm512_loadu_si512(values));
}
#else
typedef struct {
  ints_vec first, second;
} code_pairs;
INLINE code_pairs paired_codes(const char *first, const char *second) {
  return (code_pairs){widened_bytes(first), widened_bytes(second)};
}

INLINE words half_of_code_pairs(code_pairs both, int upper) {
  const float share = upper ? 1.0f : LOWER_SHARE;
  const vec first = half_of_codes(both.first, upper) * share, second = half_of_codes(both.second, upper) * share;
  return (words)first >> 16 | (words)second; /* such floats end in zeros */
}
#endif

/* The scales of one group of neighbouring places, as floats */
INLINE vec scales_of_group(const char *at) { return (vec)(widened_halves(at) << 16); }

INLINE float scale_of_group(const char *at) {
  bf16 x;
  memcpy(&x, at, sizeof x);
  return to_float_bf16(x);
}
#endif

/* A row [dim] as codes, one in each byte, of which there is room for MAX_DIM, and the scales of its groups: NaN where one of
   a group's numbers is none or infinite */
INLINE void INT4_NAME(to_codes)(const T *x, int64_t dim, int8_t *codes, bf16 *scales) {
  memset(codes, 0, MAX_DIM);
  for (int64_t first = 0; first < dim; first += INT4_GROUP) {
    const int64_t end = first + INT4_GROUP < dim ? first + INT4_GROUP : dim;
    float high = dim - first < INT4_GROUP ? 0 : -INFINITY, low = -high; /* zeros fill up the last group */
    int is_broken = 0;
    for (int64_t d = first; d < end; d++) {
      const float number = NAME(to_float)(x[d]);
      high = number > high ? number : high;
      low = number < low ? number : low;
      is_broken |= !(fabsf(number) < INFINITY);
    }
    const float most = high >= -low ? high : low;
    scales[first / INT4_GROUP] = is_broken ? 0x7fc0 : 0;
    if (is_broken || fabsf(most) < SMALLEST_IN_GROUP) continue;
    const bf16 scale = from_float_bf16(most / -8.0f);
    const float factor = 1.0f / to_float_bf16(scale);
    scales[first / INT4_GROUP] = scale;
    for (int64_t d = first; d < end; d++) {
      const float step = rintf(NAME(to_float)(x[d]) * factor);
      codes[d] = (int8_t)(step < -8 ? -8 : step > 7 ? 7 : step);
    }
  }
}

/* Puts k, or v, [dim] of a head into a place of its keys K, or values V. between: bytes from one byte of a place to the next */
INLINE void INT4_NAME(store_row)(char *block, int64_t at, int64_t between, char *bytes, const T *x, int64_t dim) {
  const int64_t groups = CODE_GROUPS(dim);
  int8_t codes[MAX_DIM];
  bf16 scales[MAX_DIM / INT4_GROUP];
  INT4_NAME(to_codes)(x, dim, codes, scales);
  for (int64_t group = 0; group < groups; group++) {
    const int8_t *of = codes + group * INT4_GROUP;
    for (int64_t c = 0; c < CODE_BYTES; c++)
      bytes[(group * CODE_BYTES + c) * between] = (char)((of[c] & 15) | (of[c + CODE_BYTES] & 15) << 4);
    memcpy(block + LANES * groups * CODE_BYTES + (group * LANES + at) * sizeof(bf16), scales + group, sizeof(bf16));
  }
}

INLINE void INT4_NAME(store_key)(char *K, const T *k, int64_t dim, int64_t place) {
  char *block = K + place / LANES * LANES * kv_place_bytes(KV_INT4, dim, sizeof(T));
  INT4_NAME(store_row)(block, place % LANES, LANES, block + place % LANES, k, dim);
}

INLINE void INT4_NAME(store_value)(char *V, const T *v, int64_t dim, int64_t place) {
  char *block = V + place / LANES * LANES * kv_place_bytes(KV_INT4, dim, sizeof(T));
  INT4_NAME(store_row)(block, place % LANES, 1, block + place % LANES * CODE_GROUPS(dim) * CODE_BYTES, v, dim);
}

#define IN_FLOATS (IS_WIDENED || PACK == 1) /* numbers are multiplied as floats, and not as pairs of bfloat16 */

/* s[g][j] = q[g] . key j, as `scores` of other formats */
INLINE void INT4_NAME(scores)(const int D, const int G, const NAME(operand) *q, const char *k, int count,
                              float s[][MAX_SCORES], const char *v) {
  const int groups = CODE_GROUPS(D), block = LANES * groups * INT4_GROUP_BYTES, parts = LANES / VEC_FLOATS;
  const int blocks = TWO_BLOCKS(G) ? 2 : 1;
  const char *end = k + (count + LANES - 1) / LANES * block;
#if IN_FLOATS && !defined(HAS_AVX512)
  float lower[MAX_GROUP * MAX_DIM]; /* for the lower halves */
  for (int i = 0; i < G * D; i++) lower[i] = q[i] * LOWER_SHARE;
#else
  const NAME(operand) *lower = q;
#endif
  for (int j = 0; j < count; j += blocks * LANES) {
    const char *k0 = k + j / LANES * block, *k1 = blocks == 2 && j + LANES < count ? k0 + block : k0;
    vec a[MAX_GROUP][2 * LANES / VEC_FLOATS] = {{{0}}};
    for (int group = 0; group < groups; group++) {
      vec b[MAX_GROUP][2 * LANES / VEC_FLOATS] = {{{0}}};
      /* the upper ones may only fill up */
      const int halves = D % INT4_GROUP == 0 || group * INT4_GROUP + CODE_BYTES < D ? 2 : 1;
      for (int c = 0; c < CODE_BYTES; c += 2) {
        const int row = (group * CODE_BYTES + c) * LANES;
        if (row % CACHE_LINE == 0) {
          prefetch(k0 + row, end, v);
          if (blocks == 2) prefetch(k1 + row, end, v);
        }
#define CODES(p, next) (((p) < parts ? k0 : k1) + row + (next) * LANES + (p) % parts * VEC_FLOATS)
#define QUERY(half) (((half) ? q + CODE_BYTES : lower) + group * INT4_GROUP + c)
#if IN_FLOATS
#pragma GCC unroll 2
        for (int next = 0; next < 2; next++) {
          ints_vec codes[2 * LANES / VEC_FLOATS] = {{0}};
#pragma GCC unroll 4
          for (int p = 0; p < blocks * parts; p++) codes[p] = widened_bytes(CODES(p, next));
#pragma GCC unroll 2
          for (int half = 0; half < halves; half++) {
            vec x[2 * LANES / VEC_FLOATS] = {{0}};
#pragma GCC unroll 4
            for (int p = 0; p < blocks * parts; p++) x[p] = half_of_codes(codes[p], half);
#pragma GCC unroll 16
            for (int g = 0; g < G; g++) {
              const vec number = QUERY(half)[g * D + next] + (vec){0};
#pragma GCC unroll 4
              for (int p = 0; p < blocks * parts; p++) b[g][p] += number * x[p];
            }
          }
        }
#else
#pragma GCC unroll 4
        for (int p = 0; p < blocks * parts; p++) {
          const code_pairs codes = paired_codes(CODES(p, 0), CODES(p, 1));
#pragma GCC unroll 2
          for (int half = 0; half < halves; half++) {
            const NAME(vec) x = half_of_code_pairs(codes, half);
#pragma GCC unroll 16
            for (int g = 0; g < G; g++) b[g][p] = NAME(multiply_add)(b[g][p], QUERY(half) + g * D, x);
          }
        }
#endif
#undef QUERY
#undef CODES
      }
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        const vec scale = scales_of_group((p < parts ? k0 : k1) + LANES * groups * CODE_BYTES +
                                          (group * LANES + p % parts * VEC_FLOATS) * (int)sizeof(bf16));
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) a[g][p] += b[g][p] * scale;
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) memcpy(&s[g][j + p * VEC_FLOATS], &a[g][p], sizeof(vec));
  }
}

/* The weights of `count` values times the values' scales of one group, as they are multiplied; a 0 follows them */
INLINE const NAME(operand) *INT4_NAME(weights_of_group)(const float *s, int count, const char *scales, int block,
                                                        float *scaled, NAME(operand) *packed) {
  for (int first = 0; first < count; first += LANES, scales += block)
    for (int j = 0; j < LANES; j += VEC_FLOATS) {
      const vec x = load_f32(s + first + j) * scales_of_group(scales + j * sizeof(bf16));
      memcpy(scaled + first + j, &x, sizeof x);
    }
  scaled[count] = 0;
  return NAME(pack_weights)(scaled, count, packed);
}

/* acc[g] += the sum over count places of s[g][j] * value j, as `add_values` of other formats */
INLINE void INT4_NAME(add_values)(const int D, const int G, float s[][MAX_SCORES], const char *v, int count, float *acc,
                                  const char *next) {
  const int groups = CODE_GROUPS(D), block = LANES * groups * INT4_GROUP_BYTES, row = groups * CODE_BYTES;
  const int heads = HEADS_AT_ONCE(D, G), lines = CACHE_LINE / VEC_FLOATS;
  const int bytes = VEC_FLOATS < CODE_BYTES && DIMS_AT_ONCE(D, G) < INT4_GROUP ? CODE_BYTES / 2 : CODE_BYTES; /* of a group */
  const char *end = v + (count + LANES - 1) / LANES * block;
  NAME(operand) packed[GROUPS_AT_ONCE][MAX_GROUP][MAX_SCORES];
  float scaled[GROUPS_AT_ONCE][MAX_GROUP][MAX_SCORES];
  const NAME(operand) *weights[GROUPS_AT_ONCE][MAX_GROUP];
  for (int first = 0; first < groups; first += GROUPS_AT_ONCE) {
    const int some_groups = groups - first < GROUPS_AT_ONCE ? groups - first : GROUPS_AT_ONCE;
    for (int i = 0; i < some_groups; i++)
      for (int g = 0; g < G; g++)
        weights[i][g] = INT4_NAME(weights_of_group)(
            s[g], count, v + LANES * row + (first + i) * LANES * (int)sizeof(bf16), block, scaled[i][g], packed[i][g]);
    for (int g0 = 0; g0 < G; g0 += heads) {
      const int some = G - g0 < heads ? G - g0 : heads;
      for (int c = 0; c < CODE_BYTES; c += bytes) {
        vec o[MAX_HEADS_AT_ONCE][GROUPS_AT_ONCE][2][CODE_BYTES / VEC_FLOATS]; /* by group, and half of its bytes */
        for (int g = 0; g < heads; g++)
          for (int i = 0; i < GROUPS_AT_ONCE; i++)
            for (int d = 0; d < bytes / VEC_FLOATS; d++) o[g][i][0][d] = o[g][i][1][d] = (vec){0};
        for (int j = 0; j < count; j += 2) {
          const char *at = v + j / LANES * block + j % LANES * row + first * CODE_BYTES + c;
          for (int i = 0; i < some_groups; i++)
            for (int d = 0; d < bytes / VEC_FLOATS; d++) {
              const char *codes = at + i * CODE_BYTES + d * VEC_FLOATS;
              if (!g0 && !c && !i && d % lines == 0) {
                prefetch(codes, end, next);
                prefetch(codes + row, end, next);
              }
#if IN_FLOATS
#pragma GCC unroll 2
              for (int odd = 0; odd < 2; odd++) {
                const ints_vec wide = widened_bytes(codes + odd * row);
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++) {
                  const vec x = half_of_codes(wide, half);
                  for (int g = 0; g < heads; g++)
                    if (g < some) o[g][i][half][d] += weights[i][g0 + g][j + odd] * x;
                }
              }
#else
              const code_pairs both = paired_codes(codes, codes + row);
#pragma GCC unroll 2
              for (int half = 0; half < 2; half++) {
                const NAME(vec) x = half_of_code_pairs(both, half);
                for (int g = 0; g < heads; g++)
                  if (g < some) o[g][i][half][d] = NAME(multiply_add)(o[g][i][half][d], weights[i][g0 + g] + j, x);
              }
#endif
            }
        }
        for (int g = 0; g < some; g++)
          for (int i = 0; i < some_groups; i++)
            for (int half = 0; half < 2; half++)
              for (int d = 0; d < bytes / VEC_FLOATS; d++) {
                const int to = (first + i) * INT4_GROUP + half * CODE_BYTES + c + d * VEC_FLOATS;
                if (to >= D) continue;
                const float share = IN_FLOATS && !half ? LOWER_SHARE : 1.0f;
                const vec sum = load_f32(acc + (g0 + g) * D + to) + o[g][i][half][d] * share;
                memcpy(acc + (g0 + g) * D + to, &sum, sizeof sum);
              }
      }
    }
  }
}

/* Whole blocks of keys, or of values, of up to `places` as they are multiplied, scales included */
INLINE void INT4_NAME(unpack_places)(const int D, int is_keys, const char *from, int places, NAME(operand) *to) {
  const int groups = CODE_GROUPS(D), block = LANES * groups * INT4_GROUP_BYTES;
  const int row = is_keys ? LANES : groups * CODE_BYTES, side = is_keys ? LANES : D;
  for (int first = 0; first < places; first += LANES, from += block, to += LANES * D)
    for (int group = 0; group < groups; group++) {
      const char *scales = from + LANES * groups * CODE_BYTES + group * LANES * (int)sizeof(bf16);
      const int halves = group * INT4_GROUP + CODE_BYTES < D ? 2 : 1;
      for (int i = 0; i < LANES; i += 2) /* of keys: numbers of the group; of values: places */
        for (int c = 0; c < LANES; c += VEC_FLOATS) {
          const char *at = is_keys ? from + (group * CODE_BYTES + i) * row + c : from + i * row + group * CODE_BYTES + c;
          vec scale[2];
          if (is_keys) scale[0] = scale[1] = scales_of_group(scales + c * sizeof(bf16));
          else
            for (int odd = 0; odd < 2; odd++) scale[odd] = scale_of_group(scales + (i + odd) * sizeof(bf16)) + (vec){0};
          for (int half = 0; half < halves; half++) {
            const int d = group * INT4_GROUP + half * CODE_BYTES;
            const int line = is_keys ? d + i : i, column = is_keys ? c : d + c;
            const float share = half ? 1.0f : LOWER_SHARE;
            const vec x[2] = {half_of_codes(widened_bytes(at), half) * (scale[0] * share),
                              half_of_codes(widened_bytes(at + row), half) * (scale[1] * share)};
#if IN_FLOATS
            memcpy(to + line * side + column, x, sizeof(vec));
            memcpy(to + (line + 1) * side + column, x + 1, sizeof(vec));
#elif defined(HAS_AVX512_BF16)
            const words pairs = step_bf16((const __m512 *)x);
            memcpy(to + line * side + 2 * column, &pairs, sizeof pairs);
#else
            for (int l = 0; l < VEC_FLOATS; l++)
              for (int odd = 0; odd < 2; odd++)
                to[line * side + 2 * (column + l) + odd] = NAME(from_float)(x[odd][l]);
#endif
          }
        }
    }
}
#undef IN_FLOATS
