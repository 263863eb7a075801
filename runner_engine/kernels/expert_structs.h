/* A layer of experts as Python describes it, and how the rows of a pass are sorted by expert; the products are in experts.h. */

#define EXPERT_PHASES (2 * PRODUCT_PHASES + 3) /* beside the products: rows are put in order, go through the gate, are summed */
#define EXPERT_MATRICES 3                      /* of an expert: gate, up, down; without a gate, the first is not read */

typedef struct {
  int64_t experts, chosen, hidden, inner; /* chosen: of each token */
  int64_t activation, has_gate, needs_workspace;
  float alpha, limit, shift; /* act(min(gate, limit), alpha) * (clamp(up, limit) + shift); limit 0: there is none */
  const matrix *matrices;    /* [experts, EXPERT_MATRICES] */
} expert_set;

/* The product of an expert's rows, and where these and its tasks begin among those of all experts */
typedef struct {
  product of;
  int64_t first_row, first_task;
} expert_product;

/* The products of all experts that have rows */
typedef struct {
  expert_product *by_expert;
  int64_t count, tasks;
  product all_rows; /* as of one expert: rows in bytes are quantized together */
} expert_products;

/* A layer's rows, sorted by expert */
typedef struct {
  const expert_set *set;
  int64_t tokens, rows;        /* rows: of all chosen experts */
  int32_t *token_of, *row_of;  /* of each sorted row its token; of each token and choice its sorted row, or -1 */
  int64_t *first_row;          /* [experts + 1]: of each expert */
  void *x, *both, *inner, *y;  /* sorted rows: [rows, hidden], [rows, 2 * inner] where they go through a gate of its own
                                  phase, [rows, inner], [rows, hidden] in the place of x */
  expert_products up, down;
} expert_pass;

/* Whether gate and up are multiplied together, and go through SiLU in the registers */
INLINE int gates_in_registers(const expert_set *s) {
  return s->has_gate && s->activation == SILU && s->alpha == 1 && s->limit == 0 && s->shift == 0 &&
         !s->matrices[0].bias && !s->matrices[1].bias;
}

/* Memory for the numbers of sorted rows, as in expert_pass */
typedef struct {
  void *x, *both, *inner;
} expert_rows;

static expert_rows allocate_expert_rows(int64_t rows, int64_t hidden, int64_t inner, int64_t size, char **workspace) {
  expert_rows memory;
  memory.x = allocate(workspace, rows * hidden * size);
  memory.inner = allocate(workspace, rows * inner * size);
  memory.both = allocate(workspace, rows * 2 * inner * size);
  return memory;
}

/* Allocates what is noted on a layer's rows; their numbers go into `memory`. */
static void note_expert_rows(expert_pass *e, const expert_set *set, int64_t tokens, const expert_rows *memory, char **workspace) {
  *e = (expert_pass){.set = set, .tokens = tokens, .rows = tokens * set->chosen};
  const int64_t active = e->rows < set->experts ? e->rows : set->experts;
  e->token_of = allocate(workspace, e->rows * sizeof(int32_t));
  e->row_of = allocate(workspace, e->rows * sizeof(int32_t));
  e->first_row = allocate(workspace, (set->experts + 1) * sizeof(int64_t));
  e->up.by_expert = allocate(workspace, active * sizeof(expert_product));
  e->down.by_expert = allocate(workspace, active * sizeof(expert_product));
  e->x = e->y = memory->x, e->inner = memory->inner, e->both = memory->both;
}

/* Allocates a layer's rows; their size: see expert_workspace_bytes in pass_memory.py. */
static expert_pass allocate_experts(const expert_set *set, int64_t tokens, int64_t size, char **workspace) {
  const expert_rows memory = allocate_expert_rows(tokens * set->chosen, set->hidden, set->inner, size, workspace);
  expert_pass e;
  note_expert_rows(&e, set, tokens, &memory, workspace);
  return e;
}

