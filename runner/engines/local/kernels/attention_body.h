/* The kernels for one number format: T, PER of them side by side, UP and DOWN to and from float, NAME of a function. */

/* scores [rows, cols] become exp(scale * score - max), in place, with max and sum of each row; with a cap, of scores that
   it has been put on. Of a row count the columns from[row] to limit[row] (from 0 where there is no `from`, to the end
   where there is no limit), which may be none; the others become 0. */
void NAME(softmax)(T *scores, int64_t rows, int64_t cols, const int32_t *from, const int32_t *limit, float scale,
                   float cap, float *top, float *sum, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    T *s = scores + r * cols;
    const int64_t n = limit ? limit[r] : cols, first = from && from[r] < n ? from[r] : from ? n : 0;
    float m = -INFINITY, l = 0;
#pragma omp simd reduction(max : m)
    for (int64_t j = first; j < n; j++) {
      float x = UP(s[j]);
      m = x > m ? x : m;
    }
    m *= scale;
    if (cap && first < n) {
      m = capped(m, cap);
#pragma omp simd reduction(+ : l)
      for (int64_t j = first; j < n; j++) {
        float e = exp_fast(capped(UP(s[j]) * scale, cap) - m);
        l += e;
        s[j] = DOWN(e);
      }
    } else {
#pragma omp simd reduction(+ : l)
      for (int64_t j = first; j < n; j++) {
        float e = exp_fast(fmaf(UP(s[j]), scale, -m));
        l += e;
        s[j] = DOWN(e);
      }
    }
    for (int64_t j = 0; j < first; j++) s[j] = 0;
    for (int64_t j = n; j < cols; j++) s[j] = 0;
    top[r] = m;
    sum[r] = l;
  }
}

/* The keys of a row, or the values, where they start at `start`: those of one head, which counts on from layer to layer */
INLINE T *NAME(of_head)(int64_t start, const home *row, int64_t head, int64_t dim) {
  return (T *)start + head * row->capacity * dim;
}

/* Puts k and v [tokens, kv_heads, dim] of a layer into the places of their rows: token t is of the row homes[slot[t]]. */
void NAME(store)(const T *k, const T *v, const home *homes, int64_t layer, int64_t kv_heads, int64_t dim,
                 int64_t tokens, const int32_t *slot, const int32_t *place, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    const int64_t t = i / kv_heads, head = layer * kv_heads + i % kv_heads;
    const home *row = homes + slot[t];
    NAME(put)(NAME(of_head)(row->keys, row, head, dim), NAME(of_head)(row->values, row, head, dim), k + i * dim,
              v + i * dim, dim, place[t]);
  }
}

/* s[g][j] = q[g] . key j, for count keys and the rest of their blocks; v is what will be read next. Two blocks at a
   time where there are registers for it: one sum need not wait for the other. */
INLINE void NAME(scores)(const int D, const int G, const T *q, const T *k, int count, float s[][ROOM], const T *v) {
  const T *end = k + (count + LANES - 1) / LANES * LANES * D;
  const int blocks = PAIRED(G) ? 2 : 1, parts = LANES / WIDE;
  for (int j = 0; j < count; j += blocks * LANES) {
    vec a[MAX_GROUP][2 * LANES / WIDE]; /* not [G]: an array whose size is not a constant stays in memory */
#pragma GCC unroll 16
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) a[g][p] = (vec){0};
    const T *k0 = k + j * D, *k1 = blocks == 2 && j + LANES < count ? k0 + LANES * D : k0;
    for (int d = 0; d < D; d += PER) {
      prefetch(k0 + d * LANES, end, v);
      if (blocks == 2) prefetch(k1 + d * LANES, end, v);
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) {
        NAME(many) x = NAME(load)((p < parts ? k0 : k1) + d * LANES + p % parts * PER * WIDE);
#pragma GCC unroll 16
        for (int g = 0; g < G; g++) a[g][p] = NAME(add)(a[g][p], NAME(take)(q + g * D + d), x);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < blocks * parts; p++) memcpy(&s[g][j + p * WIDE], &a[g][p], sizeof(vec));
  }
}

