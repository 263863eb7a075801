/* Products of rows in bytes with matrices in blocks (blocks.h) or groups (group_bytes.h), for one number format (T, PACK, NAME: see kernels.c).
   BYTE_PART neighbouring inputs of a row share a scale, as in llama.cpp. The bits of weights are multiplied by bytes as
   they are: sums of a part of a group are exact, and become numbers by one product of both scales. Where bits have an
   offset or a minimum, the sum of the row's bytes brings it in. A row's sums have the same order among any others. */

#ifndef BLOCK_BYTES
#define BLOCK_BYTES
#define BYTE_STRIP 256 /* inputs of a panel that are unpacked at a time for several tiles of rows: a multiple of every group */

/* Rows in bytes, from some row and input on: `inputs` apart, and their scales and sums in proportion */
typedef struct {
  const int8_t *bytes;
  const float *scale;
  const int32_t *sum; /* of each HALF_PART bytes */
  const float *moved; /* sums times scales: of each BYTE_PART bytes, and behind them of each half */
  int64_t inputs;
} byte_rows;

INLINE byte_rows byte_rows_at(const product *p, int64_t row, int64_t k) {
  const quantized_workspace *work = p->workspace;
  return (byte_rows){(const int8_t *)work->bytes + row * p->inputs + k,
                     work->part_scale + (row * p->inputs + k) / BYTE_PART,
                     work->part_sum + (row * p->inputs + k) / HALF_PART,
                     work->part_moved + (row * p->inputs + k) / BYTE_PART * MOVED, p->inputs};
}

/* The sum of a row's bytes over a part of a group */
INLINE int32_t sum_of_part(const int part, const byte_rows *x, int r, int64_t k) {
  const int32_t *sum = x->sum + (r * x->inputs + k) / HALF_PART;
  return part == HALF_PART ? sum[0] : sum[0] + sum[1];
}

/* The same times the scale of the row there */
INLINE float moved_of_part(const int part, const byte_rows *x, int r, int64_t k) {
  const float *moved = x->moved + (r * x->inputs + k) / BYTE_PART * MOVED;
  return part == HALF_PART ? moved[1 + k % BYTE_PART / HALF_PART] : moved[0];
}

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

/* Adds the products of R rows with a part of `part` inputs to `total`. fours: its bits as fours_of_bits; or 0, and they are
   at `at`, in a format that the compiler knows. */
INLINE void add_part(const int part, const int has_minimum, int offset, const int R, const byte_rows *x, int64_t k,
                     const uint8_t *fours, const block_format *f, const block_bits *at, const part_vectors *s,
                     __m512 total[][VECTORS]) {
  __m512i sum[REGISTER_ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const __m512i start = has_minimum ? _mm512_setzero_si512() /* such bits have no offset */
                                      : _mm512_set1_epi32(-offset * sum_of_part(part, x, r, k));
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) sum[r][v] = start;
  }
#pragma GCC unroll 8
  for (int i = 0; i < part; i += 4) {
    __m512i w[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++)
      w[v] = f ? fours_of_bits(*f, at, i, v * LANES) : _mm512_load_si512(fours + i * PANEL + 4 * v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t four;
      memcpy(&four, x->bytes + r * x->inputs + k + i, sizeof four);
      const __m512i numbers = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], w[v], numbers);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const __m512 of_row = _mm512_set1_ps(x->scale[(r * x->inputs + k) / BYTE_PART]);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++)
      total[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), _mm512_mul_ps(s[v].scale, of_row), total[r][v]);
    if (!has_minimum) continue;
    const __m512 moved = _mm512_set1_ps(moved_of_part(part, x, r, k));
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) total[r][v] = _mm512_fmadd_ps(s[v].minimum, moved, total[r][v]);
  }
}

