"""What an op's name alone tells, odd arguments, and roofline times."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.trace.costs import (
    FAMILIES,
    Cost,
    attainable_seconds,
    cost,
    family,
)
from boundscope.profiler.trace.table import Signature


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AddmmBackward0", "gemm"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "conv"),
        ("MaxPool2DWithIndicesBackward0", "reduction"),
        ("ToCopyBackward0", "copy"),
        ("LayerNormBackward", "norm"),
        ("c10d::allreduce_", "communication"),
        ("gloo:all_reduce", "communication"),
        (
            "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "communication",
        ),
        ("ampere_sgemm_128x64_nn", "gemm"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "gemm"),
        ("Cijk_Alik_Bljk_B_BS_BH_Bias_HA_S_SAV_UserArgs_MT128x224x64_MI16x16x1_SN", "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>(Params)", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "conv"),
        ("igemm_fwd_gtcx3_nhwc_bf16_bx0_ex1_bt64x128x32", "conv"),
        ("void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>", "conv"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(AttentionKernel)", "attention"),
        ("attn_fwd.kd", "attention"),
        ("void cudnn::bn_fw_tr_1C11_singleread<float, 512, true, 1, 2, 0>", "norm"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "norm"),
        (
            "void (anonymous namespace)::softmax_warp_forward<float, float, float, 8, true>",
            "softmax",
        ),
        (
            "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>",
            "elementwise",
        ),
        ("triton_poi_fused_add_cos_sin_0", "elementwise"),
        ("triton_red_fused_add_mean_mul_pow_rsqrt_1", "reduction"),
        ("triton_per_fused_native_layer_norm_2", "reduction"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reduction"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<float>", "copy"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<Adam>", "optimizer"),
        ("void fbgemm_gpu::permute_2D_lengths_kernel<int>", "copy"),
        ("void split_embedding_codegen_forward_unweighted_kernel<float>", "embedding"),
        ("Optimizer.step#SGD.step", "other"),
        ("some kernel that nobody knows", "other"),
    ],
)
def test_a_name_alone_gives_the_family(name: str, expected: str) -> None:
    # given a name, when
    found = family(name)
    # then
    assert found == expected


ODD = st.recursive(
    st.one_of(st.none(), st.integers(-3, 2**40), st.floats(), st.text(max_size=3), st.booleans()),
    lambda inner: st.lists(inner, max_size=5).map(tuple),
    max_leaves=12,
)
TYPES = st.one_of(
    st.sampled_from(["float", "c10::BFloat16", "long int", "Scalar", "ScalarList", "TensorList"]),
    st.text(max_size=4),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "1", "0", "-1", "True", "[1, 1]", "[0, 0]", "[]", "[True, False]", "[-7]"]
    ),
    st.text(max_size=6),
)
FURTHER = """convolution_backward cudnn_convolution miopen_convolution lstm mkldnn_rnn_layer topk
pow index_put_ scatter_add_ _fft_r2c _foreach_addcdiv_ _fused_sgd_ max_pool2d_with_indices index
_scaled_dot_product_efficient_attention_backward nll_loss_backward randn native_dropout einsum
upsample_bilinear2d searchsorted repeat slice_backward nosuchop triton_poi_fused_add_mul_0"""
COSTED = """
aten::_foreach_add_ aten::_fused_adamw_ aten::_log_softmax
aten::_scaled_dot_product_flash_attention_for_cpu aten::_scaled_mm aten::_softmax aten::_to_copy
aten::add aten::add_ aten::addmm aten::amax aten::argmax aten::avg_pool2d aten::bmm aten::cat
aten::clone aten::constant_pad_nd aten::conv_transpose2d aten::convolution
aten::convolution_backward aten::copy_ aten::cumsum aten::embedding
aten::embedding_dense_backward aten::empty aten::exp aten::gather aten::gelu aten::gt
aten::index_select aten::le aten::linalg_vector_norm aten::max aten::max_pool2d_with_indices
aten::mkldnn_convolution aten::mm aten::mul aten::native_layer_norm aten::neg aten::sigmoid
aten::sort aten::sum aten::topk aten::transpose aten::upsample_nearest2d aten::var aten::where
aten::zero_ mkldnn::_linear_pointwise"""
"""The ops whose cost test_costs.py holds."""
NAMES = sorted({*COSTED.split(), *FURTHER.split()})


@settings(max_examples=400, deadline=None)
@given(
    name=st.one_of(st.sampled_from(NAMES), st.text(max_size=12)),
    dims=st.lists(st.one_of(ODD, st.lists(st.integers(0, 9), max_size=5).map(tuple)), max_size=12),
    types=st.lists(TYPES, max_size=12),
    strides=st.lists(ODD, max_size=12),
    concrete=st.lists(TEXTS, max_size=12),
)
def test_no_arguments_however_odd_raise_or_give_a_negative_cost(
    name: str, dims: list[Any], types: list[str], strides: list[Any], concrete: list[str]
) -> None:
    # given
    odd = Signature(tuple(dims), tuple(types), tuple(strides), tuple(concrete))
    # when
    found = cost(name, odd)
    # then
    assert family(name) in FAMILIES
    if found is not None:
        assert found.flop >= 0
        assert found.bytes >= 0
        assert 0 <= found.special_flop <= found.flop
        assert math.isfinite(found.flop + found.bytes)


ROOFS = Roofs(
    flops={"fp32": 1e12, "bf16": 4e12, "special": 1e11},
    bandwidth={"dram_copy": 1e11, "l2": 1e12},
    cache_bytes={"l2": 1 << 20},
    flops_1={"special": 1e10},
)


@pytest.mark.parametrize(
    ("needs", "seconds", "limiter"),
    [
        # 4e12 FLOP at 4e12 FLOP/s against 1e9 bytes at 1e11 bytes/s
        (Cost(4e12, 1e9, "gemm", "bf16"), 1.0, "arithmetic"),
        (Cost(1e9, 1e11, "elementwise", "fp32"), 1.0, "bandwidth"),
        # vector adds run at half the fused rate: 1e12 / 0.5e12
        (Cost(1e12, 1e9, "norm", "bf16"), 2.0, "arithmetic"),
        # exponentials have a roof of their own, random numbers one thread's
        (Cost(1e11, 1e9, "elementwise", "fp32", special_flop=1e11), 1.0, "arithmetic"),
        (Cost(1e10, 1e9, "random", "fp32", special_flop=1e10), 1.0, "arithmetic"),
        # what fits into the cache moves at the cache's speed
        (Cost(0.0, 1e6, "copy", "fp32"), 1e-6, "bandwidth"),
        (Cost(0.0, 0.0, "view", "fp32"), 0.0, "bandwidth"),
    ],
)
def test_the_attainable_time_is_that_of_the_lower_roof(
    needs: Cost, seconds: float, limiter: str
) -> None:
    # given a cost, when
    found = attainable_seconds(needs, ROOFS)
    # then
    assert found == (pytest.approx(seconds), limiter)


def test_a_roof_that_nobody_knows_limits_nothing() -> None:
    # given
    unknown = Roofs(flops={}, bandwidth={})
    # when
    seconds, _ = attainable_seconds(Cost(1e12, 1e9, "gemm", "bf16"), unknown)
    # then
    assert seconds == 0
