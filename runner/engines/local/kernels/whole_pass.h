/* A whole forward pass of a plain Llama in float32: for a small model, calling each operation takes as long as what it
   computes. Matrices lie in panels: of LANES outputs, input by input. */

#define ROWS (WIDE == 16 ? 12 : 6) /* of a matrix product at a time: their sums stay in the registers */
#define VECS (LANES / WIDE)

typedef struct {
  int64_t layers, hidden, inner, kv_heads, group, dim, outputs; /* outputs: of the head, a multiple of LANES */
  float epsilon, scale;
  const float *embedding, *norm, *head, *cos, *sin; /* the turning by position [positions, dim] */
} whole_model;

typedef struct {
  const float *norm_in, *qkv, *bias, *out, *norm_mid, *gate, *up, *down; /* bias: of qkv, or 0 */
} whole_layer;

/* y [R, LANES] (+)= the products of R rows of x with a panel */
INLINE void strip_of(const int R, const float *x, int64_t stride, int64_t inputs, const float *panel, float *y,
                     int64_t y_stride, const int add) {
  vec sum[ROWS][VECS];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < VECS; v++) sum[r][v] = add ? load_f32(y + r * y_stride + v * WIDE) : (vec){0};
  for (int64_t k = 0; k < inputs; k++) {
    vec w[VECS];
    for (int v = 0; v < VECS; v++) w[v] = load_f32(panel + k * LANES + v * WIDE);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
      for (int v = 0; v < VECS; v++) sum[r][v] += x[r * stride + k] * w[v];
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < VECS; v++) memcpy(y + r * y_stride + v * WIDE, &sum[r][v], sizeof(vec));
}

static void strip(int rows, const float *x, int64_t stride, int64_t inputs, const float *panel, float *y,
                  int64_t y_stride, int add) {
#define CASE(N)                                                              \
  case N:                                                                    \
    if (add) strip_of(N, x, stride, inputs, panel, y, y_stride, 1);          \
    else strip_of(N, x, stride, inputs, panel, y, y_stride, 0);              \
    break;
  switch (rows) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if WIDE == 16
    CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
  }
#undef CASE
}

/* y [rows, outputs] = x [rows, inputs] times a matrix, with a bias or added to what is there */
static void product(const float *x, int64_t rows, int64_t inputs, const float *matrix, int64_t outputs, float *y,
                    const float *bias, int add, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < outputs; p += LANES)
    for (int64_t r = 0; r < rows; r += ROWS) {
      const int some = rows - r < ROWS ? (int)(rows - r) : ROWS;
      strip(some, x + r * inputs, inputs, inputs, matrix + p * inputs, y + r * outputs + p, outputs, add);
      if (bias)
        for (int64_t i = r; i < r + some; i++)
          for (int64_t o = p; o < p + LANES; o++) y[i * outputs + o] += bias[o];
    }
}

/* y [rows, inner] = silu(x gate) * (x up), panel by panel */
static void gated(const float *x, int64_t rows, int64_t inputs, const float *gate, const float *up, int64_t inner,
                  float *y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < inner; p += LANES)
    for (int64_t r = 0; r < rows; r += ROWS) {
      const int some = rows - r < ROWS ? (int)(rows - r) : ROWS;
      float g[ROWS * LANES], u[ROWS * LANES];
      strip(some, x + r * inputs, inputs, inputs, gate + p * inputs, g, LANES, 0);
      strip(some, x + r * inputs, inputs, inputs, up + p * inputs, u, LANES, 0);
      for (int i = 0; i < some; i++)
#pragma omp simd
        for (int o = 0; o < LANES; o++) {
          float a = g[i * LANES + o], e = exp_fast(-fabsf(a));
          y[(r + i) * inner + p + o] = a * (a < 0 ? e : 1.0f) / (1.0f + e) * u[i * LANES + o];
        }
    }
}