/* y [PANEL]: the sums of a single row, whose weights do not go through memory */
INLINE void byte_sums_of_row(const block_format f, const byte_rows *x, const uint8_t *panel, float *y) {
  __m512 total[1][VECTORS] = {{{0}}};
  const int64_t bytes = group_bytes(&f) * PANEL;
  for (int64_t k = 0; k < x->inputs; k += f.group, panel += bytes)
    for (int part = 0; part < f.group / f.part; part++) {
      const block_bits bits = bits_of_part(f, panel, part);
      part_vectors s[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) s[v] = vectors_of_part(f, panel, part, v * LANES);
#pragma GCC unroll 8
      for (int line = 0; line < f.part * f.low / 16; line++)
        __builtin_prefetch(bits.low + 2 * AHEAD + line * CACHE_LINE);
      add_part(f.part, f.has_minimum, byte_offset(f), 1, x, k + part * f.part, 0, &f, &bits, s, total);
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
INLINE void add_strip(const int part, const int has_minimum, int offset, const int R, const byte_rows *x, int64_t inputs,
                      const byte_strip *strip, int adds_up, float *y, int64_t stride) {
  __m512 total[REGISTER_ROWS][VECTORS] = {{{0}}};
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    if (adds_up) memcpy(total[r], y + r * stride, sizeof total[r]);
  for (int64_t k = 0, n = 0; k < inputs; k += part, n++)
    add_part(part, has_minimum, offset, R, x, k, strip->fours + k * PANEL, 0, 0, strip->scales[n], total);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) memcpy(y + r * stride, total[r], sizeof total[r]);
}

/* Compiled for each number of rows, and each kind of parts */
static void add_strip_of(int part, int has_minimum, int offset, int rows, const byte_rows *x, int64_t inputs,
                         const byte_strip *strip, int adds_up, float *y, int64_t stride) {
#define ROWS(N, PART, HAS_MINIMUM) \
  case N: add_strip(PART, HAS_MINIMUM, offset, N, x, inputs, strip, adds_up, y, stride); break;
#define PARTS(PART, HAS_MINIMUM)                                                                                  \
  switch (rows) {                                                                                                 \
    ROWS(1, PART, HAS_MINIMUM) ROWS(2, PART, HAS_MINIMUM) ROWS(3, PART, HAS_MINIMUM) ROWS(4, PART, HAS_MINIMUM)   \
    ROWS(5, PART, HAS_MINIMUM) ROWS(6, PART, HAS_MINIMUM)                                                         \
  }
  if (part == HALF_PART && has_minimum) PARTS(HALF_PART, 1)
  else if (part == HALF_PART) PARTS(HALF_PART, 0)
  else if (has_minimum) PARTS(BYTE_PART, 1)
  else PARTS(BYTE_PART, 0)
#undef PARTS
#undef ROWS
}

/* y [rows, stride] (+)= the sums with a strip of the inputs from `k` on. `lines` cache lines are prefetched meanwhile. */
static void add_tiles(int part, int has_minimum, int offset, const product *p, int64_t row, int64_t rows, int64_t k,
                      const byte_strip *strip, float *y, int64_t stride, const char *next, int64_t lines) {
  const int64_t tiles = ceil_div(rows, REGISTER_ROWS), ahead = ceil_div(lines, tiles);
  const int64_t some = p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP;
  for (int64_t s = 0, r = 0; s < tiles; s++) {
    const int64_t count = ceil_div(rows - r, tiles - s); /* about equally many in each */
    const byte_rows x = byte_rows_at(p, row + r, k);
    for (int64_t i = 0; i < ahead && lines > 0; i++, lines--, next += CACHE_LINE) __builtin_prefetch(next, 0, 2);
    add_strip_of(part, has_minimum, offset, (int)count, &x, some, strip, k > 0, y + r * stride, stride);
    r += count;
  }
}

/* y [rows, stride]: the sums of a panel */
INLINE void byte_sums(const block_format f, const product *p, const uint8_t *panel, int64_t row, int64_t rows, float *y,
                      int64_t stride, const char *next, int64_t lines) {
  if (rows == 1) {
    const byte_rows x = byte_rows_at(p, row, 0);
    byte_sums_of_row(f, &x, panel, y);
    return;
  }
  const int64_t each = ceil_div(lines, ceil_div(p->inputs, BYTE_STRIP));
  byte_strip strip;
  for (int64_t k = 0; k < p->inputs; k += BYTE_STRIP, next += each * CACHE_LINE, lines -= each) {
    unpack_bytes(f, panel, k, p->inputs - k < BYTE_STRIP ? p->inputs - k : BYTE_STRIP, &strip);
    add_tiles(f.part, f.has_minimum, byte_offset(f), p, row, rows, k, &strip, y, stride, next, lines < each ? lines : each);
  }
}
#else
/* y [rows, stride]: the sums of a panel, on any processor */
INLINE void byte_sums(const block_format f, const product *p, const uint8_t *panel, int64_t row, int64_t rows, float *y,
                      int64_t stride, const char *next, int64_t lines) {
  const int64_t bytes = group_bytes(&f) * PANEL;
  (void)next, (void)lines;
  for (int64_t r = 0; r < rows; r++) memset(y + r * stride, 0, PANEL * sizeof *y);
  for (int64_t k = 0; k < p->inputs; k += f.part) {
    const uint8_t *group = panel + k / f.group * bytes;
    const int part = (int)(k % f.group / f.part);
    const block_bits bits = bits_of_part(f, group, part);
    const part_scales s = scales_of_part(f, group, part);
    int8_t weights[32][PANEL];
    for (int i = 0; i < f.part; i += 8) bits_of_inputs(f, &bits, i, weights + i);
    for (int64_t r = 0; r < rows; r++) {
      const byte_rows x = byte_rows_at(p, row + r, k);
      const float scale = *x.scale, moved = f.has_minimum ? *x.scale * (float)sum_of_part(f.part, &x, 0, 0) : 0;
      int32_t sum[PANEL] = {0};
      for (int i = 0; i < f.part; i++)
#pragma omp simd
        for (int o = 0; o < PANEL; o++) sum[o] += x.bytes[i] * weights[i][o];
#pragma omp simd
      for (int o = 0; o < PANEL; o++) {
        float total = fmaf((float)sum[o], s.scale[o] * scale, y[r * stride + o]);
        y[r * stride + o] = f.has_minimum ? fmaf(s.minimum[o], moved, total) : total;
      }
    }
  }
}
#endif

/* Goes on with a format that the compiler knows */
static void sums_of_type(int64_t type, const product *p, const char *panel, int64_t row, int64_t rows, float *y,
                         int64_t stride, const char *next, int64_t lines) {
  FOR_FORMAT(type, byte_sums(f, p, (const uint8_t *)panel, row, rows, y, stride, next, lines))
}
#include "group_bytes.h"
#endif

#ifdef HAS_AVX512
/* Makes bytes of BYTE_PART numbers by their largest one, and their sums; returns the scale, NaN if a number is none. */
INLINE float NAME(quantize_part)(const T *x, int8_t *bytes, int32_t *sum) {
  const __m512 numbers[2] = {NAME(load_16)(x), NAME(load_16)(x + LANES)};
  const __m512 sizes = _mm512_max_ps(_mm512_abs_ps(numbers[0]), _mm512_abs_ps(numbers[1])), top = _mm512_set1_ps(FLT_MAX);
  const int is_broken = _mm512_cmp_ps_mask(_mm512_abs_ps(numbers[0]), top, _CMP_NLE_UQ) |
                        _mm512_cmp_ps_mask(_mm512_abs_ps(numbers[1]), top, _CMP_NLE_UQ);
  const float most = is_broken ? 0 : _mm512_reduce_max_ps(sizes);
  const __m512 factor = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
  for (int h = 0; h < 2; h++) {
    __m512i whole = _mm512_setzero_si512();
    if (most > 0) whole = _mm512_cvtps_epi32(_mm512_mul_ps(numbers[h], factor));
    _mm_storeu_si128((__m128i *)(bytes + h * LANES), _mm512_cvtepi32_epi8(whole));
    sum[h] = _mm512_reduce_add_epi32(whole);
  }
  return is_broken ? NAN : most / 127.0f;
}
#else
INLINE float NAME(quantize_part)(const T *x, int8_t *bytes, int32_t *sum) {
  float most = 0;
  int is_broken = 0;
  for (int i = 0; i < BYTE_PART; i++) {
    const float size = fabsf(NAME(to_float)(x[i]));
    most = size > most ? size : most;
    is_broken |= !(size <= FLT_MAX);
  }
  const float factor = most > 0 && !is_broken ? 127.0f / most : 0;
  for (int h = 0; h < 2; h++, x += HALF_PART, bytes += HALF_PART) {
    int32_t total = 0;
    for (int i = 0; i < HALF_PART; i++) {
      const int32_t number = is_broken ? 0 : (int32_t)rintf(NAME(to_float)(x[i]) * factor);
      bytes[i] = (int8_t)number, total += number;
    }
    sum[h] = total;
  }
  return is_broken ? NAN : most / 127.0f;
}
#endif

/* Quantizes the rows of a product, once for all its matrices, in one phase. */
static void NAME(quantize_rows_by_parts)(const product *p, phase *now, int threads, int is_alone) {
  const quantized_workspace *work = p->workspace;
  const int64_t inputs = p->inputs, chunk = chunk_of(p->rows, threads), chunks = ceil_div(p->rows, chunk);
  FOR_EACH_CHUNK(i, now, chunks, is_alone)
    FOR_EACH_ITEM(r, i, chunk, p->rows)
      for (int64_t k = 0; k < inputs; k += BYTE_PART) {
        const int64_t at = r * inputs + k, part = at / BYTE_PART;
        int32_t *sum = work->part_sum + at / HALF_PART;
        float *moved = work->part_moved + part * MOVED;
        const float scale = NAME(quantize_part)((const T *)p->x + at, (int8_t *)work->bytes + at, sum);
        work->part_scale[part] = scale;
        moved[0] = scale * (float)(sum[0] + sum[1]), moved[1] = scale * (float)sum[0], moved[2] = scale * (float)sum[1];
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
