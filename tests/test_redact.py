"""The redactor: what is private goes, by stable pseudonyms; what analysis stands on stays."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boundscope.profiler.errors import UsageError
from boundscope.profiler.redact import KEEPABLE, Known, Redactor, parse_keep
from boundscope.profiler.redact.entropy import random_strings

PROJECT = "/home/alice/project"


@pytest.fixture
def redactor() -> Redactor:
    known = Known({PROJECT}, {"gpu01.cluster.example", "vm"}, {"alice", "root"})
    return Redactor(known, allowed_variables=["NCCL_DEBUG"])


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"{PROJECT}/sub/train.py", "sub/train.py"),
        (f"{PROJECT}/alice/x.py", "user-1/x.py"),
        ("/opt/conda/lib/python3.10/site-packages/torch/a.py", "…/site-packages/torch/a.py"),
        ("/usr/lib/python3.11/json/x.py", "…/lib/python3.11/json/x.py"),
        ("/opt/pytorch/torch/nn/modules/m.py", "…/torch/nn/modules/m.py"),
        (r"C:\Users\alice\env\Lib\site-packages\torch\a.py", "…/site-packages/torch/a.py"),
        ("/data/customer/set.pt", "path-1.pt"),
        ("~/notes.txt", "path-1.txt"),
        ("../other/x.py", "path-1.py"),
        (f"{PROJECT}/../other/x.py", "path-1.py"),
        ("/proc/meminfo", "/proc/meminfo"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
        ("train.py", "train.py"),
    ],
)
def test_paths_are_shown_relative_to_what_is_known(
    redactor: Redactor, path: str, shown: str
) -> None:
    assert redactor.path(path, "") == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CPU of vm is busy", "CPU of host-1 is busy"),
        ("GPU01.cluster.example and gpu01", "host-1 and host-1"),
        ("mail alice@mail.example", "mail email-1"),
        ("https://u:p@git.example/x.git", "url-1"),
        ("git@git.example:me/x.git", "url-1"),
        ("10.0.3.4 and 10.0.3.5 and 10.0.3.4", "ip-1 and ip-2 and ip-1"),
        ("on 127.0.0.1", "on 127.0.0.1"),
        ("fe80::1ff:fe23:4567:890a", "ip-1"),
        ("00:11:22:33:44:55", "mac-1"),
        ("net.enx001122334455.tx", "net.enxmac-1.tx"),
        ("driver 535.104.05", "driver 535.104.05"),
        ("Bearer abcdefgh", "Bearer secret-1"),
        ('{"api_key": "hunter22"}', '{"api_key": "secret-1"}'),
        ("max_tokens=512 --tokenizer gpt2", "max_tokens=512 --tokenizer gpt2"),
        ("%2Fhome%2Falice%2Fx", "path-1"),
        ("12.5 MB/s, 50 %/s, 3.2 GFLOP/s", "12.5 MB/s, 50 %/s, 3.2 GFLOP/s"),
    ],
)
def test_texts_lose_what_is_private_and_nothing_else(
    redactor: Redactor, text: str, shown: str
) -> None:
    assert redactor.text(text, "") == shown


@pytest.mark.parametrize(
    "name",
    [
        "aten::add_",
        "c10::add",
        "c10d::allreduce_",
        "autograd::engine::evaluate_function: AddmmBackward0",
        "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__",
        "Optimizer.step#AdamW.step",
        "ProfilerStep#12",
        "nccl:all_reduce_coalesced_1",
        "torch/nn/modules/module.py(1501): _call_impl",
        "triton_poi_fused_native_layer_norm_native_layer_norm_backward_0",
        "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_nn",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float> >",
        "SomeVeryLongClassNameForModule2DConvTranspose",
    ],
)
def test_names_of_ops_and_kernels_stay(redactor: Redactor, name: str) -> None:
    assert redactor.op_name(name, "") == name
    assert redactor.kernel_name(name, "") == name


def test_the_value_behind_a_secrets_option_goes_and_others_stay(redactor: Redactor) -> None:
    words = ["train.py", "--api-key", "k", "--token=t", "--lr", "0.1", "--verbose", "-m", "x.y"]

    shown = redactor.arguments(words, "")

    assert shown == [
        "train.py", "--api-key", "secret-1", "--token=secret-2", "--lr", "0.1", "--verbose",
        "-m", "x.y",
    ]  # fmt: skip


def test_variables_are_shown_by_a_list_of_allowed_ones(redactor: Redactor) -> None:
    shown = redactor.arguments(["NCCL_DEBUG=INFO", "MY_CITY=Rome", "WANDB_API_KEY=x"], "")

    assert shown == ["NCCL_DEBUG=INFO", "MY_CITY=fact-1", "WANDB_API_KEY=secret-1"]


def test_a_kept_group_stays_and_an_unknown_one_is_refused() -> None:
    kept = Redactor(Known(hosts={"gpu01"}), parse_keep("hosts, addresses"))

    assert kept.text("gpu01 10.0.0.1 /x/y", "") == "gpu01 10.0.0.1 path-1"
    for words in ("secrets", "everything", "hosts,tokens"):
        with pytest.raises(UsageError):
            parse_keep(words)
    assert parse_keep(",".join(KEEPABLE)) == frozenset(KEEPABLE)


def test_a_file_outside_the_project_has_one_name_in_paths_and_texts(redactor: Redactor) -> None:
    redactor.remember_file("/srv/own/model.py")

    assert redactor.path("/srv/own/model.py", "") == "path-1.py"
    assert redactor.text("most of it in f (model.py:7)", "") == "most of it in f (path-1.py:7)"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_redacted_and_a_second_time_changes_nothing_private(text: str) -> None:
    redactor = Redactor(Known(hosts={"trn-17"}, users={"mallory"}))

    once = redactor.text(f"{text} mallory {text} trn-17", "")

    assert "mallory" not in once.replace(text, "")
    assert isinstance(redactor.op_name(text, ""), str)
    assert isinstance(redactor.path(text, ""), str)


def test_random_strings_are_told_from_words() -> None:
    """A key without a name before it is found by chance: the longer, the surer; of names none."""
    rng = random.Random(1)
    letters = string.ascii_letters + string.digits
    hexadecimal = "0123456789abcdef"
    for alphabet, length, least in ((letters, 24, 0.96), (letters, 40, 0.98), (hexadecimal, 40, 1)):
        keys = ["".join(rng.choices(alphabet, k=length)) for _ in range(2_000)]
        assert sum(bool(random_strings(f"x {key} y")) for key in keys) >= 2_000 * least
    assert random_strings("multi_head_attention_forward_with_dropout_p_0_1") == []
    assert random_strings("DistributedDataParallelCPUBackwardHook") == []
