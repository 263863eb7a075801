/* The kernels are one unit for the compiler, or several that it compiles side by side (building.py), each with -DUNIT=NAME.
   A unit includes all headers, and has the functions that stand between #if IS_IN(NAME) and #endif; those of others are
   only declared to it. Units of formats that few models need are compiled and linked when one is asked for: until then
   weak functions stand for those in them (UNTIL_LINKED), and calls that would need them are refused (checks.h). */

#ifndef UNITS
#define UNITS
#define ALL_UNITS 0
#define SHARED 1 /* sampling, sums with quantized weights, what has no number format */
#define PRODUCTS_BF16 2 /* and the fused pass */
#define ATTENTION_BF16 3
#define PRODUCTS_F32 4
#define ATTENTION_F32 5
#define PACKED_BF16 6 /* weights in blocks and groups */
#define PACKED_F32 7
#define PACKED_BYTES 8 /* their products with rows in bytes */
#define ATTENTION_BYTES_BF16 9
#define ATTENTION_BYTES_F32 10
#define RECURRENT_BF16 11 /* layers that carry a state */
#define RECURRENT_F32 12

#ifndef UNIT
#define UNIT ALL_UNITS
#endif
#define IS_IN(unit) (UNIT == ALL_UNITS || UNIT == (unit))

/* What one unit has and others call */
#if UNIT == ALL_UNITS
#define BETWEEN_UNITS static
#else
#define BETWEEN_UNITS __attribute__((visibility("hidden")))
#pragma GCC diagnostic ignored "-Wunused-function" /* of other units */
#pragma GCC diagnostic ignored "-Wunused-parameter" /* of functions until they are linked */
#endif
#define UNTIL_LINKED __attribute__((weak, visibility("hidden")))

/* Whether the units are linked that multiply by weights in blocks and groups, that attend to keys in bytes, and that have
   layers with a state */
#if UNIT == ALL_UNITS
enum { has_packed_bf16 = 1, has_packed_f32 = 1, has_kv_bytes_bf16 = 1, has_kv_bytes_f32 = 1,
       has_recurrent_bf16 = 1, has_recurrent_f32 = 1 };
#elif UNIT == SHARED
UNTIL_LINKED const int has_packed_bf16 = 0;
UNTIL_LINKED const int has_packed_f32 = 0;
UNTIL_LINKED const int has_kv_bytes_bf16 = 0;
UNTIL_LINKED const int has_kv_bytes_f32 = 0;
UNTIL_LINKED const int has_recurrent_bf16 = 0;
UNTIL_LINKED const int has_recurrent_f32 = 0;
#else
extern BETWEEN_UNITS const int has_packed_bf16, has_packed_f32, has_kv_bytes_bf16, has_kv_bytes_f32, has_recurrent_bf16,
    has_recurrent_f32;
#if UNIT == PACKED_BF16
const int has_packed_bf16 = 1;
#elif UNIT == PACKED_F32
const int has_packed_f32 = 1;
#elif UNIT == ATTENTION_BYTES_BF16
const int has_kv_bytes_bf16 = 1;
#elif UNIT == ATTENTION_BYTES_F32
const int has_kv_bytes_f32 = 1;
#elif UNIT == RECURRENT_BF16
const int has_recurrent_bf16 = 1;
#elif UNIT == RECURRENT_F32
const int has_recurrent_f32 = 1;
#endif
#endif
#endif