/* acc[g] += the sum over count places of s[g][j] * value j */
INLINE void NAME(mix)(const int D, const int G, float s[][ROOM], const T *v, int count, float *acc, const T *next) {
  const T *end = v + (count + 1) / 2 * 2 * D, *weights[MAX_GROUP];
  T room[MAX_GROUP][ROOM];
  for (int g = 0; g < G; g++) weights[g] = NAME(pack)(s[g], count, room[g]);
  for (int g0 = 0; g0 < G; g0 += CHUNK(D)) {
    const int some = G - g0 < CHUNK(D) ? G - g0 : CHUNK(D);
    for (int d0 = 0; d0 < D; d0 += STRETCH(D)) {
      vec o[CHUNK(0)][MOST_STRETCH / WIDE];
#pragma GCC unroll 4
      for (int g = 0; g < CHUNK(D); g++)
#pragma GCC unroll 32
        for (int d = 0; d < STRETCH(D) / WIDE; d++) o[g][d] = (vec){0};
      for (int j = 0; j < count; j += PER)
#pragma GCC unroll 32
        for (int d = 0; d < STRETCH(D) / WIDE; d++) {
          const T *at = v + j * D + PER * (d0 + d * WIDE);
          if (!g0 && d % (LANES / WIDE) == 0) prefetch(at, end, next);
          NAME(many) x = NAME(load)(at);
#pragma GCC unroll 4
          for (int g = 0; g < CHUNK(D); g++)
            if (g < some) o[g][d] = NAME(add)(o[g][d], NAME(take)(weights[g0 + g] + j), x);
        }
#pragma GCC unroll 4
      for (int g = 0; g < CHUNK(D); g++)
#pragma GCC unroll 32
        for (int d = 0; d < STRETCH(D) / WIDE && g < some; d++) {
          float *to = acc + (g0 + g) * D + d0 + d * WIDE;
          vec sum = load_f32(to) + o[g][d];
          memcpy(to, &sum, sizeof sum);
        }
    }
  }
}

/* One token and one key-value head: its G query heads over its parts and over the keys from `first` to n of its own, the
   last of which it always sees. cap: 0, or what its scores stay below. sinks: 0, or a score for each of its heads that
   takes weight and has no value. The keys that are read after these start at `next`. */
INLINE void NAME(one)(const int D, const int G, const T *q, const T *K, const T *V, int64_t first, int64_t n,
                      float scale, float cap, const float *sinks, int64_t parts, const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum,
                      const int64_t *part_row, T *out, const T *next) {
  float acc[MAX_GROUP * MAX_DIM], s[MAX_GROUP][ROOM], top[MAX_GROUP], sum[MAX_GROUP];
  for (int i = 0; i < G * D; i++) acc[i] = 0;
  for (int g = 0; g < G; g++) top[g] = sinks ? sinks[g] : -INFINITY, sum[g] = sinks ? 1 : 0;
  for (int64_t p = 0; p < parts; p++) {
    if (part_row[p] < 0) continue;
    const T *o = (const T *)part_out[p] + part_row[p] * D;
    const float *pm = (const float *)part_top[p] + part_row[p], *pl = (const float *)part_sum[p] + part_row[p];
    if (pm[0] == -INFINITY) continue; /* nothing of it is within the window */
    for (int g = 0; g < G; g++) {
      float m = pm[g] > top[g] ? pm[g] : top[g];
      float a = top[g] == -INFINITY ? 0.0f : exp_fast(top[g] - m), b = exp_fast(pm[g] - m);
      for (int d = 0; d < D; d++) acc[g * D + d] = acc[g * D + d] * a + UP(o[g * D + d]) * b;
      sum[g] = sum[g] * a + pl[g] * b;
      top[g] = m;
    }
  }
  const float raw = scale;
  if (cap) scale = 1; /* it is in the scores then */
  for (int64_t start = first / LANES * LANES; start < n; start += BLOCK) {
    int count = n - start < BLOCK ? (int)(n - start) : BLOCK;
    NAME(scores)(D, G, q, K + start * D, count, s, V + start * D);
    for (int g = 0; g < G; g++) {
      float m = -INFINITY, l = 0;
      if (cap || start < first) change_scores(s[g], count, first - start, raw, cap);
#pragma omp simd reduction(max : m)
      for (int j = 0; j < count; j++) m = s[g][j] > m ? s[g][j] : m;
      m = m * scale > top[g] ? m * scale : top[g];
      float keep = top[g] == -INFINITY ? 0.0f : exp_fast(top[g] - m);
#pragma omp simd reduction(+ : l)
      for (int j = 0; j < count; j++) {
        s[g][j] = exp_fast(fmaf(s[g][j], scale, -m));
        l += s[g][j];
      }
      top[g] = m;
      sum[g] = sum[g] * keep + l;
      for (int d = 0; d < D; d++) acc[g * D + d] *= keep;
    }
    NAME(mix)(D, G, s, V + start * D, count, acc, start + BLOCK < n ? K + (start + BLOCK) * D : next);
  }
  for (int g = 0; g < G; g++)
    for (int d = 0; d < D; d++) out[g * D + d] = DOWN(acc[g * D + d] / sum[g]);
}

