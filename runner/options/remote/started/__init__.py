"""Starts, watches and stops servers of other programs on this machine. vllm/ and llama_cpp/
define commands and error messages.
"""
