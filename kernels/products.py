"""The dense products of a model: which weight matrices its layers hold, as engines fuse them."""

from collections.abc import Iterator
from typing import NamedTuple

from kernels.formats import Format
from kernels.shapes import Shape


class Product(NamedTuple):
    """A weight matrix, in its format, and the most tokens that it is measured at."""

    inputs: int
    outputs: int
    weights: Format = "bf16"
    most: int = 8192


def latent_products(s: Shape) -> Iterator[tuple[int, int]]:
    """MLA's projections: queries, the stored latent, the latent's keys and values, the output."""
    first = s.query_rank or s.heads * s.head_dim
    if s.query_rank:
        yield s.hidden, s.query_rank + s.latent
        yield s.query_rank, s.heads * s.head_dim
    else:
        yield s.hidden, first
        yield s.hidden, s.latent
    yield s.latent_rank, s.heads * (s.head_dim - s.rope_dim + s.value_dim)
    yield s.heads * s.value_dim, s.hidden


def products(s: Shape) -> list[Product]:
    """A model's projections, as engines fuse them."""
    sizes: list[tuple[int, int]] = []
    if "attention" in s.parts:
        sizes += [(s.hidden, s.qkv), (s.heads * s.head_dim, s.hidden)]
    if "latent" in s.parts:
        sizes += latent_products(s)
    for width in (s.shared_intermediate, s.intermediate):
        sizes += [(s.hidden, 2 * width), (width, s.hidden)] if width else []
    found = [Product(*size, s.dense_format) for size in sizes]
    if s.experts:
        found.append(Product(s.hidden, s.experts))
    if s.shared_gate:
        found.append(Product(s.hidden, 1))
    return [*found, Product(s.hidden, s.vocab, most=2048)]  # only sampled positions need it