/* Turns the heads [count, dim] of one token to its place */
INLINE void turn(float *heads, int64_t count, int64_t dim, const float *cos, const float *sin) {
  const int64_t half = dim / 2;
  for (int64_t h = 0; h < count; h++, heads += dim)
#pragma omp simd
    for (int64_t d = 0; d < half; d++) {
      float a = heads[d], b = heads[d + half];
      heads[d] = a * cos[d] - b * sin[d];
      heads[d + half] = b * cos[d + half] + a * sin[d + half];
    }
}

/* logits [kept, outputs] of a flat list of tokens: each with its id, its position in its text, the row (homes[slot])
   and place where its keys and values go, and how many places of the row it sees. room: of at least
   tokens * (2 * hidden + heads of q, k and v + the larger of inner and the heads of q) numbers. */
void whole_pass(const whole_model *m, const whole_layer *layers, const home *homes, int64_t tokens,
                const int32_t *ids, const int32_t *positions, const int32_t *slot, const int32_t *place,
                const int32_t *seen, int64_t kept, const int32_t *keep, float *room, float *logits, int threads) {
  const int64_t hidden = m->hidden, dim = m->dim, wide = m->kv_heads * m->group * dim, narrow = m->kv_heads * dim;
  const int64_t heads = wide + 2 * narrow;
  float *x = room, *normed = x + tokens * hidden, *qkv = normed + tokens * hidden, *inner = qkv + tokens * heads;
  for (int64_t t = 0; t < tokens; t++) memcpy(x + t * hidden, m->embedding + ids[t] * hidden, hidden * sizeof(float));
  for (int64_t l = 0; l < m->layers; l++) {
    const whole_layer *layer = layers + l;
    norm_f32(x, layer->norm_in, tokens, hidden, m->epsilon, normed, threads);
    product(normed, tokens, hidden, layer->qkv, heads, qkv, layer->bias, 0, threads);
    for (int64_t t = 0; t < tokens; t++) { /* a token sees what others of its row put there, so all of it comes first */
      float *q = qkv + t * heads, *k = q + wide, *v = k + narrow;
      turn(q, m->kv_heads * m->group + m->kv_heads, dim, m->cos + positions[t] * dim, m->sin + positions[t] * dim);
      for (int64_t h = 0; h < m->kv_heads; h++) {
        const home *row = homes + slot[t];
        const int64_t head = l * m->kv_heads + h;
        put_f32(of_head_f32(row->keys, row, head, dim), of_head_f32(row->values, row, head, dim), k + h * dim,
                v + h * dim, dim, place[t]);
      }
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t i = 0; i < tokens * m->kv_heads; i++) {
      const int64_t t = i / m->kv_heads, h = i % m->kv_heads, after = i + 1 < tokens * m->kv_heads ? i + 1 : i;
      const home *row = homes + slot[t], *then = homes + slot[after / m->kv_heads];
      const int64_t first = l * m->kv_heads; /* head of this layer */
      head_f32(dim, m->group, qkv + t * heads + h * m->group * dim, of_head_f32(row->keys, row, first + h, dim),
               of_head_f32(row->values, row, first + h, dim), 0, seen[t], m->scale, 0, 0, 0, 0, 0, 0, 0,
               inner + t * wide + h * m->group * dim,
               of_head_f32(then->keys, then, first + after % m->kv_heads, dim));
    }
    product(inner, tokens, wide, layer->out, hidden, x, 0, 1, threads);
    norm_f32(x, layer->norm_mid, tokens, hidden, m->epsilon, normed, threads);
    gated(normed, tokens, hidden, layer->gate, layer->up, m->inner, inner, threads);
    product(inner, tokens, m->inner, layer->down, hidden, x, 0, 1, threads);
  }
  for (int64_t i = 0; i < kept; i++) norm_f32(x + keep[i] * hidden, m->norm, 1, hidden, m->epsilon, normed + i * hidden, 1);
  product(normed, kept, hidden, m->head, m->outputs, logits, 0, 0, threads);
}
