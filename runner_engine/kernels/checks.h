/* Numbers that come from outside and select memory are checked before a call reads or writes anything. A check goes once
   over the tokens of a call, which takes no time beside the call's work. */

/* What is wrong with a call; refusals.py has the words. */
enum {
  FINE,
  NO_TOKENS,
  WRONG_HEADS,
  WRONG_TOKEN_ID,
  WRONG_POSITION,
  WRONG_SLOT,
  WRONG_PLACE,
  WRONG_SEEN,
  WRONG_FIRST,
  WRONG_KEPT,
  WRONG_PART,
  WRONG_PART_TOKEN,
  WRONG_PART_ROW,
  WRONG_MATRIX,
  SMALL_WORKSPACE,
  NO_MEMORY,
  MISSING_UNIT,
  WRONG_STATE_SLOT,
  WRONG_SEGMENT,
  WRONG_EXPERT,
  WRONG_KV_LAYER,
  WRONG_ADAPTER
};

/* What a function returns to Python: 0, or what is wrong and with which token, row or part */
#define REFUSE(what, at) return ((int64_t)(what) << 32 | (int64_t)(at))

static int64_t check_heads(int64_t kv_heads, int64_t group, int64_t dim) {
  if (kv_heads < 1 || group < 1 || group > MAX_GROUP || dim < LANES || dim > MAX_DIM || dim % LANES)
    REFUSE(WRONG_HEADS, 0);
  return FINE;
}

/* Every number of `of` [count], where there is one, lies between `least` and `most`. */
static int64_t check_range(const int32_t *of, int64_t count, int64_t least, int64_t most, int what) {
  for (int64_t i = 0; of && i < count; i++)
    if (of[i] < least || of[i] > most) REFUSE(what, i);
  return FINE;
}

/* A layer's formats are known ones, its heads are rotated in whole pieces, and what is before it is part of what there is. */
static int64_t check_kv_layer(const kv_layer *layer, int64_t dim, int in_bytes, int64_t at) {
  const int64_t most = in_bytes ? KV_INT4 : KV_AS_MODEL, piece = layer->rotated;
  if (layer->keys < 0 || layer->keys > most || layer->values < 0 || layer->values > most) REFUSE(WRONG_KV_LAYER, at);
  if (piece < 0 || piece & (piece - 1) || (piece && dim % piece)) REFUSE(WRONG_KV_LAYER, at);
  if (layer->keys_before < 0 || layer->values_before < 0 || layer->plain_before < 0) REFUSE(WRONG_KV_LAYER, at);
  if (layer->keys_before >= layer->all_keys || layer->values_before >= layer->all_values) REFUSE(WRONG_KV_LAYER, at);
  return FINE;
}

/* Each token has a slot, a place in it, and sees at least `least` places of it. place, seen: or 0 */
static int64_t check_places(const kv_arena *arenas, int64_t slots, int64_t tokens, const int32_t *slot,
                            const int32_t *place, const int32_t *seen, int64_t least) {
  for (int64_t t = 0; t < tokens; t++) {
    if (slot[t] < 0 || slot[t] >= slots) REFUSE(WRONG_SLOT, t);
    const int64_t capacity = arenas[slot[t]].capacity;
    const int64_t plain = arenas[slot[t]].first_plain;
    if (capacity % LANES || (plain && (plain != LANES || capacity < LANES))) REFUSE(WRONG_SLOT, t);
    if (place && (place[t] < 0 || place[t] >= capacity)) REFUSE(WRONG_PLACE, t);
    if (seen && (seen[t] < least || seen[t] > capacity)) REFUSE(WRONG_SEEN, t);
  }
  return FINE;
}

/* `tokens` of a pass of `all`, those at `chosen` or those from `first` on, see so many keys of an arena. */
static int64_t check_part(const kv_arena *arena, int64_t keys, int64_t causal, const int64_t *chosen, int64_t first,
                          int64_t tokens, int64_t all) {
  if (tokens < 1 || !arena || arena->capacity % LANES) REFUSE(WRONG_PART, 0);
  if (arena->first_plain && (arena->first_plain != LANES || arena->capacity < LANES)) REFUSE(WRONG_PART, 0);
  if (keys < 0 || keys + (causal ? tokens - 1 : 0) > arena->capacity) REFUSE(WRONG_PART, 0);
  if (first < 0 || (!chosen && first + tokens > all)) REFUSE(WRONG_PART_TOKEN, 0);
  for (int64_t t = 0; chosen && t < tokens; t++)
    if (chosen[t] < 0 || first + chosen[t] >= all) REFUSE(WRONG_PART_TOKEN, t);
  return FINE;
}

/* Whether all sums with such rows fit into 32 bits, also before a zero point is subtracted */
INLINE int has_readable_rows(const matrix *m, int64_t inputs) {
  const int has_own_scales = m->row_scale == 0 && m->zero_point == 0;
  return inputs <= MAX_STORED_INPUTS && (has_own_scales || m->row_scale > 0) && m->zero_point >= -128 && m->zero_point < 128;
}

/* Whether the unit is not linked that multiplies by a matrix (units.h) */
INLINE int is_missing(const matrix *m, int64_t pack) {
  return (has_blocks(m) || m->kind == GROUPS || m->kind == BYTE_GROUPS) && !(pack == 2 ? has_packed_bf16 : has_packed_f32);
}

/* Whether rows of so many inputs can be multiplied by a matrix; pack: how many numbers of a row are in 32 bits */
static int is_readable(const matrix *m, int64_t inputs, int64_t pack) {
  if (m->outputs < 1 || inputs < 1 || !m->weight) return 0;
  if (m->kind == PLAIN) return inputs % pack == 0;
  if (m->kind == PLAIN_ROWS) return 1;
  if (has_blocks(m)) {
    const block_format *f = block_format_of(m->block);
    return f && inputs % f->group == 0;
  }
  if (m->kind == GROUPS) return has_readable_groups(m, inputs);
  if (m->kind == BYTE_GROUPS) return has_readable_byte_groups(m, inputs);
  if (m->kind == FOUR_BIT_ROWS)
    return pack == 2 && m->scale && m->constants && m->block > 0 && m->block % FOUR_BIT_INPUTS == 0 &&
           inputs % m->block == 0;
  if (m->kind == WEIGHT_INT8) return pack == 2 && m->scale && m->outputs % PANEL == 0 && inputs % 4 == 0;
  if (m->kind == INT8_STORED && !has_readable_rows(m, inputs)) return 0;
  if (has_byte_rows(m)) return m->scale && m->constants;
#ifdef HAS_AVX512_VNNI
  if (!m->scale) return 0;
  if (pack != 2 || m->outputs % PANEL) return 0;
  if (m->kind == FOUR_BIT) return m->constants && m->block > 0 && m->block % 2 == 0 && inputs % m->block == 0;
#endif
  return 0;
}
