"""Message texts of errors in the C kernels, by error name."""

REFUSALS = {
    "NO_TOKENS": "the request has no tokens, or asks for no logits",
    "WRONG_HEADS": "each KV head needs 1 to {max_group} query heads, and a width of 16, 32 … {max_dim}",
    "WRONG_TOKEN_ID": "the ID of token {at} is outside the embedding",
    "WRONG_POSITION": "the position of token {at} is outside the RoPE table",
    "WRONG_SLOT": "the KV slot of token {at} does not exist, or is not in whole blocks",
    "WRONG_PLACE": "the position of token {at} is outside its KV slot",
    "WRONG_SEEN": "token {at} attends to more positions than its KV slot has, or to too few",
    "WRONG_FIRST": "the attention window of token {at} begins before position 0",
    "WRONG_KEPT": "entry {at} of the tokens to keep is not in the forward pass",
    "WRONG_PART": "some shared keys are outside their arena",
    "WRONG_PART_TOKEN": "entry {at} of the tokens that attend to shared keys is not in the forward pass",
    "WRONG_PART_ROW": "token {at} refers to a sequence that its shared prefix does not have",
    "WRONG_MATRIX": (
        "this processor cannot multiply matrix or layer {at}: its sizes or its format are not supported"
    ),
    "SMALL_WORKSPACE": "the workspace is too small",
    "NO_MEMORY": "not enough memory for the activations of a matmul",
    "MISSING_UNIT": "the kernel unit that it needs is not linked",
    "WRONG_STATE_SLOT": "the state slot of segment {at} does not exist",
    "WRONG_SEGMENT": "segment {at} is not among the tokens of the forward pass",
    "WRONG_KV_LAYER": "layer {at} of the KV cache has an invalid format, rotation or position",
    "WRONG_ADAPTER": "entry {at} of the adapter tokens is not in the forward pass, or has no adapter",
    "WRONG_EXPERT": "choice {at} of the router does not name an expert",
}
