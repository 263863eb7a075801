/* Threads that go through the same phases together. A phase is a number of tasks, and each is claimed by whoever is free.
   It is over when all of its tasks are done, and not when all threads have come: one that the system has set aside between
   two tasks, since another program runs on its core, keeps nobody waiting, and walks past what is over when it returns. */

#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define PATIENCE 2000 /* looks before a thread sleeps: an idle core takes over one that was set aside in its task */

typedef struct {
  uint32_t claimed, apart[15], done, sleepers, rest[14];
} phase; /* two lines of the cache: claims do not disturb those who wait */

INLINE void relax(void) {
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

/* The next task of a phase; at least as many as there are when none is left */
INLINE int64_t claim(phase *p, int alone) {
  return alone ? p->claimed++ : __atomic_fetch_add(&p->claimed, 1, __ATOMIC_RELAXED);
}

INLINE void finish(phase *p, int64_t tasks, int alone) {
  if (alone) return;
  if (__atomic_add_fetch(&p->done, 1, __ATOMIC_SEQ_CST) == tasks && __atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST))
    wake(&p->done);
}

/* Returns when a phase is over. */
static void meet(phase *p, int64_t tasks, int alone) {
  if (alone) return;
  for (int look = 0; look < PATIENCE; look++, relax())
    if (__atomic_load_n(&p->done, __ATOMIC_ACQUIRE) == tasks) return;
  __atomic_add_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
  for (uint32_t done; (done = __atomic_load_n(&p->done, __ATOMIC_SEQ_CST)) != tasks;) sleep_while(&p->done, done);
  __atomic_sub_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
}

/* for all tasks of a phase that this thread gets */
#define EACH_TASK(i, p, tasks, alone) \
  for (int64_t i = claim(p, alone); i < (tasks); finish(p, tasks, alone), i = claim(p, alone))
