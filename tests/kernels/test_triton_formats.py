"""The 8- and 4-bit formats: what is stored, what it means, and how the kernels read it."""

import re

import pytest
import torch

from kernels import formats, numerics, quantized, quantized_kernels


def test_fp8_blocks_by_hand():
    weight = torch.zeros(130, 260)
    weight[129, 259], weight[0, 0], weight[0, 1] = 896.0, 448.0, 17.0  # 17 lies between the neighbours 16 and 18
    found = formats.to_fp8(weight)
    assert found.scales.tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]]
    assert formats.dequantize(found)[0, :2].tolist() == [448.0, 16.0]
    assert formats.dequantize(found)[129, 259] == 896.0


@pytest.mark.parametrize("size", [(3, 200, 300), (1, 1), (128, 256)])
def test_fp8_error_is_within_half_a_step(size):
    weight = torch.randn(size)
    back = formats.dequantize(formats.to_fp8(weight))
    largest = formats.expand(formats.to_fp8(weight).scales, *size[-2:]) * formats.E4M3_MAX
    allowed = torch.maximum(weight.abs() / 16, largest / formats.E4M3_MAX * 2**-10)  # 3 bits; subnormals below 2^-6
    assert bool(((back - weight).abs() <= allowed * 1.0001).all())


def test_mxfp4_stores_every_value_exactly():
    values = torch.tensor([*formats.E2M1, *(-v for v in formats.E2M1)])
    weight = values.repeat(8)[None, :].repeat(16, 1) * torch.tensor([1.0, 2.0**-9, 2.0, 2.0**-100] * 4)[:, None]
    found = formats.to_mxfp4(weight)
    assert torch.equal(formats.dequantize(found), weight.double())
    assert formats.unpack_scales(found.scales)[:4, 0].tolist() == [127, 118, 128, 27]
    assert formats.dequantize(formats.to_mxfp4(torch.zeros(16, 64))).abs().max() == 0


def test_mxfp4_error_is_within_the_formats_bound():
    weight = torch.randn(48, 256)
    error = (formats.dequantize(formats.to_mxfp4(weight)) - weight).abs().view(48, 8, 32)
    largest = weight.abs().view(48, 8, 32).amax(-1, keepdim=True)
    power = torch.exp2(largest.log2().floor())
    assert bool((error <= torch.maximum(power / 4, largest - 1.5 * power)).all())  # half a step of 2, or what saturates


def test_mxfp4_refuses_what_it_cannot_hold():
    for size in ((16, 96), (24, 64)):
        with pytest.raises(ValueError, match="a multiple of 16 outputs and of 64 inputs, not"):
            formats.to_mxfp4(torch.randn(size))
    with pytest.raises(ValueError, match="magnitudes below 16"):
        formats.to_mxfp4(torch.full((16, 64), 16.0))


def test_packing_is_undone():
    codes, stored = torch.randint(0, 16, (2, 3, 32, 192)), torch.randint(0, 129, (2, 3, 32, 6))
    assert torch.equal(formats.unpack(formats.pack(codes)), codes)
    assert torch.equal(formats.unpack_scales(formats.pack_scales(stored)), stored)


@pytest.mark.parametrize(
    ("row", "column", "word", "bits"),
    [
        (0, 0, 0, 1 << 15 | 7 << 6),  # a lane's first number: sign and magnitude where bf16 has them
        (8, 1, 0, 1 << 28 | 7 << 19),  # eight rows on, an odd input: in the upper half, to be shifted by 3
        (3, 64 + 16 + 4 + 8, 128 + 4 * (4 * 3 + 2) + 1, 1 << 14 | 7),  # chunk 1, lane 4 g + c = 14, product 1
    ],
)
def test_codes_lie_where_a_warps_lane_reads_them(row, column, word, bits):
    codes = torch.zeros(16, 128, dtype=torch.int64)
    codes[row, column] = 15
    words = formats.pack(codes).flatten()
    assert words.nonzero().flatten().tolist() == [word]
    assert int(words[word]) == bits


