/* What rows are multiplied by, and how a product is divided into tasks. A plain matrix lies in panels of PANEL outputs,
   filled up with zeros; in a panel all outputs of one input lie side by side, in bfloat16 those of two inputs in pairs.
   A quantized one lies as its library holds it, and is unpacked panel by panel (see quantized.h). */

#ifdef __aarch64__
#define PANEL_VECS 4 /* of 32 narrow registers */
#else
#define PANEL_VECS 2
#endif
#define PANEL (PANEL_VECS * VEC_FLOATS)
#define REGISTER_ROWS 6 /* whose sums stay in the registers: with 4 vectors each these are 24 of 32 */
#ifdef __AVX512F__
#define PANELS_AT_ONCE 2 /* their loads are shared by fewer rows, but each row's number by more outputs */
#else
#define PANELS_AT_ONCE 1
#endif
#ifndef PANEL_REACH
#define PANEL_REACH 2048 /* bytes of a panel that few rows prefetch ahead */
#endif
#define CACHED_ROW_BYTES (384 * 1024)           /* of rows that stay in the second-level cache beside a panel */
#define MIN_ROW_BLOCK (4 * REGISTER_ROWS)       /* fewer rows are not worth reading the weights for */
#define MIN_CHUNK_BYTES (16 * 1024)             /* of weights that are worth claiming */
#define PRODUCT_PHASES 3 /* that products.h goes through */
#define MAX_QUANTIZED_ROWS (32 * REGISTER_ROWS) /* of a task: their sums stay in the second-level cache */

#if IS_IN(SHARED)
const int64_t panel_width = PANEL;
#endif

#include "vectors.h"
#include "blocks.h"

#define FOUR_BIT_INPUTS 32 /* of FOUR_BIT_ROWS that are looked up at a time */

/* as in shared_numbers.py; BYTE_BLOCKS, BYTE_GROUPS: blocks and groups that are multiplied by rows in bytes */
enum {
  PLAIN, FOUR_BIT, ROW_INT8, WEIGHT_INT8, INT8_DYNAMIC, BLOCKS, GROUPS, INT8_STORED, BYTE_BLOCKS, BYTE_GROUPS,
  FOUR_BIT_ROWS, /* 4-bit weights as bitsandbytes stores them, where it does not put them in another order for FOUR_BIT */
  PLAIN_ROWS     /* plain weights output by output, as torch holds them (row_major.h) */
};

typedef struct low_rank low_rank; /* adapter_structs.h */

typedef struct {
  const void *weight, *bias; /* bias: or 0 */
  int64_t outputs, kind;
  /* FOUR_BIT: bfloat16 [inputs / block, outputs]; FOUR_BIT_ROWS: float32 [outputs, inputs / block]; ROW_INT8, INT8_DYNAMIC, INT8_STORED: float32 [outputs]; WEIGHT_INT8:
     bfloat16 [outputs]; GROUPS: float32 [16], what codes of a table stand for */
  const void *scale;
  /* FOUR_BIT: the 16 values of its code twice, bfloat16; FOUR_BIT_ROWS: these values, float32; ROW_INT8, INT8_DYNAMIC, INT8_STORED: int32 [outputs] (see SHIFT);
     GROUPS: int32 [inputs], the group of each, or 0 where they lie in order */
  const void *constants;
  int64_t block;   /* FOUR_BIT, FOUR_BIT_ROWS, GROUPS: inputs that share a scale; BLOCKS: the type of its blocks (see blocks.h) */
  float threshold; /* ROW_INT8: a number of at least this size is an outlier; 0: none is */
  float row_scale; /* INT8_STORED: the scale of all rows; 0: each has its own */
  float scale_divisor; /* GROUPS: of scales in float8 (see groups.h) */
  /* PLAIN in bfloat16: 0, or sums are in the order of tiles, made by tiles from so many rows on (see tile_products.h);
     ROW_INT8, INT8_DYNAMIC, INT8_STORED: 0, or sums, which are exact, are made by tiles from so many rows on */
  int64_t tile_rows;
  /* GROUPS: bits of a code; the format of scales, and what codes are (see groups.h); the zero point of all, or below 0:
     each group has its own. INT8_STORED: the byte of a row that stands for 0, where all rows have one scale */
  int64_t bits, scale_type, zero_point, code_type;
  const low_rank *adapters; /* that a fused pass adds to what it gives, or 0 */
} matrix;

