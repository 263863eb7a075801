/* Products of rows in bytes with matrices in blocks (blocks.h) or groups (group_bytes.h), for one number format (T, PACK, NAME: see kernels.c).
   BYTE_PART neighbouring inputs of a row share a scale, or BYTE_BLOCK where those of weights do, as in llama.cpp. The bits
   of weights are multiplied by bytes as they are: sums of a part of a group are exact. They become numbers by one product of
   both scales; with wide ones by the weights' scale, and the sum of a block by the row's. Where bits have an
   offset or a minimum, the sum of the row's bytes brings it in. A row's sums have the same order among any others. */

#ifndef BLOCK_BYTES
#define BLOCK_BYTES
#define BYTE_STRIP 256 /* inputs of a panel that are unpacked at a time for several tiles of rows: a multiple of every group */

/* Rows in bytes, from some row and input on, for a matrix whose parts have HALF_PART or BYTE_PART inputs */
typedef struct {
  const int8_t *bytes;
  const float *scale;
  const int32_t *sum; /* of a part's bytes */
  const float *moved; /* the same as a number, times the scale where that is of BYTE_PART */
  int64_t inputs, parts, scales; /* of a row */
} byte_rows;

INLINE byte_rows byte_rows_at(const int part, const product *p, int64_t row, int64_t k) {
  const product_workspace *work = p->workspace;
  const int64_t parts = p->inputs / part, scales = p->inputs / BYTE_PART, at = row * parts + k / part;
  return (byte_rows){(const int8_t *)work->bytes + row * p->inputs + k,
                     work->part_scale + row * scales + k / BYTE_PART,
                     (part == HALF_PART ? work->half_sum : work->part_sum) + at,
                     (part == HALF_PART ? work->half_moved : work->part_moved) + at, p->inputs, parts, scales};
}

/* Whether inputs of a format share a row's scale in BYTE_BLOCK and not in BYTE_PART: such as share a weight's scale do. */
INLINE int has_wide_scales(const block_format *f) { return f->group == BYTE_BLOCK; }

#ifdef HAS_VECTORS
/* What multiplies bytes: an instruction for fours of them, or one for pairs, whose sums have 16 bits. */
#if defined(HAS_AVX512_VNNI)
#define ADD_FOURS _mm512_dpbusd_epi32
#elif !defined(HAS_AVX512) && defined(ADD_PRODUCTS_OF_BYTES)
#define ADD_FOURS ADD_PRODUCTS_OF_BYTES
#endif
#ifdef HAS_AVX512
#define BYTE_ROWS REGISTER_ROWS
#else
#define BYTE_ROWS 4 /* whose sums stay in 16 registers */
#endif

/* How many fours of products are added up in 16 bits, which cannot overflow: of bits without a sign. SIGNED_BYTES: weights
   have 8 bits, of which 1 is a sign. Where an instruction multiplies fours, nothing is kept in 16 bits. */
#define SIGNED_BYTES 1
INLINE int fours_together(int bits, int is_listed) {
#ifdef ADD_FOURS
  (void)bits, (void)is_listed;
  return 0;
#else
  return bits == 8 || is_listed ? SIGNED_BYTES : bits == 6 ? 2 : bits == 5 ? 4 : 8;
#endif
}

/* What is subtracted from bits to have weights: products by fours take bits without a sign */
INLINE int byte_offset(const block_format f) {
  return fours_together(f.low + f.high, f.is_listed) == SIGNED_BYTES ? 0 : f.low == 8 || f.is_listed ? 128 : f.offset;
}

/* The same of a part of a block, as weights with byte_offset added, or of a part of a group */
INLINE ints fours_of_bits(const block_format f, const block_bits *at, int k, int o) {
  const ints x = fours_of_codes(f.low, f.high, at, k, o);
  const int is_signed = fours_together(f.low + f.high, f.is_listed) == SIGNED_BYTES;
  if (f.is_code) return is_signed ? with_other_sign(x) : x;
  if (f.low == 8) return is_signed ? x : with_other_sign(x);
  if (!f.is_listed) return x;
  const ints list = list_of_bytes(list_of(f));
  return V(shuffle_epi8)(is_signed ? list : with_other_sign(list), x);
}