/* As `one`, compiled for the shapes that are common; the rest of the arguments in the order of `one`. */
static void NAME(head)(int64_t dim, int64_t group, const T *q, const T *K, const T *V, int64_t first, int64_t n,
                       float scale, float cap, const float *sinks, int64_t parts, const int64_t *part_out, const int64_t *part_top, const int64_t *part_sum,
                       const int64_t *part_row, T *out, const T *next) {
#define CASE(DD, GG)                                                                                                   \
  if (dim == DD && group == GG)                                                                                        \
    NAME(one)(DD, GG, q, K, V, first, n, scale, cap, sinks, parts, part_out, part_top, part_sum, part_row, out, next);
  CASE(64, 1)
  else CASE(64, 2) else CASE(64, 3) else CASE(64, 4) else CASE(64, 7) else CASE(64, 8)
  else CASE(128, 1) else CASE(128, 2) else CASE(128, 4) else CASE(128, 6) else CASE(128, 7) else CASE(128, 8)
  else CASE(dim, group)
#undef CASE
}

/* q and out: [tokens, kv_heads, group, dim]. Token t sees the first own[t] places of its row, homes[slot[t]], from
   first[t] on (from 0 where there is no `first`), and of each part the row part_row[p][t] of [kv_heads, part_rows[p],
   group] outputs (not yet divided by their sums), maxima and sums; -1 = none. cap and sinks [kv_heads, group]: as in `one`.
   k and v [tokens, kv_heads, dim], unless 0: put into the last place that the token sees. That is quicker than by
   `store` before, since the lines are read here anyway, but other tokens of the same row may not rely on it. */
void NAME(attend)(const T *q, const home *homes, const T *k, const T *v, int64_t layer, int64_t kv_heads, int64_t group,
                  int64_t dim, int64_t tokens, const int32_t *slot, const int32_t *first, const int32_t *own,
                  float scale, float cap, const float *sinks, int64_t parts, const int64_t *part_out,
                  const int64_t *part_top, const int64_t *part_sum, const int64_t *part_rows, const int64_t *part_row,
                  T *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
  for (int64_t i = 0; i < tokens * kv_heads; i++) {
    int64_t t = i / kv_heads, h = i % kv_heads, rows[parts + 1], after = i + 1 < tokens * kv_heads ? i + 1 : i;
    const home *row = homes + slot[t], *then = homes + slot[after / kv_heads];
    T *K = NAME(of_head)(row->keys, row, layer * kv_heads + h, dim);
    T *V = NAME(of_head)(row->values, row, layer * kv_heads + h, dim);
    const T *next = NAME(of_head)(then->keys, then, layer * kv_heads + after % kv_heads, dim);
    for (int64_t p = 0; p < parts; p++) {
      int64_t of_part = ((const int32_t *)part_row[p])[t];
      rows[p] = of_part < 0 ? -1 : (h * part_rows[p] + of_part) * group;
    }
    if (k) NAME(put)(K, V, k + i * dim, v + i * dim, dim, own[t] - 1);
    NAME(head)(dim, group, q + i * group * dim, K, V, first ? first[t] : 0, own[t], scale, cap,
               sinks ? sinks + h * group : 0, parts, part_out, part_top, part_sum, rows, out + i * group * dim, next);
  }
}

/* One row [width] divided by its root mean square and multiplied by a weight; rounded where torch's steps round */
INLINE void NAME(norm_row)(const T *x, const T *weight, int64_t width, float epsilon, T *out) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) squares += UP(x[i]) * UP(x[i]);
  const float factor = 1.0f / sqrtf(squares / width + epsilon);
  int64_t first = 0;
#ifdef SHARED
  for (; first + LANES <= width; first += LANES) {
    const __m512 part = NAME(round_16)(_mm512_mul_ps(NAME(up_16)(x + first), _mm512_set1_ps(factor)));
    NAME(put_16)(out + first, _mm512_mul_ps(NAME(up_16)(weight + first), part));
  }
#endif
#pragma omp simd
  for (int64_t i = first; i < width; i++) out[i] = DOWN(UP(weight[i]) * UP(DOWN(UP(x[i]) * factor)));
}

void NAME(norm)(const T *rows, const T *weight, int64_t count, int64_t width, float epsilon, T *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < count; r++) NAME(norm_row)(rows + r * width, weight, width, epsilon, out + r * width);
}

