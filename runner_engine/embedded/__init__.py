"""Paths of the bundled tiny model, which lets the first run work offline."""

from pathlib import Path

_HERE = Path(__file__).parent

# config, weights, tokenizer: loads with AutoModelForCausalLM / AutoTokenizer
MODEL_DIR = _HERE / "model"
LORA_PEFT_DIR = _HERE / "lora_peft"  # a PEFT adapter for 5-step problems
LORA_TEAM_DIR = _HERE / "lora_team"  # a PEFT adapter for the roles of task=agents
LORA_THINKING_DIR = _HERE / "lora_thinking"  # a PEFT adapter that thinks in tags before it answers
LORA_RECALL_DIR = _HERE / "lora_recall"  # a PEFT adapter that finds needles in long texts
# 5-step problems once more, only in q_proj and o_proj, in `.pth` format
LORA_PTH_PATH = _HERE / "lora.pth"
# The PEFT adapters by what `lora.path` calls them
LORA_PEFT_DIRS = {
    "embedded": LORA_PEFT_DIR,
    "embedded_recall": LORA_RECALL_DIR,
    "embedded_team": LORA_TEAM_DIR,
    "embedded_thinking": LORA_THINKING_DIR,
}
