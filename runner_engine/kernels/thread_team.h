/* Threads that go through the same phases together. A phase consists of chunks of work; a thread that is free claims
   the next one. A phase is over when all of its chunks are done, not when all threads have arrived: a thread that the
   system has suspended between two chunks, because another program runs on its core, delays nobody, and skips the
   phases that are over when it resumes. */

#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define SPINS_BEFORE_SLEEP 2000 /* then the core is free for a thread that was suspended within its chunk */

typedef struct {
  uint32_t claimed, padding[15], done, sleepers, rest[14];
} phase; /* two cache lines: claims do not disturb waiting threads */

INLINE void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

INLINE void sleep_while(uint32_t *word, uint32_t value) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, 0, 0, 0);
#else
  sched_yield();
#endif
}

INLINE void wake(uint32_t *word) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0);
#endif
}

/* The next chunk of a phase; the number of chunks or more when none is left */
INLINE int64_t claim(phase *p, int is_alone) {
  return is_alone ? p->claimed++ : __atomic_fetch_add(&p->claimed, 1, __ATOMIC_RELAXED);
}

INLINE void finish(phase *p, int64_t chunks, int is_alone) {
  if (is_alone) return;
  if (__atomic_add_fetch(&p->done, 1, __ATOMIC_SEQ_CST) == chunks && __atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST))
    wake(&p->done);
}

/* Returns when all chunks of a phase are done. */
static void barrier(phase *p, int64_t chunks, int is_alone) {
  if (is_alone) return;
  for (int spin = 0; spin < SPINS_BEFORE_SLEEP; spin++, spin_pause())
    if (__atomic_load_n(&p->done, __ATOMIC_ACQUIRE) == chunks) return;
  __atomic_add_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
  for (uint32_t done; (done = __atomic_load_n(&p->done, __ATOMIC_SEQ_CST)) != chunks;) sleep_while(&p->done, done);
  __atomic_sub_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
}

/* for all chunks of a phase that this thread gets */
#define FOR_EACH_CHUNK(i, p, chunks, is_alone) \
  for (int64_t i = claim(p, is_alone); i < (chunks); finish(p, chunks, is_alone), i = claim(p, is_alone))

/* for the items of chunk i, of `count` altogether */
#define FOR_EACH_ITEM(item, i, chunk, count) \
  for (int64_t item = (i) * (chunk); item < (count) && item < ((i) + 1) * (chunk); item++)

/* Items of a chunk: neighbours, and several chunks for each thread */
INLINE int64_t chunk_of(int64_t count, int threads) { return ceil_div(count, 8 * threads); }