/* The sums of a part of up to BYTE_ROWS rows, by fours as int32, and those that are still in 16 bits */
typedef struct {
  ints sum[BYTE_ROWS][PANEL_VECTORS], half[BYTE_ROWS][PANEL_VECTORS];
} byte_sum;

/* Adds the products of four inputs, the n-th of a part, of a row and a vector of outputs. */
INLINE void add_fours(const int together, byte_sum *to, const int r, const int v, int n, ints w, ints size_of_w, ints numbers) {
#ifdef ADD_FOURS
  (void)together, (void)n, (void)size_of_w;
  to->sum[r][v] = ADD_FOURS(to->sum[r][v], w, numbers);
#else
  const ints pairs = together == SIGNED_BYTES ? V(maddubs_epi16)(size_of_w, signed_as(numbers, w)) : V(maddubs_epi16)(w, numbers);
  to->half[r][v] = n % together ? V(add_epi16)(to->half[r][v], pairs) : pairs;
  if ((n + 1) % together == 0)
    to->sum[r][v] = V(add_epi32)(to->sum[r][v], V(madd_epi16)(to->half[r][v], V(set1_epi16)(1)));
#endif
}

/* What the sums of a part of each row begin with, and its scale: 1 with wide scales, which a row's sums of a block get. From
   one row to the next are so many numbers. */
typedef struct {
  const int32_t *start;
  const float *scale;
  int64_t starts, scales;
} part_numbers;

/* Adds the products of R rows with their part `n` to `total`. fours: the part's bits as fours_of_bits; or 0, and they are at
   `at`, in a format that the compiler knows. */
INLINE void add_part(const int together, const int part, int has_minimum, const int R, const byte_rows *x, int64_t n,
                     const part_numbers *of_rows, const uint8_t *fours, const block_format *f, const block_bits *at,
                     const part_vectors *s, floats total[][PANEL_VECTORS]) {
  byte_sum of;
  const int8_t *bytes = x->bytes + n * part;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) of.sum[r][v] = V(set1_epi32)(of_rows->start[r * of_rows->starts]);
#pragma GCC unroll 8
  for (int i = 0; i < part; i += 4) {
    ints w[PANEL_VECTORS], size[PANEL_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) {
      w[v] = f ? fours_of_bits(*f, at, i, v * VEC_FLOATS) : load_ints(fours + i * PANEL + 4 * v * VEC_FLOATS);
      size[v] = together == SIGNED_BYTES ? V(abs_epi8)(w[v]) : w[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t four;
      memcpy(&four, bytes + r * x->inputs + i, sizeof four);
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECTORS; v++)
        add_fours(part < 4 * together ? part / 4 : together, &of, r, v, i / 4, w[v], size[v], V(set1_epi32)(four));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const floats of_row = V(set1_ps)(of_rows->scale[r * of_rows->scales]);
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++)
      total[r][v] = V(fmadd_ps)(V(cvtepi32_ps)(of.sum[r][v]), V(mul_ps)(s[v].scale, of_row), total[r][v]);
    if (!has_minimum) continue;
    const floats moved = V(set1_ps)(x->moved[r * x->parts + n]);
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) total[r][v] = V(fmadd_ps)(s[v].minimum, moved, total[r][v]);
  }
}

/* y [PANEL]: the sums of a single row, whose weights do not go through memory */
INLINE void byte_sums_of_row(const block_format f, const byte_rows *x, const uint8_t *panel, float *y) {
  const int is_wide = has_wide_scales(&f);
  floats total[1][PANEL_VECTORS] = {{{0}}}, sum[1][PANEL_VECTORS]; /* sum: with wide scales of a block, else the same */
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0; k < x->inputs; k += f.group, panel += bytes) {
    for (int v = 0; v < PANEL_VECTORS; v++) sum[0][v] = is_wide ? V(set1_ps)(0) : total[0][v];
    for (int part = 0; part < f.group / f.part; part++) {
      const block_bits bits = bits_of_part(f, panel, part);
      const int64_t n = k / f.part + part;
      const int32_t start = -byte_offset(f) * x->sum[n];
      const float scale = is_wide ? 1 : x->scale[n / (BYTE_PART / f.part)];
      const part_numbers of_row = {&start, &scale, 0, 0};
      part_vectors s[PANEL_VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < PANEL_VECTORS; v++) s[v] = vectors_of_part(f, panel, part, v * VEC_FLOATS);
      prefetch_ahead(panel, part, bytes / (f.group / f.part));
      add_part(fours_together(f.low + f.high, f.is_listed), f.part, f.has_minimum, 1, x, n, &of_row, 0, &f, &bits, s, sum);
    }
    for (int v = 0; v < PANEL_VECTORS; v++)
      total[0][v] = is_wide ? V(fmadd_ps)(sum[0][v], V(set1_ps)(x->scale[k / BYTE_PART]), total[0][v]) : sum[0][v];
  }
  memcpy(y, total, sizeof total);
}

