"""The local model runtime: loads a model of the Llama family and runs it over packed tokens (design §7)."""
