/* Seconds of the parts of fused passes, for bench/job_parts.py, which compiles with -DPASS_CLOCK; otherwise there is no
   clock. The first thread reads it where a part ends; what it waits for the others belongs to that part. */

#ifdef PASS_CLOCK
#include <omp.h>
#include <time.h>

typedef enum { PRODUCTS_OF_LAYERS, ATTENTION, NORMS_AND_ROPE, PRODUCT_OF_HEAD, ROUTING, PRODUCTS_OF_EXPERTS, PASS_PARTS } pass_part;

#if IS_IN(SHARED)
double pass_seconds[PASS_PARTS];
#else
extern double pass_seconds[PASS_PARTS];
#endif
static double pass_clock_at;

static void start_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  pass_clock_at = now.tv_sec + now.tv_nsec * 1e-9;
}

static void end_part(pass_part part) {
  if (omp_get_thread_num()) return;
  const double before = pass_clock_at;
  start_clock();
  pass_seconds[part] += pass_clock_at - before;
}
#else
#define start_clock()
#define end_part(part)
#endif