/* Some inputs of a panel, unpacked */
typedef struct {
  uint8_t fours[BYTE_STRIP * PANEL];
  part_vectors scales[BYTE_STRIP / HALF_PART][PANEL_VECTORS];
} __attribute__((aligned(CACHE_LINE))) byte_strip;

INLINE void unpack_bytes(const block_format f, const uint8_t *panel, int64_t from, int64_t inputs, byte_strip *to) {
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0, n = 0; k < inputs; k += f.part, n++) {
    const uint8_t *group = panel + (from + k) / f.group * bytes;
    const int part = (int)((from + k) % f.group / f.part);
    const block_bits bits = bits_of_part(f, group, part);
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) {
      to->scales[n][v] = vectors_of_part(f, group, part, v * VEC_FLOATS);
#pragma GCC unroll 8
      for (int i = 0; i < f.part; i += 4)
        store_ints(to->fours + (k + i) * PANEL + 4 * v * VEC_FLOATS, fours_of_bits(f, &bits, i, v * VEC_FLOATS));
    }
  }
}

/* y [R, stride] (+)= the sums of R rows with a strip */
INLINE void add_strip(const int together, const int part, int has_minimum, int is_wide, int offset, const int R,
                      const byte_rows *x, int64_t inputs, const byte_strip *strip, int adds_up, float *y, int64_t stride) {
  static const float ones[BYTE_STRIP / BYTE_PART] = {1, 1, 1, 1, 1, 1, 1, 1};
  const float *scale = is_wide ? ones : x->scale;
  const int64_t scales = is_wide ? 0 : x->scales;
  int32_t start[BYTE_ROWS][BYTE_STRIP / HALF_PART];
  floats total[BYTE_ROWS][PANEL_VECTORS] = {{{0}}};
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    if (adds_up && !is_wide) memcpy(total[r], y + r * stride, sizeof total[r]);
#pragma omp simd
    for (int64_t n = 0; n < inputs / part; n++) start[r][n] = -offset * x->sum[r * x->parts + n];
  }
  for (int64_t n = 0; n < inputs / part; n++) {
    const part_numbers of_rows = {start[0] + n, scale + n / (BYTE_PART / part), BYTE_STRIP / HALF_PART, scales};
    add_part(together, part, has_minimum, R, x, n, &of_rows, strip->fours + n * part * PANEL, 0, 0, strip->scales[n], total);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECTORS; v++) {
      float *at = y + r * stride + v * VEC_FLOATS;
      if (is_wide)
        total[r][v] = V(fmadd_ps)(total[r][v], V(set1_ps)(x->scale[r * x->scales]), adds_up ? V(loadu_ps)(at) : V(set1_ps)(0));
      V(storeu_ps)(at, total[r][v]);
    }
}

/* Compiled for each number of rows, length of parts, and way of adding up in 16 bits */
static void add_strip_of(int together, int part, int has_minimum, int is_wide, int offset, int rows, const byte_rows *x,
                         int64_t inputs, const byte_strip *strip, int adds_up, float *y, int64_t stride) {
#define ROWS(N, TOGETHER, PART) \
  case N: add_strip(TOGETHER, PART, has_minimum, is_wide, offset, N, x, inputs, strip, adds_up, y, stride); break;
#ifdef HAS_AVX512
#define MORE_ROWS(TOGETHER, PART) ROWS(5, TOGETHER, PART) ROWS(6, TOGETHER, PART)
#else
#define MORE_ROWS(TOGETHER, PART)
#endif
#define PARTS(TOGETHER, PART)                                                        \
  if (together == TOGETHER && part == PART) switch (rows) {                          \
      ROWS(1, TOGETHER, PART) ROWS(2, TOGETHER, PART) ROWS(3, TOGETHER, PART)        \
      ROWS(4, TOGETHER, PART) MORE_ROWS(TOGETHER, PART)                              \
    }
#ifdef ADD_FOURS
  PARTS(0, HALF_PART) PARTS(0, BYTE_PART)
#else
  if (together == 4) together = 2; /* 5 bits as 6 */
  PARTS(SIGNED_BYTES, HALF_PART) PARTS(SIGNED_BYTES, BYTE_PART) PARTS(2, HALF_PART) PARTS(2, BYTE_PART)
  PARTS(8, HALF_PART) PARTS(8, BYTE_PART)
#endif
#undef PARTS
#undef MORE_ROWS
#undef ROWS
}

