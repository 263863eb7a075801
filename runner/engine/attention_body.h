/* The kernels for one number format: T, with UP and DOWN to and from float, LOAD of LANES values, NAME of a function. */

/* scores [rows, cols] become exp(scale * score - max), in place, with max and sum of each row. A row's first limit[row]
   columns count (all when there is no limit), the others become 0. */
void NAME(softmax)(T *scores, int64_t rows, int64_t cols, const int32_t *limit, float scale, float *top, float *sum,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    T *s = scores + r * cols;
    int64_t n = limit ? limit[r] : cols;
    float m = -INFINITY, l = 0;
#pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < n; j++) {
      float x = UP(s[j]);
      m = x > m ? x : m;
    }
    m *= scale;
#pragma omp simd reduction(+ : l)
    for (int64_t j = 0; j < n; j++) {
      float e = exp_fast(fmaf(UP(s[j]), scale, -m));
      l += e;
      s[j] = DOWN(e);
    }
    for (int64_t j = n; j < cols; j++) s[j] = 0;
    top[r] = m;
    sum[r] = l;
  }
}

/* Puts k and v [tokens, kv_heads, dim] where they belong. Keys lie in blocks of LANES places, within a block dimension
   by dimension, so that scores of LANES keys are computed side by side; values lie place by place. */
void NAME(store)(const T *k_new, const T *v_new, T *K, T *V, int64_t kv_heads, int64_t dim, int64_t capacity,
                 int64_t tokens, const int32_t *slot, const int32_t *place, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    int64_t t = i / kv_heads, h = i % kv_heads, at = (slot[t] * kv_heads + h) * capacity * dim;
    T *k = K + at + place[t] / LANES * LANES * dim + place[t] % LANES;
    for (int64_t d = 0; d < dim; d++) k[d * LANES] = k_new[i * dim + d];
    memcpy(V + at + place[t] * dim, v_new + i * dim, dim * sizeof(T));
  }
}

/* One token and one key-value head: its G query heads over its parts and over n keys of its own. */
INLINE void NAME(one)(const int D, const int G, const T *q, const T *K, const T *V, int64_t n, float scale,
                      int64_t parts, const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum,
                      const int64_t *part_row, T *out) {
  float qf[MAX_GROUP * MAX_DIM], acc[MAX_GROUP * MAX_DIM], s[MAX_GROUP][BLOCK + LANES], top[MAX_GROUP], sum[MAX_GROUP];
  for (int i = 0; i < G * D; i++) qf[i] = UP(q[i]) * scale;
  for (int i = 0; i < G * D; i++) acc[i] = 0;
  for (int g = 0; g < G; g++) top[g] = -INFINITY, sum[g] = 0;
  for (int64_t p = 0; p < parts; p++) {
    if (part_row[p] < 0) continue;
    const T *o = (const T *)part_out[p] + part_row[p] * D;
    const float *pm = (const float *)part_top[p] + part_row[p], *pl = (const float *)part_sum[p] + part_row[p];
    for (int g = 0; g < G; g++) {
      float m = pm[g] > top[g] ? pm[g] : top[g];
      float a = top[g] == -INFINITY ? 0.0f : exp_fast(top[g] - m), b = exp_fast(pm[g] - m);
      for (int d = 0; d < D; d++) acc[g * D + d] = acc[g * D + d] * a + UP(o[g * D + d]) * b;
      sum[g] = sum[g] * a + pl[g] * b;
      top[g] = m;
    }
  }
  for (int64_t start = 0; start < n; start += BLOCK) {
    int count = n - start < BLOCK ? (int)(n - start) : BLOCK;
    const T *k = K + start * D, *v = V + start * D;
    for (int j = 0; j < count; j += 2 * LANES) { /* two blocks at a time: one sum need not wait for the other */
      vec a[G], b[G];
      for (int g = 0; g < G; g++) a[g] = b[g] = (vec){0};
      const T *k0 = k + j * D, *k1 = j + LANES < count ? k0 + LANES * D : k0;
      for (int d = 0; d < D; d++) {
        vec x = LOAD(k0 + d * LANES), y = LOAD(k1 + d * LANES);
        for (int g = 0; g < G; g++) a[g] += qf[g * D + d] * x, b[g] += qf[g * D + d] * y;
      }
      for (int g = 0; g < G; g++) memcpy(&s[g][j], &a[g], sizeof(vec)), memcpy(&s[g][j + LANES], &b[g], sizeof(vec));
    }
    for (int g = 0; g < G; g++) {
      float m = top[g], l = 0;
      for (int j = 0; j < count; j++) m = s[g][j] > m ? s[g][j] : m;
      float keep = top[g] == -INFINITY ? 0.0f : exp_fast(top[g] - m);
#pragma omp simd reduction(+ : l)
      for (int j = 0; j < count; j++) {
        s[g][j] = exp_fast(s[g][j] - m);
        l += s[g][j];
      }
      top[g] = m;
      sum[g] = sum[g] * keep + l;
      for (int d = 0; d < D; d++) acc[g * D + d] *= keep;
    }
    for (int g0 = 0; g0 < G; g0 += CHUNK(D)) {
      const int some = G - g0 < CHUNK(D) ? G - g0 : CHUNK(D);
      vec o[CHUNK(D)][D / LANES];
      memset(o, 0, sizeof o);
      for (int j = 0; j < count; j++)
        for (int d = 0; d < D / LANES; d++) {
          vec x = LOAD(v + j * D + d * LANES);
          for (int g = 0; g < CHUNK(D); g++)
            if (g < some) o[g][d] += s[g0 + g][j] * x;
        }
      for (int g = 0; g < some; g++)
        for (int d = 0; d < D; d++) acc[(g0 + g) * D + d] += o[g][d / LANES][d % LANES];
    }
  }
  for (int g = 0; g < G; g++)
    for (int d = 0; d < D; d++) out[g * D + d] = DOWN(acc[g * D + d] / sum[g]);
}

/* q and out: [tokens, kv_heads, group, dim]. Token t sees the first own[t] places of its slot, and of each part the row
   part_row[p][t] of [kv_heads, part_rows[p], group] outputs (not yet divided by their sums), maxima and sums; -1 = none. */
void NAME(attend)(const T *q, const T *K, const T *V, int64_t kv_heads, int64_t group, int64_t dim, int64_t capacity,
                  int64_t tokens, const int32_t *slot, const int32_t *own, float scale, int64_t parts,
                  const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum, const int64_t *part_rows,
                  const int64_t *part_row, T *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    int64_t t = i / kv_heads, h = i % kv_heads, rows[MAX_PARTS], at = (slot[t] * kv_heads + h) * capacity * dim;
    for (int64_t p = 0; p < parts; p++) {
      int64_t row = ((const int32_t *)part_row[p])[t];
      rows[p] = row < 0 ? -1 : (h * part_rows[p] + row) * group;
    }
#define CASE(DD, GG)                                                                                             \
  if (dim == DD && group == GG)                                                                                  \
    NAME(one)(DD, GG, q + i * GG * DD, K + at, V + at, own[t], scale, parts, part_out, part_top, part_sum, rows, \
              out + i * GG * DD);
    CASE(64, 1)
    else CASE(64, 2) else CASE(64, 3) else CASE(64, 4) else CASE(64, 7) else CASE(64, 8)
    else CASE(128, 1) else CASE(128, 2) else CASE(128, 4) else CASE(128, 6) else CASE(128, 7) else CASE(128, 8)
    else CASE(dim, group)
#undef CASE
  }
}
