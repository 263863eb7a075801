/* A program that computes products whose matrices and rows are in a file: for a processor that only an emulator has here.
   See product_files.py, which writes the file and reads the outputs. Without
   names it says how many outputs a panel has. */
#include <stdio.h>
#include <stdlib.h>
#include "kernels.c"

static void *read_some(FILE *from, int64_t bytes) {
  void *to = aligned_alloc(CACHE_LINE, bytes / CACHE_LINE * CACHE_LINE + CACHE_LINE);
  if (!to || fread(to, 1, bytes, from) != (size_t)bytes) exit(2);
  return to;
}

int main(int count, char **names) {
  if (count < 3) return printf("%d", PANEL) < 0;
  FILE *from = fopen(names[count - 2], "rb"), *to = fopen(names[count - 1], "wb");
  enum { IS_FLOAT, ROWS, INPUTS, WORKSPACE, TENSORS, HEADER };
  int64_t number = 0, refused = 0;
  for (int64_t header[HEADER]; fread(header, sizeof header, 1, from) == 1;) {
    matrix m;
    if (fread(&m, sizeof m, 1, from) != 1) return 2;
    for (int64_t t = 0; t < header[TENSORS]; t++) {
      int64_t tensor[2]; /* where its address is in the matrix, its bytes */
      if (fread(tensor, sizeof tensor, 1, from) != 1) return 2;
      void *at = read_some(from, tensor[1]);
      memcpy((char *)&m + tensor[0], &at, sizeof at);
    }
    const int64_t rows = header[ROWS], inputs = header[INPUTS], bytes = header[WORKSPACE], outputs = rows * m.outputs;
    char *workspace = aligned_alloc(CACHE_LINE, bytes / CACHE_LINE * CACHE_LINE + CACHE_LINE);
    if (header[IS_FLOAT]) {
      const float *x = read_some(from, rows * inputs * sizeof *x);
      float *y = malloc(outputs * sizeof *y);
      refused = product_f32(x, rows, inputs, &m, workspace, bytes, y, 2);
      fwrite(y, sizeof *y, outputs, to);
    } else {
      const bf16 *x = read_some(from, rows * inputs * sizeof *x);
      bf16 *y = malloc(outputs * sizeof *y);
      refused = product_bf16(x, rows, inputs, &m, workspace, bytes, y, 2);
      fwrite(y, sizeof *y, outputs, to);
    }
    if (refused) return fprintf(stderr, "product %lld is refused: %llx\n", (long long)number, (long long)refused), 3;
    number++;
  }
  return fclose(to) != 0;
}
