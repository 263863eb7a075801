/* What attention over a KV cache is written in, for every number format: where keys and values lie, what a token sees,
   and the softmax over blocks of keys. */

#define MAX_GROUP 16 /* query heads on a key-value head; both limits are in native.py, too */
#define MAX_DIM 512
#define SCALE_BYTES 4 /* of a place and head, where keys or values are stored in 8 bits */
#define INT4_GROUP 32 /* in 4 bits so many numbers of a head, with their scale, */
#define INT4_GROUP_BYTES 18 /* take so many bytes */
#define KEY_BLOCK 512 /* keys at a time: their scores stay in the first-level cache */
#define MAX_SCORES (KEY_BLOCK + 2 * LANES)
#define OWN_PIECE 1024 /* own keys of a token that one thread goes through (own_pieces.h): whole blocks of keys */
/* Bytes; the processor's own prefetching stops at the end of a page, which is too soon for these reads. */
#define PREFETCH_DISTANCE 2048

/* How many query heads and dimensions have their sums in registers side by side, and whether two blocks of keys do */
#ifdef __AVX512F__
#define HEADS_AT_ONCE(dim, group) ((dim) <= 64 || (dim) % 64 == 0 ? 4 : 2)
#define MAX_HEADS_AT_ONCE 4
#define DIMS_AT_ONCE(dim, group) ((dim) % 64 ? (dim) : 64)
#define MAX_DIMS_AT_ONCE MAX_DIM
#define TWO_BLOCKS(group) 1
#else
#define HEADS_AT_ONCE(dim, group) ((group) % 3 == 0 ? 3 : 2)
#define MAX_HEADS_AT_ONCE 3
#define DIMS_AT_ONCE(dim, group) ((group) % 3 == 0 || (dim) % 32 ? 16 : 32)
#define MAX_DIMS_AT_ONCE 32
#define TWO_BLOCKS(group) ((group) <= 2 && LANES / VEC_FLOATS == 2)
#endif

/* Prefetches a cache line of a range of memory that ends at `end`; the range that is read after it starts at `next`.
   Where registers are narrow, a prefetch costs more than it saves. */
INLINE void prefetch(const void *at, const void *end, const void *next) {
#ifdef __AVX512F__
  const char *far = (const char *)at + PREFETCH_DISTANCE;
  __builtin_prefetch(far < (const char *)end ? far : (const char *)next + (far - (const char *)end));
#else
  (void)at, (void)end, (void)next;
#endif
}

/* Where a row's keys and values lie: the first head of the first layer, and how many places each head has. All heads of
   a layer, and then those of the next, follow one another. first_plain: so many first places, LANES or none, are stored in
   the model's own numbers, behind all others, and their places among the others stay empty. */
typedef struct {
  int64_t keys, values, capacity, first_plain;
} kv_arena;

/* How keys, or values, are stored */
enum { KV_AS_MODEL, KV_INT8, KV_INT4 };

/* How a layer's keys and values are stored, and where they begin in an arena: behind so many bytes for each place */
typedef struct {
  int64_t keys, values, keys_before, values_before;
  int64_t rotated; /* numbers of a head that are rotated together (rotation.h), or 0 */
  int64_t all_keys, all_values; /* bytes of each place in all layers: behind them are first places in the model's numbers, */
  int64_t plain_before;         /* of this layer behind so many bytes */
} kv_layer;

/* The bytes that a place of a head takes */
INLINE int64_t kv_place_bytes(int64_t format, int64_t dim, int64_t number_bytes) {
  if (format == KV_INT8) return dim + SCALE_BYTES;
  if (format == KV_INT4) return (dim + INT4_GROUP - 1) / INT4_GROUP * INT4_GROUP_BYTES;
  return dim * number_bytes;
}

/* The layout of one head in the model's own numbers. Keys: in blocks of LANES places, within a block dimension by dimension, so that the scores of
   LANES keys are computed side by side. Values: place by place. In bfloat16 two dimensions of a key, and two places of
   a value, lie side by side, since products of pairs are faster than widening. */

INLINE void store_key_f32(float *K, const float *k, int64_t dim, int64_t place) {
  float *block = K + place / LANES * LANES * dim + place % LANES;
  for (int64_t d = 0; d < dim; d++) block[d * LANES] = k[d];
}

INLINE void store_value_f32(float *V, const float *v, int64_t dim, int64_t place) {
  memcpy(V + place * dim, v, dim * sizeof(float));
}

INLINE void store_key_bf16(bf16 *K, const bf16 *k, int64_t dim, int64_t place) {
  bf16 *block = K + place / LANES * LANES * dim + place % LANES * 2;
  for (int64_t d = 0; d < dim; d += 2) memcpy(block + d * LANES, k + d, 2 * sizeof(bf16));
}

INLINE void store_value_bf16(bf16 *V, const bf16 *v, int64_t dim, int64_t place) {
  bf16 *pair = V + place / 2 * 2 * dim;
#ifdef HAS_AVX512 /* a head is whole vectors */
  const int is_second = place % 2;
  for (int64_t d = 0; d < dim; d += LANES) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(v + d)));
    _mm512_mask_storeu_epi16(pair + 2 * d, is_second ? 0xaaaaaaaau : 0x55555555u, is_second ? _mm512_slli_epi32(wide, 16) : wide);
  }
