/* A program that compares the kernels with sums in double precision: for processors that only an emulator has here. It
   prints what they use and, for each kind of check, the largest error as a share of the largest number. */
#include <stdio.h>
#include <stdlib.h>
#include "kernels.c"

static const kv_layer of_model = {KV_AS_MODEL, KV_AS_MODEL, 0, 0, 0, 1, 1, 0};

static uint64_t state = 88172645463325252u;
static float random_number(void) { /* from -1 to 1 */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (float)(state >> 40) / (float)(1 << 23) - 1.0f;
}

static int wrong = 0;
static void report(const char *what, double off, double allowed) {
  printf("%s: %.1e\n", what, off);
  if (!(off <= allowed)) wrong = 1, printf("%s is off by %.1e, more than %.1e\n", what, off, allowed);
}

#define FOR_FORMAT(T, PACK, NAME, ALLOWED)                                                                             \
  static void NAME(fill)(T *at, int64_t count) {                                                                       \
    for (int64_t i = 0; i < count; i++) at[i] = NAME(from_float)(random_number());                                     \
  }                                                                                                                    \
  static void NAME(check_products)(void) {                                                                             \
    const int64_t shapes[][2] = {{8, 64}, {33, 64}, {64, 62}, {96, 130}, {250, 96}};                                   \
    double off = 0;                                                                                                    \
    int are_alike = 1;                                                                                                 \
    for (int s = 0; s < 5; s++) {                                                                                      \
      const int64_t outputs = shapes[s][0], inputs = shapes[s][1], panels = ceil_div(outputs, PANEL), rows = 50;       \
      T *w = malloc(outputs * inputs * sizeof(T)), *x = malloc(rows * inputs * sizeof(T));                             \
      T *packed = calloc(panels * PANEL * inputs, sizeof(T)), *y = malloc(rows * outputs * sizeof(T));                 \
      T *alone = malloc(outputs * sizeof(T));                                                                          \
      NAME(fill)(w, outputs * inputs), NAME(fill)(x, rows * inputs);                                                   \
      for (int64_t o = 0; o < outputs; o++)                                                                            \
        for (int64_t i = 0; i < inputs; i++)                                                                           \
          packed[((o / PANEL * (inputs / PACK) + i / PACK) * PANEL + o % PANEL) * PACK + i % PACK] = w[o * inputs + i]; \
      const matrix m = {.weight = packed, .outputs = outputs};                                                         \
      for (int64_t count = 1; count <= rows; count += count < 14 ? 1 : 36) {                                           \
        if (NAME(product)(x, count, inputs, &m, 0, 0, y, 1 + count % 2)) exit(2);                                      \
        for (int64_t r = 0; r < count; r++) {                                                                          \
          if (NAME(product)(x + r * inputs, 1, inputs, &m, 0, 0, alone, 1)) exit(2);                                   \
          are_alike &= !memcmp(alone, y + r * outputs, outputs * sizeof(T));                                           \
          for (int64_t o = 0; o < outputs; o++) {                                                                      \
            double sum = 0;                                                                                            \
            for (int64_t i = 0; i < inputs; i++)                                                                       \
              sum += (double)NAME(to_float)(x[r * inputs + i]) * NAME(to_float)(w[o * inputs + i]);                    \
            const double error = fabs(sum - NAME(to_float)(y[r * outputs + o])) / (sqrt((double)inputs) / 3);          \
            if (error > off) off = error;                                                                              \
          }                                                                                                            \
        }                                                                                                              \
      }                                                                                                                \
      free(w), free(x), free(packed), free(y), free(alone);                                                            \
    }                                                                                                                  \
    report("products of " #T, off, ALLOWED);                                                                           \
    report("a row alone and with others, " #T, are_alike ? 0 : 1, 0);                                                  \
  }                                                                                                                    \
  static void NAME(check_attention)(void) {                                                                            \
    double off = 0;                                                                                                    \
    for (int64_t dim = 16; dim <= 128; dim *= 2)                                                                       \
      for (int64_t group = 1; group <= 4; group += 3) {                                                                \
        const int64_t places = 37, heads = 2, capacity = 48;                                                           \
        T *k = malloc(places * heads * dim * sizeof(T)), *v = malloc(places * heads * dim * sizeof(T));                \
        T *q = malloc(heads * group * dim * sizeof(T)), *out = malloc(heads * group * dim * sizeof(T));                \
        kv_arena arena = {(int64_t)calloc(heads * capacity * dim, sizeof(T)),                                          \
                          (int64_t)calloc(heads * capacity * dim, sizeof(T)), capacity, 0};                            \
        int32_t slot[64] = {0}, place[64];                                                                             \
        for (int p = 0; p < 64; p++) place[p] = p;                                                                     \
        NAME(fill)(k, places * heads * dim), NAME(fill)(v, places * heads * dim), NAME(fill)(q, heads * group * dim);  \
        if (NAME(store)(k, v, &arena, 1, &of_model, heads, dim, places, slot, place, 2)) exit(2);                              \
        const int32_t seen[1] = {(int32_t)places};                                                                     \
        const float scale = 1 / sqrtf((float)dim);                                                                     \
        if (NAME(attend)(q, &arena, 1, 0, 0, &of_model, heads, group, dim, 1, slot, 0, seen, scale, 0, 0, 0, 0, 0, 0, 0, 0,    \
                         out, 0, 2))                                                                                   \
          exit(2);                                                                                                     \
        for (int64_t h = 0; h < heads * group; h++) {                                                                  \
          double weights[64], sum = 0;                                                                                 \
          for (int64_t p = 0; p < places; p++) {                                                                       \
            double score = 0;                                                                                          \
            for (int64_t d = 0; d < dim; d++)                                                                          \
              score += (double)NAME(to_float)(q[h * dim + d]) * NAME(to_float)(k[(p * heads + h / group) * dim + d]);  \
            weights[p] = exp(score * scale), sum += weights[p];                                                        \
          }                                                                                                            \
          for (int64_t d = 0; d < dim; d++) {                                                                          \
            double mean = 0;                                                                                           \
            for (int64_t p = 0; p < places; p++)                                                                       \
              mean += weights[p] / sum * NAME(to_float)(v[(p * heads + h / group) * dim + d]);                         \
            const double error = fabs(mean - NAME(to_float)(out[h * dim + d]));                                        \
            if (error > off) off = error;                                                                              \
          }                                                                                                            \
        }                                                                                                              \
        free(k), free(v), free(q), free(out), free((void *)arena.keys), free((void *)arena.values);                    \
      }                                                                                                                \
    report("attention to own keys, " #T, off, ALLOWED);                                                                \
  }                                                                                                                    \
  static void NAME(check_shared)(void) {                                                                               \
    double off = 0;                                                                                                    \
    for (int64_t dim = 16; dim <= 144; dim += 32)                                                                      \
      for (int64_t group = 1; group <= 4; group += 3) {                                                                \
        const int64_t places = 301, tokens = 9, heads = 2, capacity = 304, first = places - tokens + 1;                \
        const int64_t numbers = places * heads * dim, queries = heads * group * tokens * dim;                          \
        T *k = malloc(numbers * sizeof(T)), *v = malloc(numbers * sizeof(T)), *q = malloc(queries * sizeof(T));        \
        T *out = malloc(queries * sizeof(T));                                                                          \
        float top[2 * 4 * 9], sums[2 * 4 * 9];                                                                         \
        kv_arena arena = {(int64_t)calloc(heads * capacity * dim, sizeof(T)),                                          \
                          (int64_t)calloc(heads * capacity * dim, sizeof(T)), capacity, 0};                            \
        int32_t slot[301] = {0}, place[301], from[9];                                                                  \
        for (int p = 0; p < 301; p++) place[p] = p;                                                                    \
        for (int t = 0; t < 9; t++) from[t] = 20 * t;                                                                  \
        NAME(fill)(k, numbers), NAME(fill)(v, numbers), NAME(fill)(q, queries);                                        \
        if (NAME(store)(k, v, &arena, 1, &of_model, heads, dim, places, slot, place, 2)) exit(2);                              \
        const float scale = 1 / sqrtf((float)dim);                                                                     \
        if (NAME(attend_shared)(q, tokens * dim, dim, tokens, 0, tokens, &arena, &of_model, heads, group, dim, first, 1, from, scale, \
                                0, out, top, sums, 0, 2))                                                              \
          exit(2);                                                                                                     \
        for (int64_t h = 0; h < heads; h++)                                                                            \
          for (int64_t t = 0; t < tokens; t++)                                                                         \
            for (int64_t g = 0; g < group; g++) {                                                                      \
              const T *query = q + ((h * group + g) * tokens + t) * dim;                                               \
              const int64_t row = (h * tokens + t) * group + g;                                                        \
              double weights[301], sum = 0;                                                                            \
              for (int64_t p = from[t]; p < first + t; p++) {                                                          \
                double score = 0;                                                                                      \
                for (int64_t d = 0; d < dim; d++)                                                                      \
                  score += (double)NAME(to_float)(query[d]) * NAME(to_float)(k[(p * heads + h) * dim + d]);            \
                weights[p] = exp(score * scale), sum += weights[p];                                                    \
              }                                                                                                        \
              for (int64_t d = 0; d < dim; d++) {                                                                      \
                double mean = 0;                                                                                       \
                for (int64_t p = from[t]; p < first + t; p++)                                                          \
                  mean += weights[p] / sum * NAME(to_float)(v[(p * heads + h) * dim + d]);                             \
                const double error = fabs(mean - NAME(to_float)(out[row * dim + d]) / sums[row]);                      \
                if (error > off) off = error;                                                                          \
              }                                                                                                        \
            }                                                                                                          \
        free(k), free(v), free(q), free(out), free((void *)arena.keys), free((void *)arena.values);                    \
      }                                                                                                                \
    report("attention to shared keys, " #T, off, ALLOWED);                                                             \
  }                                                                                                                    \
  static void NAME(check_norm)(void) {                                                                                 \
    T x[200], weight[200], out[200];                                                                                   \
    double squares = 0, off = 0;                                                                                       \
    NAME(fill)(x, 200), NAME(fill)(weight, 200);                                                                       \
    NAME(norm)(x, weight, 1, 200, 1e-6f, out, 1);                                                                      \
    for (int i = 0; i < 200; i++) squares += (double)NAME(to_float)(x[i]) * NAME(to_float)(x[i]);                      \
    for (int i = 0; i < 200; i++) {                                                                                    \
      const double exact = NAME(to_float)(x[i]) / sqrt(squares / 200 + 1e-6) * NAME(to_float)(weight[i]);              \
      const double error = fabs(exact - NAME(to_float)(out[i]));                                                       \
      if (error > off) off = error;                                                                                    \
    }                                                                                                                  \
    report("norm of " #T, off, ALLOWED);                                                                               \
  }                                                                                                                    \
  /* Sums from -80 to 80 become outputs in each mode, with whole vectors, single ones and a remainder; nearly all have \
     the rounding that torch's steps have, and the others the number beside it. */                                     \
  static void NAME(check_outputs)(void) {                                                                              \
    enum { ROWS = 40, WIDTH = 83 };                                                                                    \
    static float y[ROWS * 2 * WIDTH];                                                                                  \
    static T out[ROWS * WIDTH], before[ROWS * WIDTH];                                                                  \
    const int64_t widths[] = {32, 48, WIDTH};                                                                          \
    const double step = sizeof(T) == 2 ? 1.0 / 128 : 2e-6;                                                             \
    double off = 0, others = 0, all = 0;                                                                               \
    for (int mode = STORE; mode <= GATED; mode++)                                                                      \
      for (int s = 0; s < 3; s++) {                                                                                    \
        const matrix m = {.outputs = widths[s]};                                                                       \
        const product p = {.rows = ROWS, .output_mode = mode, .out = out, .stride = WIDTH};                            \
        const panel_pair u = {.of = {&m, &m}, .width = widths[s]};                                                     \
        for (int i = 0; i < ROWS * 2 * WIDTH; i++) y[i] = random_number() * 80;                                        \
        for (int i = 0; i < ROWS * WIDTH; i++) before[i] = out[i] = NAME(from_float)(random_number() * 100);           \
        NAME(write_outputs)(&p, &u, y, 2 * WIDTH, y + WIDTH, ROWS, 0);                                                 \
        for (int64_t r = 0; r < ROWS; r++)                                                                             \
          for (int64_t o = 0; o < widths[s]; o++) {                                                                    \
            const float a = NAME(rounded)(y[r * 2 * WIDTH + o]), b = NAME(rounded)(y[r * 2 * WIDTH + WIDTH + o]);      \
            const float gate = NAME(rounded)((float)(a / (1 + exp(-(double)a))));                                      \
            const float added = NAME(to_float)(before[r * WIDTH + o]) + a;                                             \
            const float is = NAME(to_float)(out[r * WIDTH + o]);                                                       \
            const float exact = NAME(rounded)(mode == STORE ? a : mode == ADD ? added : gate * b);                     \
            const double error = fabs(is - exact) / (fabs(exact) + 1e-30);                                             \
            if (error > off) off = error;                                                                              \
            others += sizeof(T) == 2 && is != exact, all++;                                                            \
          }                                                                                                            \
      }                                                                                                                \
    report("outputs of " #T, off, step);                                                                               \
    report("outputs that are rounded otherwise, " #T, others / all, 1e-3);                                             \
  }

#define NAME_BF16(x) x##_bf16
#define NAME_F32(x) x##_f32
FOR_FORMAT(bf16, 2, NAME_BF16, 2e-2)
FOR_FORMAT(float, 1, NAME_F32, 1e-5)

int main(void) {
  printf("%s\n", vector_instructions);
  check_products_bf16(), check_products_f32();
  check_attention_bf16(), check_attention_f32();
  check_shared_bf16(), check_shared_f32();
  check_norm_bf16(), check_norm_f32();
  check_outputs_bf16(), check_outputs_f32();
  return wrong;
}
