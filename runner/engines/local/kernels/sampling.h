/* The next token of each row in one go and without sorting the vocabulary: its logits with the penalty of what the row
   has, divided by the temperature, cut to the likeliest, and drawn from. What stays is what transformers' warpers leave,
   in float32 as theirs; chances are summed in float64, in the order of the tokens. */

#define SOME 64        /* logits at a time: they stay in the first-level cache */
#define BUCKETS 1024   /* of how far logits lie below the largest */
#define PER_UNIT 32.0f /* of a logit; what lies further below than all buckets reach is in the last one */
#define SIDES 4        /* sums side by side: one need not wait for the other where logits are alike */

typedef struct { float x, weight; } weighed;

/* exp for x <= 0 within two units in its last place; 0 where it would be below 1e-307 */
INLINE double exp_double(double x) {
  const double shift = 0x1.8p52; /* adding it leaves the nearest whole number in the low bits */
  double y = x < -708.0 ? -708.0 : x;
  union { double f; uint64_t i; } n = {y * 1.4426950408889634 + shift};
  double whole = n.f - shift;
  double r = fma(whole, -6.93147180369123816490e-01, y);
  r = fma(whole, -1.90821492927058770002e-10, r);
  double p = 1.0 / 6227020800.0;
  p = fma(p, r, 1.0 / 479001600.0);
  p = fma(p, r, 1.0 / 39916800.0);
  p = fma(p, r, 1.0 / 3628800.0);
  p = fma(p, r, 1.0 / 362880.0);
  p = fma(p, r, 1.0 / 40320.0);
  p = fma(p, r, 1.0 / 5040.0);
  p = fma(p, r, 1.0 / 720.0);
  p = fma(p, r, 1.0 / 120.0);
  p = fma(p, r, 1.0 / 24.0);
  p = fma(p, r, 1.0 / 6.0);
  p = fma(p, r, 0.5);
  p = fma(p, r, 1.0);
  p = fma(p, r, 1.0);
  union { uint64_t i; double f; } scale = {(n.i + 1023) << 52};
  return x < -708.0 ? 0.0 : p * scale.f;
}

/* The chance of a number beside that of the largest; none where it is below `least` */
INLINE double chance(float x, float top, float least) {
  double below = x == top ? 0.0 : (double)x - (double)top; /* also where the largest is infinite */
  double e = exp_double(below);
  return x >= least ? e : 0.0;
}

/* x = the logits [n], penalized where seen[token] is 1 and divided by the temperature; most: the largest of each SOME.
   Returns 0 where one of the logits is NaN. */
static int prepare(const void *logits, int is_bf16, int64_t n, float penalty, const uint8_t *seen, float temperature,
                   float *x, float *most) {
  int bad = 0;
  for (int64_t first = 0; first < n; first += SOME) {
    const int count = n - first < SOME ? (int)(n - first) : SOME;
    float *at = x + first, top = -INFINITY;
    if (is_bf16) {
      const bf16 *from = (const bf16 *)logits + first;
#pragma omp simd
      for (int i = 0; i < count; i++) at[i] = up_bf16(from[i]);
    } else memcpy(at, (const float *)logits + first, count * sizeof(float));
    if (seen)
      for (int i = 0; i < count; i += 8) {
        const int eight = count - i < 8 ? count - i : 8;
        uint64_t any = 0;
        memcpy(&any, seen + first + i, eight);
        if (any)
          for (int j = i; j < i + eight; j++)
            if (seen[first + j]) at[j] = at[j] > 0 ? at[j] / penalty : at[j] * penalty;
      }
#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int i = 0; i < count; i++) {
      float value = at[i] / temperature;
      bad |= at[i] != at[i];
      top = value > top ? value : top;
      at[i] = value;
    }
    most[first / SOME] = top;
  }
  return !bad;
}

/* The k-th largest of n numbers, which are put into another order */
static float kth_largest(float *x, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    const float a = x[low], b = x[low + (high - low) / 2], c = x[high];
    const float pivot = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
    int64_t i = low, j = high;
    while (i <= j) {
      while (x[i] > pivot) i++;
      while (x[j] < pivot) j--;
      if (i <= j) {
        float other = x[i];
        x[i++] = x[j];
        x[j--] = other;
      }
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else break;
  }
  return x[k - 1];
}

