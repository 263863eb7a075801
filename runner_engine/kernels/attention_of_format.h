/* Attention over keys and values in one format, as kernels.c describes */
#if !IS_IN(ATTENTION_UNIT)
#define OF_UNIT(...) UNTIL_LINKED __VA_ARGS__ { abort(); }
OF_UNIT(void KV_NAME(attend_head)(int64_t dim, int64_t group, const T *q, const KV *K, const KV *V,
                                  const attention_view *of, T *out, const KV *next))
#if IS_IN_BYTES
OF_UNIT(void KV_NAME(store_head)(const kv_arena *arena, const kv_layer *layer, int64_t head, const T *k, const T *v,
                                 int64_t dim, int64_t place))
#endif
OF_UNIT(void KV_NAME(attend_tile)(int64_t i, const T *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                                  int64_t tokens, const kv_arena *arena, const kv_layer *layer, int64_t group,
                                  int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale, float cap,
                                  T *out, float *top, float *sum, prefetch_queue *next))
#if defined(HAS_TILES) && PACK == 2
OF_UNIT(void KV_NAME(attend_task)(int64_t i, const bf16 *q, int64_t q_head, int64_t q_token, const int64_t *chosen,
                                  int64_t tokens, const kv_arena *arena, const kv_layer *layer, int64_t group,
                                  int64_t dim, int64_t keys, int64_t causal, const int32_t *from, float scale, float cap,
                                  bf16 *out, float *top, float *sum, int64_t tile_rows, prefetch_queue *next))
#endif
#undef OF_UNIT
#endif
#include "attention_own.h"
#undef IS_UNPACKED
#define IS_UNPACKED (IS_IN_BYTES || IS_WIDENED) /* shared keys and values are not stored as they are multiplied */
#if defined(HAS_TILES) && PACK == 2
#include "tile_attention.h"
#endif
#include "attention_shared.h"
#undef KV
#undef IS_IN_BYTES
#undef KV_NAME
#undef ATTENTION_UNIT
