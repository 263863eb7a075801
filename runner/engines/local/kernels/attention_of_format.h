/* Attention over keys and values in one format, as kernels.c describes */
#include "attention_own.h"
#include "unpacked_places.h"
#if defined(HAS_TILES) && PACK == 2
#include "tile_attention.h"
#endif
#include "attention_shared.h"
#undef KV
#undef SCALE_SIZE
#undef KV_NAME
