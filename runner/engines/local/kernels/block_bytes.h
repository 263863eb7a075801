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

#ifdef HAS_AVX512_VNNI
#define VECTORS (PANEL / LANES)

/* What is subtracted from bits to have weights: products take bits without a sign */
INLINE int byte_offset(const block_format f) { return f.low == 8 || f.is_listed ? 128 : f.offset; }

INLINE __m512i shifted_16(__m512i x, int right) {
  return right > 0 ? _mm512_srli_epi16(x, right) : right < 0 ? _mm512_slli_epi16(x, -right) : x;
}

/* Bits without a sign of four inputs of a part, from `k` on, of the outputs from `o` on: each in a byte */
INLINE __m512i fours_of_codes(const int low_bits, const int high_bits, const block_bits *at, int k, int o) {
  const __m512i low = words_16(at->low + four_of(low_bits, k) + 4 * o);
  if (low_bits == 8) return low;
  const __m512i x = _mm512_and_si512(shifted_16(low, bit_of(low_bits, k)), _mm512_set1_epi8((char)((1 << low_bits) - 1)));
  if (!high_bits) return x;
  const int i = k + at->shared;
  const __m512i upper = shifted_16(words_16(at->high + four_of(high_bits, i) + 4 * o), bit_of(high_bits, i) - low_bits);
  const __m512i mask = _mm512_set1_epi8((char)(((1 << high_bits) - 1) << low_bits));
  return _mm512_ternarylogic_epi32(x, upper, mask, 0xf8); /* x | upper & mask */
}

/* The same of a part of a block, with byte_offset added */
INLINE __m512i fours_of_bits(const block_format f, const block_bits *at, int k, int o) {
  const __m512i x = fours_of_codes(f.low, f.high, at, k, o), sign = _mm512_set1_epi8((char)0x80);
  if (f.is_code) return x;
  if (f.low == 8) return _mm512_xor_si512(x, sign);
  if (!f.is_listed) return x;
  const __m512i list = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)listed_weights));
  return _mm512_shuffle_epi8(_mm512_xor_si512(list, sign), x);
}

/* Adds the products of R rows with their part `n` to `total`; with wide scales, without those of the rows. start: what
   the sums of each row begin with, `apart`, or 0 where there is a minimum. fours: the part's bits as fours_of_bits; or 0,
   and they are at `at`, in a format that the compiler knows. */
INLINE void add_part(const int part, const int has_minimum, const int is_wide, const int R, const byte_rows *x, int64_t n,
                     const int32_t *start, int apart, const uint8_t *fours, const block_format *f, const block_bits *at,
                     const part_vectors *s, __m512 total[][VECTORS]) {
  __m512i sum[REGISTER_ROWS][VECTORS];
  const int8_t *bytes = x->bytes + n * part;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) sum[r][v] = has_minimum ? _mm512_setzero_si512() : _mm512_set1_epi32(start[r * apart]);
#pragma GCC unroll 8
  for (int i = 0; i < part; i += 4) {
    __m512i w[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++)
      w[v] = f ? fours_of_bits(*f, at, i, v * LANES) : _mm512_load_si512(fours + i * PANEL + 4 * v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t four;
      memcpy(&four, bytes + r * x->inputs + i, sizeof four);
      const __m512i numbers = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], w[v], numbers);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const __m512 of_row = _mm512_set1_ps(is_wide ? 1 : x->scale[r * x->scales + n / (BYTE_PART / part)]);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      const __m512 scale = is_wide ? s[v].scale : _mm512_mul_ps(s[v].scale, of_row);
      total[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), scale, total[r][v]);
    }
    if (!has_minimum) continue;
    const __m512 moved = _mm512_set1_ps(x->moved[r * x->parts + n]);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) total[r][v] = _mm512_fmadd_ps(s[v].minimum, moved, total[r][v]);
  }
}

