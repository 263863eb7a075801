/* The tiles of AMX in plain C, for processors without them: included before the kernels, whose tile instructions then
   are these functions. Semantics as in Intel's manual: a tile has `rows` rows of `bytes` bytes, loads and stores go row
   by row, and TDPBF16PS sums even and odd inputs apart by fused multiply-adds that take numbers too small to be normal
   as 0, in what they read and in what they return. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
  int rows, bytes;
  unsigned char data[16][64];
} emulated[8];
static _Thread_local int emulated_configured;
long emulated_loads = 0, emulated_products = 0;

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

static void emulate_multiply_add(int sums, int rows, int weights) {
  emulate_check(sums), emulate_check(rows), emulate_check(weights);
  const int columns = emulated[sums].bytes / 4, pairs = emulated[rows].bytes / 4;
  if (emulated[rows].rows != emulated[sums].rows || emulated[weights].rows < pairs ||
      emulated[weights].bytes != emulated[sums].bytes)
    abort(); /* #UD */
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

#define TILE_CODE __attribute__((noinline))
#define TILE_CONFIGURE(shapes) emulate_configure(shapes)
#define TILE_RELEASE() (void)(emulated_configured = 0)
#define TILE_ZERO(tile) emulate_zero(tile)
#define TILE_LOAD(tile, from, bytes_per_row) emulate_load(tile, from, bytes_per_row)
#define TILE_STORE(tile, to, bytes_per_row) emulate_store(tile, to, bytes_per_row)
#define TILE_MULTIPLY_ADD(sums, rows, weights) emulate_multiply_add(sums, rows, weights)
#define TILE_PERMISSION() 1
