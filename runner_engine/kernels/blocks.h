/* Matrices of a .gguf file, whose weights stay in 2 to 8 bits. The bytes of PANEL outputs lie together, group by group of
   inputs (blocks.py puts them so): first the scale of each output's group, in float16, and what is subtracted, where
   there is one; then the scales of the parts of a group; then the bits of the weights: the lower ones of all, then the
   upper ones. Of each output four bytes lie together. Their lowest bits are those of four neighbouring inputs, the next
   ones those of the four after these, and so on, as many fours as fit. A weight is
   scale * part's scale * (bits - offset) - minimum * part's minimum; without parts the minimum is added. */

enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14,
       IQ4_NL = 20, IQ4_XS = 23, MXFP4 = 39 }; /* as in a file */
enum { NO_PARTS, ONE_BYTE, TWO_BYTES, NIBBLES }; /* the scales of a part: none; its scale; with its minimum; in a byte */

typedef struct {
  int type, group, low, high, part; /* inputs of a group; lower and upper bits of a weight; inputs of a part */
  int parts_are, has_minimum, is_listed, offset; /* is_listed: bits are places in the first or second of listed_weights */
  int is_code; /* of a matrix in groups (group_bytes.h) */
} block_format;

static const block_format block_formats[] = {
    {Q4_0, 32, 4, 0, 32, NO_PARTS, 0, 0, 8, 0},     {Q4_1, 32, 4, 0, 32, NO_PARTS, 1, 0, 0, 0},
    {Q5_0, 32, 4, 1, 32, NO_PARTS, 0, 0, 16, 0},    {Q5_1, 32, 4, 1, 32, NO_PARTS, 1, 0, 0, 0},
    {Q8_0, 32, 8, 0, 32, NO_PARTS, 0, 0, 0, 0},     {Q2_K, 256, 2, 0, 16, NIBBLES, 1, 0, 0, 0},
    {Q3_K, 256, 2, 1, 16, ONE_BYTE, 0, 0, 4, 0},    {Q4_K, 256, 4, 0, 32, TWO_BYTES, 1, 0, 0, 0},
    {Q5_K, 256, 4, 1, 32, TWO_BYTES, 1, 0, 0, 0},   {Q6_K, 256, 4, 2, 16, ONE_BYTE, 0, 0, 32, 0},
    {IQ4_NL, 32, 4, 0, 32, NO_PARTS, 0, 1, 0, 0},   {IQ4_XS, 256, 4, 0, 32, ONE_BYTE, 0, 1, 0, 0},
    {MXFP4, 32, 4, 0, 32, NO_PARTS, 0, 2, 0, 0},
};
#define BLOCK_FORMATS ((int)(sizeof block_formats / sizeof *block_formats))

