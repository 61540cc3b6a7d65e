# Licensed under the Apache License, Version 2.0.
"""Sampled attention, in each of its three ways, against a plain loop in double precision.

The Triton kernel runs in Triton's interpreter, on the CPU, and is compiled for two GPUs; where
there is a GPU, it runs there too.
"""
import importlib.util
import math
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mmseg_reco.models.losses import sampled_contrast
from mmseg_reco.models.losses.sampled_contrast import blocked_attention, gathered_attention
from mmseg_reco.models.utils import unit_vectors

KERNEL_FILE = sampled_contrast.__file__.replace('sampled_contrast', 'sampled_attention_kernel')


def load_kernel(name):
    """A copy of the kernel's module, whatever the environment was at its first import."""
    spec = importlib.util.spec_from_file_location(f'mmseg_reco.models.losses.{name}', KERNEL_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INTERPRETER = """
import pickle, sys
from mmseg_reco.models.losses.sampled_attention_kernel import fused_attention
while True:
    try:
        case = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(fused_attention(*case), sys.stdout.buffer)
    sys.stdout.flush()
"""


def needs_triton():
    """Older ones, which come with older torch, do not interpret on a CPU or compile otherwise."""
    return pytest.importorskip(
        'triton', minversion='3.9', reason='this test needs Triton: pip install -U triton')


@pytest.fixture(scope='module')
def interpreted_attention():
    """The kernel in a process of its own, since Triton interprets all or nothing in a process."""
    needs_triton()
    with subprocess.Popen([sys.executable, '-W', 'ignore', '-c', INTERPRETER],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=dict(os.environ, TRITON_INTERPRET='1')) as process:

        def attention(*case):
            pickle.dump(case, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)

        yield attention
        process.stdin.close()


@pytest.fixture(params=('gathered', 'blocked', 'interpreted'))
def attention(request):
    if request.param == 'interpreted':
        return request.getfixturevalue('interpreted_attention')
    return dict(gathered=gathered_attention, blocked=blocked_attention)[request.param]


def make_case(images=2, length=17, channels=6, num_queries=5, per_query=9, seed=0, **kwargs):
    """Queries, keys (one zero, one next to it), pixels, and which queries are active (not 1)."""
    generator = torch.Generator().manual_seed(seed)
    queries = unit_vectors(torch.randn(num_queries, channels, generator=generator))
    # As the embeddings come: channels before pixels.
    keys = torch.randn(images, channels, length, generator=generator).transpose(1, 2)
    keys[-1, -1] = 5e-7 / channels**0.5
    keys[0, 0] = 0
    pixels = torch.randint(images * length, (num_queries, per_query), generator=generator)
    pixels[0, 0], pixels[2, 0] = 0, images * length - 1
    return queries, keys, pixels, torch.arange(num_queries) != 1


def loop_attention(queries, keys, pixels, active, temperature):
    """One dot product at a time, in double precision."""
    vectors = [row.double() for image in keys for row in image]
    lse, means = [], []
    for query, row, is_active in zip(queries.double(), pixels.tolist(), active, strict=True):
        units = [vectors[i] / vectors[i].norm() if vectors[i].norm() > 1e-6 else 0 * vectors[i]
                 for i in row]
        logits = [float(query @ unit) / temperature for unit in units]
        top = max(logits)
        weights = [math.exp(logit - top) for logit in logits]
        mean = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
        lse.append(top + math.log(sum(weights)) if is_active else -math.inf)
        means.append(mean / sum(weights) if is_active else torch.zeros_like(query))
    return torch.tensor(lse, dtype=torch.float64), torch.stack(means)


def assert_equals_loop(attention, case, temperature):
    lse, means = attention(*case, temperature)
    expected_lse, expected_means = loop_attention(*case, temperature)
    tolerance = 2e-6 if case[0].dtype == torch.float32 else 1e-12
    assert lse.dtype == means.dtype == case[0].dtype
    torch.testing.assert_close(lse.double(), expected_lse, rtol=tolerance,
                               atol=tolerance / temperature)
    torch.testing.assert_close(means.double(), expected_means, rtol=0,
                               atol=tolerance * max(1, 1 / temperature))


# Sizes that are no multiple of any block, channels no power of two; 4,096 elements are a tile.
SIZES = dict(
    usual=dict(), one_channel=dict(channels=1), one_draw=dict(per_query=1), one_key=dict(
        images=1, length=1), tiles=dict(channels=300, per_query=37), paper=dict(
            channels=256, per_query=512), many_draws=dict(length=3, per_query=700), images=dict(
                images=7, length=5))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('temperature', (0.05, 0.5, 3.))
def test_attention_equals_loop(attention, size, temperature):
    assert_equals_loop(attention, make_case(**SIZES[size]), temperature)


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
def test_keys_in_half_precision_lose_only_their_own_rounding(attention, dtype):
    queries, keys, *rest = make_case(channels=20)
    assert_equals_loop(attention, (queries, keys.to(dtype), *rest), 0.5)


@pytest.mark.parametrize('attention', (gathered_attention, blocked_attention))
def test_double_precision(attention):
    queries, keys, *rest = make_case()
    case = (unit_vectors(queries.double()), keys.double(), *rest)
    assert_equals_loop(attention, case, 0.1)


def test_logits_that_overflow_any_float(attention):
    """At temperature 1e-3 the logits reach +-1000; only the nearest key has a weight."""
    assert_equals_loop(attention, make_case(), 1e-3)


@pytest.mark.parametrize('value', (True, False))
def test_all_or_no_query_active(attention, value):
    *case, active = make_case()
    assert_equals_loop(attention, (*case, torch.full_like(active, value)), 0.5)


def test_contiguous_keys_give_the_same(attention):
    queries, keys, *rest = make_case()
    for one, other in zip(attention(queries, keys, *rest, 0.5),
                          attention(queries, keys.contiguous(), *rest, 0.5), strict=True):
        torch.testing.assert_close(one, other)


# 2 images of 17 pixels and 6 channels: from a row a block to everything in one block.
@pytest.mark.parametrize('elements', (1, 6, 30, 54, 102, 203, 204, 10**6))
def test_any_size_of_block_gives_the_same(monkeypatch, elements):
    monkeypatch.setattr(sampled_contrast, 'BLOCK_ELEMENTS', elements)
    monkeypatch.setattr(sampled_contrast, 'GATHER_ELEMENTS', elements)
    for attention in (blocked_attention, gathered_attention):
        for size in ('usual', 'images', 'many_draws'):
            assert_equals_loop(attention, make_case(**SIZES[size]), 0.5)


@pytest.mark.parametrize('blocks', (255, 256, 257, 600))
def test_about_as_many_blocks_as_a_byte_can_count(monkeypatch, blocks):
    monkeypatch.setattr(sampled_contrast, 'BLOCK_ELEMENTS', 2)
    case = make_case(images=1, length=blocks, channels=2, per_query=100)
    assert_equals_loop(blocked_attention, case, 0.5)


def test_interpreter_is_not_used_unasked(monkeypatch):
    triton = pytest.importorskip('triton', reason='the kernel needs Triton: pip install triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert isinstance(load_kernel('compiled_kernel')._attend, triton.JITFunction)


@pytest.mark.parametrize('capability, dtype', [(80, 'fp32'), (90, 'bf16')])
def test_kernel_compiles(monkeypatch, capability, dtype):
    triton = needs_triton()
    from triton.backends.compiler import GPUTarget
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    kernel = load_kernel('compiled_kernel')
    types = dict(queries='*fp32', keys=f'*{dtype}', pixels='*i64', active='*i1', lse='*fp32',
                 means='*fp32', per_query='i32', channels='i32', temperature='fp32', eps='fp32',
                 TILE='constexpr', QUARTER='constexpr')
    source = triton.compiler.ASTSource(
        fn=kernel._attend, signature=types,
        # As of a launch: pointers, keys a query and channels are multiples of 16.
        attrs={(i, ): [['tt.divisibility', 16]] for i in (0, 1, 2, 4, 5, 6, 7)},
        constexprs=dict(TILE=kernel.TILE_ELEMENTS // 256, QUARTER=64))
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32))
    assert 'ld.global.v4' in compiled.asm['ptx'], 'keys are not read 16 bytes at a time'
    assert compiled.asm['cubin']


@pytest.mark.parametrize('error', (None, RuntimeError('Failed to find C compiler')))
def test_kernel_that_does_not_compile_is_gone_without(monkeypatch, error):
    def kernel(*args):
        if error:
            raise error
        assert_equals_loop(gathered_attention, args[:-1], args[-1])  # a case as any other

    name = 'mmseg_reco.models.losses.sampled_attention_kernel'
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(fused_attention=kernel))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name == 'triton')
    sampled_contrast.fused_kernel.cache_clear()
    device = torch.device('cpu')
    with pytest.warns(match='find C compiler.*apt install') if error else nullcontext():
        assert sampled_contrast.fused_kernel(device) is (None if error else kernel)
    assert sampled_contrast.fused_kernel(device) is (None if error else kernel)  # tried once
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    sampled_contrast.fused_kernel.cache_clear()
    assert sampled_contrast.fused_kernel(device) is None
    sampled_contrast.fused_kernel.cache_clear()


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('out of memory'), RuntimeError('CUDA error: an illegal address')])
def test_an_error_of_the_gpu_is_not_taken_for_a_missing_compiler(monkeypatch, error):
    def kernel(*args):
        raise error

    name = 'mmseg_reco.models.losses.sampled_attention_kernel'
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(fused_attention=kernel))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name == 'triton')
    sampled_contrast.fused_kernel.cache_clear()
    for _ in range(2):  # nothing is remembered
        with pytest.raises(type(error), match=str(error)):
            sampled_contrast.fused_kernel(torch.device('cpu'))
    sampled_contrast.fused_kernel.cache_clear()


