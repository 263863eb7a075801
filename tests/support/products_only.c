/* The products of bfloat16 and nothing else, so that a test builds them in seconds. */
#include "numbers.h"
#ifdef HAS_AVX512
#include "avx512.h"
#endif
#include "thread_team.h"
#include "attention.h"
#include "matrices.h"
#include "checks.h"
#include "recurrent_structs.h"
#include "norm_structs.h"
#include "mixer_structs.h"
#include "adapter_structs.h"
#include "fused_structs.h"
#include "head_structs.h"
#include "latent_structs.h"
#include "tiles.h"

#ifdef HAS_AVX512_VNNI
#define T uint8_t
#define PACK 4
#define NAME(x) x##_u8
#include "register_tile.h"
#undef T
#undef PACK
#undef NAME
#endif

#define T bf16
#define PACK 2
#define NAME(x) x##_bf16
#ifdef HAS_AVX512_BF16
#include "attention_tiles.h"
#endif
#include "int8_products.h"
#include "register_tile.h"
#include "operands.h"
#include "four_bit_rows.h"
#include "int8_rows.h"
#ifdef HAS_TILES
#include "tile_sums.h"
#endif
#ifdef HAS_AVX512_VNNI
#include "four_bit.h"
#include "quantized.h"
#include "row_int8.h"
#endif
#include "products.h"
