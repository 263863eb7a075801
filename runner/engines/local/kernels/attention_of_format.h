/* Attention over keys and values in one format, as kernels.c describes */
#include "attention_own.h"
#ifdef HAS_AVX512
#include "attention_shared.h"
#endif
#undef KV
#undef SCALE_SIZE
#undef KV_NAME