/* y [rows, stride] (+)= the sums with a strip of the inputs from `k` on. `lines` cache lines are prefetched meanwhile. */
static void add_tiles(int together, int part, int has_minimum, int is_wide, int offset, const product *p, int64_t row, int64_t rows, int64_t k,
                      const byte_strip *strip, float *y, int64_t stride, const char *next, int64_t lines) {
  const int64_t tiles = ceil_div(rows, BYTE_ROWS), ahead = ceil_div(lines, tiles);
  const int64_t some = p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP;
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
    const byte_rows x = byte_rows_at(part, p, row + r, k);
    for (int64_t i = 0; i < ahead && lines > 0; i++, lines--, next += CACHE_LINE) __builtin_prefetch(next, 0, 2);
    add_strip_of(together, part, has_minimum, is_wide, offset, (int)count, &x, some, strip, k > 0, y + r * stride, stride);
    r += count;
  }
}

/* y [rows, stride]: the sums of a panel */
INLINE void byte_sums(const block_format f, const product *p, const uint8_t *panel, int64_t row, int64_t rows, float *y,
                      int64_t stride, const char *next, int64_t lines) {
  if (rows == 1) {
    const byte_rows x = byte_rows_at(f.part, p, row, 0);
    byte_sums_of_row(f, &x, panel, y);
    return;
  }
  const int64_t each = ceil_div(lines, ceil_div(p->inputs, BYTE_STRIP));
  byte_strip strip;
  for (int64_t k = 0; k < p->inputs; k += BYTE_STRIP, next += each * CACHE_LINE, lines -= each) {
    unpack_bytes(f, panel, k, p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP, &strip);
    add_tiles(fours_together(f.low + f.high, f.is_listed), f.part, f.has_minimum, has_wide_scales(&f), byte_offset(f), p, row, rows, k, &strip, y, stride, next,
              lines < each ? lines : each);
  }
}
#else
/* y [rows, stride]: the sums of a panel, on any processor */
INLINE void byte_sums(const block_format f, const product *p, const uint8_t *panel, int64_t row, int64_t rows, float *y,
                      int64_t stride, const char *next, int64_t lines) {
  const int64_t bytes = group_bytes(&f) * PANEL;
  const int is_wide = has_wide_scales(&f);
  (void)next, (void)lines;
  for (int64_t r = 0; r < rows; r++) memset(y + r * stride, 0, PANEL * sizeof *y);
  for (int64_t k = 0; k < p->inputs; k += f.group, panel += bytes) {
    int8_t weights[BYTE_BLOCK][PANEL];
    part_scales s[BYTE_BLOCK / HALF_PART];
    for (int part = 0; part < f.group / f.part; part++) {
      const block_bits bits = bits_of_part(f, panel, part);
      s[part] = scales_of_part(f, panel, part);
      for (int i = 0; i < f.part; i += 8) bits_of_inputs(f, &bits, i, weights + part * f.part + i);
    }
    for (int64_t r = 0; r < rows; r++) {
      const byte_rows x = byte_rows_at(f.part, p, row + r, k);
      float total[PANEL] = {0};
      if (!is_wide) memcpy(total, y + r * stride, sizeof total);
      for (int part = 0; part < f.group / f.part; part++) {
        const float scale = is_wide ? 1 : *x.scale;
        int32_t sum[PANEL] = {0};
        for (int i = part * f.part; i < (part + 1) * f.part; i++)
#pragma omp simd
          for (int o = 0; o < PANEL; o++) sum[o] += x.bytes[i] * weights[i][o];
#pragma omp simd
        for (int o = 0; o < PANEL; o++) {
          total[o] = fmaf((float)sum[o], s[part].scale[o] * scale, total[o]);
          if (f.has_minimum) total[o] = fmaf(s[part].minimum[o], x.moved[part], total[o]);
        }
      }
#pragma omp simd
      for (int o = 0; o < PANEL; o++) y[r * stride + o] = is_wide ? fmaf(total[o], *x.scale, y[r * stride + o]) : total[o];
    }
  }
}
#endif

