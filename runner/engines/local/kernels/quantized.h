/* Products with quantized weights, read as bitsandbytes holds them. A panel of 32 outputs is unpacked into the cache,
   multiplied by all rows, and left behind; a strip of rows has its sums in the registers. The arithmetic is the
   library's own, step by step, so that the results are its results. */
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <omp.h>

#define PANEL_Q 32      /* outputs */
#define STRIP_ROWS 12 /* two sums of 16 outputs for each: as many as there are registers for */
#define TURNED 16     /* rows that a strip has room for, since 16 are turned at a time */
#define STRIPS 16     /* that are dealt at a time: they stay in the second-level cache */
#define FEW 4         /* rows that are multiplied as a panel is read, without it being unpacked anywhere */

/* out [16 words][16 rows], `step` words apart, of 64 bytes of each of 16 rows; 0 where there is no row or no byte */
INLINE void deal(const void *rows, int64_t stride, int64_t count, int64_t bytes, uint32_t *out, int64_t step) {
  const char *at = rows;
  char part[TURNED][64];
  if (count < TURNED || bytes < 64) {
    memset(part, 0, sizeof part);
    for (int r = 0; r < count && r < TURNED; r++) memcpy(part[r], at + r * stride, bytes < 64 ? bytes : 64);
    at = part[0], stride = 64;
  }
  for (int c = 0; c < 4; c++) {
    __m512i v[4]; /* 16 bytes of the rows g, g + 4, g + 8 and g + 12 */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
      const char *from = at + g * stride + 16 * c;
      v[g] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)from));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0x00f0, _mm_loadu_si128((const __m128i *)(from + 4 * stride)));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0x0f00, _mm_loadu_si128((const __m128i *)(from + 8 * stride)));
      v[g] = _mm512_mask_broadcast_i32x4(v[g], 0xf000, _mm_loadu_si128((const __m128i *)(from + 12 * stride)));
    }
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i d = _mm512_unpackhi_epi32(v[0], v[1]), e = _mm512_unpackhi_epi32(v[2], v[3]);
    _mm512_storeu_si512(out + (4 * c + 0) * step, _mm512_unpacklo_epi64(a, b));
    _mm512_storeu_si512(out + (4 * c + 1) * step, _mm512_unpackhi_epi64(a, b));
    _mm512_storeu_si512(out + (4 * c + 2) * step, _mm512_unpacklo_epi64(d, e));
    _mm512_storeu_si512(out + (4 * c + 3) * step, _mm512_unpackhi_epi64(d, e));
  }
}

/* Two lines of what is multiplied next, which would else be waited for */
INLINE const char *fetch(const char *next, const char *end) {
  if (next < end) {
    __builtin_prefetch(next, 0, 2);
    __builtin_prefetch(next + 64, 0, 2);
  }
  return next + 128;
}

INLINE __m512 up_16(const bf16 *at) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
}

/* 4 bits. 32 bytes hold a pair of inputs of 32 outputs: those of the first 16 in their lower halves. `table` is there
   twice, so that the upper half of a byte does not matter where the lower one is looked up. */
INLINE void look_up(const uint8_t *bytes, __m512i table, __m512bh *first, __m512bh *second) {
  const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
  *first = (__m512bh)_mm512_permutexvar_epi16(both, table);
  *second = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
}

/* total [R][PANEL_Q] += for B blocks their scale times the products of R rows x with a panel as it is held */
INLINE void blocks_of_few(const int R, const int B, const bf16 *x, int64_t inputs, const uint8_t *packed, __m512i table,
                          const bf16 *scales, int64_t outputs, int64_t block, float total[][PANEL_Q]) {
  __m512 sum[2][FEW][2];
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++) sum[b][r][0] = sum[b][r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < block; i += 2) {
#pragma GCC unroll 2
    for (int b = 0; b < B; b++) {
      const uint8_t *at = packed + (b * block + i) / 2 * PANEL_Q;
      __m512bh first, second;
      __builtin_prefetch(at + AHEAD);
      look_up(at, table, &first, &second);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(take_bf16(x + r * inputs + b * block + i));
        sum[b][r][0] = _mm512_dpbf16_ps(sum[b][r][0], pair, first);
        sum[b][r][1] = _mm512_dpbf16_ps(sum[b][r][1], pair, second);
      }
    }
  }
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++)
      for (int v = 0; v < 2; v++) {
        float *to = total[r] + v * LANES;
        const __m512 factor = up_16(scales + b * outputs + v * LANES);
        _mm512_storeu_ps(to, _mm512_fmadd_ps(sum[b][r][v], factor, _mm512_loadu_ps(to)));
      }
}

