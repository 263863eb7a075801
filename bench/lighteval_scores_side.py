"""lighteval's own metric of gsm8k in a process of its own: it removes thinking and scores as its
pipeline does.

It reads a request as JSON from stdin and writes the scores to the file that the request names. See
thinking_verdicts.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lighteval.metrics.metrics import Metrics
from lighteval.models.model_output import ModelResponse
from lighteval.pipeline import PipelineParameters
from lighteval.tasks.requests import Doc
from lighteval.utils.utils import remove_reasoning_tags


def main() -> None:
    """Score each text; `tags`: those that its user names, None for lighteval's own."""
    request = json.load(sys.stdin)
    [usual] = [
        it.default for it in PipelineParameters.__dataclass_fields__.values() if it.name == "reasoning_tags"
    ]
    metric, scores = Metrics.expr_gold_metric.value.sample_level_fn, []
    for text, tags, gold in zip(request["texts"], request["tags"], request["golds"], strict=True):
        pairs = (
            [tuple(tags)] if tags else json.loads(usual.replace("(", "[").replace(")", "]").replace("'", '"'))
        )
        response = ModelResponse(text=[text], text_post_processed=[remove_reasoning_tags(text, pairs)])
        doc = Doc(query="?", choices=[f" #### {gold}"], gold_index=0)
        scores.append(bool(metric.compute(model_response=response, doc=doc)))
    Path(request["answer"]).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
