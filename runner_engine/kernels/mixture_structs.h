/* A mixture of experts in a layer of a fused pass, as Python describes it, and its check; what is computed is in mixtures.h.

   A router gives each expert a score for a token; the best ones are chosen, and what they make of the token is weighted
   by their scores and summed. Beside them there may be an MLP that all tokens go through.

   A mixture stands in the place of an MLP, or of attention's queries and output (head_experts.h). */

enum { SOFTMAX_SCORES, SIGMOID_SCORES };

#define MIXTURE_PHASES (2 * PRODUCT_PHASES + 4 + EXPERT_PHASES) /* of a layer, beside LAYER_PHASES */
#define MOST_EXPERTS 4096                                       /* of a layer: the scores of a token are on the stack */

struct mixture {
  expert_set set;
  const void *router;      /* [experts, hidden], in the model's format, output by output */
  const float *bias;       /* of the router's sums, or 0 */
  const float *correction; /* is added to scores for the choice alone, or 0 */
  int64_t *counts;         /* [experts]: how often each was chosen is added here */
  int64_t scores, rounds_logits, rounds_weights; /* rounds_*: to the model's format */
  int64_t scales_inputs; /* whether the scores scale what the experts read, and not what they give */
  /* experts are chosen from the chosen_groups best of so many groups; a group's score is the sum of its best_of_group best */
  int64_t groups, chosen_groups, best_of_group;
  int64_t normalizes;   /* whether the scores of the chosen ones are divided by their sum */
  float epsilon, scale; /* is added to that sum; what scores are multiplied by in the end */
  int64_t shared_inner, shared_count, shared_activation, shared_has_gate; /* the MLP for all tokens; shared_inner 0: none */
  const void *shared_scale; /* [hidden], or 0: the sigmoid of its product with a token scales what that MLP gives */
  const matrix *shared_into, *shared_down; /* [shared_count], and the one that goes out */
};

/* What a pass has in memory for its mixtures; rows are those of one layer at a time */
typedef struct {
  float *logits, *weights;  /* [tokens, experts], [tokens, chosen] */
  int64_t *ids;             /* [tokens, chosen] */
  void *gates, *inner;      /* of the MLP for all tokens: [tokens, 2 * shared_inner], [tokens, shared_inner] */
  expert_pass *of_place;    /* of each place its own: a thread that was suspended may still read those of an earlier one */
  int64_t count;            /* places that are mixtures */
  expert_rows memory;
  char *notes;              /* where what is noted on the layers' rows begins */
  int64_t chosen, widest;   /* of all layers the most experts of a token, and the widest inputs of their matrices */
} mixture_pass;

/* Places of mixtures in a model: the MLP of each layer, and then the attention of each layer */
INLINE int64_t mixture_places(const fused_model *m) { return 2 * m->layers; }

/* The mixture at a place, or 0 */
static const mixture *mixture_at(const fused_model *m, const fused_layer *layers, int64_t place) {
  return place < m->layers ? layers[place].mixture : layers[place - m->layers].head_experts;
}

/* Looks through a model's mixtures. */
static mixture_pass mixtures_of(const fused_model *m, const fused_layer *layers) {
  mixture_pass w = {.chosen = 1};
  for (int64_t i = 0; i < mixture_places(m); i++) {
    const mixture *of = mixture_at(m, layers, i);
    if (!of) continue;
    w.count++;
    if (w.chosen < of->set.chosen) w.chosen = of->set.chosen;
    if (w.widest < of->set.inner) w.widest = of->set.inner;
    if (w.widest < of->shared_inner) w.widest = of->shared_inner;
  }
  return w;
}

