"""Model kind for local files: model=embedded, auto, local and the presets."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

from runner.config.profiles import list_missing_gpu_warnings
from runner.config.resolved import ResolvedJob, base_model_key, build_model_spec
from runner.config.root import RunnerConfig
from runner.config.task import PromptReuse
from runner.core.deferred_imports import defer_imports
from runner.engines.kinds import KindWithTokenizer, ResourceNeed
from runner_base import machine, report_step, signals
from runner_base.garbage_collection import pause_garbage_collection
from runner_engine import (
    CHOICES,
    BaseModelCache,
    Capability,
    Engine,
    Footprint,
    PositionLimits,
    RopeConfig,
    Workload,
    build_required_kernels,
    check_memory_fits,
    check_model_and_adapter_files,
    count_required_gpus,
    list_supported_capabilities,
    predict_footprint,
    predict_max_prompt_cache_mib,
)
from runner_engine.checkpoints import chat_templates, count_weight_file_nbytes
from runner_engine.models.compiler_import import import_torch_compiler
from runner_engine.models.import_structure_cache import use_cached_transformers_import_structure
from runner_engine.plan import format_check
from runner_engine.quantization import mute_library_imports
from runner_engine.render.notes import render_engine_note

# What transformers imports for every model, and uses in training, with several GPUs, or not at all.
UNUSED = ("scipy.optimize", "torch.distributed.checkpoint", "torchao")
# what only loads of other files use: 80 MiB of the process of a .gguf file
UNUSED_BY_GGUF = (
    "PIL",
    "accelerate",
    "sympy",
    "torch._dynamo",
    "torch.distributed._functional_collectives",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.fx.experimental.symbolic_shapes",
)
SMALL_WEIGHT_MIB = (
    100.0  # below this a model gains nothing from a second thread (see runner_engine/models/base_loading.py)
)
QUICK_LOAD_MIB = 1024.0
TYPICAL_ROWS = 64  # at once, if the engine chooses


class LocalKind(KindWithTokenizer):
    """Kind of models that run on this machine from local files."""

    HAS_WEIGHTS = True

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return names and SHA-256 of all files of model, adapter and draft model."""
        return resolved.model.hash_files(cache)

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key that identifies the loaded weights: model, quantization, RoPE scaling and merged
        adapter.
        """
        return base_model_key(config)

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise an error if the model's files show that the job cannot run. Returns warnings."""
        for job in (resolved, *([resolved.second] if resolved.second else [])):
            check_model_and_adapter_files(job.model, job.config.task.uses_chat_template)
        notes = [
            *_make_context_limit_notes(resolved),
            *map(render_engine_note, format_check.build_planned_quantization_notes(resolved.model)),
        ]
        device = resolved.model.files.device
        if device != "cuda":  # of a GPU only torch knows what is free
            notes += list_missing_gpu_warnings(resolved.config.profile, device)
        return [*notes, *map(render_engine_note, check_memory_fits(resolved.model))]

    def predict_memory(
        self, resolved: ResolvedJob, workload: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        return predict_footprint(resolved.model, workload, free_mib)

    def predict_max_prompt_cache_mib(
        self, resolved: ResolvedJob, predicted: Footprint, free_mib: float
    ) -> float:
        reuse = resolved.config.task.prompt_reuse
        if reuse is PromptReuse.none:
            return 0.0
        has_conversations = reuse is PromptReuse.conversations
        return predict_max_prompt_cache_mib(resolved.model, predicted, free_mib, has_conversations)

    def positions(self, resolved: ResolvedJob) -> PositionLimits:
        """Return the context lengths given by config.json and the RoPE scaling."""
        return resolved.model.position_limits

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Predict the needed memory, threads and GPUs from the checkpoint's headers. Without headers, assume
        all cores.
        """
        config = resolved.config
        predicted = self.predict_memory(resolved, config.task.workload(config.generation, TYPICAL_ROWS))
        needed = count_required_gpus(
            resolved.model, predicted.total_mib if predicted is not None else math.inf
        )
        if predicted is None:
            return ResourceNeed(0.0, machine.count_available_cpu_cores(), *needed)
        small = predicted.weight_mib < SMALL_WEIGHT_MIB
        threads = resolved.model.files.model.threads or (1 if small else machine.count_available_cpu_cores())
        return ResourceNeed(predicted.total_mib, threads, *needed)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Compile the CPU kernels that this model needs. Nothing is compiled for a GPU."""
        return build_required_kernels(resolved.model)

    @report_step("importing torch and transformers")
    def import_libraries(self, resolved: ResolvedJob) -> None:
        """Import torch, transformers for this model, and the libraries of its quantization, draft model
        and adapter.

        Everything is imported now: a later import would count as the model's memory.
        """
        mute_library_imports()
        files, lora = resolved.model.files, resolved.config.lora
        of_draft = resolved.config.generation.speculation.quantization
        choices = [
            *resolved.model.quantization_mix.quantizing_configs,
            *([CHOICES[of_draft]()] if of_draft else []),
        ]
        is_read_by_runner = files.has_supported_gguf
        with pause_garbage_collection():
            importlib.import_module("torch")
            signals.raise_if_signal_waits()  # between two imports nothing is half done
            if not is_read_by_runner:
                # torch does so where a model is first built without numbers, as each other load does:
                # 70 MiB that are no model's
                import_torch_compiler()
                signals.raise_if_signal_waits()
            unused = (*UNUSED, *UNUSED_BY_GGUF) if is_read_by_runner else UNUSED
            with defer_imports(*unused), use_cached_transformers_import_structure():
                transformers = importlib.import_module("transformers")
                signals.raise_if_signal_waits()
                own = files.settings.get("architectures") or ()
                for name in ("AutoModelForCausalLM", "AutoTokenizer", "DynamicCache", *own):
                    # transformers imports a class at its first access
                    getattr(transformers, name, None)
                    signals.raise_if_signal_waits()
                if is_read_by_runner:
                    importlib.import_module("runner_engine.models.load_checks").find_model_class(
                        files.path, trust_remote_code=False
                    )
            for library in (
                *(name for choice in choices for name in choice.library.packages),
                *lora.packages,
            ):
                importlib.import_module(library)
                signals.raise_if_signal_waits()
            importlib.import_module("runner_engine.local.engine")

    def loads_quickly(self, resolved: ResolvedJob) -> bool:
        files = resolved.model.files
        is_stored = files.device == "cpu" and not files.model.random_weights
        return is_stored and count_weight_file_nbytes(files.path) / machine.MIB < QUICK_LOAD_MIB

    def chat_template(self, resolved: ResolvedJob) -> str | None:
        return (
            None
            if resolved.model.files.model.random_weights
            else chat_templates.read_chat_templates(resolved.model.files.path)
        )

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return the capabilities of the local engine. Branches require rope_2d and an attention
        backend with masks.
        """
        return list_supported_capabilities(build_model_spec(config))

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        from runner_engine import LocalEngine  # imports torch

        return LocalEngine(resolved.model, bases)


def _make_context_limit_notes(resolved: ResolvedJob) -> list[str]:
    """Return a note if the model's context length is too short for max_new_tokens."""
    config = resolved.config
    room = (
        None
        if resolved.model.files.model.random_weights
        else resolved.model.files.text_settings.get("max_position_embeddings")
    )
    longest = max(
        (amount.new_tokens for amount in config.task.list_requested_completions(config.generation)), default=0
    )
    has_no_limit = config.rope.name != RopeConfig.name or config.rope.beyond_trained
    if not isinstance(room, int) or has_no_limit or longest < room:
        return []
    limit = f"the context length of {room:,} tokens includes the prompt, so answers may end earlier"
    return [f"generation.max_new_tokens={config.generation.max_new_tokens}: {limit}"]


KIND = LocalKind()