/* y [PANEL]: the sums of a single row, whose weights do not go through memory */
INLINE void byte_sums_of_row(const block_format f, const byte_rows *x, const uint8_t *panel, float *y) {
  const int is_wide = has_wide_scales(&f);
  __m512 total[1][VECTORS] = {{{0}}}, sum[1][VECTORS]; /* sum: with wide scales of a block, else the same */
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0; k < x->inputs; k += f.group, panel += bytes) {
    for (int v = 0; v < VECTORS; v++) sum[0][v] = is_wide ? _mm512_setzero_ps() : total[0][v];
    for (int part = 0; part < f.group / f.part; part++) {
      const block_bits bits = bits_of_part(f, panel, part);
      const int64_t n = k / f.part + part;
      const int32_t start = -byte_offset(f) * x->sum[n];
      part_vectors s[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) s[v] = vectors_of_part(f, panel, part, v * LANES);
#pragma GCC unroll 8
      for (int line = 0; line < f.part * f.low / 16; line++)
        __builtin_prefetch(bits.low + 2 * AHEAD + line * CACHE_LINE);
      add_part(f.part, f.has_minimum, is_wide, 1, x, n, &start, 0, 0, &f, &bits, s, sum);
    }
    for (int v = 0; v < VECTORS; v++)
      total[0][v] = is_wide ? _mm512_fmadd_ps(sum[0][v], _mm512_set1_ps(x->scale[k / BYTE_PART]), total[0][v]) : sum[0][v];
  }
  memcpy(y, total, sizeof total);
}

/* Some inputs of a panel, unpacked */
typedef struct {
  uint8_t fours[BYTE_STRIP * PANEL];
  part_vectors scales[BYTE_STRIP / HALF_PART][VECTORS];
} __attribute__((aligned(CACHE_LINE))) byte_strip;

INLINE void unpack_bytes(const block_format f, const uint8_t *panel, int64_t from, int64_t inputs, byte_strip *to) {
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0, n = 0; k < inputs; k += f.part, n++) {
    const uint8_t *group = panel + (from + k) / f.group * bytes;
    const int part = (int)((from + k) % f.group / f.part);
    const block_bits bits = bits_of_part(f, group, part);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      to->scales[n][v] = vectors_of_part(f, group, part, v * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < f.part; i += 4)
        _mm512_store_si512(to->fours + (k + i) * PANEL + 4 * v * LANES, fours_of_bits(f, &bits, i, v * LANES));
    }
  }
}

/* y [R, stride] (+)= the sums of R rows with a strip */
INLINE void add_strip(const int part, const int has_minimum, const int is_wide, int offset, const int R, const byte_rows *x,
                      int64_t inputs, const byte_strip *strip, int adds_up, float *y, int64_t stride) {
  int32_t start[REGISTER_ROWS][BYTE_STRIP / HALF_PART];
  __m512 total[REGISTER_ROWS][VECTORS] = {{{0}}};
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    if (adds_up && !is_wide) memcpy(total[r], y + r * stride, sizeof total[r]);
    if (has_minimum) continue;
    const __m512i sums = _mm512_maskz_loadu_epi32((1u << inputs / part) - 1, x->sum + r * x->parts);
    _mm512_storeu_si512(start[r], _mm512_mullo_epi32(sums, _mm512_set1_epi32(-offset)));
  }
  for (int64_t n = 0; n < inputs / part; n++)
    add_part(part, has_minimum, is_wide, R, x, n, start[0] + n, BYTE_STRIP / HALF_PART, strip->fours + n * part * PANEL, 0,
             0, strip->scales[n], total);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      float *at = y + r * stride + v * LANES;
      if (is_wide)
        total[r][v] = _mm512_fmadd_ps(total[r][v], _mm512_set1_ps(x->scale[r * x->scales]),
                                      adds_up ? _mm512_loadu_ps(at) : _mm512_setzero_ps());
      _mm512_storeu_ps(at, total[r][v]);
    }
}