/* Allocates what a pass needs for its mixtures; the size: see fused_mixtures.py. */
static void allocate_mixtures(mixture_pass *w, const fused_model *m, const fused_layer *layers, int64_t tokens, int64_t size,
                              char **workspace) {
  if (!w->count) return;
  int64_t experts = 0, rows = 0, inner = 0, shared = 0;
  for (int64_t i = 0; i < mixture_places(m); i++) {
    const mixture *of = mixture_at(m, layers, i);
    if (!of) continue;
    const int64_t its_rows = tokens * of->set.chosen;
    if (experts < of->set.experts) experts = of->set.experts;
    if (rows < its_rows) rows = its_rows;
    if (inner < of->set.inner) inner = of->set.inner;
    if (shared < of->shared_inner) shared = of->shared_inner;
  }
  w->logits = allocate(workspace, tokens * experts * sizeof(float));
  w->weights = allocate(workspace, rows * sizeof(float));
  w->ids = allocate(workspace, rows * sizeof(int64_t));
  w->gates = allocate(workspace, tokens * 2 * shared * size);
  w->inner = allocate(workspace, tokens * shared * size);
  w->of_place = allocate(workspace, mixture_places(m) * sizeof(expert_pass));
  w->memory = allocate_expert_rows(rows, m->hidden, inner, size, workspace);
  w->notes = *workspace;
  expert_pass unused;
  for (int64_t i = 0; i < mixture_places(m); i++) {
    const mixture *of = mixture_at(m, layers, i);
    if (of) note_expert_rows(&unused, &of->set, tokens, &w->memory, workspace);
  }
}

/* Writes down where each mixture's rows are: not when they are allocated, since the size is only checked then. */
static void prepare_mixtures(const mixture_pass *w, const fused_model *m, const fused_layer *layers, int64_t tokens) {
  char *workspace = w->notes;
  for (int64_t i = 0; i < mixture_places(m); i++) {
    const mixture *of = mixture_at(m, layers, i);
    if (of) note_expert_rows(w->of_place + i, &of->set, tokens, &w->memory, &workspace);
  }
}

/* What is wrong with the layer of a mixture that computes queries and reads what these find: its matrix gives the keys and
   values that all chosen experts have in common */
static int64_t check_head_experts(const fused_model *m, const fused_layer *layer, int64_t l) {
  const mixture *of = layer->head_experts;
  const int64_t inner = of->set.inner;
  if (m->group != 1 || m->has_query_gates || m->has_heads_together) REFUSE(WRONG_HEADS, l);
  if (layer->mixer || layer->beside || layer->latent || layer->shape || layer->streams || layer->is_parallel) REFUSE(WRONG_MATRIX, l);
  if (of->set.has_gate || of->shared_inner || of->scales_inputs) REFUSE(WRONG_MATRIX, l);
  if (inner % m->dim || inner * of->set.chosen != m->kv_heads * m->dim) REFUSE(WRONG_HEADS, l);
  if (layer->qkv_count != 1 || layer->qkv->outputs != 2 * inner) REFUSE(WRONG_MATRIX, l);
  return FINE;
}

/* What is wrong with the mixtures of a model */
static int64_t check_mixtures(const fused_model *m, const fused_layer *layers, int64_t pack) {
  for (int64_t i = 0; i < mixture_places(m); i++) {
    const mixture *of = mixture_at(m, layers, i);
    if (!of) continue;
    const int64_t l = i % m->layers;
    const expert_set *set = &of->set;
    if (layers[l].is_parallel || set->hidden != m->hidden || !of->router) REFUSE(WRONG_MATRIX, l);
    if (i < m->layers && layers[l].mlp_apart) REFUSE(WRONG_MATRIX, l);
    if (set->experts < 1 || set->experts > MOST_EXPERTS || set->chosen < 1 || set->chosen > set->experts) REFUSE(WRONG_EXPERT, l);
    if (of->groups < 1 || set->experts % of->groups || of->chosen_groups < 1 || of->chosen_groups > of->groups)
      REFUSE(WRONG_EXPERT, l);
    if (of->best_of_group < 1 || of->best_of_group > set->experts / of->groups) REFUSE(WRONG_EXPERT, l);
    if (set->chosen > set->experts / of->groups * of->chosen_groups) REFUSE(WRONG_EXPERT, l);
    int64_t wrong = check_experts(set, pack);
    if (!wrong && i >= m->layers) wrong = check_head_experts(m, layers + l, l);
    if (wrong) return wrong;
    if (!of->shared_inner) continue;
    if (of->shared_count < 1 || of->shared_count > 2 || !m->has_halves || !of->shared_into || !of->shared_down) REFUSE(WRONG_MATRIX, l);
    for (int64_t k = 0; k < of->shared_count; k++) {
      if (is_missing(of->shared_into + k, pack)) REFUSE(MISSING_UNIT, 0);
      if (!is_readable(of->shared_into + k, m->hidden, pack)) REFUSE(WRONG_MATRIX, l);
    }
    if (is_missing(of->shared_down, pack)) REFUSE(MISSING_UNIT, 0);
    if (!is_readable(of->shared_down, of->shared_inner, pack)) REFUSE(WRONG_MATRIX, l);
  }
  return FINE;
}

