/* Adapters of low rank beside the matrices of a model, as Python describes them, and their check: what a token's own one
   adds to a product is computed in adapters.h. */

/* Of a layer: 2 for each product that it has at most, 4, and 2 each of latents and of a mixer beside attention */
#define ADAPTER_PHASES (2 * 8)

/* Of one matrix: those of all adapters one below the other, in float32 */
struct low_rank {
  const float *a, *b;     /* [all ranks, inputs], [all ranks, outputs] */
  const int64_t *start;   /* [adapters + 1]: where the ranks of each begin; none: it leaves the matrix alone */
  const float *scaling;   /* [adapters]: what the product of the two is multiplied by */
};

/* Neighbours among the tokens that have an adapter, all of them the same: at most REGISTER_ROWS, multiplied together */
typedef struct {
  int32_t adapter, first, count;
} adapter_tile;

/* Which tokens of a pass have which adapter; the others are computed as the base does */
typedef struct {
  const int32_t *token; /* [tokens]: those that have one, sorted by it */
  int64_t tokens;
  const adapter_tile *tile;
  int64_t tiles, adapters, most_rank;
} adapted_tokens;

/* What a pass has in memory for them */
typedef struct {
  float *low;  /* [tokens, width]: what the first matrices of a product give, side by side */
  float *rows; /* [row_numbers] of each thread: rows of a tile, in float32 */
  int64_t width, row_numbers;
} adapter_work;

/* Tokens are some of the pass, and tiles some of these tokens. */
static int64_t check_adapted(const adapted_tokens *of, int64_t tokens) {
  if (!of) return FINE;
  if (of->tokens > tokens || of->most_rank < 1) REFUSE(WRONG_ADAPTER, 0);
  int64_t wrong = check_range(of->token, of->tokens, 0, tokens - 1, WRONG_ADAPTER);
  for (int64_t i = 0; !wrong && i < of->tiles; i++) {
    const adapter_tile *tile = of->tile + i;
    if (tile->adapter < 0 || tile->adapter >= of->adapters || tile->first < 0) REFUSE(WRONG_ADAPTER, i);
    if (tile->count < 1 || tile->count > REGISTER_ROWS || tile->first + (int64_t)tile->count > of->tokens) REFUSE(WRONG_ADAPTER, i);
  }
  return wrong;
}

/* widest: inputs of the products of the pass */
static adapter_work allocate_adapted(const adapted_tokens *of, int64_t widest, int threads, char **workspace) {
  adapter_work w = {0};
  if (!of) return w;
  w.width = MIXER_MATRICES * of->most_rank;
  w.row_numbers = REGISTER_ROWS * ceil_div(widest, LANES) * LANES;
  w.low = allocate(workspace, of->tokens * w.width * sizeof(float));
  w.rows = allocate(workspace, threads * w.row_numbers * sizeof(float));
  return w;
}
