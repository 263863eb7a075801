/* Every kernel of the local engine: compiled on first use by the C compiler of the machine (building.py), in several units
   (units.h).
   README.md lists the kernels. Files without a number format come first; the others are compiled once for each: numbers
   are of type T, PACK of them are packed in 32 bits, and NAME ends the name of a function in the format, OPERAND_NAME in the one in which it is multiplied. Attention is
   compiled twice for each, since keys and values may be stored otherwise: as KV, in the model's numbers or in bytes
   (IS_IN_BYTES); KV_NAME ends the names of these functions. */
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
#include "expert_structs.h"
#include "mixture_structs.h"
#include "head_structs.h"
#include "latent_structs.h"
#include "stream_structs.h"
#include "pass_clock.h"
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

#define T float
#define PACK 1
#define NAME(x) x##_f32
#include "attention_tiles.h"
#undef T
#undef PACK
#undef NAME

#define T bf16
#define PACK 2
#define NAME(x) x##_bf16
#define INT8_NAME(x) x##_int8_bf16
#define INT4_NAME(x) x##_int4_bf16
#define BYTES_NAME(x) x##_bytes_bf16
#define ROTATION_UNIT ATTENTION_BYTES_BF16
#if WIDENS_BF16
#define OPERAND_NAME(x) x##_f32
#else
#define OPERAND_NAME(x) x##_bf16
#include "attention_tiles.h"
#endif
#define PRODUCTS_UNIT PRODUCTS_BF16
#define PACKED_UNIT PACKED_BF16
#define ROWS_UNIT PRODUCTS_BF16
#define RECURRENT_UNIT RECURRENT_BF16
#include "rows.h"
#include "recurrent.h"
#include "delta_rule.h"
#include "mixers.h"
#undef RECURRENT_UNIT
#include "int8_products.h"
#include "kv_formats.h"
#include "own_pieces.h"
#define KV bf16
#define IS_IN_BYTES 0
#define KV_NAME NAME
#define ATTENTION_UNIT ATTENTION_BF16
#include "attention_of_format.h"
#define KV char
#define IS_IN_BYTES 1
#define KV_NAME BYTES_NAME
#define ATTENTION_UNIT ATTENTION_BYTES_BF16
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
#include "fused_rows.h"
#include "experts.h"
#include "fused_forward.h"
#undef T
#undef PACK
#undef NAME
#undef INT8_NAME
#undef INT4_NAME
#undef BYTES_NAME
#undef ROTATION_UNIT
#undef OPERAND_NAME
#undef PRODUCTS_UNIT
#undef PACKED_UNIT

#define T float
#define PACK 1
#define NAME(x) x##_f32
#define INT8_NAME(x) x##_int8_f32
#define INT4_NAME(x) x##_int4_f32
#define BYTES_NAME(x) x##_bytes_f32
#define ROTATION_UNIT ATTENTION_BYTES_F32
#define OPERAND_NAME(x) x##_f32
#define PRODUCTS_UNIT PRODUCTS_F32
#define PACKED_UNIT PACKED_F32
#define ROWS_UNIT SHARED
#define RECURRENT_UNIT RECURRENT_F32
#include "rows.h"
#include "recurrent.h"
#include "delta_rule.h"
#include "mixers.h"
#undef RECURRENT_UNIT
#include "int8_products.h"
#include "kv_formats.h"
#include "own_pieces.h"
#define KV float
#define IS_IN_BYTES 0
#define KV_NAME NAME
#define ATTENTION_UNIT ATTENTION_F32
#include "attention_of_format.h"
#define KV char
#define IS_IN_BYTES 1
#define KV_NAME BYTES_NAME
#define ATTENTION_UNIT ATTENTION_BYTES_F32
#include "attention_of_format.h"
#include "register_tile.h"
#include "operands.h"
#ifdef HAS_AVX512_VNNI
#include "row_int8.h"
#endif
#include "products.h"
#include "fused_rows.h"
#include "experts.h"
#include "fused_forward.h"
#include "sampling.h"
#if IS_IN(SHARED)
#include "shared_numbers.h"
#endif
