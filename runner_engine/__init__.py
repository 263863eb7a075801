"""Public interface of the inference engine: loads model files and generates tokens.

Each name is imported at its first use. The README next to this file has a ten-line example program.
The engine knows nothing of jobs, configuration schemas or where results are stored.
"""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_engine.checkpoints.locating import DownloadRequired as DownloadRequired
    from runner_engine.checkpoints.locating import forbid_downloads as forbid_downloads
    from runner_engine.checkpoints.positions import PositionLimits as PositionLimits
    from runner_engine.checkpoints.resolved_model import ModelFiles as ModelFiles
    from runner_engine.checkpoints.resolved_model import ResolvedModel as ResolvedModel
    from runner_engine.checkpoints.resolved_model import resolve_model as resolve_model
    from runner_engine.checkpoints.weight_files import TensorLocation as TensorLocation
    from runner_engine.decode.request_encoder import RequestEncoder as RequestEncoder
    from runner_engine.decode.request_encoder import (
        create_tokenizer_only_encoder as create_tokenizer_only_encoder,
    )
    from runner_engine.local.base_model_cache import BaseModelCache as BaseModelCache
    from runner_engine.local.capabilities import list_supported_capabilities as list_supported_capabilities
    from runner_engine.local.engine import LocalEngine as LocalEngine
    from runner_engine.local.opening import open_engine as open_engine
    from runner_engine.local.opening import open_session as open_session
    from runner_engine.local.preload_checks import build_required_kernels as build_required_kernels
    from runner_engine.local.preload_checks import check_memory_fits as check_memory_fits
    from runner_engine.local.preload_checks import (
        check_model_and_adapter_files as check_model_and_adapter_files,
    )
    from runner_engine.plan.footprint import Footprint as Footprint
    from runner_engine.plan.footprint import predict_footprint as predict_footprint
    from runner_engine.plan.memory_check import count_required_gpus as count_required_gpus
    from runner_engine.plan.prompt_cache import predict_max_prompt_cache_mib as predict_max_prompt_cache_mib
    from runner_engine.quantization import CHOICES as CHOICES
    from runner_engine.quantization.base import QuantizationConfig as QuantizationConfig
    from runner_engine.sessions.arithmetic import ModelArithmetic as ModelArithmetic
    from runner_engine.sessions.base import Capability as Capability
    from runner_engine.sessions.base import Completion as Completion
    from runner_engine.sessions.base import Delta as Delta
    from runner_engine.sessions.base import EngineReport as EngineReport
    from runner_engine.sessions.base import Event as Event
    from runner_engine.sessions.base import Message as Message
    from runner_engine.sessions.base import PartialAnswers as PartialAnswers
    from runner_engine.sessions.base import Prompt as Prompt
    from runner_engine.sessions.base import Request as Request
    from runner_engine.sessions.base import RequestId as RequestId
    from runner_engine.sessions.base import prompt_sha256 as prompt_sha256
    from runner_engine.sessions.base import request_sha256 as request_sha256
    from runner_engine.sessions.base import require_capabilities as require_capabilities
    from runner_engine.sessions.contract import Engine as Engine
    from runner_engine.sessions.contract import complete_requests as complete_requests
    from runner_engine.sessions.contract import run_requests as run_requests
    from runner_engine.sessions.driver import Driver as Driver
    from runner_engine.sessions.session import Session as Session
    from runner_engine.sessions.stats import EngineStats as EngineStats
    from runner_engine.settings.generation import GenerationConfig as GenerationConfig
    from runner_engine.settings.kv_cache import KvCache as KvCache
    from runner_engine.settings.lora import LoraConfig as LoraConfig
    from runner_engine.settings.lora import PeftConfig as PeftConfig
    from runner_engine.settings.model import Attention as Attention
    from runner_engine.settings.model import LocalModelConfig as LocalModelConfig
    from runner_engine.settings.model import ModelConfig as ModelConfig
    from runner_engine.settings.model import to_local_model_config as to_local_model_config
    from runner_engine.settings.rope import ROPES as ROPES
    from runner_engine.settings.rope import Rope2dConfig as Rope2dConfig
    from runner_engine.settings.rope import RopeConfig as RopeConfig
    from runner_engine.settings.sampling import Sampling as Sampling
    from runner_engine.spec import ModelSpec as ModelSpec
    from runner_engine.spec import Workload as Workload