/* Top-k: moves what is at least as large as the k-th largest of x [n] to its front, in order, and the places to which.
   Returns how many these are: more than k where some are equal. */
static int64_t likeliest(float *x, int64_t n, const float *most, int64_t k, int32_t *which, float *spare) {
  const int64_t blocks = (n + SOME - 1) / SOME;
  float least = -INFINITY;
  if (k <= blocks) { /* the largest of k blocks reach it, so k numbers do */
    memcpy(spare, most, blocks * sizeof(float));
    least = kth_largest(spare, blocks, k);
  }
  int64_t found = 0, kept = 0;
  for (int64_t b = 0; b < blocks; b++)
    if (most[b] >= least)
      for (int64_t i = b * SOME; i < n && i < (b + 1) * SOME; i++)
        if (x[i] >= least) {
          x[found] = x[i];
          which[found++] = (int32_t)i;
        }
  memcpy(spare, x, found * sizeof(float));
  least = kth_largest(spare, found, k);
  for (int64_t i = 0; i < found; i++)
    if (x[i] >= least) {
      x[kept] = x[i];
      which[kept++] = which[i];
    }
  return kept;
}

INLINE int bucket_of(float x, float top) {
  float below = (top - x) * PER_UNIT;
  return (int)(below < BUCKETS - 1 ? below : BUCKETS - 1);
}

/* Whether a token goes that has so much behind it, itself and all that are less likely: as transformers compares it */
INLINE int is_out(double behind, double total, float limit) { return (float)(behind / total) <= limit; }

/* Top-p: the least of x [n] that stays, where the least likely with a chance of `limit` altogether go. Of equal ones the
   first go, as in a sort that is stable: they become -INFINITY. At least one stays. */
static float nucleus(float *x, int64_t n, float top, float limit, weighed *some) {
  double mass[SIDES][BUCKETS] = {0}, total = 0, behind = 0;
  for (int64_t first = 0; first < n; first += SOME) {
    const int count = n - first < SOME ? (int)(n - first) : SOME;
    int32_t bucket[SOME];
    float weight[SOME], sum = 0;
    int near = 0;
#pragma omp simd reduction(+ : sum) reduction(| : near)
    for (int i = 0; i < count; i++) {
      bucket[i] = bucket_of(x[first + i], top);
      weight[i] = exp_fast(x[first + i] - top);
      near |= bucket[i] < BUCKETS - 1;
      sum += weight[i];
    }
    if (near)
      for (int i = 0; i < count; i++) mass[i % SIDES][bucket[i]] += weight[i];
    else mass[0][BUCKETS - 1] += sum;
  }
  for (int b = 0; b < BUCKETS; b++)
    for (int side = 1; side < SIDES; side++) mass[0][b] += mass[side][b];
  int at = BUCKETS - 1;
  for (int b = at; b >= 0; b--) total += mass[0][b];
  while (at > 0 && is_out(behind + mass[0][at], total, limit)) behind += mass[0][at--];
  int64_t found = 0; /* numbers of the bucket that holds the last to go and the first to stay */
  for (int64_t first = 0; first < n; first += SOME) {
    const int count = n - first < SOME ? (int)(n - first) : SOME;
    uint8_t here[SOME] = {0};
#pragma omp simd
    for (int i = 0; i < count; i++) here[i] = bucket_of(x[first + i], top) == at;
    for (int i = 0; i < SOME; i += 8) {
      uint64_t any;
      memcpy(&any, here + i, sizeof any);
      if (any)
        for (int64_t j = first + i; j < first + i + 8; j++)
          if (here[j - first]) some[found++] = (weighed){x[j], exp_fast(x[j] - top)};
    }
  }
  for (;;) { /* as one looks for the k-th largest, but by weight */
    const float pivot = some[found / 2].x;
    int64_t smaller = 0, larger = found, i = 0; /* some: those that are smaller, the equal ones, those that are larger */
    double lower = 0, equal = 0;
    while (i < larger) {
      const weighed one = some[i];
      if (one.x < pivot) {
        lower += one.weight;
        some[i++] = some[smaller];
        some[smaller++] = one;
      } else if (one.x > pivot) {
        some[i] = some[--larger];
        some[larger] = one;
      } else {
        equal += one.weight;
        i++;
      }
    }
    if (smaller > 0 && !is_out(behind + lower, total, limit)) {
      found = smaller;
      continue;
    }
    behind += lower;
    if (larger < found && is_out(behind + equal, total, limit)) {
      behind += equal;
      some += larger;
      found -= larger;
      continue;
    }
    const double weight = some[smaller].weight;
    int64_t out = 0;
    while (out + 1 < larger - smaller && is_out(behind + weight, total, limit)) {
      behind += weight;
      out++;
    }
    for (int64_t i = 0; out > 0; i++)
      if (x[i] == pivot) {
        x[i] = -INFINITY;
        out--;
      }
    return pivot;
  }
}