/* best[r] = the first place of the largest of row r, of rows [count, width]; -1 where one of them is NaN */
void NAME(argmax)(const T *rows, int64_t count, int64_t width, int64_t *best, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < count; r++) {
    const T *x = rows + r * width;
    float top = -INFINITY;
    int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int64_t i = 0; i < width; i++) {
      float value = UP(x[i]);
      top = value > top ? value : top;
      bad |= value != value;
    }
    int64_t at = 0;
    while (at < width - 1 && UP(x[at]) != top) at++;
    best[r] = bad ? -1 : at;
  }
}

#ifdef SHARED
/* c[r][v] (+)= the sum over `steps` of a[r][step] * b[v][step], for STRIP rows and N vectors of LANES; a step is one
   number, or a pair in bfloat16. What is read next is asked for meanwhile. */
INLINE void NAME(strip)(const int N, const T *a, int64_t a_row, const T *b, int64_t b_vec, int64_t b_step,
                        int64_t steps, float *c, int64_t c_row, const int add, soon *next) {
  const char *at = next->at, *end = next->streams ? next->stream->end : at;
  int64_t owed = next->owed;
  vec o[STRIP][MOST_VECS];
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) o[r][v] = add ? load_f32(c + r * c_row + v * LANES) : (vec){0};
  for (int64_t p = 0; p < steps; p++) {
    for (owed += next->due; owed >= 16 && at < end; owed -= 16, at += LINE) __builtin_prefetch(at, 0, 2);
    NAME(many) x[MOST_VECS];
    for (int v = 0; v < N; v++) x[v] = NAME(load)(b + v * b_vec + p * b_step);
    for (int r = 0; r < STRIP; r++)
      for (int v = 0; v < N; v++) o[r][v] = NAME(add)(o[r][v], NAME(take)(a + r * a_row + PER * p), x[v]);
  }
  for (int r = 0; r < STRIP; r++)
    for (int v = 0; v < N; v++) memcpy(c + r * c_row + v * LANES, &o[r][v], sizeof(vec));
  next->at = at, next->owed = owed % 16;
  if (at >= end && next->streams && --next->streams) next->at = (++next->stream)->at;
}

/* Up to TILE rows of one key-value head over the keys of a home: row r sees those from first[r] to sees[r], which may be
   none. cap: 0, or what scores stay below. */
INLINE void NAME(tile)(const int D, const T *q, const T *K, const T *V, const int64_t *first, const int64_t *sees,
                       int rows, float scale, float cap, float *acc, float *top, float *sum, soon *next) {
  float s[TILE][KEYS];
  T weights[TILE][KEYS];
  const int strips = (rows + STRIP - 1) / STRIP;
  const float raw = scale;
  int64_t keys = 0, begin = first[0];
  for (int r = 0; r < rows; r++) keys = sees[r] > keys ? sees[r] : keys, begin = first[r] < begin ? first[r] : begin;
  begin = begin / LANES * LANES;
  if (cap) scale = 1; /* it is in the scores then */
  for (int r = 0; r < rows; r++) top[r] = -INFINITY, sum[r] = 0;
  for (int i = 0; i < strips * STRIP * D; i++) acc[i] = 0;
  for (int64_t start = begin; start < keys; start += KEYS) {
    const int count = keys - start < KEYS ? (int)(keys - start) : KEYS, full = (count + LANES - 1) / LANES * LANES;
    for (int j = 0; j < full; j += MOST_VECS * LANES)
      for (int r = 0; r < strips * STRIP; r += STRIP) {
        const int vecs = full - j < MOST_VECS * LANES ? (full - j) / LANES : MOST_VECS;
#define SCORES(N) \
  NAME(strip)(N, q + r * D, D, K + (start + j) * D, LANES * D, PER * LANES, D / PER, &s[r][j], KEYS, 0, next)
        if (vecs == 4) SCORES(4);
        else if (vecs == 3) SCORES(3);
        else if (vecs == 2) SCORES(2);
        else SCORES(1);
#undef SCORES
      }
    for (int r = 0; r < rows; r++) {
      if (cap || start < first[r]) change_scores(s[r], full, first[r] - start, raw, cap);
      for (int64_t j = sees[r] > start ? sees[r] - start : 0; j < full; j++) s[r][j] = -INFINITY;
      __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
      for (int j = 0; j < full; j += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(&s[r][j]));
      float m = _mm512_reduce_max_ps(most) * scale;
      m = m > top[r] ? m : top[r];
      if (m == -INFINITY) { /* it has seen no key so far */
        memset(weights[r], 0, full * sizeof(T));
        continue;
      }
      float keep = top[r] == -INFINITY ? 0.0f : exp_fast(top[r] - m);
      for (int j = 0; j < full; j += LANES) {
        __m512 e = NAME(weight_16)(_mm512_fmsub_ps(_mm512_loadu_ps(&s[r][j]), _mm512_set1_ps(scale), _mm512_set1_ps(m)));
        total = _mm512_add_ps(total, e);
        NAME(put_16)(&weights[r][j], e);
      }
      sum[r] = sum[r] * keep + _mm512_reduce_add_ps(total);
      top[r] = m;
      if (start > begin && keep != 1.0f)
        for (int d = 0; d < D; d++) acc[r * D + d] *= keep;
    }
    for (int r = rows; r < strips * STRIP; r++) memset(weights[r], 0, full * sizeof(T));
    for (int d = 0; d < D; d += MOST_VECS * LANES)
      for (int r = 0; r < strips * STRIP; r += STRIP) {
        const int vecs = D - d < MOST_VECS * LANES ? (D - d) / LANES : MOST_VECS;
#define MIX(N) \
  NAME(strip)(N, weights[r], KEYS, V + start * D + d * PER, PER * LANES, PER * D, full / PER, acc + r * D + d, D, 1, next)
        if (vecs == 4) MIX(4);
        else if (vecs == 3) MIX(3);
        else if (vecs == 2) MIX(2);
        else MIX(1);
#undef MIX
      }
  }
}

