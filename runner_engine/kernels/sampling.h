/* Samples the next token of each row without sorting the vocabulary: penalties, temperature, the cut to the likeliest
   tokens, and the draw. The tokens that are left are those that transformers' warpers leave, in float32 as there;
   probabilities are summed in float64, in the order of the tokens. */

#define LOGIT_BLOCK 64 /* logits at a time: they stay in the first-level cache */
#define BUCKETS 1024   /* of how far logits lie below the largest */
#define PER_UNIT 32.0f /* buckets per 1.0 of a logit; the last one also holds all logits that lie further below */
#define SIDES 4        /* sums side by side: one does not wait for the other where logits are equal */

typedef struct { float x, weight; } weighted_logit;

/* The parameters of a row, in the order of the table in config/sampling.py */
enum { TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION_PENALTY, FREQUENCY_PENALTY, PRESENCE_PENALTY };

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

/* The probability of a number relative to that of the largest; 0 where it is below `least` */
INLINE double chance(float x, float top, float least) {
  double below = x == top ? 0.0 : (double)x - (double)top; /* also where the largest is infinite */
  double e = exp_double(below);
  return x >= least ? e : 0.0;
}

/* at [count] = logits from `first` on, as float32 */
INLINE void read_logits(const void *logits, int is_bf16, int64_t first, int count, float *at) {
  if (is_bf16) {
    const bf16 *from = (const bf16 *)logits + first;
#pragma omp simd
    for (int i = 0; i < count; i++) at[i] = to_float_bf16(from[i]);
  } else memcpy(at, (const float *)logits + first, count * sizeof(float));
}

/* Applies the repetition penalty to marked tokens; few are marked, so eight marks are read at once. */
INLINE void penalize_repetition(const uint8_t *seen, float penalty, int count, float *at) {
  for (int i = 0; i < count; i += 8) {
    const int eight = count - i < 8 ? count - i : 8;
    uint64_t any = 0;
    memcpy(&any, seen + i, eight);
    if (any)
      for (int j = i; j < i + eight; j++)
        if (seen[j]) at[j] = at[j] > 0 ? at[j] / penalty : at[j] * penalty;
  }
}

INLINE void penalize_counts(const int32_t *counts, float frequency, float presence, int count, float *at) {
#pragma omp simd
  for (int i = 0; i < count; i++) {
    const int32_t times = counts[i];
    at[i] -= frequency * (float)times + (times > 0 ? presence : 0.0f);
  }
}

/* x = the logits [n] after penalties, divided by the temperature; block_max: the largest of each LOGIT_BLOCK. seen [n]
   is 1 for tokens of prompt and answer, counts [n] is how often each is in the answer; both are null where there is no
   penalty. Returns 0 where one of the logits is NaN. */
