/* A long row's own keys in pieces, for one number format (T, NAME: see kernels.c). Each piece has a softmax of its own, whose
   sums are joined in the order of the pieces: so threads share the keys of a single row. Which sums there are depends on
   the number of keys alone, so a token has the same bits whatever is computed beside it and by how many threads. */

#ifndef OWN_PIECES
#define OWN_PIECES

/* How many pieces so many keys are; each begins at a multiple of OWN_PIECE. */
INLINE int64_t pieces_of(int64_t keys) { return keys > OWN_PIECE ? ceil_div(keys, OWN_PIECE) : 1; }

/* Floats of the state of a piece: sums of values [group, dim], then maxima and sums of weights [group] */
INLINE int64_t state_floats(int64_t group, int64_t dim) { return group * (dim + 2); }

/* What a token sees of piece p. The first one begins with what it shares with others, with its sinks, and with the places
   that are in the model's own numbers. */
INLINE attention_view piece_of(const attention_view *whole, int64_t p, float *state) {
  attention_view piece = *whole;
  const int64_t begin = p * OWN_PIECE, end = begin + OWN_PIECE;
  if (begin > piece.first) piece.first = begin;
  if (end < piece.end) piece.end = end;
  if (p) piece.parts = 0, piece.sinks = 0, piece.plain_keys = 0, piece.plain_values = 0;
  piece.state = state;
  return piece;
}

/* Adds the state of a piece to that of the pieces before it. */
static void join_states(float *state, const float *piece, int64_t group, int64_t dim) {
  float *top = state + group * dim, *sum = top + group, keep[MAX_GROUP], share[MAX_GROUP];
  const float *piece_top = piece + group * dim, *piece_sum = piece_top + group;
  if (piece_top[0] == -INFINITY) return; /* nothing of it is within the window */
  join_softmaxes((int)group, piece_top, piece_sum, top, sum, keep, share);
  for (int64_t g = 0; g < group; g++)
#pragma omp simd
    for (int64_t d = 0; d < dim; d++) state[g * dim + d] = state[g * dim + d] * keep[g] + piece[g * dim + d] * share[g];
}

/* The pieces of a fused pass: of all tokens that have more than one, in order */
typedef struct {
  int64_t count, heads_floats; /* floats of all states of a piece */
  int32_t *token, *number;     /* [count]: whose it is, and which of its pieces */
  float *states;               /* [count, heads, state] */
} own_pieces;

INLINE float *own_state(const own_pieces *of, int64_t i, int64_t head, int64_t size) {
  return of->states + i * of->heads_floats + head * size;
}

/* Allocates them in the workspace. */
static own_pieces own_pieces_of(const fused_tokens *in, int64_t heads_floats, char **workspace) {
  own_pieces of = {.heads_floats = heads_floats};
  for (int64_t t = 0; t < in->tokens; t++)
    if (in->seen[t] > OWN_PIECE) of.count += pieces_of(in->seen[t]);
  if (!of.count) return of;
  of.token = allocate(workspace, of.count * sizeof(int32_t));
  of.number = allocate(workspace, of.count * sizeof(int32_t));
  of.states = allocate(workspace, of.count * heads_floats * sizeof(float));
  return of;
}

static void list_own_pieces(const fused_tokens *in, own_pieces *of) {
  int64_t i = 0;
  for (int64_t t = 0; t < in->tokens; t++)
    for (int64_t p = 0; in->seen[t] > OWN_PIECE && p < pieces_of(in->seen[t]); p++, i++)
      of->token[i] = (int32_t)t, of->number[i] = (int32_t)p;
}
#endif

/* out [group, dim]: the sums of values of a state, divided by its sums of weights */
INLINE void NAME(finish_state)(const float *state, int64_t group, int64_t dim, T *out) {
  for (int64_t g = 0; g < group; g++) {
    const float share = 1 / state[group * dim + group + g];
#pragma omp simd
    for (int64_t d = 0; d < dim; d++) out[g * dim + d] = NAME(from_float)(state[g * dim + d] * share);
  }
}
