"""Triton kernels of a speculative-decoding step of a Mixture-of-Experts model, and the microbenchmarks that time them.

A checkout-only package: it imports the standard library, numpy, torch and triton, knows nothing of sdsim and is never
installed. One operation a file; in each, side by side: `reference()` in float64, the launch, `bytes_moved()` and
`flops()`.

Reading order: shapes, routing, moe, verify_attention, rejection, dense, layer, draft; then timing, measure, suite.
"""
