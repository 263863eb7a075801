/* Attention of one token to its own keys by the tiles of AMX (tiles.h), as `scores` and `add_values` of attention_own.h do
   it by vectors: the rows of a tile are the query heads that share a key-value head. Keys and values are read as they lie
   in an arena. Sums have an order of their own, so a model's own keys go either this way or by vectors, never by both. */

#ifndef TILE_OWN_KEYS
#define TILE_OWN_KEYS

#define NO_TILES ((int64_t)1 << 62) /* of tile_rows: vectors in the order of tiles; as in panels.py */

/* Whether own keys are multiplied by tiles; tile_rows: of attention to shared keys */
INLINE int attends_own_by_tiles(int64_t tile_rows, int64_t dim) {
  return tile_rows > 0 && tile_rows < NO_TILES && dim % TILE_INPUTS == 0;
}

INLINE void configure_own_tiles(int group) {
  if (configured_rows != -group) configure_shapes((uint8_t)group, (uint8_t)group, -group);
}

/* s[g][j] = q[g] . key j for `count` keys and the rest of their blocks; v is read next. */
TILE_CODE static void own_scores_by_tiles(int64_t dim, const bf16 *q, const bf16 *k, int count, float s[][MAX_SCORES],
                                          const bf16 *v) {
  const int64_t bytes = dim * (int64_t)sizeof(bf16), block = LANES * dim, line = CACHE_LINE / (int64_t)sizeof(bf16);
  const bf16 *end = k + ceil_div(count, LANES) * block;
  MEMORY_IS_WRITTEN();
  for (int j = 0; j < count; j += 2 * LANES, k += 2 * block) {
    const bf16 *second = j + LANES < count ? k + block : k; /* its scores are not read then */
    TILE_ZERO(0);
    TILE_ZERO(1);
    for (int64_t d = 0; d < dim; d += TILE_INPUTS) {
      for (int64_t at = 0; at < 2 * LANES * TILE_INPUTS; at += line) prefetch(k + d * 2 * LANES + at, end, v);
      TILE_LOAD(4, q + d, bytes);
      TILE_LOAD(6, k + d * LANES, 2 * LANES * sizeof(bf16));
      TILE_MULTIPLY_ADD(0, 4, 6);
      TILE_LOAD(7, second + d * LANES, 2 * LANES * sizeof(bf16));
      TILE_MULTIPLY_ADD(1, 4, 7);
    }
    TILE_STORE(0, &s[0][j], MAX_SCORES * sizeof(float));
    TILE_STORE(1, &s[0][j + LANES], MAX_SCORES * sizeof(float));
  }
  MEMORY_IS_WRITTEN();
}

/* acc[g] += the sum of weights[g][j] * value j over so many places, whole tiles of them; `next` is read after `end`. */
TILE_CODE static void add_own_values_by_tiles(int64_t dim, const bf16 *weights, const bf16 *v, int places, float *acc,
                                              const bf16 *end, const bf16 *next) {
  const int64_t bytes = dim * (int64_t)sizeof(float), line = CACHE_LINE / (int64_t)sizeof(bf16);
  MEMORY_IS_WRITTEN();
  for (int64_t d = 0; d < dim; d += 4 * LANES) {
    const int is_wide = d + 2 * LANES < dim; /* four tiles of values side by side, or the last two */
    TILE_LOAD(0, acc + d, bytes);
    TILE_LOAD(1, acc + d + LANES, bytes);
    if (is_wide) {
      TILE_LOAD(2, acc + d + 2 * LANES, bytes);
      TILE_LOAD(3, acc + d + 3 * LANES, bytes);
    }
    for (int64_t j = 0; j < places; j += TILE_INPUTS) {
      const bf16 *first = v + j * dim + 2 * d;
      for (int64_t pair = 0; pair < LANES; pair++)
        for (int64_t at = 0; at < (is_wide ? 8 : 4) * LANES; at += line) prefetch(first + pair * 2 * dim + at, end, next);
      TILE_LOAD(4, weights + j, MAX_SCORES * sizeof(bf16));
      TILE_LOAD(6, first, bytes);
      TILE_MULTIPLY_ADD(0, 4, 6);
      TILE_LOAD(7, first + 2 * LANES, bytes);
      TILE_MULTIPLY_ADD(1, 4, 7);
      if (!is_wide) continue;
      TILE_LOAD(6, first + 4 * LANES, bytes);
      TILE_MULTIPLY_ADD(2, 4, 6);
      TILE_LOAD(7, first + 6 * LANES, bytes);
      TILE_MULTIPLY_ADD(3, 4, 7);
    }
    TILE_STORE(0, acc + d, bytes);
    TILE_STORE(1, acc + d + LANES, bytes);
    if (is_wide) {
      TILE_STORE(2, acc + d + 2 * LANES, bytes);
      TILE_STORE(3, acc + d + 3 * LANES, bytes);
    }
  }
  MEMORY_IS_WRITTEN();
}

/* The same for any number of places; those that are no whole tile are left. Returns how many were added. */
INLINE int add_whole_tiles_of_values(const int D, const int G, float s[][MAX_SCORES], const bf16 *v, int count, float *acc,
                                     const bf16 *next) {
  const int whole = count / TILE_INPUTS * TILE_INPUTS;
  bf16 weights[MAX_GROUP * MAX_SCORES];
  if (!whole) return 0;
  for (int g = 0; g < G; g++)
    for (int j = 0; j < whole; j += LANES) store_16_bf16(weights + g * MAX_SCORES + j, _mm512_loadu_ps(&s[g][j]));
  add_own_values_by_tiles(D, weights, v, whole, acc, v + (count + 1) / 2 * 2 * D, next);
  return whole;
}
#endif