# --------------------------------------------------------------------------- loss and gradient


def contrast_case(seed=0):
    """2 images, 3 classes of which the last is not active; a pixel drawn twice, one of length 0."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    embeddings[1, :, 2, 3] = 0
    queries = torch.randint(24, (3, 4), generator=generator)
    queries[0, 0] = queries[0, 1] = queries[1, 0]
    queries[1, 1] = 23
    prototypes = unit_vectors(torch.randn(3, 5, generator=generator, dtype=torch.float64))
    pixels = torch.randint(24, (3, 4, 7), generator=generator)
    return embeddings, queries, prototypes, pixels, torch.tensor([True, True, False])


def plain_contrast(embeddings, queries, prototypes, pixels, active, temperature):
    """By cosines and a cross-entropy, with autograd; keys detached."""
    rows = embeddings.permute(0, 2, 3, 1).flatten(0, 2)
    units = unit_vectors(rows)
    logits = torch.cat([units[queries] @ prototypes[:, :, None],
                        torch.einsum('cqd,cqmd->cqm', units[queries], units[pixels].detach())], 2)
    return -(logits / temperature).log_softmax(2)[:, :, 0] * active[:, None]


@pytest.mark.parametrize('temperature', (0.05, 0.5))
@pytest.mark.parametrize('classes_at_once', (1, 2, 3))
@pytest.mark.parametrize('layout', (torch.contiguous_format, torch.channels_last))
def test_contrast_equals_cross_entropy(layout, classes_at_once, temperature):
    embeddings, queries, prototypes, pixels, active = contrast_case()
    embeddings = embeddings.contiguous(memory_format=layout).requires_grad_()
    losses = sampled_contrast.sampled_contrast(
        embeddings, queries, prototypes, pixels.split(classes_at_once), active, temperature)
    expected = plain_contrast(embeddings, queries, prototypes, pixels, active, temperature)
    torch.testing.assert_close(losses, expected)
    assert losses[:2].all() and not losses[2].any()
    weights = torch.randn(losses.shape, generator=torch.Generator().manual_seed(1)).double()
    grad, = torch.autograd.grad((weights * losses).sum(), embeddings)
    expected_grad, = torch.autograd.grad((weights * expected).sum(), embeddings)
    torch.testing.assert_close(grad, expected_grad)
    assert grad.is_contiguous(memory_format=layout), 'the layout is that of the embeddings'
    assert not grad[1, :, 2, 3].any(), 'a vector of length 0 has no direction'


def test_without_triton():
    """Nothing of the package needs it; a CPU does not even import it."""
    code = """
import sys
sys.modules['triton'] = None  # an import fails
import torch
from mmseg_reco.models.losses import ReCoLoss
embeddings = torch.randn(1, 3, 4, 4, requires_grad=True)
ReCoLoss(4, 4)(embeddings, torch.arange(16).view(1, 4, 4) % 2, torch.rand(1, 2, 4, 4)).backward()
assert embeddings.grad.any()
"""
    subprocess.run([sys.executable, '-c', code], check=True, timeout=600)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('dtype', (torch.float32, torch.bfloat16, torch.float16))
def test_kernel_equals_gathering_on_cuda(size, dtype):
    pytest.importorskip('triton', reason='the kernel needs Triton: pip install triton')
    queries, keys, *rest = (tensor.cuda() for tensor in make_case(**SIZES[size]))
    case = (queries, keys.to(dtype), *rest, 0.5)
    expected = gathered_attention(*case)
    for result in (sampled_contrast.sampled_attention(*case),
                   load_kernel('compiled_kernel').fused_attention(*case)):
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