/* Compiled for each number of rows, and each kind of parts */
static void add_strip_of(int part, int has_minimum, int is_wide, int offset, int rows, const byte_rows *x, int64_t inputs,
                         const byte_strip *strip, int adds_up, float *y, int64_t stride) {
#define ROWS(N, PART, HAS_MINIMUM, IS_WIDE) \
  case N: add_strip(PART, HAS_MINIMUM, IS_WIDE, offset, N, x, inputs, strip, adds_up, y, stride); break;
#define PARTS(PART, HAS_MINIMUM, IS_WIDE)                                                                             \
  if (part == PART && has_minimum == HAS_MINIMUM && is_wide == IS_WIDE) switch (rows) {                               \
      ROWS(1, PART, HAS_MINIMUM, IS_WIDE) ROWS(2, PART, HAS_MINIMUM, IS_WIDE) ROWS(3, PART, HAS_MINIMUM, IS_WIDE)     \
      ROWS(4, PART, HAS_MINIMUM, IS_WIDE) ROWS(5, PART, HAS_MINIMUM, IS_WIDE) ROWS(6, PART, HAS_MINIMUM, IS_WIDE)     \
    }
  PARTS(HALF_PART, 0, 0)
  PARTS(HALF_PART, 0, 1)
  PARTS(HALF_PART, 1, 0)
  PARTS(HALF_PART, 1, 1)
  PARTS(BYTE_PART, 0, 0)
  PARTS(BYTE_PART, 0, 1)
  PARTS(BYTE_PART, 1, 0)
  PARTS(BYTE_PART, 1, 1)
#undef PARTS
#undef ROWS
}

/* y [rows, stride] (+)= the sums with a strip of the inputs from `k` on. `lines` cache lines are prefetched meanwhile. */
static void add_tiles(int part, int has_minimum, int is_wide, int offset, const product *p, int64_t row, int64_t rows, int64_t k,
                      const byte_strip *strip, float *y, int64_t stride, const char *next, int64_t lines) {
  const int64_t tiles = ceil_div(rows, REGISTER_ROWS), ahead = ceil_div(lines, tiles);
  const int64_t some = p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP;
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
    const byte_rows x = byte_rows_at(part, p, row + r, k);
    for (int64_t i = 0; i < ahead && lines > 0; i++, lines--, next += CACHE_LINE) __builtin_prefetch(next, 0, 2);
    add_strip_of(part, has_minimum, is_wide, offset, (int)count, &x, some, strip, k > 0, y + r * stride, stride);
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
    add_tiles(f.part, f.has_minimum, has_wide_scales(&f), byte_offset(f), p, row, rows, k, &strip, y, stride, next,
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
/* The largest of some numbers without their signs, which share a scale; NaN if one of them is no number */
INLINE float NAME(largest)(const T *x, int64_t inputs) {
  __m512 most = _mm512_setzero_ps();
  int is_broken = 0;
  for (int64_t i = 0; i < inputs; i += LANES) {
    const __m512 size = _mm512_abs_ps(NAME(load_16)(x + i));
    is_broken |= _mm512_cmp_ps_mask(size, _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
    most = _mm512_max_ps(most, size);
  }
  return is_broken ? NAN : _mm512_reduce_max_ps(most);
}

/* Makes bytes of HALF_PART numbers; returns their sum. */
INLINE int32_t NAME(quantize_half)(const T *x, float factor, int8_t *bytes) {
  const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(NAME(load_16)(x), _mm512_set1_ps(factor)));
  _mm_storeu_si128((__m128i *)bytes, _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}
#else
INLINE float NAME(largest)(const T *x, int64_t inputs) {
  float most = 0;
  int is_broken = 0;
  for (int64_t i = 0; i < inputs; i++) {
    const float size = fabsf(NAME(to_float)(x[i]));
    most = size > most ? size : most;
    is_broken |= !(size <= FLT_MAX);
  }
  return is_broken ? NAN : most;
}

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
        const float most = NAME(largest)(x, together), scale = most / 127.0f, factor = most > 0 ? 127.0f / most : 0;
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
