/* Shared keys and values that are not stored as they are multiplied (bytes, and bfloat16 that has to be widened), unpacked
   for all rows of a tile: for one number format and one format of stored keys or values, as stored_products.h. */

#if SCALE_SIZE || IS_WIDENED
/* Whole blocks of keys or values of up to `places` in the format in which they are multiplied, and their scales. side: how
   many pairs lie side by side, LANES of keys and D of values. */
INLINE void KV_NAME(unpack_places)(const int D, const int side, const KV *from, int places, NAME(operand) *to,
                                   float *scales) {
  for (int first = 0; first < places; first += LANES, from += LANES * (D + SCALE_SIZE)) {
#if IS_WIDENED
    for (int i = 0; i < LANES * D; i += 2 * side)
      for (int v = 0; v < side; v += VEC_FLOATS) {
        const words pairs = KV_NAME(load)(from + i + 2 * v);
        for (int half = 0; half < 2; half++) {
          const vec x = half_of_pairs(pairs, half);
          memcpy(to + first * D + i + half * side + v, &x, sizeof x);
        }
      }
#else
    (void)side;
    for (int i = 0; i < LANES * D; i += VEC_FLOATS * PACK) {
      const NAME(vec) x = KV_NAME(load)(from + i);
      memcpy(to + first * D + i, &x, sizeof x);
    }
#endif
    if (SCALE_SIZE) memcpy(scales + first, from + LANES * D, LANES * sizeof(float));
  }
}
#endif