#include "groups.h"

/* What is done with the sums: they are stored, added to the numbers that are there, or go through silu(first) * second.
 */
enum { STORE, ADD, GATED };

/* Whether its weights are unpacked to plain ones, some inputs at a time */
INLINE int is_unpacked(const matrix *m) {
  return m->kind == BLOCKS || m->kind == GROUPS || m->kind == FOUR_BIT_ROWS || m->kind == WEIGHT_INT8;
}

INLINE int is_plain(const matrix *m) { return m->kind == PLAIN || m->kind == PLAIN_ROWS; }

INLINE int has_blocks(const matrix *m) { return m->kind == BLOCKS || m->kind == BYTE_BLOCKS; }

/* Whether rows are quantized, too, before they are multiplied by a matrix */
INLINE int has_parted_rows(const matrix *m) { return m->kind == BYTE_BLOCKS || m->kind == BYTE_GROUPS; }

INLINE int has_byte_rows(const matrix *m) {
  return m->kind == ROW_INT8 || m->kind == INT8_DYNAMIC || m->kind == INT8_STORED || has_parted_rows(m);
}

/* Added to the numbers of rows, since products take bytes without a sign on one side; `constants` of a matrix holds
   what that adds to its sums. */
#define SHIFT 128
#define MAX_STORED_INPUTS 65536 /* of INT8_STORED: sums of 255 * 128 fit into 32 bits */

/* The workspace of products; rows that become bytes are quantized once for all threads. */
typedef struct {
  float *wide_rows; /* [wide_numbers] of each thread: the rows of a task, where bfloat16 is widened (see widen_rows) */
  int64_t wide_numbers;
  uint8_t *bytes;           /* [rows, padded]: the rows */
  uint8_t *outlier_marks;   /* of each column, 0 between products */
  float *row_scale;         /* of each row: ROW_INT8: its largest number, outliers left out; else: its scale */
  float *part_scale;        /* BYTE_BLOCKS: of each BYTE_PART numbers of a row */
  int32_t *part_sum, *half_sum; /* of its bytes; of each HALF_PART */
  float *part_moved, *half_moved; /* the same as numbers, times the scale where that is not of BYTE_BLOCK */
  int32_t *outlier_columns; /* those that are marked */
  int64_t *outlier_count;   /* how many these are */
  char *thread_buffers;     /* THREAD_BUFFER_BYTES of each thread */
  int64_t width;            /* how many columns have a mark; 0: there is no such workspace */
} product_workspace;

#define BYTE_PART 32 /* inputs of a row that share a scale */
#define HALF_PART 16
#define BYTE_BLOCK 256 /* and in products with formats whose groups are so large */

/* Bytes of a row that is quantized, filled up to whole registers */
INLINE int64_t padded(int64_t inputs) { return ceil_div(inputs, CACHE_LINE) * CACHE_LINE; }

/* In which a thread unpacks and sums: as in pass_memory.py */
#define UNPACKED_INPUTS 1024 /* of a panel that are unpacked at a time as bytes; as pairs half as many */
#define MAX_SUMS (MAX_QUANTIZED_ROWS * PANELS_AT_ONCE * PANEL)
#define THREAD_BUFFER_BYTES (PANELS_AT_ONCE * PANEL * UNPACKED_INPUTS + 2 * MAX_SUMS * 4)

/* Allocates the workspace of products of at most so many rows and inputs; its size: see quantized_workspace_bytes in
   pass_memory.py. */
