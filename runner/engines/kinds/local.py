"""Models that run on this machine: model=embedded, auto, local and the presets."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

from runner.config.profiles import notes as profile_notes
from runner.config.resolved import ResolvedJob, base_key, spec_of
from runner.config.root import RunnerConfig
from runner.core.later import put_off, uncollected
from runner.engines.kinds import Need, WithTokenizer
from runner_base import doing, machine, signals
from runner_engine import (
    CHOICES,
    BaseCache,
    Capability,
    Engine,
    Footprint,
    Positions,
    RopeConfig,
    Workload,
    build_kernels,
    capabilities_of,
    check_files,
    check_fits,
    gpus_needed,
    predict,
)
from runner_engine.checkpoints import chat_templates, is_known, read_header
from runner_engine.models.compiler import import_compiler
from runner_engine.models.kept_names import kept_names
from runner_engine.plan import formats
from runner_engine.quantization import quiet_imports
from runner_engine.render.notes import render

# What transformers imports for every model, and uses in training, with several GPUs, or not at all.
UNUSED = ("scipy.optimize", "torch.distributed.checkpoint", "torchao")
SMALL_WEIGHT_MIB = (
    100.0  # below this a model gains nothing from a second thread (see runner_engine/models/load.py)
)
TYPICAL_ROWS = 64  # at once, if the engine chooses


class Local(WithTokenizer):
    """Its files contain everything."""

    HAS_WEIGHTS = True

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return names and SHA-256 of the model's, the adapter's and the draft's files."""
        return resolved.model.fingerprint(cache)

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key of model, quantization, rope and a merged adapter."""
        return base_key(config)

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse what is impossible, as far as the files tell; note what is close to a limit."""
        for job in (resolved, *([resolved.second] if resolved.second else [])):
            check_files(job.model, job.config.task.asks_in_chat)
        notes = [*_notes_of_room(resolved), *map(render, formats.notes_of_reach(resolved.model))]
        device = resolved.model.files.device
        if device != "cuda":  # of a GPU only torch knows what is free
            notes += profile_notes(resolved.config.profile, device)
        return [*notes, *map(render, check_fits(resolved.model))]

    def predict(
        self, resolved: ResolvedJob, work: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Predict from the headers of the checkpoint."""
        return predict(resolved.model, work, free_mib)

    def positions(self, resolved: ResolvedJob) -> Positions:
        """Return those that config.json and a chosen scaling make."""
        return resolved.model.positions

    def need(self, resolved: ResolvedJob) -> Need:
        """Predict from the headers of the checkpoint; nothing is known without them."""
        config = resolved.config
        predicted = self.predict(resolved, config.task.workload(config.generation, TYPICAL_ROWS))
        needed = gpus_needed(resolved.model, predicted.total_mib if predicted is not None else math.inf)
        if predicted is None:
            return Need(0.0, machine.cores(), *needed)
        small = predicted.weight_mib < SMALL_WEIGHT_MIB
        threads = resolved.model.files.model.threads or (1 if small else machine.cores())
        return Need(predicted.total_mib, threads, *needed)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Build the kernels that this model needs, unless it is on a GPU."""
        return build_kernels(resolved.model)

    @doing("importing torch and transformers")
    def import_libraries(self, resolved: ResolvedJob) -> None:
        """Import torch, what transformers needs for this model, and the libraries of its
        quantization, its draft's and its adapter.

        All of it: what a load imports would count as the model's memory.
        """
        quiet_imports()
        files, lora = resolved.model.files, resolved.config.lora
        of_draft = resolved.config.generation.speculation.quantization
        choices = [*resolved.model.mix.choices, *([CHOICES[of_draft]()] if of_draft else [])]
        with uncollected():
            importlib.import_module("torch")
            signals.interrupt_if_noted()  # between two imports nothing is half done
            # torch does so where a model is first built without numbers, as each load does: 70 MiB
            # that are no model's
            import_compiler()
            signals.interrupt_if_noted()
            with put_off(*UNUSED), kept_names():
                transformers = importlib.import_module("transformers")
                signals.interrupt_if_noted()
                own = files.settings.get("architectures") or ()
                for name in ("AutoModelForCausalLM", "AutoTokenizer", "DynamicCache", *own):
                    # transformers imports a class at its first access
                    getattr(transformers, name, None)
                    signals.interrupt_if_noted()
                if (
                    not files.model.random_weights
                    and files.path.is_file()
                    and is_known(read_header(files.path))
                ):
                    importlib.import_module("runner_engine.models.capability").class_of(
                        files.path, trust_remote_code=False
                    )
            for library in (
                *(name for choice in choices for name in choice.library.packages),
                *lora.packages,
            ):
                importlib.import_module(library)
                signals.interrupt_if_noted()
            importlib.import_module("runner_engine.local.engine")

    def chat_template(self, resolved: ResolvedJob) -> str | None:
        """Return the text of the templates among its files."""
        return (
            None
            if resolved.model.files.model.random_weights
            else chat_templates.text_of(resolved.model.files.path)
        )

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return all capabilities; branches need rope_2d and an attention with a mask."""
        return capabilities_of(spec_of(config))

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        from runner_engine import LocalEngine  # imports torch

        return LocalEngine(resolved.model, bases)


def _notes_of_room(resolved: ResolvedJob) -> list[str]:
    """Say that answers end earlier than asked for, because the model has no room for more
    tokens."""
    config = resolved.config
    room = (
        None
        if resolved.model.files.model.random_weights
        else resolved.model.files.text_settings.get("max_position_embeddings")
    )
    longest = max((amount.new_tokens for amount in config.task.amounts(config.generation)), default=0)
    has_no_limit = config.rope.name != RopeConfig.name or config.rope.beyond_trained
    if not isinstance(room, int) or has_no_limit or longest < room:
        return []
    limit = f"the model has room for {room:,} tokens, those of the prompt among them: an answer ends there"
    return [f"generation.max_new_tokens={config.generation.max_new_tokens}: {limit}"]


KIND = Local()