/* Sorts rows by expert; those of an expert stay in the order of their tokens. ids: [tokens, chosen]; one that is too large
   stands for no expert */
static void sort_by_expert(expert_pass *e, const int64_t *ids) {
  const int64_t experts = e->set->experts;
  memset(e->first_row, 0, (experts + 1) * sizeof(int64_t));
  for (int64_t i = 0; i < e->rows; i++)
    if (ids[i] < experts) e->first_row[ids[i] + 1]++;
  for (int64_t n = 0; n < experts; n++) e->first_row[n + 1] += e->first_row[n];
  for (int64_t i = 0; i < e->rows; i++) {
    e->row_of[i] = -1;
    if (ids[i] >= experts) continue;
    const int64_t row = e->first_row[ids[i]]++;
    e->row_of[i] = (int32_t)row, e->token_of[row] = (int32_t)(i / e->set->chosen);
  }
  memmove(e->first_row + 1, e->first_row, experts * sizeof(int64_t));
  e->first_row[0] = 0, e->rows = e->first_row[experts];
}

/* The products of one kind: `count` matrices of each expert, from the one at `first` on. Rows of an expert are not divided
   for the threads, which have the other experts. */
static void expert_products_of(const expert_pass *e, expert_products *all, const void *x, int64_t inputs, int64_t first,
                               int64_t count, int output_mode, void *out, int64_t stride,
                               const product_workspace *work, int64_t size) {
  all->count = all->tasks = 0;
  for (int64_t n = 0; n < e->set->experts; n++) {
    const int64_t rows = e->first_row[n + 1] - e->first_row[n];
    if (!rows) continue;
    const product p = product_of(x, rows, inputs, e->set->matrices + n * EXPERT_MATRICES + first, count, output_mode, out,
                                 stride, work, size, 1);
    all->by_expert[all->count++] = (expert_product){p, e->first_row[n], all->tasks};
    all->tasks += p.tasks;
  }
  all->all_rows = (product){0};
  if (all->count) all->all_rows = all->by_expert->of;
  all->all_rows.rows = e->rows;
}

/* The products of a layer whose rows are sorted */
static void lay_out_experts(expert_pass *e, const product_workspace *work, int64_t size) {
  const expert_set *s = e->set;
  if (gates_in_registers(s))
    expert_products_of(e, &e->up, e->x, s->hidden, 0, 2, GATED, e->inner, s->inner, work, size);
  else if (s->has_gate)
    expert_products_of(e, &e->up, e->x, s->hidden, 0, 2, STORE, e->both, 2 * s->inner, work, size);
  else expert_products_of(e, &e->up, e->x, s->hidden, 1, 1, STORE, e->both, s->inner, work, size);
  expert_products_of(e, &e->down, e->inner, s->inner, 2, 1, STORE, e->y, s->hidden, work, size);
}

/* The expert that has a task, which comes after those that were asked for before */
INLINE int64_t expert_of_task(const expert_products *all, int64_t task, int64_t from) {
  while (from + 1 < all->count && task >= all->by_expert[from + 1].first_task) from++;
  return from;
}

static int64_t check_experts(const expert_set *s, int64_t pack) {
  for (int64_t i = 0; i < s->experts * EXPERT_MATRICES; i++) {
    if (!s->has_gate && i % EXPERT_MATRICES == 0) continue;
    if (is_missing(s->matrices + i, pack)) REFUSE(MISSING_UNIT, 0);
    const int is_down = i % EXPERT_MATRICES == 2;
    if (!is_readable(s->matrices + i, is_down ? s->inner : s->hidden, pack) ||
        s->matrices[i].outputs != (is_down ? s->hidden : s->inner))
      REFUSE(WRONG_MATRIX, i);
  }
  return FINE;
}

static int64_t check_choices(const int64_t *ids, int64_t rows) {
  for (int64_t i = 0; i < rows; i++)
    if (ids[i] < 0) REFUSE(WRONG_EXPERT, i);
  return FINE;
}