#else
  for (int64_t d = 0; d < dim; d++) pair[2 * d + place % 2] = v[d];
#endif
}

/* The weights of `count` values in the format in which they are multiplied. In bfloat16 a 0 follows them: it fills up
   the last pair. */
INLINE const float *pack_weights_f32(float *s, int count, float *packed) {
  (void)count, (void)packed;
  return s;
}

INLINE const operand_bf16 *pack_weights_bf16(float *s, int count, operand_bf16 *packed) {
  s[count] = 0;
#if WIDENS_BF16
  (void)packed;
  return s;
#else
  for (int j = 0; j <= count; j++) packed[j] = from_float_bf16(s[j]);
  return packed;
#endif
}

/* Multiplies the weights of `count` values by the values' scales: those of a block of LANES, and `step` bytes on, those of
   the next block. */
INLINE void scale_weights(float *weights, int count, const char *scales, int64_t step) {
  for (int first = 0; first < count; first += LANES, scales += step) {
    const int some = count - first < LANES ? count - first : LANES;
    for (int j = 0; j < some; j++) weights[first + j] *= ((const float *)scales)[j];
  }
}

/* What the query heads of one token on one key-value head see: parts that it shares with other tokens, whose results
   are already computed, and its own keys */
typedef struct {
  int64_t first, end; /* own keys from `first` to before `end`; it always sees the last one */
  const kv_layer *layer; /* how they are stored */
  float scale, cap;   /* cap: the soft cap of the scores, or 0 for none */
  const float *sinks; /* 0, or a score for each head that takes weight and has no value */
  int64_t parts;
  const int64_t *part_out, *part_top, *part_sum; /* addresses of outputs not yet divided by their sums, maxima, sums */
  int64_t by_tiles; /* whether own keys are multiplied by tiles (tile_own_keys.h) */
  const int64_t *part_row;                       /* the token's first row in each part; -1: it sees nothing of it */
  const void *plain_keys, *plain_values; /* its first LANES own places, where they are in the model's own numbers; or 0 */
  float *state; /* 0, or where the sums go instead of the result, since there are more keys (own_pieces.h) */
  int64_t width; /* the first numbers of each head, whole vectors; those behind are zeros */
} attention_view;

/* The first places of a head that are in the model's own numbers, of keys or of values; 0 where there are none */
INLINE void *plain_places(const kv_arena *arena, int64_t of_arena, int64_t all, const kv_layer *layer, int64_t head,
                          int64_t dim, int64_t number_bytes) {
  if (!arena->first_plain) return 0;
  return (char *)of_arena + arena->capacity * all + layer->plain_before + head * LANES * dim * number_bytes;
}

/* Applies the cap, if there is one, to `count` scores, and hides the first `hidden`. Only some layers need this, so it
   is a function of its own: the code that is compiled for each shape already takes long. */
static __attribute__((noinline)) void cap_and_hide_copy(float *scores, int count, int64_t hidden, float scale,
                                                        float cap) {
  if (cap)
#pragma omp simd
    for (int j = 0; j < count; j++) scores[j] = soft_cap(scores[j] * scale, cap);
  for (int j = 0; j < count && j < hidden; j++) scores[j] = -INFINITY;
}

INLINE void cap_and_hide(float *scores, int count, int64_t hidden, float scale, float cap) {
  float copy[MAX_SCORES]; /* a compiler has to assume that an array whose address is passed on overlaps with keys */
  memcpy(copy, scores, count * sizeof(float));
  cap_and_hide_copy(copy, count, hidden, scale, cap);
  memcpy(scores, copy, count * sizeof(float));
}

/* Joins the maxima and sums of weights of G heads over a part of what they see to those over the rest, top and sum: values
   summed so far count `keep`, those of the part `share`. */
INLINE void join_softmaxes(const int G, const float *part_top, const float *part_sum, float *top, float *sum, float *keep,
                           float *share) {
#ifdef HAS_AVX512
  const __mmask16 heads = (__mmask16)(0xffffu >> (LANES - G));
  const __m512 before = _mm512_maskz_loadu_ps(heads, top), other = _mm512_maskz_loadu_ps(heads, part_top);
  const __m512 m = _mm512_max_ps(before, other), b = exp_16(_mm512_sub_ps(other, m));
  const __mmask16 had_some = _mm512_cmp_ps_mask(before, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
  const __m512 a = _mm512_maskz_mov_ps(had_some, exp_16(_mm512_sub_ps(before, m)));
  const __m512 sums = _mm512_mul_ps(_mm512_maskz_loadu_ps(heads, sum), a);
  _mm512_storeu_ps(keep, a);
  _mm512_storeu_ps(share, b);
  _mm512_mask_storeu_ps(sum, heads, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(heads, part_sum), b, sums));
  _mm512_mask_storeu_ps(top, heads, m);
#else
  for (int g = 0; g < G; g++) {
    const float m = part_top[g] > top[g] ? part_top[g] : top[g];
    keep[g] = top[g] == -INFINITY ? 0.0f : exp_fast(top[g] - m), share[g] = exp_fast(part_top[g] - m);
    sum[g] = sum[g] * keep[g] + part_sum[g] * share[g];
    top[g] = m;
  }
#endif
}
