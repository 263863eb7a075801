/* The tiles of AMX: its instructions, the shapes that all kernels by tiles use, and whether sums of bytes are right. They
   are compiled wherever the compiler knows them and tried at run time (tile_products.h).

   A processor has 8 tiles of up to 16 rows of 64 bytes. TDPBF16PS adds to sums [rows, 16] the product of rows [rows, 32
   inputs] and [16 pairs of inputs, 16 outputs, 2]: the even inputs and the odd ones are summed apart, in order, from 0,
   and then both sums together are added to what is there. Numbers too small to be normal count as 0. TDPBUSD does it with
   64 bytes of each row, without a sign, and [16 fours of inputs, 16 outputs, 4], with one: its sums are exact. */

#ifdef HAS_TILES
#ifndef TILES
#define TILES
#define TILE_INPUTS 32 /* bfloat16 that one instruction multiplies */
#define TILE_BYTES 64  /* or bytes */
#define TILE_BLOCK 32  /* rows that are multiplied together: two tiles */

#ifndef TILE_CODE /* else a test emulates the instructions */
#define TILE_CODE __attribute__((target("amx-tile,amx-bf16,amx-int8"), noinline))
#define TILE_CONFIGURE(shapes) _tile_loadconfig(shapes)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, bytes_per_row) _tile_loadd(tile, from, bytes_per_row)
#define TILE_STORE(tile, to, bytes_per_row) _tile_stored(tile, to, bytes_per_row)
#define TILE_MULTIPLY_ADD(sums, rows, weights) _tile_dpbf16ps(sums, rows, weights)
#define TILE_MULTIPLY_ADD_BYTES(sums, rows, weights) _tile_dpbusd(sums, rows, weights)
#define TILE_PERMISSION() (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0)
#endif

/* gcc does not know that loads of tiles read memory: what is to be written before has to be kept before */
#define MEMORY_IS_WRITTEN() __asm__ volatile("" ::: "memory")

#define ZERO_FOR_DENORMAL 0x8040u /* both bits of MXCSR, of inputs and of results: what vectors need to do as tiles */

/* For how many rows of a block this thread's tiles are configured; below 0: for so many query heads of a token
   (tile_own_keys.h); 0: they are released. The system saves and restores 8 KiB at each switch between threads until they
   are. */
#if IS_IN(SHARED)
BETWEEN_UNITS _Thread_local int configured_rows;
#else
extern BETWEEN_UNITS _Thread_local int configured_rows;
#endif

/* Sums in tiles 0 to 3, rows in 4 and 5, weights in 6 and 7. Tiles 0, 1 and 4 have `upper` rows, 2, 3 and 5 `lower`. */
TILE_CODE static void configure_shapes(uint8_t upper, uint8_t lower, int rows) {
  struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } shapes = {.palette = 1};
  const uint8_t of[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
  for (int t = 0; t < 8; t++) shapes.bytes[t] = 64, shapes.rows[t] = of[t];
  MEMORY_IS_WRITTEN();
  TILE_CONFIGURE(&shapes);
  configured_rows = rows;
}

/* For a block of rows: the sums of the first 16 by the two halves of a panel, then those of the others */
static void configure_tiles(int rows) {
  configure_shapes((uint8_t)(rows < 16 ? rows : 16), (uint8_t)(rows > 16 ? rows - 16 : 16), rows);
}

TILE_CODE static void release_tiles(void) {
  TILE_RELEASE();
  configured_rows = 0;
}

/* Whether a tile of bytes has the sums that plain C has */
TILE_CODE static int are_byte_sums_right(void) {
  uint8_t x[16][TILE_BYTES];
  int8_t w[16][16][4];
  int32_t y[16][16], wrong = 0;
  for (int i = 0; i < 16 * TILE_BYTES; i++) x[i / TILE_BYTES][i % TILE_BYTES] = (uint8_t)(i * 37 % 256);
  for (int i = 0; i < 16 * 16 * 4; i++) w[i / 64][i / 4 % 16][i % 4] = (int8_t)(i * 29 % 256 - 128);
  configure_tiles(16);
  MEMORY_IS_WRITTEN();
  TILE_ZERO(0);
  TILE_LOAD(4, x, TILE_BYTES);
  TILE_LOAD(6, w, TILE_BYTES);
  TILE_MULTIPLY_ADD_BYTES(0, 4, 6);
  TILE_STORE(0, y, TILE_BYTES);
  MEMORY_IS_WRITTEN();
  release_tiles();
  for (int r = 0; r < 16; r++)
    for (int o = 0; o < 16; o++) {
      int32_t sum = 0;
      for (int i = 0; i < TILE_BYTES; i++) sum += x[r][i] * w[i / 4][o][i % 4];
      wrong |= sum != y[r][o];
    }
  return !wrong;
}
#endif
#endif
