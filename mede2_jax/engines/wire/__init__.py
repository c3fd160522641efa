"""What crosses the network, shared by `vllm` and `paid`: OpenAI's chat protocol, HTTP errors, how one attempt ends."""
