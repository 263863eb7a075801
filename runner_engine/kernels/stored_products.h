/* Products with keys and with values of one head that lie as one format stores them (KV, SCALE_SIZE, KV_NAME: see kernels.c),
   for one number format (T, PACK, NAME). kv_int4.h has those of 4 bits. */

/* s[g][j] = q[g] . key j, for `count` keys and the rest of their blocks; v is read next. D: the first numbers of a head,
   which has S (those behind are zeros). Two blocks at a time where
   there are enough registers: one sum does not wait for the other. */
INLINE void KV_NAME(scores)(const int D, const int S, const int G, const NAME(operand) *q, const KV *k, int count, float s[][MAX_SCORES],
                            const KV *v) {
  const KV *end = k + (count + LANES - 1) / LANES * LANES * (S + SCALE_SIZE);
  const int blocks = TWO_BLOCKS(G) ? 2 : 1, parts = LANES / VEC_FLOATS;
  for (int j = 0; j < count; j += blocks * LANES) {
    /* not [G]: an array whose size is not a constant stays in memory; what is not used of it is never set either */
    vec a[MAX_GROUP][2 * LANES / VEC_FLOATS] = {{{0}}};
    const KV *k0 = k + j * (S + SCALE_SIZE), *k1 = blocks == 2 && j + LANES < count ? k0 + LANES * (S + SCALE_SIZE) : k0;
    for (int d = 0; d < D; d += PACK) {
      if (d * LANES * (int)sizeof(KV) % CACHE_LINE == 0) {
        prefetch(k0 + d * LANES, end, v);
        if (blocks == 2) prefetch(k1 + d * LANES, end, v);
      }
#define KEYS(p) KV_NAME(load)((p < parts ? k0 : k1) + d * LANES + p % parts * PACK * VEC_FLOATS)
#if IS_WIDENED
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) { /* so that few registers hold keys */
        vec x[2 * LANES / VEC_FLOATS] = {{0}}; /* some compilers do not see that the loop sets all that is read */
#pragma GCC unroll 4
        for (int p = 0; p < blocks * parts; p++) x[p] = half_of_pairs(KEYS(p), half);
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) {
          const vec number = q[g * S + d + half] + (vec){0};
#pragma GCC unroll 4
          for (int p = 0; p < blocks * parts; p++) a[g][p] += number * x[p];
        }
      }
#else
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        NAME(vec) x = KEYS(p);
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) a[g][p] = NAME(multiply_add)(a[g][p], q + g * S + d, x);
      }
#endif
#undef KEYS
    }
#pragma GCC unroll 16
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        if (SCALE_SIZE) a[g][p] *= load_f32((const float *)((p < parts ? k0 : k1) + LANES * S) + p % parts * VEC_FLOATS);
        memcpy(&s[g][j + p * VEC_FLOATS], &a[g][p], sizeof(vec));
      }
  }
}

/* acc[g] [D] += the sum over count places of s[g][j] * value j. D and S: as in `scores` */
INLINE void KV_NAME(add_values)(const int D, const int S, const int G, float s[][MAX_SCORES], const KV *v, int count, float *acc,
                                const KV *next) {
  const KV *end = v + (count + 1) / 2 * 2 * S + count / LANES * LANES * SCALE_SIZE;
  const int loads_per_line = CACHE_LINE / (VEC_FLOATS * PACK * (int)sizeof(KV));
  const NAME(operand) *weights[MAX_GROUP];
  NAME(operand) packed[MAX_GROUP][MAX_SCORES];
  for (int g = 0; g < G; g++) {
    if (SCALE_SIZE) scale_weights(s[g], count, (const char *)(v + LANES * S), LANES * (S + SCALE_SIZE) * sizeof(KV));
    weights[g] = NAME(pack_weights)(s[g], count, packed[g]);
  }
  for (int g0 = 0; g0 < G; g0 += HEADS_AT_ONCE(D, G)) {
    const int some = G - g0 < HEADS_AT_ONCE(D, G) ? G - g0 : HEADS_AT_ONCE(D, G);
    for (int d0 = 0; d0 < D; d0 += DIMS_AT_ONCE(D, G)) {
      vec o[MAX_HEADS_AT_ONCE][MAX_DIMS_AT_ONCE / VEC_FLOATS];
      for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++) o[g][d] = (vec){0};
      for (int j = 0; j < count; j += PACK) {
        const KV *at = v + j * S + j / LANES * LANES * SCALE_SIZE + PACK * d0;
#if IS_WIDENED
        for (int half = 0; half < 2; half++) { /* as in `scores` */
          vec number[MAX_HEADS_AT_ONCE];
          for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
            number[g] = g < some ? weights[g0 + g][j + half] + (vec){0} : (vec){0};
          for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++) {
            if (!g0 && !half && d % loads_per_line == 0) prefetch(at + d * PACK * VEC_FLOATS, end, next);
            const vec x = half_of_pairs(KV_NAME(load)(at + d * PACK * VEC_FLOATS), half);
            for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
              if (g < some) o[g][d] += number[g] * x;
          }
        }
#else
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS; d++, at += PACK * VEC_FLOATS) {
          if (!g0 && d % loads_per_line == 0) prefetch(at, end, next);
          NAME(vec) x = KV_NAME(load)(at);
          for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
            if (g < some) o[g][d] = NAME(multiply_add)(o[g][d], weights[g0 + g] + j, x);
        }
#endif
      }
      for (int g = 0; g < HEADS_AT_ONCE(D, G); g++)
        for (int d = 0; d < DIMS_AT_ONCE(D, G) / VEC_FLOATS && g < some; d++) {
          float *to = acc + (g0 + g) * D + d0 + d * VEC_FLOATS;
          vec sum = load_f32(to) + o[g][d];
          memcpy(to, &sum, sizeof sum);
        }
    }
  }
}
