"""Starts, watches and stops servers of other programs on this machine. Shared by the packages vllm and
llama_cpp.
"""