/* Marks the best of `count` numbers by giving each the lowest number; `best` gets their places in order. A number that is
   none counts as the lowest. */
static void take_best(float *of, int64_t count, int64_t chosen, int64_t *best) {
  for (int64_t c = 0; c < chosen; c++) {
    int64_t at = 0;
    float most = -INFINITY;
    for (int64_t i = 0; i < count; i++)
      if (of[i] > most) most = of[i], at = i;
    best[c] = at, of[at] = -INFINITY;
  }
}

/* Gives the experts of all groups but the best ones the lowest number. */
static void leave_out_groups(const mixture *of, float *scores) {
  const int64_t size = of->set.experts / of->groups;
  float of_group[of->groups], left[size];
  int64_t best[of->groups > of->best_of_group ? of->groups : of->best_of_group];
  for (int64_t g = 0; g < of->groups; g++) {
    memcpy(left, scores + g * size, sizeof left);
    take_best(left, size, of->best_of_group, best);
    of_group[g] = 0;
    for (int64_t b = 0; b < of->best_of_group; b++) of_group[g] += scores[g * size + best[b]];
  }
  take_best(of_group, of->groups, of->chosen_groups, best);
  for (int64_t g = 0; g < of->groups; g++) {
    int is_left_out = 1;
    for (int64_t b = 0; b < of->chosen_groups; b++) is_left_out &= best[b] != g;
    for (int64_t e = 0; is_left_out && e < size; e++) scores[g * size + e] = -INFINITY;
  }
}

/* The experts `ids` [chosen] of a token and their weights, from what the router gives [experts], which is overwritten */
static void choose_experts(const mixture *of, float *logits, int64_t *ids, float *weights) {
  const int64_t experts = of->set.experts, chosen = of->set.chosen;
  float choice[experts], sum = 0;
  if (of->scores == SOFTMAX_SCORES) {
    float top = -INFINITY;
    for (int64_t e = 0; e < experts; e++) top = logits[e] > top ? logits[e] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < experts; e++) sum += logits[e] = exp_fast(logits[e] - top);
    for (int64_t e = 0; e < experts; e++) logits[e] /= sum;
  } else
#pragma omp simd
    for (int64_t e = 0; e < experts; e++) {
      const float small = exp_fast(-fabsf(logits[e]));
      logits[e] = (logits[e] < 0 ? small : 1.0f) / (1.0f + small);
    }
  for (int64_t e = 0; e < experts; e++) choice[e] = logits[e] + (of->correction ? of->correction[e] : 0);
  if (of->chosen_groups < of->groups) leave_out_groups(of, choice);
  take_best(choice, experts, chosen, ids);
  sum = of->epsilon;
  for (int64_t c = 0; c < chosen; c++) sum += weights[c] = logits[ids[c]];
  for (int64_t c = 0; c < chosen; c++) weights[c] = (of->normalizes ? weights[c] / sum : weights[c]) * of->scale;
}
