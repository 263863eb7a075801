"""Models as files, without torch: where they are, what is in them, what they will need.

These names are the door for those who work on files, each imported at its first use; who runs a
model needs only the door of `runner_engine`.
"""

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_file import is_gguf as is_gguf
    from runner_engine.checkpoints.gguf_file import is_known as is_known
    from runner_engine.checkpoints.gguf_file import read_header as read_header
    from runner_engine.checkpoints.linear_layers import block_of as block_of
    from runner_engine.checkpoints.linear_layers import first_number as first_number
    from runner_engine.checkpoints.locating import locate_config as locate_config
    from runner_engine.checkpoints.no_model import is_bare as is_bare
    from runner_engine.checkpoints.no_model import nothing_to_load as nothing_to_load
    from runner_engine.checkpoints.pass_memory import MAX_ROWS as MAX_ROWS
    from runner_engine.checkpoints.pass_memory import PREFILL_TOKENS as PREFILL_TOKENS
    from runner_engine.checkpoints.pass_memory import most_rows as most_rows
    from runner_engine.checkpoints.pass_memory import waiting_places as waiting_places
    from runner_engine.checkpoints.random_weights import SHAPES_DIR as SHAPES_DIR
    from runner_engine.checkpoints.random_weights import list_tensors as list_tensors
    from runner_engine.checkpoints.resolve import file_bytes as file_bytes
    from runner_engine.checkpoints.resolve import read_settings as read_settings
    from runner_engine.checkpoints.resolve import read_tensors as read_tensors
    from runner_engine.checkpoints.resolve import sharing as sharing
    from runner_engine.checkpoints.weight_files import DTYPE_BITS as DTYPE_BITS
    from runner_engine.checkpoints.weight_files import DTYPE_NAMES as DTYPE_NAMES
    from runner_engine.checkpoints.weight_files import INDEX as INDEX
    from runner_engine.checkpoints.weight_files import MAX_HEADER_BYTES as MAX_HEADER_BYTES
    from runner_engine.checkpoints.weight_files import SINGLE as SINGLE
    from runner_engine.checkpoints.weight_files import WEIGHT_SUFFIXES as WEIGHT_SUFFIXES
    from runner_engine.checkpoints.weight_files import Checkpoint as Checkpoint
    from runner_engine.checkpoints.weight_files import WeightFile as WeightFile
    from runner_engine.checkpoints.weight_files import is_bare_name as is_bare_name
    from runner_engine.checkpoints.weight_files import parse_header as parse_header
    from runner_engine.checkpoints.weight_files import read_checkpoint as read_checkpoint
    from runner_engine.checkpoints.weight_files import read_weight_file as read_weight_file
    from runner_engine.checkpoints.weight_sizes import weight_bytes as weight_bytes

PLACES = {
    # models as files
    "read_checkpoint": "weight_files",  # reads the headers of a folder, and checks that they and the files agree
    "Checkpoint": "weight_files",  # a model's folder: its weight files, the files to copy with them, and those left out
    "WeightFile": "weight_files",  # one file of weights: its header, and its tensors in the order of their bytes
    "read_weight_file": "weight_files",  # reads and checks the header of a safetensors file
    "parse_header": "weight_files",  # checks the bytes of a header against the size of its file
    "is_bare_name": "weight_files",  # whether a name is a plain file name, which leads to no other folder
    "SINGLE": "weight_files",  # the name of a model's only file of weights
    "INDEX": "weight_files",  # the name of the index of several
    "WEIGHT_SUFFIXES": "weight_files",  # how names of files of weights end
    "DTYPE_BITS": "weight_files",  # bits of a number, by its type in a header
    "DTYPE_NAMES": "weight_files",  # types of headers, by the names that torch has for them
    "MAX_HEADER_BYTES": "weight_files",  # the largest header that is read
    "is_gguf": "gguf_file",  # whether a file is a .gguf file, or has the name of one
    "read_header": "gguf_file",  # reads the header of a .gguf file, and checks it against the file's size
    "is_known": "gguf_file",  # whether our own reader knows a file's settings and names
    # where a model is, and what its settings say
    "read_settings": "resolve",  # config.json, or the same settings from the header of a .gguf file
    "read_tensors": "resolve",  # the tensors of a checkpoint or adapter, as its headers describe them
    "file_bytes": "resolve",  # the bytes of the weight files that a load reads
    "locate_config": "locating",  # a folder with a model's config.json; nothing else is fetched
    "sharing": "resolve",  # a context in which jobs of the same model read its files once
    "is_bare": "no_model",  # whether a name can only be a choice, or a model of a server
    "nothing_to_load": "no_model",  # the error for such a name where something must be loaded
    "SHAPES_DIR": "random_weights",  # the config.json files of well-known models
    "list_tensors": "random_weights",  # the tensors of a model of such a shape
    # what it will need
    "most_rows": "pass_memory",  # how many rows may decode at once
    "waiting_places": "pass_memory",  # how many distributions of one model may wait for those of another
    "MAX_ROWS": "pass_memory",  # the most rows that decode at once, by device
    "PREFILL_TOKENS": "pass_memory",  # the tokens of prompts that one pass reads, by device
    "weight_bytes": "weight_sizes",  # bytes of the loaded weights by part, scales included
    "block_of": "linear_layers",  # the path of the block that a layer belongs to
    "first_number": "linear_layers",  # which part of a layer's path is the number of its block
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)