PLACES = {
    # what is asked of the engine
    "ModelSpec": "spec",  # a model, what is made of it while it is loaded, and defaults: one frozen value
    "LocalModelConfig": "settings.model",  # which model: a folder, a .gguf file or a hub id, its device and dtype
    "QuantizationConfig": "quantization.base",  # the base of all quantizations; itself: none
    "CHOICES": "quantization",  # all quantizations by name: nf4, int8, gguf
    "LoraConfig": "settings.lora",  # no adapter; PeftConfig: one
    "PeftConfig": "settings.lora",  # a PEFT adapter, in a folder or on a hub
    "RopeConfig": "settings.rope",  # how positions are encoded: the model's own way
    "Rope2dConfig": "settings.rope",  # two coordinates a token, for prompts with branches
    "ROPES": "settings.rope",  # the other ways by name: rope_2d, yarn
    "ModelConfig": "settings.model",  # the base of all keys of models
    "to_local_model_config": "settings.model",  # the keys of the local model of a config
    "Attention": "settings.model",  # how attention is computed: auto, sdpa, eager, flash_attention_2
    "KvCache": "settings.kv_cache",  # how keys and values are stored: each with a format of its own
    "GenerationConfig": "settings.generation",  # defaults of requests: limit, temperature, rows at once
    "Sampling": "settings.sampling",  # how the tokens of one request are drawn
    "Workload": "spec",  # rows, prompt tokens and new tokens that are in memory at once
    # from files to what is known before a load; imports no torch
    "resolve_model": "checkpoints.resolved_model",  # a spec with its files: where they are and what is in their headers
    "ResolvedModel": "checkpoints.resolved_model",  # what `resolve` returns, and what engines are opened with
    "ModelFiles": "checkpoints.resolved_model",  # a model's files; each property is read at its first use
    "TensorLocation": "checkpoints.weight_files",  # a tensor as a header describes it: name, dtype, shape, place
    "PositionLimits": "checkpoints.positions",  # how many a model was made for, and will have with its rope
    "predict_max_prompt_cache_mib": "plan.prompt_cache",  # the most that earlier prompts can take
    "predict_footprint": "plan.footprint",  # the memory that a model needs at a workload
    "Footprint": "plan.footprint",  # what `predict` returns: weights by part, KV cache, activations
    "check_model_and_adapter_files": "local.preload_checks",  # rejects what cannot work, as far as the headers tell
    "check_memory_fits": "local.preload_checks",  # rejects a model that does not fit into this machine's memory
    "count_required_gpus": "plan.memory_check",  # how many GPUs a model needs, and which it names
    "list_supported_capabilities": "local.capabilities",  # what the engine of a spec can do
    "build_required_kernels": "local.preload_checks",  # builds the C kernels that a model needs, unless they are there
    "forbid_downloads": "checkpoints.locating",  # a context in which a download raises ToDownload
    "DownloadRequired": "checkpoints.locating",  # a download would be needed
    # from a spec to tokens
    "open_session": "local.opening",  # a context with the session of a loaded model
    "open_engine": "local.opening",  # an engine, which loads when it is first needed
    "LocalEngine": "local.engine",  # the engine of a resolved model
    "create_tokenizer_only_encoder": "decode.request_encoder",  # prompts as tokens, without weights
    "RequestEncoder": "decode.request_encoder",  # what it returns: encode, decode
    "BaseModelCache": "local.base_model_cache",  # keeps a loaded base for the next engine
    "Engine": "sessions.contract",  # a model that completes prompts: load, open, encode, decode, close
    "Session": "sessions.session",  # requests under way: any thread submits and cancels, one thread steps
    "Driver": "sessions.driver",  # a thread that steps a session, for servers
    "complete_requests": "sessions.contract",  # requests in, their completions out
    "run_requests": "sessions.contract",  # steps a session until its requests have ended
    "require_capabilities": "sessions.base",  # rejects what an engine cannot do
    # what goes in and out
    "Request": "sessions.base",  # one prompt to complete, or a continuation to score
    "RequestId": "sessions.base",  # the name of a request, which with the seed decides its random numbers
    "Prompt": "sessions.base",  # a text, a chat or token ids
    "Message": "sessions.base",  # one turn of a chat
    "PartialAnswers": "sessions.base",  # the tokens of an answer that was interrupted
    "Event": "sessions.base",  # what a step returns: deltas and completions
    "Delta": "sessions.base",  # more text of a request
    "Completion": "sessions.base",  # the end of a request: its answer, tokens, times and log-probabilities
    "Capability": "sessions.base",  # what an engine may be able to do; known before a load
    "request_sha256": "sessions.base",  # identifies what is asked
    "prompt_sha256": "sessions.base",  # identifies a prompt
    "EngineReport": "sessions.base",  # what was loaded: metrics, facts and notes
    "EngineStats": "sessions.stats",  # totals of an engine: tokens, seconds, memory
    "ModelArithmetic": "sessions.arithmetic",  # a loaded model in numbers: what a token computes and reads
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)  # who needs no weights imports no torch
