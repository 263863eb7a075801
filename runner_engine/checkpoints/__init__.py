"""Locates and reads model files, and predicts memory use from them. Imports no torch.

Each name is imported at its first use. Code that only runs models needs nothing but
`runner_engine`'s public names.
"""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_file import is_gguf_file as is_gguf_file
    from runner_engine.checkpoints.linear_layers import (
        find_block_number_position as find_block_number_position,
    )
    from runner_engine.checkpoints.linear_layers import get_block_path as get_block_path
    from runner_engine.checkpoints.locating import locate_config_folder as locate_config_folder
    from runner_engine.checkpoints.pass_memory import MAX_ROWS as MAX_ROWS
    from runner_engine.checkpoints.pass_memory import PREFILL_TOKENS as PREFILL_TOKENS
    from runner_engine.checkpoints.pass_memory import (
        compute_max_queued_distributions as compute_max_queued_distributions,
    )
    from runner_engine.checkpoints.pass_memory import compute_max_sequences as compute_max_sequences
    from runner_engine.checkpoints.random_weights import SHAPES_DIR as SHAPES_DIR
    from runner_engine.checkpoints.random_weights import (
        list_random_checkpoint_tensors as list_random_checkpoint_tensors,
    )
    from runner_engine.checkpoints.resolved_model import count_weight_file_nbytes as count_weight_file_nbytes
    from runner_engine.checkpoints.resolved_model import read_model_config as read_model_config
    from runner_engine.checkpoints.resolved_model import read_tensor_headers as read_tensor_headers
    from runner_engine.checkpoints.resolved_model import (
        share_model_files_between_jobs as share_model_files_between_jobs,
    )
    from runner_engine.checkpoints.unknown_model import build_unknown_load_error as build_unknown_load_error
    from runner_engine.checkpoints.unknown_model import is_bare_model_name as is_bare_model_name
    from runner_engine.checkpoints.weight_files import DTYPE_BITS as DTYPE_BITS
    from runner_engine.checkpoints.weight_files import DTYPE_NAMES as DTYPE_NAMES
    from runner_engine.checkpoints.weight_files import INDEX as INDEX
    from runner_engine.checkpoints.weight_files import MAX_HEADER_BYTES as MAX_HEADER_BYTES
    from runner_engine.checkpoints.weight_files import SINGLE as SINGLE
    from runner_engine.checkpoints.weight_files import WEIGHT_SUFFIXES as WEIGHT_SUFFIXES
    from runner_engine.checkpoints.weight_files import Checkpoint as Checkpoint
    from runner_engine.checkpoints.weight_files import WeightFile as WeightFile
    from runner_engine.checkpoints.weight_files import is_plain_file_name as is_plain_file_name
    from runner_engine.checkpoints.weight_files import parse_safetensors_header as parse_safetensors_header
    from runner_engine.checkpoints.weight_files import read_checkpoint as read_checkpoint
    from runner_engine.checkpoints.weight_files import read_weight_file_header as read_weight_file_header
    from runner_engine.checkpoints.weight_sizes import compute_weight_nbytes as compute_weight_nbytes

PLACES = {
    # models as files
    "read_checkpoint": "weight_files",  # reads the headers of a folder, and checks that they and the files agree
    "Checkpoint": "weight_files",  # a model's folder: its weight files, the files to copy with them, and those left out
    "WeightFile": "weight_files",  # one file of weights: its header, and its tensors in the order of their bytes
    "read_weight_file_header": "weight_files",  # reads and checks the header of a safetensors file
    "parse_safetensors_header": "weight_files",  # checks the bytes of a header against the size of its file
    "is_plain_file_name": "weight_files",  # whether a name is a plain file name, which leads to no other folder
    "SINGLE": "weight_files",  # the name of a model's only file of weights
    "INDEX": "weight_files",  # the name of the index of several
    "WEIGHT_SUFFIXES": "weight_files",  # how names of files of weights end
    "DTYPE_BITS": "weight_files",  # bits of a number, by its type in a header
    "DTYPE_NAMES": "weight_files",  # types of headers, by the names that torch has for them
    "MAX_HEADER_BYTES": "weight_files",  # the largest header that is read
    "is_gguf_file": "gguf_file",  # whether a file is a .gguf file, or has the name of one
    # where a model is, and what its settings say
    "read_model_config": "resolved_model",  # config.json, or the same settings from the header of a .gguf file
    "read_tensor_headers": "resolved_model",  # the tensors of a checkpoint or adapter, as its headers describe them
    "count_weight_file_nbytes": "resolved_model",  # the bytes of the weight files that a load reads
    "locate_config_folder": "locating",  # a folder with a model's config.json; nothing else is fetched
    "share_model_files_between_jobs": "resolved_model",  # a context in which jobs of the same model read its files once
    "is_bare_model_name": "unknown_model",  # whether a name can only be a choice, or a model of a server
    "build_unknown_load_error": "unknown_model",  # the error for such a name where something must be loaded
    "SHAPES_DIR": "random_weights",  # the config.json files of well-known models
    "list_random_checkpoint_tensors": "random_weights",  # the tensors of a model of such a shape
    # what it will need
    "compute_max_sequences": "pass_memory",  # how many rows may decode at once
    "compute_max_queued_distributions": "pass_memory",  # limit of distributions that wait for another model
    "MAX_ROWS": "pass_memory",  # the most rows that decode at once, by device
    "PREFILL_TOKENS": "pass_memory",  # the tokens of prompts that one pass reads, by device
    "compute_weight_nbytes": "weight_sizes",  # bytes of the loaded weights by part, scales included
    "get_block_path": "linear_layers",  # the path of the block that a layer belongs to
    "find_block_number_position": "linear_layers",  # which part of a layer's path is the number of its block
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)
