/* The tiles of AMX in plain C, for processors without them: included before the kernels, whose tile instructions then
   are these functions. Semantics as in Intel's manual: a tile has `rows` rows of `bytes` bytes, loads and stores go row
   by row, and TDPBF16PS sums even and odd inputs apart by fused multiply-adds that take numbers too small to be normal
   as 0, in what they read and in what they return. TDPBUSD adds products of bytes, those of rows without a sign and those
   of weights with one, exactly. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Weak: all units of the kernels (units.h) have the same tiles. */
__attribute__((weak)) _Thread_local struct {
  int rows, bytes;
  unsigned char data[16][64];
} emulated[8];
__attribute__((weak)) _Thread_local int emulated_configured;
__attribute__((weak)) long emulated_loads = 0, emulated_products = 0, emulated_byte_products = 0;

static void emulate_configure(const void *shapes) {
  const unsigned char *at = shapes;
  if (at[0] != 1) abort(); /* the only palette */
  for (int t = 0; t < 8; t++) {
    uint16_t bytes;
    memcpy(&bytes, at + 16 + 2 * t, 2);
    if (bytes > 64 || at[48 + t] > 16) abort();
    memset(&emulated[t], 0, sizeof emulated[t]);
    emulated[t].bytes = bytes, emulated[t].rows = at[48 + t];
  }
  emulated_configured = 1;
}

static void emulate_check(int tile) {
  if (!emulated_configured || !emulated[tile].rows || !emulated[tile].bytes) abort(); /* #UD */
}

static void emulate_zero(int tile) {
  emulate_check(tile);
  memset(emulated[tile].data, 0, sizeof emulated[tile].data);
}

static void emulate_load(int tile, const void *from, int64_t stride) {
  emulate_check(tile);
  memset(emulated[tile].data, 0, sizeof emulated[tile].data);
  for (int r = 0; r < emulated[tile].rows; r++)
    memcpy(emulated[tile].data[r], (const char *)from + r * stride, emulated[tile].bytes);
  emulated_loads++;
}

static void emulate_store(int tile, void *to, int64_t stride) {
  emulate_check(tile);
  for (int r = 0; r < emulated[tile].rows; r++)
    memcpy((char *)to + r * stride, emulated[tile].data[r], emulated[tile].bytes);
}

static float emulate_flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; }

static float emulate_widen(const unsigned char *at) {
  uint16_t half;
  memcpy(&half, at, 2);
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, 4);
  return emulate_flush(x);
}

/* Whether a product of these tiles is one: rows [M, K], weights [K, N] and sums [M, N], in 32 bits */
static void emulate_check_product(int sums, int rows, int weights) {
  emulate_check(sums), emulate_check(rows), emulate_check(weights);
  if (emulated[rows].rows != emulated[sums].rows || emulated[weights].rows < emulated[rows].bytes / 4 ||
      emulated[weights].bytes != emulated[sums].bytes || sums == rows || sums == weights || rows == weights)
    abort(); /* #UD */
}

static void emulate_multiply_add(int sums, int rows, int weights) {
  emulate_check_product(sums, rows, weights);
  const int columns = emulated[sums].bytes / 4, pairs = emulated[rows].bytes / 4;
  for (int m = 0; m < emulated[sums].rows; m++)
    for (int n = 0; n < columns; n++) {
      float even = 0, odd = 0, sum;
      for (int k = 0; k < pairs; k++) {
        const unsigned char *x = emulated[rows].data[m] + 4 * k, *w = emulated[weights].data[k] + 4 * n;
        even = emulate_flush(fmaf(emulate_widen(x), emulate_widen(w), even));
        odd = emulate_flush(fmaf(emulate_widen(x + 2), emulate_widen(w + 2), odd));
      }
      memcpy(&sum, emulated[sums].data[m] + 4 * n, 4);
      sum = emulate_flush(emulate_flush(sum) + emulate_flush(even + odd));
      memcpy(emulated[sums].data[m] + 4 * n, &sum, 4);
    }
  emulated_products++;
}

static void emulate_multiply_add_bytes(int sums, int rows, int weights) {
  emulate_check_product(sums, rows, weights);
  for (int m = 0; m < emulated[sums].rows; m++)
    for (int n = 0; n < emulated[sums].bytes / 4; n++) {
      uint32_t sum; /* wraps around */
      memcpy(&sum, emulated[sums].data[m] + 4 * n, 4);
      for (int k = 0; k < emulated[rows].bytes / 4; k++)
        for (int i = 0; i < 4; i++) {
          const int x = emulated[rows].data[m][4 * k + i], w = (signed char)emulated[weights].data[k][4 * n + i];
          sum += (uint32_t)(x * w);
        }
      memcpy(emulated[sums].data[m] + 4 * n, &sum, 4);
    }
  emulated_byte_products++;
}

#define TILE_CODE __attribute__((noinline))
#define TILE_CONFIGURE(shapes) emulate_configure(shapes)
#define TILE_RELEASE() (void)(emulated_configured = 0)
#define TILE_ZERO(tile) emulate_zero(tile)
#define TILE_LOAD(tile, from, bytes_per_row) emulate_load(tile, from, bytes_per_row)
#define TILE_STORE(tile, to, bytes_per_row) emulate_store(tile, to, bytes_per_row)
#define TILE_MULTIPLY_ADD(sums, rows, weights) emulate_multiply_add(sums, rows, weights)
#define TILE_MULTIPLY_ADD_BYTES(sums, rows, weights) emulate_multiply_add_bytes(sums, rows, weights)
#define TILE_PERMISSION() 1