static product_workspace allocate_quantized(char **workspace, int64_t rows, int64_t inputs, int threads) {
  const int64_t width = padded(inputs);
  product_workspace w = {0};
  w.bytes = allocate(workspace, rows * width);
  w.outlier_marks = allocate(workspace, width);
  w.row_scale = allocate(workspace, rows * sizeof(float));
  w.part_scale = allocate(workspace, rows * width / BYTE_PART * sizeof(float));
  w.part_sum = allocate(workspace, rows * width / BYTE_PART * sizeof(int32_t));
  w.half_sum = allocate(workspace, rows * width / HALF_PART * sizeof(int32_t));
  w.part_moved = allocate(workspace, rows * width / BYTE_PART * sizeof(float));
  w.half_moved = allocate(workspace, rows * width / HALF_PART * sizeof(float));
  w.outlier_columns = allocate(workspace, width * sizeof(int32_t));
  w.outlier_count = allocate(workspace, CACHE_LINE);
  w.thread_buffers = allocate(workspace, threads * THREAD_BUFFER_BYTES);
  w.width = width;
  return w;
}

/* Before the first product; not when it is allocated, since its size is only checked then */
INLINE void prepare_quantized(const product_workspace *work) {
  if (work->outlier_marks) memset(work->outlier_marks, 0, work->width);
}

typedef struct {
  const void *x; /* [rows, inputs] */
  int64_t rows, inputs;
  const matrix *matrices; /* their outputs side by side; of GATED two */
  int64_t count;
  int output_mode;
  void *out; /* [rows, stride] */
  int64_t stride;
  const product_workspace *workspace;
  const matrix *of_bytes; /* one among them whose rows are quantized, or 0 */
  int64_t pairs, pairs_per_chunk, chunks, row_block;
  int64_t tasks; /* a task: a chunk of panel pairs by a block of rows */
  int has_number_rows; /* rows do not become bytes for some of the matrices */
  int panels_at_once;
} product;

/* The panels that are multiplied at once: one, two of one matrix, or one of each of two that gate each other */
typedef struct {
  const char *first, *second; /* second: or 0 */
  const matrix *of[2];        /* whose these are */
  int64_t output[2];          /* the first output of each in its matrix */
  int64_t column, width;      /* where the sums go */
} panel_pair;

/* The weights that are multiplied next and prefetched meanwhile: `lines` cache lines of each of two panels */
typedef struct {
  const char *first, *second;
  int64_t lines;
} next_weights;

/* The address that is read `reach` bytes after `at`, in a panel up to `end`, behind which `then` is read */
INLINE const char *find_address_ahead(const char *at, int64_t reach, const char *end, const char *then) {
  return at + reach < end ? at + reach : then + (at + reach - end);
}

/* Bytes of the weights of one output; size: of a plain number */
INLINE int64_t weight_bytes(const matrix *m, int64_t inputs, int64_t size) {
  if (has_blocks(m)) {
    const block_format *f = block_format_of(m->block);
    return inputs / f->group * group_bytes(f);
  }
  if (m->kind == GROUPS || m->kind == BYTE_GROUPS) return grouped_bytes(m, inputs);
  return is_plain(m) ? inputs * size : m->kind == FOUR_BIT || m->kind == FOUR_BIT_ROWS ? inputs / 2 : inputs;
}

/* The number of blocks into which rows are divided: each block stays in the cache, all threads have work until the end,
   and no block is too small to be worth reading the weights for. */
static int64_t row_blocks(const product *p, int is_quantized, int is_widened, int64_t size, int threads) {
  const int64_t most = p->rows / MIN_ROW_BLOCK;
  /* each task unpacks quantized weights again, and tiles read a task's weights once for all of its rows */
  const int64_t tasks = (is_quantized ? 8 : p->matrices->tile_rows ? 4 : 16) * threads;
  const int64_t number = is_widened && p->has_number_rows ? (int64_t)sizeof(float) : p->of_bytes ? 1 : size;
  int64_t blocks = ceil_div(p->rows * p->inputs * number, CACHED_ROW_BYTES); /* allocate_wide_rows relies on it */
  if (threads > 1 && p->chunks * blocks < tasks) blocks = ceil_div(tasks, p->chunks);
  if (is_quantized && blocks < ceil_div(p->rows, MAX_QUANTIZED_ROWS)) blocks = ceil_div(p->rows, MAX_QUANTIZED_ROWS);
  return blocks <= most ? blocks : most > 1 ? most : 1;
}

