/* A norm of a row, as a fused pass gets it from Python (fused_rows.h). */

/* Kinds of norms (fused_rows.h): by the root mean square, rounded before the weight as in Llama, or only at the end; or
   with the mean subtracted, too. */
enum { RMS_IN_STEPS, RMS_AT_ONCE, LAYER_NORM };

typedef struct {
  const void *weight; /* of RMS_IN_STEPS in the model's format, else float32; 0: there is no such norm */
  const float *bias;  /* float32, or 0 */
  int64_t kind;
  float epsilon, unused;
} fused_norm;
