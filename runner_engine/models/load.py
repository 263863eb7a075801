"""From a spec to a loaded base: where it goes, its tokenizer, its weights, its position encoding,
and a report.

An adapter is applied by adapting.py. How weights come in is a module for each way in loading/.
"""

from __future__ import annotations

import time

from runner_base import doing
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.models.building import one_at_a_time
from runner_engine.models.describing import describe_base
from runner_engine.models.load_tokenizer import tokenizer_of
from runner_engine.models.loaded import Loaded
from runner_engine.models.loading import load_weights, way_for
from runner_engine.models.rope import choices as rope_room
from runner_engine.models.target import entry_device, target_of
from runner_engine.plan.load_plan import plan_load
from runner_engine.quantization import quiet_imports

__all__ = ["Loaded", "load_base"]


@one_at_a_time
def load_base(resolved: ResolvedModel) -> Loaded:
    """Load what the groups model, quantization and rope describe: the part that several jobs can
    share.

    Whoever asks for it has checked them. Only memory is checked again, now that devices are known.
    """
    quiet_imports()
    started = time.perf_counter()
    target = target_of(plan_load(resolved))
    way = way_for(target)
    arguments = way.prepare()
    tokenizer, of_tokenizer = tokenizer_of(resolved.files)
    with doing(f"loading {resolved.files.path.name}"):
        model, of_weights = load_weights(way, arguments)
    rope_room.apply(model, resolved.spec.rope)
    device = target.device if resolved.files.model.device_map is None else entry_device(model)
    base = Loaded(
        model, tokenizer, device, notes=[*target.notes, *of_tokenizer, *of_weights], merged=way.merged
    )
    base.metrics["load_s"] = time.perf_counter() - started
    describe_base(base, resolved)
    return base
