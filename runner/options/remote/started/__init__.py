"""Starts, watches and stops servers of other programs on this machine. The packages vllm and
llama_cpp add their commands and error messages.
"""
