"""Policies inside serving engines: `vllm` and `sglang` let one decide, `tensorrt_llm` has only configuration to give.

An adapter needs numpy and the standard library. It never imports its engine before the engine asks for it, and knows
it by the attributes it reads. The engine's own table or rule decides whenever a policy fails.
"""
