"""started – servers of other programs that the runner starts on this machine, waits for, watches and
ends; vllm/ and llama_cpp/ say which program, with which words, and what its errors mean."""