static int prepare_logits(const void *logits, int is_bf16, int64_t n, const double *of, const uint8_t *seen,
                          const int32_t *counts, float temperature, float *x, float *block_max) {
  const float penalty = (float)of[REPETITION_PENALTY];
  const float frequency = (float)of[FREQUENCY_PENALTY], presence = (float)of[PRESENCE_PENALTY];
  if (frequency == 0 && presence == 0) counts = 0;
  if (penalty == 1) seen = 0;
  int has_nan = 0;
  for (int64_t first = 0; first < n; first += LOGIT_BLOCK) {
    const int count = n - first < LOGIT_BLOCK ? (int)(n - first) : LOGIT_BLOCK;
    float *at = x + first, top = -INFINITY;
    read_logits(logits, is_bf16, first, count, at);
    if (seen) penalize_repetition(seen + first, penalty, count, at);
    if (counts) penalize_counts(counts + first, frequency, presence, count, at);
#pragma omp simd reduction(max : top) reduction(| : has_nan)
    for (int i = 0; i < count; i++) {
      float value = at[i] / temperature;
      has_nan |= at[i] != at[i];
      top = value > top ? value : top;
      at[i] = value;
    }
    block_max[first / LOGIT_BLOCK] = top;
  }
  return !has_nan;
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

/* Top-k: moves the numbers of x [n] that are at least as large as the k-th largest to its front, in order, and writes
   their places to `which`. Returns how many they are: more than k where some are equal. */
static int64_t top_k(float *x, int64_t n, const float *block_max, int64_t k, int32_t *which, float *spare) {
  const int64_t blocks = (n + LOGIT_BLOCK - 1) / LOGIT_BLOCK;
  float least = -INFINITY;
  if (k <= blocks) { /* the largest of k blocks reach it, so k numbers do */
    memcpy(spare, block_max, blocks * sizeof(float));
    least = kth_largest(spare, blocks, k);
  }
  int64_t candidates = 0, kept = 0;
  for (int64_t b = 0; b < blocks; b++)
    if (block_max[b] >= least)
      for (int64_t i = b * LOGIT_BLOCK; i < n && i < (b + 1) * LOGIT_BLOCK; i++)
        if (x[i] >= least) {
          x[candidates] = x[i];
          which[candidates++] = (int32_t)i;
        }
  memcpy(spare, x, candidates * sizeof(float));
  least = kth_largest(spare, candidates, k);
  for (int64_t i = 0; i < candidates; i++)
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

/* Whether top-p removes a token, by the weight of itself and all that are less likely: compared as in transformers */
INLINE int is_removed(double behind, double total, float limit) { return (float)(behind / total) <= limit; }

/* mass [BUCKETS] = the sums of the weights of x [n], by how far each lies below the largest */
INLINE void bucket_masses(const float *x, int64_t n, float top, double mass[SIDES][BUCKETS]) {
  for (int64_t first = 0; first < n; first += LOGIT_BLOCK) {
    const int count = n - first < LOGIT_BLOCK ? (int)(n - first) : LOGIT_BLOCK;
    int32_t bucket[LOGIT_BLOCK];
    float weight[LOGIT_BLOCK], sum = 0;
    int is_near = 0;
#pragma omp simd reduction(+ : sum) reduction(| : is_near)
    for (int i = 0; i < count; i++) {
      bucket[i] = bucket_of(x[first + i], top);
      weight[i] = exp_fast(x[first + i] - top);
      is_near |= bucket[i] < BUCKETS - 1;
      sum += weight[i];
    }
    if (is_near)
      for (int i = 0; i < count; i++) mass[i % SIDES][bucket[i]] += weight[i];
    else mass[0][BUCKETS - 1] += sum;
  }
  for (int b = 0; b < BUCKETS; b++)
    for (int side = 1; side < SIDES; side++) mass[0][b] += mass[side][b];
}

/* Copies the numbers of a bucket with their weights, and returns how many these are. */
INLINE int64_t numbers_of_bucket(const float *x, int64_t n, float top, int at, weighted_logit *members) {
  int64_t member_count = 0;
  for (int64_t first = 0; first < n; first += LOGIT_BLOCK) {
    const int count = n - first < LOGIT_BLOCK ? (int)(n - first) : LOGIT_BLOCK;
    uint8_t is_member[LOGIT_BLOCK] = {0};
#pragma omp simd
    for (int i = 0; i < count; i++) is_member[i] = bucket_of(x[first + i], top) == at;
    for (int i = 0; i < LOGIT_BLOCK; i += 8) {
      uint64_t any;
      memcpy(&any, is_member + i, sizeof any);
      if (any)
        for (int64_t j = first + i; j < first + i + 8; j++)
          if (is_member[j - first]) members[member_count++] = (weighted_logit){x[j], exp_fast(x[j] - top)};
    }
  }
  return member_count;
}

/* Numbers [count] in three groups: smaller than the pivot, equal, larger. `smaller` and `larger`: where the second and
   the third group begin; `lower` and `equal`: the weights of the first and the second. */
typedef struct {
  int64_t smaller, larger;
  double lower, equal;
} split_by_pivot;

INLINE split_by_pivot partition_numbers(weighted_logit *some, int64_t count, float pivot) {
  split_by_pivot at = {0, count, 0, 0};
  for (int64_t i = 0; i < at.larger;) {
    const weighted_logit one = some[i];
    if (one.x < pivot) {
      at.lower += one.weight;
      some[i++] = some[at.smaller];
      some[at.smaller++] = one;
    } else if (one.x > pivot) {
      some[i] = some[--at.larger];
      some[at.larger] = one;
    } else {
      at.equal += one.weight;
      i++;
    }
  }
  return at;
}

/* Top-p: removes the least likely numbers of x [n], those with a probability of `limit` in total, and returns the
   smallest number that stays. Among equal ones the first are removed, as by a stable sort: they become -INFINITY. At
   least one stays. Whole buckets are removed first; within the bucket where the limit is reached, the search is like
   that for the k-th largest, but by weight. */
static float top_p(float *x, int64_t n, float top, float limit, weighted_logit *some) {
  double mass[SIDES][BUCKETS] = {0}, total = 0, behind = 0;
  bucket_masses(x, n, top, mass);
  int at = BUCKETS - 1;
  for (int b = at; b >= 0; b--) total += mass[0][b];
  while (at > 0 && is_removed(behind + mass[0][at], total, limit)) behind += mass[0][at--];
  int64_t count = numbers_of_bucket(x, n, top, at, some);
  for (;;) {
    const float pivot = some[count / 2].x;
    const split_by_pivot split = partition_numbers(some, count, pivot);
    if (split.smaller > 0 && !is_removed(behind + split.lower, total, limit)) {
      count = split.smaller;
      continue;
    }
    behind += split.lower;
    if (split.larger < count && is_removed(behind + split.equal, total, limit)) {
      behind += split.equal;
      some += split.larger;
      count -= split.larger;
      continue;
    }
    const double weight = some[split.smaller].weight;
    int64_t out = 0;
    while (out + 1 < split.larger - split.smaller && is_removed(behind + weight, total, limit)) {
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
   each LOGIT_BLOCK. */
static int64_t draw(const float *x, int64_t n, float top, float least, double uniform, double *sums) {
  const int64_t blocks = (n + LOGIT_BLOCK - 1) / LOGIT_BLOCK;
  double total = 0, before = 0;
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t end = (b + 1) * LOGIT_BLOCK < n ? (b + 1) * LOGIT_BLOCK : n;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = b * LOGIT_BLOCK; i < end; i++) sum += chance(x[i], top, least);
    sums[b] = sum;
    total += sum;
  }
  const double point = uniform * total;
  int64_t block = 0, chosen = 0;
  for (int64_t b = 0; b < blocks; b++) {
    if (sums[b] == 0) continue;
    block = b; /* the last one, if rounding leaves nothing behind the point */
    if (before + sums[b] > point) break;
    before += sums[b];
  }
  for (int64_t i = block * LOGIT_BLOCK; i < n && i < (block + 1) * LOGIT_BLOCK; i++) {
    const double one = chance(x[i], top, least);
    if (one == 0) continue;
    chosen = i;
    before += one;
    if (before > point) break;
  }
  return chosen;
}

/* Buffers for picking a row's token: one entry for each number, or for each block of them */
typedef struct {
  double *sums;
  float *block_max, *x, *spare;
  int32_t *which;
} sampling_buffers;

/* The next token of a row of logits [width], -1 where these are not numbers */
static int64_t next_token(const void *row, int is_bf16, int64_t width, const double *of, const uint8_t *seen,
                          const int32_t *counts, double uniform, const sampling_buffers *b) {
  const int64_t blocks = (width + LOGIT_BLOCK - 1) / LOGIT_BLOCK, k = (int64_t)of[TOP_K];
  const float temperature = (float)of[TEMPERATURE];
  if (!prepare_logits(row, is_bf16, width, of, seen, counts, temperature > 0 ? temperature : 1.0f, b->x, b->block_max))
    return -1;
  float top = -INFINITY, least = -INFINITY;
  for (int64_t i = 0; i < blocks; i++) top = b->block_max[i] > top ? b->block_max[i] : top;
  if (temperature > 0) {
    const int is_cut = k > 0 && k < width;
    const int64_t n = is_cut ? top_k(b->x, width, b->block_max, k, b->which, b->spare) : width;
    if (of[TOP_P] < 1 && isfinite(top)) least = top_p(b->x, n, top, (float)(1 - of[TOP_P]), (weighted_logit *)b->spare);
    if (of[MIN_P] > 0) least = fmaxf(least, top + (float)log(of[MIN_P]));
    const int64_t at = draw(b->x, n, top, least, uniform, b->sums);
    return is_cut ? b->which[at] : at;
  }
  int64_t block = 0, i;
  while (b->block_max[block] != top) block++;
  for (i = block * LOGIT_BLOCK; b->x[i] != top; i++) {}
  return i;
}

/* tokens [count]: the next of each row of logits [count, width], which lie `stride` numbers apart; -1 where these are
   not numbers. settings [count, parameters]: how each row is sampled; a temperature of 0 takes the largest. seen,
   counts: of each row the addresses of a byte and of a number for each token, as above; picked tokens are noted there.
   workspace: for each thread `share` numbers, an even number that is at least 4.1 * width + 256. */
#if IS_IN(SHARED)
void sample(const void *logits, int64_t stride, int64_t is_bf16, int64_t count, int64_t width, const double *settings,
            int64_t parameters, const int64_t *seen, const int64_t *counts, const double *uniform, float *workspace,
            int64_t share, int64_t *tokens, int threads) {
  const int64_t blocks = (width + LOGIT_BLOCK - 1) / LOGIT_BLOCK, size = is_bf16 ? sizeof(bf16) : sizeof(float);
  int64_t threads_begun = 0;
#pragma omp parallel num_threads(threads) if (count > 1)
  {
    int64_t thread;
#pragma omp atomic capture
    thread = threads_begun++;
    sampling_buffers b;
    b.sums = (double *)(workspace + thread * share);
    b.block_max = (float *)(b.sums + blocks), b.x = b.block_max + blocks, b.spare = b.x + width;
    b.which = (int32_t *)(b.spare + 2 * width);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < count; r++) {
      uint8_t *marks = (uint8_t *)seen[r];
      int32_t *times = (int32_t *)counts[r];
      const int64_t token = next_token((const char *)logits + r * stride * size, (int)is_bf16, width,
                                       settings + r * parameters, marks, times, uniform[r], &b);
      tokens[r] = token;
      if (token < 0) continue;
      if (marks) marks[token] = 1;
      if (times) times[token]++;
    }
  }
}
#endif
