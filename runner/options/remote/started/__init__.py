"""Starts, watches and stops other programs' servers on this machine. The folders vllm/ and
llama_cpp/ define commands and error messages.
"""