/* two blocks at a time: one sum need not wait for the other */
INLINE void few(const int R, const bf16 *x, int64_t inputs, const uint8_t *packed, __m512i table, const bf16 *scales,
                int64_t outputs, int64_t block, float total[][PANEL_Q]) {
  int64_t i = 0;
  for (; i + 2 * block <= inputs; i += 2 * block)
    blocks_of_few(R, 2, x + i, inputs, packed + i / 2 * PANEL_Q, table, scales + i / block * outputs, outputs, block,
                  total);
  for (; i < inputs; i += block)
    blocks_of_few(R, 1, x + i, inputs, packed + i / 2 * PANEL_Q, table, scales + i / block * outputs, outputs, block,
                  total);
}

/* total [R][PANEL_Q] += the scale of a block times the products of a strip with a panel. Where it is packed it is unpacked
   on the way, for the next strips: there is room for that beside the products. */
INLINE const char *block_of(const int R, const int is_packed, const uint32_t *strip, const uint8_t *packed, __m512i table,
                            bf16 *panel, int64_t pairs, const bf16 *scales, float total[][PANEL_Q], const char *next,
                            const char *end) {
  __m512 sum[STRIP_ROWS][2];
  for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; p++, strip += TURNED, panel += 2 * PANEL_Q) {
    __m512bh first, second;
    if (is_packed) {
      look_up(packed + p * PANEL_Q, table, &first, &second);
      _mm512_storeu_si512(panel, (__m512i)first);
      _mm512_storeu_si512(panel + PANEL_Q, (__m512i)second);
    } else first = (__m512bh)_mm512_loadu_si512(panel), second = (__m512bh)_mm512_loadu_si512(panel + PANEL_Q);
    next = fetch(next, end);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(strip[r]);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, first);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, second);
    }
  }
  const __m512 first = up_16(scales), second = up_16(scales + LANES);
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    _mm512_storeu_ps(total[r], _mm512_fmadd_ps(sum[r][0], first, _mm512_loadu_ps(total[r])));
    _mm512_storeu_ps(total[r] + LANES, _mm512_fmadd_ps(sum[r][1], second, _mm512_loadu_ps(total[r] + LANES)));
  }
  return next;
}

/* All blocks, compiled for each number of rows; packed: or 0 */
static const char *blocks_of(int rows, const uint32_t *strip, const uint8_t *packed, __m512i table, bf16 *panel,
                             int64_t inputs, int64_t block, const bf16 *scales, int64_t outputs, float total[][PANEL_Q],
                             const char *next, const char *end) {
#define BLOCKS(N, IS_PACKED) \
  for (int64_t i = 0; i < inputs; i += block)                                                                     \
    next = block_of(N, IS_PACKED, strip + i / 2 * TURNED, packed + i / 2 * PANEL_Q, table, panel + i * PANEL_Q,   \
                    block / 2, scales + i / block * outputs, total, next, end);
#define CASE(N)              \
  case N:                    \
    if (packed) { BLOCKS(N, 1) } \
    else { BLOCKS(N, 0) }        \
    break;
  switch (rows) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
  }
#undef CASE
#undef BLOCKS
  return next;
}

INLINE void round_rows(int rows, float total[][PANEL_Q], bf16 *y, int64_t outputs) {
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < PANEL_Q; v += LANES) put_16_bf16(y + r * outputs + v, _mm512_loadu_ps(total[r] + v));
}

/* A panel of pairs, of int8 weights [outputs, inputs]: as bfloat16 they are exact */
INLINE void unpack_bytes(const int8_t *weight, int64_t inputs, bf16 *panel) {
  for (int64_t o = 0; o < PANEL_Q; o += LANES)
    for (int64_t k = 0; k < inputs; k += 64) {
      uint32_t quads[16][TURNED];
      deal(weight + o * inputs + k, inputs, TURNED, inputs - k, quads[0], TURNED);
      for (int64_t q = 0; q < 16 && k + 4 * q < inputs; q++) {
        const __m512i x = _mm512_loadu_si512(quads[q]);
        bf16 *to = panel + (k + 4 * q) * PANEL_Q + o * 2;
        __m512i v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
          v[i] = (__m512i)_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * i), 24));
        _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(v[0], 16), v[1]));
        _mm512_storeu_si512(to + 2 * PANEL_Q, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(v[2], 16), v[3]));
      }
    }
}