/* Which of x [n] is drawn: the inverse of the cumulative distribution at a number from 0 to 1. sums: room for one of
   each SOME. */
static int64_t draw(const float *x, int64_t n, float top, float least, double uniform, double *sums) {
  const int64_t blocks = (n + SOME - 1) / SOME;
  double total = 0, before = 0;
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t end = (b + 1) * SOME < n ? (b + 1) * SOME : n;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = b * SOME; i < end; i++) sum += chance(x[i], top, least);
    sums[b] = sum;
    total += sum;
  }
  const double point = uniform * total;
  int64_t block = 0, chosen = 0;
  for (int64_t b = 0; b < blocks; b++) {
    if (sums[b] == 0) continue;
    block = b; /* the last one, should rounding leave nothing behind the point */
    if (before + sums[b] > point) break;
    before += sums[b];
  }
  for (int64_t i = block * SOME; i < n && i < (block + 1) * SOME; i++) {
    const double one = chance(x[i], top, least);
    if (one == 0) continue;
    chosen = i;
    before += one;
    if (before > point) break;
  }
  return chosen;
}

/* tokens [count]: the next of each row of logits [count, width], which lie `stride` numbers apart; -1 where these are not
   numbers. A temperature of 0 takes the largest; top_k 0, top_p 1 are off. seen: of each row the address of a byte for
   each token, 1 where the row has it and the penalty holds, and 0 where there is no penalty; what is picked is noted
   there. room: for each thread `share` numbers, an even number from 4.1 * width + 256 on. */
void sample(const void *logits, int64_t stride, int64_t is_bf16, int64_t count, int64_t width, const double *temperature,
            const int64_t *top_k, const double *top_p, const double *penalty, const int64_t *seen, const double *uniform,
            float *room, int64_t share, int64_t *tokens, int threads) {
  const int64_t blocks = (width + SOME - 1) / SOME;
  int64_t here = 0;
#pragma omp parallel num_threads(threads)
  {
    int64_t mine;
#pragma omp atomic capture
    mine = here++;
    double *sums = (double *)(room + mine * share);
    float *most = (float *)(sums + blocks), *x = most + blocks, *spare = x + width;
    int32_t *which = (int32_t *)(spare + 2 * width);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < count; r++) {
      const void *row = (const char *)logits + r * stride * (is_bf16 ? sizeof(bf16) : sizeof(float));
      uint8_t *marks = (uint8_t *)seen[r];
      const float divisor = (float)temperature[r];
      tokens[r] = -1;
      if (!prepare(row, (int)is_bf16, width, (float)penalty[r], marks, divisor > 0 ? divisor : 1.0f, x, most)) continue;
      float top = -INFINITY, least = -INFINITY;
      for (int64_t b = 0; b < blocks; b++) top = most[b] > top ? most[b] : top;
      if (divisor > 0) {
        const int is_cut = top_k[r] > 0 && top_k[r] < width;
        const int64_t n = is_cut ? likeliest(x, width, most, top_k[r], which, spare) : width;
        if (top_p[r] < 1 && isfinite(top)) least = nucleus(x, n, top, (float)(1 - top_p[r]), (weighed *)spare);
        const int64_t at = draw(x, n, top, least, uniform[r], sums);
        tokens[r] = is_cut ? which[at] : at;
      } else {
        int64_t b = 0, i;
        while (most[b] != top) b++;
        for (i = b * SOME; x[i] != top; i++) {}
        tokens[r] = i;
      }
      if (marks) marks[tokens[r]] = 1;
    }
  }
}
