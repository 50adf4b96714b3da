"""What a name alone tells: an op's base name, an autograd node's forward op, a kernel's family."""

from __future__ import annotations

import re

_EVALUATE = "autograd::engine::evaluate_function: "
_NODE = re.compile(r"^(?:torch::autograd::)?(\w+?)Backward\d*$")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

COMMUNICATION_PREFIXES = (
    "nccl",
    "rccl",
    "gloo:",
    "c10d::",
    "_c10d_functional::",
    "mpi:",
    "ucc:",
    "xccl",
    "hccl",
    "oneccl",
    "record_param_comms",
)

# First match wins, on the lower-cased name; the order puts the special before the general.
_KERNELS: tuple[tuple[str, str], ...] = (
    ("gemm", r"^cijk_"),  # Tensile's names spell out its settings: any word may occur in them
    (
        "communication",
        r"nccl|^rccl|onesh?ot_?all_?reduce|cross_device_reduce|all_?reduce_?kernel"
        r"|all_?gather_?kernel|reduce_?scatter_?kernel|^ccl_|deep_?ep::|nvshmem"
        r"|symm_?mem|lamport|all_?2_?all|alltoall",
    ),
    (
        "attention",
        r"flash_?(fwd|bwd|attn|attention|infer|mla)|fmha|attn_(fwd|bwd)|_attn_|attention"
        r"|fused_?mha|splitk_?reduce_?attn|aotriton|fa3|bmha",
    ),
    ("optimizer", r"multi_?tensor_?apply|fused_?adam|fused_?sgd|fused_?lamb|adam_?kernel"),
    (
        "conv",
        r"_(fprop|dgrad|wgrad)_|dgrad|wgrad|fprop|convolve|winograd|im2col|scudnn|hcudnn|i8816cudnn"
        r"|implicit_?gemm|igemm_(fwd|bwd|wrw)|_conv_|conv\dd|grouped_?conv|convolution|depthwise"
        r"|miopensp3asm|cudnn::(cnn|detail)|cask_?cudnn|cutlass_+(5x_)?cudnn|sp3asmconv|batched_gemm"
        r"_xdlops_bwd_weight",
    ),
    ("norm", r"(layer|batch|group|instance|rms)_?norm|rmsnorm|bn_(fw|bw)|cudnn::bn"),
    (
        "norm",
        r"gammabeta|rowwise_?moments|computeinternalgradients|compute(fwd|backward)?fusedparams",
    ),
    ("norm", r"cucompute(part)?grad|welford"),
    ("softmax", r"soft_?max"),
    ("loss", r"nll|cross_?entropy|mse_?loss|bce"),
    ("embedding", r"embedding|bounds_check_indices|permute_pooled"),
    ("recurrent", r"lstm|\bgru|_gru_|rnn_|persist_elemwise"),
    ("fft", r"(^|[^a-z])fft|regular_fft|vector_fft|dft_|rocfft"),
    (
        "sort",
        r"radix_?sort|bitonic|sort_?kernel|topk|sbtopk|searchsorted|devicemergesort|segmented_?sort"
        r"|radix_?select|gathertopk|_bitmatrix",
    ),
    ("random", r"distribution_|philox|dropout|bernoulli|curand|random"),
    (
        "gemm",
        r"(?<!fb)gemm|nvjet|cutlass(?!.*elementwise)|\bmatmul|_matmul|matmul_ogs|splitk_?reduce"
        r"|xmma|wmma|gemv|hgemv|dot_kernel|gemmk1|_mm_|triton_(tem|mm)|bmm|hipblaslt|fused_?moe"
        r"|tensorop|mfma|cutlass_80|device_kernel<.*mma|brgemm|sgemm|mkldnn_.*linear",
    ),
    ("elementwise", r"^triton_poi_"),
    ("reduction", r"^triton_(red|per)_"),
    (
        "copy",
        r"catarray|copy_bucket|copy_?kernel|memcpy|copy_device_to_device|index_?select|indexfunc|gather|scatter"
        r"|index_?elementwise|index_?put|index_?add|indexing_backward|direct_copy|nchwtonhwc"
        r"|nhwctonchw|transpose|batched_transpose|copysegment|recat|permute|roll_?cuda|flip"
        r"|upsample|reshape_and_cache|bfloat16_copy|float16_copy|tensorconvert|subtensorop"
        r"|convert_?kernel|pad_?kernel|concat",
    ),
    ("elementwise", r"memset|fillfunctor|fill_kernel"),
    (
        "reduction",
        r"reduce(?!r)|reduction|scan_?kernel|devicescan|cumsum|pool|sum_kernel|argmax|norm_kernel|lpnorm",
    ),
    ("elementwise", r"element_?wise|pointwise|unrolled_|vectorized|scalepackedtensor|rotary|silu"),
    ("elementwise", r"gelu|relu|sigmoid|_add_kernel|_mul_kernel|activation|threshold"),
)
_COMPILED = tuple((family, re.compile(pattern)) for family, pattern in _KERNELS)


def base_name(name: str) -> str:
    """An op's name without namespace and overload: "aten::add.Tensor" gives "add"."""
    base = name.rpartition("::")[2] if " " not in name and "<" not in name else name
    if base != name:
        base = base.partition(".")[0] or base
    return base


def forward_name(name: str) -> str | None:
    """The forward op of an autograd node: "AddmmBackward0" gives "addmm"; None for others."""
    match = _NODE.match(name.removeprefix(_EVALUATE))
    if match is None:
        return None
    return _HUMP.sub("_", match[1]).lower()


def kernel_family(name: str) -> str:
    """The family of a device kernel by its name; "other" where the name says nothing."""
    name = name.removeprefix(_EVALUATE)
    if name.startswith(COMMUNICATION_PREFIXES):
        return "communication"
    if name.startswith(("Optimizer.", "ProfilerStep", "enumerate(", "torch::autograd::")):
        return "other"
    lowered = name.lower()
    for family, pattern in _COMPILED:
        if pattern.search(lowered):
            return family
    return "other"
