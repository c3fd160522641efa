"""vLLM: the loader that runs inside it, the server that this package starts, and a client for any number of servers."""
