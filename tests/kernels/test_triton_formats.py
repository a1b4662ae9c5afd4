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
    weight = values.repeat(8)[None, :].repeat(3, 1) * torch.tensor([[1.0], [2.0**-9], [2.0]])
    found = formats.to_mxfp4(weight)
    assert torch.equal(formats.dequantize(found), weight.double())
    assert found.scales[0].tolist() == [127, 118, 128]
    assert formats.dequantize(formats.to_mxfp4(torch.zeros(1, 64))).abs().max() == 0


def test_mxfp4_error_is_within_the_formats_bound():
    weight = torch.randn(40, 256)
    error = (formats.dequantize(formats.to_mxfp4(weight)) - weight).abs().view(40, 8, 32)
    largest = weight.abs().view(40, 8, 32).amax(-1, keepdim=True)
    power = torch.exp2(largest.log2().floor())
    assert bool((error <= torch.maximum(power / 4, largest - 1.5 * power)).all())  # half a step of 2, or what saturates


def test_mxfp4_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="a multiple of 64 inputs, not 96"):
        formats.to_mxfp4(torch.randn(4, 96))
    with pytest.raises(ValueError, match="magnitudes below 16"):
        formats.to_mxfp4(torch.full((1, 64), 16.0))


def test_packing_is_undone():
    codes = torch.randint(0, 16, (2, 3, 192), dtype=torch.uint8)
    assert torch.equal(formats.unpack(formats.pack(codes)), codes)


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


def emulate(word):
    """Run WIDEN, PTX for a GPU, on a 32-bit word: the four registers that it writes."""
    registers = {"$4": word}

    def value(name):
        return registers[name] if name in registers else int(name, 0)

    apply = {
        "shl.b32": lambda a, b: a << b & 0xFFFFFFFF,
        "shr.u32": lambda a, b: a >> b,
        "and.b32": lambda a, b: a & b,
        "or.b32": lambda a, b: a | b,
        "prmt.b32": lambda a, b, order: sum(
            ((a | b << 32) >> 8 * (order >> 4 * i & 7) & 0xFF) << 8 * i for i in range(4)
        ),
    }
    for line in re.findall(r"(\w+\.\w+) ([^;.]+);", str(quantized_kernels.WIDEN.value)):
        target, *sources = line[1].replace(" ", "").split(",")
        registers[target] = apply[line[0]](*map(value, sources))
    return [registers[f"${i}"] for i in range(4)]


def test_the_gpus_way_of_widening_gives_each_bytes_numbers_in_its_own_place():
    """The compiler packs four bytes that a thread holds, which need not be neighbours in a row."""
    values = (*formats.E2M1, *(-v for v in formats.E2M1))
    for data in torch.randint(0, 256, (256, 4)).tolist():
        lanes = [x for r in emulate(int.from_bytes(bytes(data), "little")) for x in (r & 0xFFFF, r >> 16)]
        got = (torch.tensor(lanes, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).double() * 2.0**126).tolist()
        assert got == [values[byte & 15] for byte in data] + [values[byte >> 4] for byte in data]


def test_random_weights_are_numbers():
    made = formats.random_quantized(1, 1024, 1024, format="fp8", device="cpu")
    assert bool(formats.dequantize(made).isfinite().all())
