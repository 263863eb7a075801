/* The formats of stored keys and values, for one number format (T, PACK, NAME: see kernels.c): a header for the products of
   those that lie number by number, with SCALE_SIZE bytes of a scale for each place or none, and a header for 4 bits. */
#include "rotation.h"
#define KV T
#define SCALE_SIZE 0
#define KV_NAME NAME
#include "stored_products.h"
#include "unpacked_places.h"
#undef KV
#undef SCALE_SIZE
#undef KV_NAME
#include "stored_as_model.h"
#define KV int8_t
#define SCALE_SIZE SCALE_BYTES
#define KV_NAME INT8_NAME
#include "kv_int8.h"
#include "stored_products.h"
#include "unpacked_places.h"
#undef KV
#undef SCALE_SIZE
#undef KV_NAME
#include "kv_int4.h"
#include "stored_in_bytes.h"
