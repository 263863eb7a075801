"""llama_cpp – a server of llama.cpp that the runner starts, compares with its own engine, and ends;
requests go to it through runner/options/remote."""