/* Task i of `shared`: some of the rows of one key-value head, those that see most first */
static void NAME(shared_tile)(int64_t i, const T *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                              int64_t tokens, const home *row, int64_t layer, int64_t kv_heads, int64_t group,
                              int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale,
                              float cap, T *out, float *top, float *sum, soon *next) {
  const int64_t rows = tokens * group, tiles = (rows + TILE - 1) / TILE;
  const int64_t h = i / tiles, first = (tiles - 1 - i % tiles) * TILE;
  const T *K = NAME(of_head)(row->keys, row, layer * kv_heads + h, dim);
  const T *V = NAME(of_head)(row->values, row, layer * kv_heads + h, dim);
  const int some = rows - first < TILE ? (int)(rows - first) : TILE;
  T query[TILE * MAX_DIM];
  float acc[TILE * MAX_DIM], m[TILE], l[TILE];
  int64_t sees[TILE], begins[TILE] = {0};
  memset(query, 0, TILE * dim * sizeof(T));
  for (int r = 0; r < some; r++) {
    int64_t t = (first + r) / group, head = h * group + (first + r) % group;
    memcpy(query + r * dim, q + head * q_head + (chosen ? chosen[t] : t) * q_token, dim * sizeof(T));
    sees[r] = keys + (causal ? t : 0);
    begins[r] = from ? from[t] : 0;
  }
  if (dim == 64) NAME(tile)(64, query, K, V, begins, sees, some, scale, cap, acc, m, l, next);
  else if (dim == 128) NAME(tile)(128, query, K, V, begins, sees, some, scale, cap, acc, m, l, next);
  else NAME(tile)(dim, query, K, V, begins, sees, some, scale, cap, acc, m, l, next);
  for (int r = 0; r < some; r++) {
    const int64_t at = h * rows + first + r;
    for (int64_t d = 0; d < dim; d += LANES)
      NAME(put_16)(out + at * dim + d, _mm512_loadu_ps(acc + r * dim + d));
    top[at] = m[r], sum[at] = l[r];
  }
}

/* Attention of `tokens` (those at `chosen`, or all in order) over the keys of one row: out [kv_heads, tokens, group,
   dim], not divided by the sums, and top and sum [kv_heads, tokens, group]. q: [heads, token, dim] with these strides.
   Causal: the first token sees `keys`, each later one sees one more. Token t sees them from from[t] on (from 0 where
   there is no `from`), which may be none. */
void NAME(shared)(const T *q, int64_t q_head, int64_t q_token, const int64_t *chosen, int64_t tokens,
                  const home *row, int64_t layer, int64_t kv_heads, int64_t group, int64_t dim, int64_t keys,
                  int64_t causal, const int32_t *from, float scale, float cap, T *out, float *top, float *sum,
                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < kv_heads * ((tokens * group + TILE - 1) / TILE); i++)
    NAME(shared_tile)(i, q, q_head, q_token, chosen, tokens, row, layer, kv_heads, group, dim, keys, causal, from, scale,
                      cap, out, top, sum, &(soon){0});
}
#endif