/* Whether a single row is multiplied by two panels at once: its few sums stay in the registers, where each waits for the one
   before, and there is room for those of two panels */
INLINE int goes_in_pairs(const matrix *m) {
  return is_plain(m) || m->kind == BLOCKS || m->kind == WEIGHT_INT8;
}

static product product_of(const void *x, int64_t rows, int64_t inputs, const matrix *matrices, int64_t count,
                          int output_mode, void *out, int64_t stride, const product_workspace *workspace,
                          int64_t size, int threads) {
  product p = {.x = x, .rows = rows, .inputs = inputs, .matrices = matrices, .count = count,
               .output_mode = output_mode, .out = out, .stride = stride, .workspace = workspace};
  int is_quantized = 0, go_in_pairs = 1;
  const int is_widened = WIDENS_BF16 && size == sizeof(bf16);
  for (int64_t m = 0; m < count; m++) {
    is_quantized |= !is_plain(matrices + m), go_in_pairs &= goes_in_pairs(matrices + m);
    if (has_byte_rows(matrices + m)) p.of_bytes = matrices + m;
    else p.has_number_rows = 1;
  }
  p.panels_at_once = output_mode == GATED || (rows == 1 && go_in_pairs) ? 2 : PANELS_AT_ONCE;
  for (int64_t m = 0; m < (output_mode == GATED ? 1 : count); m++)
    p.pairs += ceil_div(matrices[m].outputs, (output_mode == GATED ? 1 : p.panels_at_once) * PANEL);
  const int64_t bytes = weight_bytes(matrices, inputs, size) * PANEL * p.panels_at_once;
  p.pairs_per_chunk = MIN_CHUNK_BYTES / bytes > 1 ? MIN_CHUNK_BYTES / bytes : 1;
  p.chunks = ceil_div(p.pairs, p.pairs_per_chunk);
  const int64_t unit = matrices->tile_rows && rows >= 32 ? 32 : REGISTER_ROWS;
  p.row_block = ceil_div(ceil_div(rows, row_blocks(&p, is_quantized, is_widened, size, threads)), unit) * unit;
  p.tasks = p.chunks * ceil_div(rows, p.row_block);
  return p;
}

static panel_pair gated_pair_at(const product *p, int64_t at, int64_t size) {
  const matrix *m = p->matrices;
  const int64_t first = at * PANEL, left = m->outputs - first;
  return (panel_pair){(const char *)m[0].weight + first * weight_bytes(m, p->inputs, size),
                      (const char *)m[1].weight + first * weight_bytes(m + 1, p->inputs, size),
                      {m, m + 1}, {first, first}, first, left < PANEL ? left : PANEL};
}

static panel_pair panel_pair_at(const product *p, int64_t at, int64_t size) {
  if (p->output_mode == GATED) return gated_pair_at(p, at, size);
  const int64_t wide = p->panels_at_once * PANEL;
  const matrix *m = p->matrices;
  int64_t column = 0;
  for (int64_t pairs; at >= (pairs = ceil_div(m->outputs, wide)); m++) at -= pairs, column += m->outputs;
  const int64_t first = at * wide, left = m->outputs - first, bytes = weight_bytes(m, p->inputs, size);
  const char *panel = (const char *)m->weight + first * bytes;
  return (panel_pair){panel, p->panels_at_once == 2 && left > PANEL ? panel + PANEL * bytes : 0,
                      {m, m}, {first, first + PANEL}, column + first, left < wide ? left : wide};
}