/* Goes on with a format that the compiler knows */
#if !IS_IN(PACKED_BYTES)
UNTIL_LINKED void sums_of_type(int64_t type, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                               int64_t stride, const char *next, int64_t lines) {
  abort();
}
#else
BETWEEN_UNITS void sums_of_type(int64_t type, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                                int64_t stride, const char *next, int64_t lines) {
  FOR_FORMAT(type, byte_sums(f, p, (const uint8_t *)panel, row, rows, y, stride, next, lines))
}
#endif
#include "group_bytes.h"
#endif

#ifdef HAS_AVX512
/* Makes bytes of HALF_PART numbers; returns their sum. */
INLINE int32_t NAME(quantize_half)(const T *x, float factor, int8_t *bytes) {
  const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(NAME(load_16)(x), _mm512_set1_ps(factor)));
  _mm_storeu_si128((__m128i *)bytes, _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}
#else
INLINE int32_t NAME(quantize_half)(const T *x, float factor, int8_t *bytes) {
  int32_t sum = 0;
  for (int i = 0; i < HALF_PART; i++) {
    const int32_t number = (int32_t)rintf(NAME(to_float)(x[i]) * factor);
    bytes[i] = (int8_t)number, sum += number;
  }
  return sum;
}
#endif

/* Quantizes the rows of a product, once for all its matrices, in one phase. */
static void NAME(quantize_rows_by_parts)(const product *p, phase *now, int threads, int is_alone) {
  const product_workspace *work = p->workspace;
  const int64_t inputs = p->inputs, chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  const int is_wide = has_blocks(p->of_bytes) && has_wide_scales(block_format_of(p->of_bytes->block));
  const int64_t together = is_wide ? BYTE_BLOCK : BYTE_PART;
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      for (int64_t k = 0; k < inputs; k += together) {
        const int64_t at = r * inputs + k;
        const T *x = (const T *)p->x + at;
        const float top = NAME(largest)(x, together), most = top <= FLT_MAX ? top : NAN;
        const float scale = most / 127.0f, factor = most > 0 ? 127.0f / most : 0;
        int8_t *bytes = (int8_t *)work->bytes + at;
        memset(bytes, 0, together);
        for (int64_t i = 0; i < together; i += BYTE_PART) {
          const int64_t part = (at + i) / BYTE_PART;
          int32_t *half = work->half_sum + 2 * part;
          for (int h = 0; h < 2; h++) {
            half[h] = most > 0 ? NAME(quantize_half)(x + i + h * HALF_PART, factor, bytes + i + h * HALF_PART) : 0;
            work->half_moved[2 * part + h] = (float)half[h] * (is_wide ? 1 : scale);
          }
          work->part_scale[part] = scale, work->part_sum[part] = half[0] + half[1];
          work->part_moved[part] = (float)(half[0] + half[1]) * (is_wide ? 1 : scale);
        }
      }
  barrier(now, chunks, is_alone);
}

/* Multiplies a pair of panels in blocks or groups by `rows` rows in bytes, from `row` on. */
static void NAME(multiply_by_byte_rows)(const product *p, const panel_pair *u, int64_t row, int64_t rows,
                                       next_weights next) {
  const int64_t stride = u->second ? 2 * PANEL : PANEL;
  float y[MAX_QUANTIZED_ROWS * 2 * PANEL] __attribute__((aligned(CACHE_LINE)));
  for (int i = 0; i <= !!u->second; i++) {
    const matrix *m = u->of[i];
    const char *panel = i ? u->second : u->first, *ahead = i ? next.second : next.first;
    if (m->kind == BYTE_BLOCKS) sums_of_type(m->block, p, panel, row, rows, y + i * PANEL, stride, ahead, next.lines);
    else sums_of_groups(m, p, panel, row, rows, y + i * PANEL, stride, ahead, next.lines);
  }
  NAME(write_outputs)(p, u, y, stride, y + PANEL, rows, row);
}
