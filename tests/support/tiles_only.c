/* What tiles (AMX) compute in bfloat16 and in bytes, and nothing else, so that a test builds it in seconds: attention to
   shared keys, and products. */
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

#if WIDENS_BF16
#define T float
#define PACK 1
#define NAME(x) x##_f32
#include "attention_tiles.h"
#undef T
#undef PACK
#undef NAME
#endif

#define T bf16
#define PACK 2
#define NAME(x) x##_bf16
#if WIDENS_BF16
#define OPERAND_NAME(x) x##_f32
#else
#define OPERAND_NAME NAME
#include "attention_tiles.h"
#endif
#define INT8_NAME(x) x##_int8_bf16
#define INT4_NAME(x) x##_int4_bf16
#define BYTES_NAME(x) x##_bytes_bf16
#define ROTATION_UNIT ATTENTION_BYTES_BF16
#include "int8_products.h"
#include "kv_formats.h"
#include "own_pieces.h"
#define KV bf16
#define IS_IN_BYTES 0
#define KV_NAME NAME
#include "attention_of_format.h"
#define KV char
#define IS_IN_BYTES 1
#define KV_NAME BYTES_NAME
#include "attention_of_format.h"
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
