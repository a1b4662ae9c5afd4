"""Compile for sm_90, on a machine without a GPU, exactly the Triton programs that the launch functions would run.

Run as a script (triton must not be in interpreter mode): prints one JSON object per distinct program. The launches are
called on tensors of torch's `meta` device, which have shapes and types but no memory, with the compiler in place of
the launcher.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.runtime.jit import JITFunction

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float64: "*fp64",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "num_stages")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Recorder:
    """Stands in for `JITFunction.run`: remembers each distinct program under the label of its launch."""

    def __init__(self):
        self.programs = {}
        self.label = ""

    def run(self, fn, *args, grid, warmup, **kwargs):
        options = {k: kwargs.pop(k) for k in OPTIONS if k in kwargs}
        values = dict(zip(fn.arg_names, args, strict=False)) | kwargs
        signature, constants, attrs = {}, {}, {}
        for i, parameter in enumerate(fn.params):
            value = values[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name], attrs[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
            elif isinstance(value, TensorDescriptor):
                signature[parameter.name] = f"tensordesc<bf16{list(value.block_shape)},{value.layout!r}>"
            elif isinstance(value, float):
                signature[parameter.name] = "fp32"
            elif value == 1 and not parameter.do_not_specialize:
                signature[parameter.name], constants[parameter.name] = "constexpr", 1
            else:
                signature[parameter.name] = "i32"
                if value % 16 == 0 and not parameter.do_not_specialize:
                    attrs[(i,)] = [["tt.divisibility", 16]]
        key = repr((fn.__name__, signature, constants, sorted(attrs), options))
        self.programs.setdefault(key, (self.label, fn, signature, constants, attrs, options))


def compile_one(program):
    label, fn, signature, constants, attrs, options = program
    source = (GluonASTSource if isinstance(fn, GluonJITFunction) else ASTSource)(fn, signature, constants, attrs)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = kernel.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(kernel.asm["cubin"])
        usage = subprocess.run([CUOBJDUMP, "--dump-resource-usage", cubin.name], capture_output=True, text=True).stdout
    return {
        "label": label, "kernel": fn.__name__, **options,
        "constants": {k: v for k, v in constants.items() if v is not None},
        "shared": kernel.metadata.shared, "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]), "local": int(re.search(r"LOCAL:(\d+)", usage)[1]),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)), "mma": len(re.findall(r"mma\.sync", ptx)),
        "in_flight": max(map(int, re.findall(r"wgmma\.wait_group\.sync\.aligned (\d+)", ptx)), default=0),
        "loads": len(re.findall(r"ld\.global", ptx)), "cp_async": len(re.findall(r"cp\.async\.c[ga]", ptx)),
        "tma": len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
        "cp_async_4": len(re.findall(r"cp\.async\.c[ga]\.shared\.global[^;]*, 0x4,", ptx)),
        "cp_async_16": len(re.findall(r"cp\.async\.c[ga]\.shared\.global[^;]*0x10", ptx)),
    }  # fmt: skip


def record(launches):
    """The distinct programs of *launches*, pairs of a label and a function that launches on meta tensors."""
    recorder = Recorder()
    JITFunction.run = lambda fn, *args, **kwargs: recorder.run(fn, *args, **kwargs)
    for label, launch in launches:
        recorder.label = label
        launch()
    return list(recorder.programs.values())


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def meta_experts(s):
    """Gate and up, and down, of a layer in its format."""
    from kernels.formats import random_quantized

    sizes = (s.experts, 2, s.expert_intermediate, s.hidden), (s.experts, s.hidden, s.expert_intermediate)
    if s.expert_format == "bf16":
        return meta(s.experts, 2 * s.expert_intermediate, s.hidden), meta(*sizes[1])
    return [random_quantized(*size, format=s.expert_format, device="meta") for size in sizes]


def moe_launches(names, tokens, every_config=False):
    from kernels import configs, moe
    from kernels.shapes import SHAPES

    for name in names:
        s = SHAPES[name]
        experts = meta_experts(s)
        key = moe.key_of(experts[1], s.topk)
        for t in tokens:
            x, logits = meta(t, s.hidden), meta(t, s.experts)
            choices = [configs.rule(key, t)]
            if every_config:
                m, many = choices[0].gate_up.block_m, t > choices[0].gate_up.block_m
                ups, downs = (configs.candidates(c, key.weights, m, many) for c in (configs.GATE_UP, configs.DOWN))
                n = max(len(ups), len(downs))
                choices = [configs.Moe(ups[i % len(ups)], downs[i % len(downs)]) for i in range(n)]
            for c in choices:
                yield (
                    f"moe {name} T={t}",
                    lambda c=c, x=x, g=logits, w=experts, s=s: moe.moe(x, g, *w, s.topk, s.renormalise, config=c),
                )


def project_launches(tokens, matrices):
    from kernels import quantized
    from kernels.formats import random_quantized

    for t in tokens:
        for inputs, outputs in matrices:
            weight = random_quantized(outputs, inputs, format="fp8", device="meta")
            yield f"project {inputs}x{outputs} T={t}", lambda t=t, n=inputs, w=weight: quantized.project(meta(t, n), w)


def attention_launches(names, q_lens, cases):
    from kernels import verify_attention
    from kernels.shapes import SHAPES

    for name in names:
        s = SHAPES[name]
        for q_len in q_lens:
            for batch, length in cases:
                yield f"attention {name} q={q_len} B={batch}", lambda s=s, q=q_len, b=batch, n=length: (
                    verify_attention.attend(
                        meta(b, q, s.heads, s.head_dim), meta(64, s.kv_heads, 16, s.head_dim),
                        meta(64, s.kv_heads, 16, s.head_dim), meta(b, n // 16, dtype=torch.int32),
                        meta(b, dtype=torch.int32), n,
                    )
                )  # fmt: skip


def latent_launches(heads, q_lens, cases):
    from kernels import latent_attention

    for h in heads:
        for q_len in q_lens:
            for batch, length in cases:
                tensors = meta(batch, q_len, h, 576), meta(64, 64, 576)
                tables = meta(batch, length // 64, dtype=torch.int32), meta(batch, dtype=torch.int32)
                yield (
                    f"latent {h} q={q_len} B={batch}",
                    lambda t=(*tensors, *tables), n=length: latent_attention.attend(*t, n, 512, 0.07),
                )


def hopper_launches(heads, q_lens):
    """The kernel that `latent_attention.attend` takes on the GPU itself, whole and in parts."""
    from kernels import latent_hopper
    from kernels.splits import make_parts

    for h, q_len, splits in product(heads, q_lens, (1, 4)):
        for walk in latent_hopper.walks(h * q_len):
            q, tables = meta(2, q_len, h, 576), (meta(2, 16, dtype=torch.int32), meta(2, dtype=torch.int32))
            out, parts = meta(2, q_len, h, 512), make_parts(2 * q_len * h, splits, 512, torch.device("meta"))
            yield (
                f"latent on Hopper {h} q={q_len} splits={splits} rows={walk.rows}",
                lambda q=q, t=tables, o=out, p=parts, w=walk, s=splits: latent_hopper.launch(
                    q, meta(64, 64, 576), *t, 0.07, o, p, w, s
                ),
            )


def rejection_launches(batches, lengths, vocabs):
    from kernels import rejection

    for b in batches:
        for k in lengths:
            for v in vocabs:
                logits, drafts = meta(b, k + 1, v), meta(b, k, dtype=torch.int32)
                coins, probs = meta(b, k + 1, dtype=torch.float32), meta(b, k, v, dtype=torch.float32)
                yield f"greedy B={b} K={k}", lambda a=logits, d=drafts: rejection.sample(a, d)
                yield f"sample B={b} K={k}", lambda a=logits, d=drafts, c=coins: rejection.sample(a, d, c)
                yield f"sample q B={b} K={k}", lambda a=logits, d=drafts, c=coins, p=probs: rejection.sample(a, d, c, p)


def main(which):
    if which == "all":
        launches = [
            *moe_launches(
                ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-120b"],
                [1, 8, 16, 64, 256, 1024, 8192],
                True,
            ),
            *project_launches([1, 64, 2000], [(7168, 2112), (16384, 7168)]),
            *latent_launches([16, 128], [1, 5, 9], [(1, 4096), (256, 1024)]),
            *hopper_launches([16, 128], [1, 2, 5, 9]),
            *attention_launches(
                ["qwen3-30b-a3b", "qwen3-235b-a22b", "qwen2-0.5b"], [1, 5, 9], [(1, 4096), (256, 1024)]
            ),
            *rejection_launches([1, 64], [1, 4], [151936]),
        ]
    else:
        launches = [
            *moe_launches(["qwen3-30b-a3b"], [1, 16, 256, 8192]),
            *moe_launches(["deepseek-v3", "gpt-oss-120b"], [16, 2048]),
            *project_launches([1, 2000], [(16384, 7168)]),
            *latent_launches([16], [5], [(1, 4096), (256, 1024)]),
            *hopper_launches([16], [1, 2, 5]),
            *attention_launches(["qwen3-30b-a3b"], [1, 9], [(1, 4096), (256, 1024)]),
            *rejection_launches([8], [4], [151936]),
        ]
    with ThreadPoolExecutor(2) as pool:
        for row in pool.map(compile_one, record(launches)):
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.argv[1] if len(sys.argv) > 1 else "few")
