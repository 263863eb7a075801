/* What rows are multiplied by, and how a product is divided into tasks. A plain matrix lies in panels of PANEL outputs,
   filled up with zeros; in a panel all outputs of one input lie side by side, in bfloat16 those of two inputs in pairs.
   A quantized one lies as its library holds it, and is unpacked panel by panel (see quantized.h). */

#define VECS 2 /* of a panel */
#define PANEL (VECS * WIDE)
#define ROWS 6 /* whose sums stay in the registers */
#ifdef __AVX512F__
#define AT_ONCE 2 /* panels: their loads are shared by fewer rows, but each row's number by more outputs */
#else
#define AT_ONCE 1
#endif
#define STAY (384 * 1024) /* bytes of rows that stay in the second-level cache beside a panel */
#define LEAST (16 * 1024) /* bytes of weights that are worth claiming */
#define MOST_ROWS (32 * ROWS) /* of a task where weights are quantized: their sums stay in the second-level cache */

const int64_t panel_width = PANEL;

enum { PLAIN, FOUR_BIT, ROW_INT8, WEIGHT_INT8 }; /* as in matrices.py */

typedef struct {
  const void *weight, *bias; /* bias: or 0 */
  int64_t outputs, kind;
  const void *scale; /* FOUR_BIT: bfloat16 [inputs / block, outputs]; ROW_INT8: float32, WEIGHT_INT8: bfloat16 [outputs] */
  const void *more;  /* FOUR_BIT: the 16 values of its code twice, bfloat16; ROW_INT8: int32 [outputs] (see row_int8.h) */
  int64_t block;     /* FOUR_BIT: inputs that share a scale */
  float threshold;   /* ROW_INT8: from where a number is an outlier; 0: none is */
} matrix;

/* What becomes of the sums: they are put down, added to what is there, or go through silu(first) * second */
enum { PUT, ADD, GATED };

/* What products with quantized weights work in; the rows of ROW_INT8 are quantized for all threads */
typedef struct {
  uint8_t *bytes, *marks; /* bytes [rows, padded]; marks of columns with outliers, 0 between products */
  float *tops;            /* of each row */
  int32_t *columns;       /* with outliers */
  int64_t *outliers;      /* how many columns these are */
  char *own;              /* OWN_ROOM of each thread */
} workroom;

typedef struct {
  const void *x; /* [rows, inputs] */
  int64_t rows, inputs;
  const matrix *matrices; /* their outputs side by side; of GATED two */
  int64_t count;
  int how;
  void *out; /* [rows, stride] */
  int64_t stride;
  const workroom *room;
  const matrix *by_bytes;                 /* one of ROW_INT8 among them, or 0 */
  int64_t units, per, lots, block, tasks; /* a task: so many units of panels, by a block of rows */
} product;

typedef struct {
  const char *panel, *second; /* second: of two at once, or 0 */
  const matrix *of[2];        /* whose these are */
  int64_t output[2];          /* the first of each in its matrix */
  int64_t column, width;
} unit;

INLINE int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

/* Tasks of neighbours, several for each thread */
INLINE int64_t lot_of(int64_t count, int threads) { return parts_of(count, 8 * threads); }

INLINE void *carve(char **room, int64_t bytes) {
  void *at = (void *)(((uintptr_t)*room + LINE - 1) / LINE * LINE);
  *room = (char *)at + bytes;
  return at;
}

/* Bytes of the weights of one output; size: of a plain number */
INLINE int64_t bytes_of(const matrix *m, int64_t inputs, int64_t size) {
  return m->kind == PLAIN ? inputs * size : m->kind == FOUR_BIT ? inputs / 2 : inputs;
}

static product product_of(const void *x, int64_t rows, int64_t inputs, const matrix *matrices, int64_t count, int how,
                          void *out, int64_t stride, const workroom *room, int64_t size, int threads) {
  product p = {x, rows, inputs, matrices, count, how, out, stride, room};
  int is_quantized = 0;
  for (int64_t m = 0; m < count; m++) {
    is_quantized |= matrices[m].kind != PLAIN;
    if (matrices[m].kind == ROW_INT8) p.by_bytes = matrices + m;
    if (m && how == GATED) continue;
    p.units += parts_of(matrices[m].outputs, how == GATED ? PANEL : AT_ONCE * PANEL);
  }
  const int64_t bytes = bytes_of(matrices, inputs, size) * PANEL * (how == GATED ? 2 : AT_ONCE), few = rows / (4 * ROWS);
  p.per = LEAST / bytes > 1 ? LEAST / bytes : 1;
  p.lots = parts_of(p.units, p.per);
  int64_t blocks = parts_of(rows * inputs * (p.by_bytes ? 1 : size), STAY);
  const int64_t wanted = (is_quantized ? 8 : 16) * threads; /* so that all end together; each unpacks what it multiplies by */
  if (threads > 1 && p.lots * blocks < wanted) blocks = parts_of(wanted, p.lots);
  if (is_quantized && blocks < parts_of(rows, MOST_ROWS)) blocks = parts_of(rows, MOST_ROWS);
  if (blocks > few) blocks = few > 1 ? few : 1;
  p.block = parts_of(parts_of(rows, blocks), ROWS) * ROWS;
  p.tasks = p.lots * parts_of(rows, p.block);
  return p;
}

static unit find(const product *p, int64_t at, int64_t size) {
  const matrix *m = p->matrices;
  if (p->how == GATED) {
    const int64_t first = at * PANEL, left = m->outputs - first;
    return (unit){(const char *)m[0].weight + first * bytes_of(m, p->inputs, size),
                  (const char *)m[1].weight + first * bytes_of(m + 1, p->inputs, size),
                  {m, m + 1}, {first, first}, first, left < PANEL ? left : PANEL};
  }
  int64_t column = 0;
  for (int64_t units; at >= (units = parts_of(m->outputs, AT_ONCE * PANEL)); m++) at -= units, column += m->outputs;
  const int64_t first = at * AT_ONCE * PANEL, left = m->outputs - first, bytes = bytes_of(m, p->inputs, size);
  const char *panel = (const char *)m->weight + first * bytes;
  return (unit){panel, AT_ONCE == 2 && left > PANEL ? panel + PANEL * bytes : 0, {m, m}, {first, first + PANEL},
                column + first, left < AT_ONCE * PANEL ? left : AT_ONCE * PANEL};
}
