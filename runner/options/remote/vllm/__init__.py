"""vllm – a server of vLLM that the runner starts, checks and ends; requests go to it through
runner/options/remote."""