@pytest.mark.parametrize("weights", ["fp8", "mxfp4"])
def test_random_weights_keep_the_inputs_scale(weights):
    made = formats.random_quantized(2, 192, 256, format=weights, device="cpu")
    assert 0.3 < float(formats.dequantize(made).std() * 16) < 3
    plain = formats.quantize_weight(torch.randn(2, 192, 256), weights)
    assert [t.shape for t in made] == [t.shape for t in plain]
    assert (made.outputs, made.inputs, made.format) == (192, 256, weights)


@pytest.mark.parametrize(("tokens", "depth"), [(1, 128), (5, 300), (3, 1500)])
def test_activations_are_quantised_as_torch_does(tokens, depth):
    x = torch.randn(tokens, depth).bfloat16()
    x[0, :128] = 0
    for found, expected in zip(quantized.quantize(x), formats.activations_to_fp8(x), strict=True):
        assert torch.equal(found.float(), expected.float())


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 128, 64), (5, 300, 200), (70, 256, 130)])
def test_dense_product_against_float64(tokens, inputs, outputs):
    assert numerics.check_fp8_product(tokens, inputs, outputs, "cpu") < 1e-2


def bf16_pair(word, factor):
    """mul.rn.bf16x2 of two words."""
    halves = torch.tensor([[w & 0xFFFF, w >> 16] for w in (word, factor)], dtype=torch.int32).to(torch.int16)
    product = halves.view(torch.bfloat16).prod(0).view(torch.int16).tolist()
    return (product[0] & 0xFFFF) | (product[1] & 0xFFFF) << 16


def emulate(word, first, second):
    """Run WIDEN, PTX for a GPU, on a word and two factors: the eight bf16 that it writes, as integers."""
    registers = {"$8": word, "$9": first, "$10": second}

    def value(name):
        return registers[name] if name in registers else int(name, 0)

    apply = {
        "shl.b32": lambda a, b: a << b & 0xFFFFFFFF,
        "shr.u32": lambda a, b: a >> b,
        "and.b32": lambda a, b: a & b,
        "or.b32": lambda a, b: a | b,
        "mul.rn.bf16x2": bf16_pair,
    }
    for name, words in re.findall(r"([\w.]+\.\w+) ([^;]+);", str(quantized_kernels.WIDEN.value)):
        if name == "mov.b32":
            low, high, source = re.findall(r"\$?\w+", words)
            registers |= {low: registers[source] & 0xFFFF, high: registers[source] >> 16}
        elif name in apply:
            target, *sources = words.replace(" ", "").split(",")
            registers[target] = apply[name](*map(value, sources))
    return [registers[f"${i}"] for i in range(8)]


def test_the_gpus_way_of_widening_gives_a_lanes_numbers_in_the_order_of_wgmmas_fragment():
    """Rows g and g + 8, two inputs each, then the same eight inputs on; scales 2 and 1/4 of the rows, times 2^126."""
    values = torch.tensor([*formats.E2M1, *(-v for v in formats.E2M1)], dtype=torch.float64)
    first, second = (((127 + power + 126) << 7) * 0x10001 for power in (1, -2))
    codes = torch.randint(0, 16, (64, 16, 64))
    for packed, plain in zip(formats.pack(codes).flatten(1).tolist(), codes, strict=True):
        lane, t = 4 * 5 + 3, 2  # g = 5, c = 3
        got = emulate(packed[4 * lane + t] & 0xFFFFFFFF, first, second)
        found = torch.tensor(got, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).double().tolist()
        inputs = 16 * t + 2 * 3 + torch.tensor([0, 1, 0, 1, 8, 9, 8, 9])
        rows, scale = 5 + torch.tensor([0, 0, 8, 8] * 2), torch.tensor([2.0, 2.0, 0.25, 0.25] * 2)
        assert found == (values[plain[rows, inputs]] * scale).tolist()


def test_random_weights_are_numbers():
    made = formats.random_quantized(1, 1024, 1024, format="fp8", device="cpu")
    assert bool(formats.dequantize(made).isfinite().all())