/* Many rows, panel by panel: of 4-bit weights, or of int8 weights where there are `bytes` */
static void by_pairs(const bf16 *x, int64_t rows, int64_t inputs, int64_t outputs, const uint8_t *packed, __m512i table,
                     const bf16 *absmax, int64_t block, const int8_t *bytes, const bf16 *scale, char *room, bf16 *y,
                     int threads) {
  const int64_t parts = (inputs + 31) / 32, strip_words = parts * LANES * TURNED, panels = outputs / PANEL_Q;
  const int64_t panel_bytes = bytes ? inputs * PANEL_Q : inputs / 2 * PANEL_Q;
  const char *held = bytes ? (const char *)bytes : (const char *)packed;
  uint32_t *dealt = (uint32_t *)room;
  bf16 ones[PANEL_Q];
  for (int i = 0; i < PANEL_Q; i++) ones[i] = down_bf16(1.0f);
#pragma omp parallel num_threads(threads)
  {
    bf16 *panel = (bf16 *)(dealt + STRIPS * strip_words) + omp_get_thread_num() * inputs * PANEL_Q;
    for (int64_t start = 0; start < rows; start += STRIPS * STRIP_ROWS) {
      const int64_t some = rows - start < STRIPS * STRIP_ROWS ? rows - start : STRIPS * STRIP_ROWS;
      const int64_t strips = (some + STRIP_ROWS - 1) / STRIP_ROWS;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < strips * parts; i++) {
        const int64_t first = i / parts * STRIP_ROWS, at = i % parts * 32;
        deal(x + (start + first) * inputs + at, 2 * inputs, some - first, 2 * (inputs - at),
             dealt + i / parts * strip_words + at / 2 * TURNED, TURNED);
      }
#pragma omp for schedule(static)
      for (int64_t p = 0; p < panels; p++) {
        const char *next = held + (p + 1) * panel_bytes, *end = next + (p + 1 < panels) * panel_bytes;
        if (bytes) unpack_bytes(bytes + p * panel_bytes, inputs, panel);
        for (int64_t s = 0; s < strips; s++) {
          const int64_t row = s * STRIP_ROWS;
          const int count = some - row < STRIP_ROWS ? (int)(some - row) : STRIP_ROWS;
          bf16 *to = y + (start + row) * outputs + p * PANEL_Q;
          float total[STRIP_ROWS][PANEL_Q] = {0};
          next = blocks_of(count, dealt + s * strip_words, bytes || s ? 0 : packed + p * panel_bytes, table, panel, inputs,
                           block, bytes ? ones : absmax + p * PANEL_Q, outputs, total, next, end);
          round_rows(count, total, to, outputs);
          for (int r = 0; bytes && r < count; r++)
            for (int v = 0; v < PANEL_Q; v += LANES) {
              const __m512 factor = up_16(scale + p * PANEL_Q + v), sum = up_16(to + r * outputs + v);
              put_16_bf16(to + r * outputs + v, _mm512_mul_ps(sum, factor));
            }
        }
      }
    }
  }
}

/* y [rows, outputs] = x [rows, inputs] times 4-bit weights as bitsandbytes packs them for this kind of processor:
   panel by panel, pair by pair. absmax [inputs / block, outputs], code [16]. room: see quantized_room_bytes. */
void four_bit(const bf16 *x, int64_t rows, int64_t inputs, const uint8_t *packed, const bf16 *absmax, const float *code,
              int64_t outputs, int64_t block, char *room, bf16 *y, int threads) {
  bf16 values[PANEL_Q];
  for (int i = 0; i < PANEL_Q; i++) values[i] = down_bf16(code[i % 16]);
  const __m512i table = _mm512_loadu_si512(values);
  if (rows > FEW) {
    by_pairs(x, rows, inputs, outputs, packed, table, absmax, block, 0, 0, room, y, threads);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < outputs; p += PANEL_Q) {
    const uint8_t *at = packed + p * inputs / 2;
    float total[FEW][PANEL_Q] = {0};
    if (rows == 1) few(1, x, inputs, at, table, absmax + p, outputs, block, total);
    else if (rows == 2) few(2, x, inputs, at, table, absmax + p, outputs, block, total);
    else if (rows == 3) few(3, x, inputs, at, table, absmax + p, outputs, block, total);
    else few(4, x, inputs, at, table, absmax + p, outputs, block, total);
    round_rows(rows, total, y + p, outputs);
  }
}

/* y [rows, outputs] = x [rows, inputs] times int8 weights [outputs, inputs], and then their scales, as torchao has it:
   outputs a multiple of PANEL_Q, inputs one of 4. room: see quantized_room_bytes. */
void weight_int8(const bf16 *x, int64_t rows, int64_t inputs, const int8_t *weight, const bf16 *scale, int64_t outputs,
                 char *room, bf16 *y, int threads) {
  by_pairs(x, rows, inputs, outputs, 0, _mm512_setzero_si512(), 0, inputs, weight, scale, room, y, threads);
}

#endif