/* The second are twice the four-bit floats: their scale, a power of two, is halved when they are packed. */
static const int8_t listed_weights[2][16] = {
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
    {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
};
INLINE const int8_t *list_of(const block_format f) { return listed_weights[f.is_listed > 1]; }

/* Inputs that are unpacked at a time, a multiple of every part: they stay near, in the caches. With a narrow panel more of
   them fit, and a row is read in longer pieces. */
#define STRIP (PANELS_AT_ONCE == 2 ? 128 : 512)

INLINE const block_format *block_format_of(int64_t type) {
  for (int i = 0; i < BLOCK_FORMATS; i++)
    if (block_formats[i].type == type) return block_formats + i;
  return 0;
}

/* Bytes of a group of one output */
INLINE int64_t group_bytes(const block_format *f) {
  const int of_part = f->parts_are == TWO_BYTES ? 2 : f->parts_are == NO_PARTS ? 0 : 1;
  return 2 + 2 * f->has_minimum + f->group / f->part * of_part + f->group * (f->low + f->high) / 8;
}

/* Finite numbers only: blocks.py refuses others. */
INLINE float from_half(uint16_t x) {
  union { uint32_t i; float f; } u = {(uint32_t)(x & 0x7fff) << 13}, scale = {0x77800000}; /* 2 to the 112th */
  u.f *= scale.f;
  u.i |= (uint32_t)(x & 0x8000) << 16;
  return u.f;
}

/* Where the bits of a part begin; inputs that share their bytes with others before them are `shared` */
typedef struct {
  const uint8_t *low, *high;
  int shared; /* of the upper bits */
} block_bits;

INLINE block_bits bits_of_part(const block_format f, const uint8_t *group, int part) {
  const uint8_t *low = group + (group_bytes(&f) - f.group * (f.low + f.high) / 8) * PANEL;
  const int shared = f.high ? part * f.part % (32 / f.high) : 0;
  return (block_bits){low + part * f.part * f.low / 8 * PANEL,
                      low + (f.group * f.low + (part * f.part - shared) * f.high) / 8 * PANEL, shared};
}

/* Where the bits of input `k` of a part are: the place of its four, and the lowest bit in the four's 32 */
INLINE int64_t four_of(int bits, int k) { return k / (32 / bits) * 4 * PANEL; }
INLINE int bit_of(int bits, int k) { return k % (32 / bits) / 4 * bits + k % 4 * 8; }

#ifdef HAS_VECTORS
#define AHEAD 2048 /* bytes that are prefetched before they are read */

/* Prefetches a share of what comes later in a panel: its numbers and all bits of its weights, one part's after another. */
INLINE void prefetch_ahead(const uint8_t *group, int part, int64_t part_bytes) {
#pragma GCC unroll 16
  for (int64_t at = 0; at < part_bytes; at += CACHE_LINE) __builtin_prefetch(group + AHEAD + part * part_bytes + at);
}

/* What the weights of a part have in common, for VEC_FLOATS outputs */
typedef struct {
  floats scale, minimum;
} part_vectors;

/* Whether something is added to scaled bits: a minimum, or an offset where no table holds what bits stand for. With a single
   rounding, scale * bits - scale * 32 is scale * (bits - 32), rounded: an offset is a power of two. */
INLINE int has_addend(const block_format f) {
#ifdef HAS_AVX512
  return f.has_minimum || f.low + f.high == 6;
#else
  return f.has_minimum || f.offset || f.low == 8 || f.is_listed;
#endif
}

/* As scales_of_part, for the outputs from `o` on */
INLINE part_vectors vectors_of_part(const block_format f, const uint8_t *group, int part, int o) {
  const uint8_t *at = group + (2 + 2 * f.has_minimum) * PANEL + part * PANEL * (f.parts_are == TWO_BYTES ? 2 : 1) + o;
  const floats zero = V(set1_ps)(0);
  part_vectors s = {halves_as_floats(group + 2 * o), f.has_minimum ? halves_as_floats(group + 2 * (PANEL + o)) : zero};
  if (f.parts_are == ONE_BYTE) s.scale = V(mul_ps)(s.scale, V(cvtepi32_ps)(signed_bytes_as_ints(at)));
  if (f.parts_are == TWO_BYTES) {
    s.scale = V(mul_ps)(s.scale, V(cvtepi32_ps)(bytes_as_ints(at)));
    s.minimum = V(fnmadd_ps)(s.minimum, V(cvtepi32_ps)(bytes_as_ints(at + PANEL)), zero);
  }
  if (f.parts_are == NIBBLES) {
    const ints both = bytes_as_ints(at);
    s.scale = V(mul_ps)(s.scale, V(cvtepi32_ps)(and_ints(both, V(set1_epi32)(15))));
    s.minimum = V(fnmadd_ps)(s.minimum, V(cvtepi32_ps)(V(srli_epi32)(both, 4)), zero);
  }
  if (!f.has_minimum && has_addend(f))
    s.minimum = V(mul_ps)(s.scale, V(set1_ps)((float)-(f.low == 8 || f.is_listed ? 128 : f.offset)));
  return s;
}

/* Signed bytes with 128 added, and the other way round */
INLINE ints with_other_sign(ints x) { return (ints)((words)x ^ 0x80808080u); }

/* Bits without a sign of four inputs of a part, from `k` on, of the outputs from `o` on: each in a byte */
INLINE ints fours_of_codes(const int low_bits, const int high_bits, const block_bits *at, int k, int o) {
  const ints low = load_ints(at->low + four_of(low_bits, k) + 4 * o);
  if (low_bits == 8) return low;
  const ints x = and_ints(shifted_16(low, bit_of(low_bits, k)), V(set1_epi8)((char)((1 << low_bits) - 1)));
  if (!high_bits) return x;
  const int i = k + at->shared;
  const ints upper = shifted_16(load_ints(at->high + four_of(high_bits, i) + 4 * o), bit_of(high_bits, i) - low_bits);
  return choose_bits(V(set1_epi8)((char)(((1 << high_bits) - 1) << low_bits)), upper, x);
}

#ifdef HAS_AVX512
/* What the bits stand for, from `first` on: bits above those of a weight need not be cleared for it. */
INLINE __m512 table_of_bits(const block_format f, int first) {
  const int mask = (1 << (f.low + f.high)) - 1;
  float table[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++)
    table[i] = f.is_listed ? (float)list_of(f)[i] : (float)(((first + i) & mask) - f.offset);
  return _mm512_loadu_ps(table);
}

/* The number of input `k` of a part, without its scale, of the outputs from `o` on; with an addend, without its offset */
INLINE __m512 number_of_bits(const block_format f, const block_bits *at, int k, int o) {
  const int bits = f.low + f.high;
  const ints low = load_ints(at->low + four_of(f.low, k) + 4 * o);
  if (f.low == 8) return _mm512_cvtepi32_ps(_mm512_srai_epi32(shifted(low, bit_of(8, k) - 24), 24));
  ints x = shifted(low, bit_of(f.low, k));
  if (f.high) {
    const int i = k + at->shared;
    const ints upper = shifted(load_ints(at->high + four_of(f.high, i) + 4 * o), bit_of(f.high, i) - f.low);
    x = choose_bits(_mm512_set1_epi32((1 << f.low) - 1), x, upper);
  }
  if (bits <= 4) return _mm512_permutexvar_ps(x, table_of_bits(f, 0));
  if (bits == 5) return _mm512_permutex2var_ps(table_of_bits(f, 0), x, table_of_bits(f, 16));
  return _mm512_cvtepi32_ps(and_ints(x, _mm512_set1_epi32(63)));
}

/* The weights of eight inputs of a part, from `k` on, and of LANES outputs, from `o` on */
INLINE void weights_of_eight(const block_format f, const part_vectors *s, const block_bits *at, int k, int o,
                             floats weights[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const floats number = number_of_bits(f, at, k + i, o);
    weights[i] = has_addend(f) ? _mm512_fmadd_ps(number, s->scale, s->minimum) : _mm512_mul_ps(number, s->scale);
  }
}
#else
/* Bits of four inputs, each in a byte without a sign, and the number of the i-th where it lies, which has the factor 2 to the
   8 i; the scale has the inverse of it, so that their product is the same. */
INLINE ints fours_for_numbers(const block_format f, const block_bits *at, int k, int o) {
  const ints x = fours_of_codes(f.low, f.high, at, k, o);
  if (f.is_listed) return V(shuffle_epi8)(with_other_sign(list_of_bytes(list_of(f))), x);
  return f.low == 8 ? with_other_sign(x) : x;
}
INLINE floats number_of_four(ints four, int i) {
  return V(cvtepi32_ps)(i == 3 ? V(srli_epi32)(four, 24) : and_ints(four, V(set1_epi32)(0xff << 8 * i)));
}
INLINE floats scale_of_four(floats scale, int i) { return i % 3 ? V(mul_ps)(scale, V(set1_ps)(1.0f / (1 << 8 * i))) : scale; }

INLINE floats weight_of_four(const block_format f, ints four, int i, floats scale, floats minimum) {
  const floats number = number_of_four(four, i);
  return has_addend(f) ? V(fmadd_ps)(number, scale, minimum) : V(mul_ps)(number, scale);
}

/* The weights of eight inputs of a part, from `k` on, and of VEC_FLOATS outputs, from `o` on */
INLINE void weights_of_eight(const block_format f, const part_vectors *s, const block_bits *at, int k, int o,
                             floats weights[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++)
    weights[i] = weight_of_four(f, fours_for_numbers(f, at, k + i / 4 * 4, o), i % 4, scale_of_four(s->scale, i % 4), s->minimum);
}
#endif
#else
/* What the weights of a part have in common, for the outputs of a panel */
typedef struct {
  float scale[PANEL], minimum[PANEL];
} part_scales;

/* A minimum is added: its sign is turned where a file subtracts it. Products of scales, and of scales with weights of
   formats with a minimum, are exact in float32, so it does not matter whether a multiplication and an addition are fused. */
INLINE part_scales scales_of_part(const block_format f, const uint8_t *group, int part) {
  const uint16_t *scale = (const uint16_t *)group, *minimum = scale + PANEL;
  const uint8_t *at = group + (2 + 2 * f.has_minimum) * PANEL + part * PANEL * (f.parts_are == TWO_BYTES ? 2 : 1);
  part_scales s;
#pragma omp simd
  for (int o = 0; o < PANEL; o++) {
    s.scale[o] = from_half(scale[o]);
    if (f.parts_are == ONE_BYTE) s.scale[o] *= (float)(int8_t)at[o];
    if (f.parts_are == TWO_BYTES) s.scale[o] *= (float)at[o];
    if (f.parts_are == NIBBLES) s.scale[o] *= (float)(at[o] & 15);
    s.minimum[o] = f.has_minimum ? from_half(minimum[o]) : 0;
    if (f.parts_are == TWO_BYTES) s.minimum[o] *= -(float)at[o + PANEL];
    if (f.parts_are == NIBBLES) s.minimum[o] *= -(float)(at[o] >> 4);
  }
  return s;
}

/* weights [8, PANEL] of eight inputs of a part, from `k` on, without scales */
INLINE void bits_of_inputs(const block_format f, const block_bits *at, int k, int8_t weights[8][PANEL]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    uint32_t low[PANEL], high[PANEL];
    const int upper = k + i + at->shared;
    memcpy(low, at->low + four_of(f.low, k + i), sizeof low);
    if (f.high) memcpy(high, at->high + four_of(f.high, upper), sizeof high);
#pragma omp simd
    for (int o = 0; o < PANEL; o++) {
      uint32_t x = low[o] >> bit_of(f.low, k + i) & ((1 << f.low) - 1);
      if (f.high) x |= (high[o] >> bit_of(f.high, upper) & ((1 << f.high) - 1)) << f.low;
      weights[i][o] = (int8_t)((int)x - f.offset);
    }
    if (f.is_listed)
      for (int o = 0; o < PANEL; o++) weights[i][o] = list_of(f)[(uint8_t)weights[i][o]];
  }
}
#endif
