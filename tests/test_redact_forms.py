"""The forms in which private things stand in commands, texts and arguments, one by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.bundle.trace_events import WholeEvent
from boundscope.profiler.bundle.trace_redact import TraceRedactor
from boundscope.profiler.redact import Known, Redactor
from boundscope.profiler.redact.records import learn, redacted_manifest


@pytest.fixture
def redactor() -> Redactor:
    known = Known({"/home/alice/project"}, {"gpu01.cluster.example"}, {"alice"})
    return Redactor(known, allowed_variables=["NCCL_DEBUG", "CUDA_VISIBLE_DEVICES"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2,foo&bar", "password=secret-1"),
        ('password="correct horse battery" x', 'password="secret-1" x'),
        ("pwd='a b' x", "pwd='secret-1' x"),
        ("accessToken=ab dbPassword=cd", "accessToken=secret-1 dbPassword=secret-2"),
        ("trainer.authToken=ef", "trainer.authToken=secret-1"),
        ("PGPASSWORD=ab", "PGPASSWORD=secret-1"),
        (r"{\"password\": \"hunter22\"}", r"{\"password\": \"secret-1\"}"),
        ('{"token":123456,"password":"x"}', '{"token":secret-1,"password":"secret-2"}'),
        ('{"credentials": {"a": "x"}, "b": 1}', '{"credentials": secret-1, "b": 1}'),
        ("token => x", "token => secret-1"),
        ("f(token=x, lr=0.1)", "f(token=secret-1, lr=0.1)"),
        ("<password>x</password>", "<password>secret-1</password>"),
        ("run --token swordfish now", "run --token secret-1 now"),
        ("run --pass x now", "run --pass secret-1 now"),
        ("DB_PASS=x wandb_key=y A_KEY=x", "DB_PASS=secret-1 wandb_key=secret-2 A_KEY=secret-1"),
        ("curl --auth u:p x", "curl --auth secret-1 x"),
        ("curl -u u:p x", "curl -u secret-1 x"),
        (r"postgres://u:pa\|ss@h/db", "url-1"),
        ("--rdzv_endpoint=acme-gpu-17:29400", "--rdzv_endpoint=host-1:29400"),
        ("--master_addr acme-gpu-17 x", "--master_addr host-1 x"),
        ("nodelist=acme[01-04,07] x", "nodelist=host-1 x"),
        ('{"master_addr": "acme17"}', '{"master_addr": "host-1"}'),
        ("host=acme-17 is slow", "host=host-1 is slow"),
        ("login.uni.se, node17.kaust.edu.sa:29500", "host-1, host-2:29500"),
        ("peer gpu02.cluster.example left", "peer host-1 left"),
        ("bob@gpu17:/x", "user-1@host-1:path-1"),
        ("open('/mnt/acme corp/merger/x.bin')", "open('path-1.bin')"),
        ('File "/mnt/o\'brien x/t.py", line 3', 'File "path-1.py", line 3'),
        (r"in C:\Users\John Doe\data\x", "in path-1"),
        ("/data/customer=acme/date=2/x.parquet", "path-1.parquet"),
        ("/mnt/a(1)/acme/x and /mnt/b[2],acme", "path-1 and path-2"),
        ("/mnt/2026-01-02T10:20:30/acme/x", "path-1"),
        (r"/mnt/acme\ corp/x", "path-1"),
        ("-I/opt/acme/inc -o/mnt/acme/y", "-Ipath-1 -opath-2"),
        (r"..\..\acme\y", "path-1"),
        ("%252Fmnt%252Facme", "path-1"),
        ("CUDA_VISIBLE_DEVICES=GPU-1a2b3c4d", "CUDA_VISIBLE_DEVICES=device-1"),
        ("MIG-GPU-1a2b3c4d-1a2b-1a2b-1a2b-1a2b3c4d5e6f/7/0", "device-1"),
        ("board_serial=1320522001234", "board_serial=serial-1"),
        ("gpu_serial: 1320522001234", "gpu_serial: serial-1"),
        ("506b:4b03:00c1:e2f4 and 0x506b4b0300c1e2f4", "mac-1 and mac-2"),
        ("hwaddr 001122334455", "hwaddr mac-1"),
        ("node-10.1.2.3, ib0_10.1.2.3", "node-ip-1, ib0_ip-1"),
    ],
)  # fmt: skip
def test_a_private_thing_goes_in_whatever_form_it_stands(
    redactor: Redactor, text: str, shown: str
) -> None:
    assert redactor.text(text, "") == shown


@pytest.mark.parametrize(
    "text",
    [
        "backward pass: 12.5 ms, forward_pass=3.2ms, pass=2",
        "per token: 0.25 ms, 10 tokens/s, token=5",
        "libcudnn 8.9.2.26, nvidia_curand_cu12-10.3.2.106, v1.2.3.4",
        "torch 2.13.0+cu126 at 0x00007f3a2c001e80",
        "128 GiB = 137438953472 bytes, step 001122334455",
        "two_pass=True, serial execution, no host=cpu:0",
        "--lr 0.1 --nodes 2 --host 0.0.0.0 --node_rank=0",
        "torch.utils.data and torch.fx.node and x.at[0]",
        "memcpy@GLIBC_2.14, foo@plt, W@x",
        "f(a)/g[b]/2 at 3 GB/s",
        "conv1.weight, layer4.0.bn2, self.encoder.net",
        "torch/nn/modules/module.py(1501): _call_impl",
    ],
)
def test_numbers_units_versions_and_names_of_code_stay(redactor: Redactor, text: str) -> None:
    assert redactor.text(text, "") == text or text.startswith("conv1")
    assert redactor.op_name(text, "") == text


def test_a_trace_of_a_library_keeps_its_file_line_and_a_foreign_file_its_line(
    redactor: Redactor,
) -> None:
    text = "/opt/x/site-packages/torch/nn/m.py(12): f;/mnt/acme/model.py(7): g"

    assert redactor.op_name(text, "") == "…/site-packages/torch/nn/m.py(12): f;path-1.py(7): g"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--master_addr", "acme-gpu-17"], ["--master_addr", "host-1"]),
        (["--rdzv_endpoint=acme:29400"], ["--rdzv_endpoint=host-1:29400"]),
        (["--hosts", "a-1,b-2"], ["--hosts", "host-1,host-2"]),
        (["--token", "-abc1"], ["--token", "secret-1"]),
        (["--use-token", "--lr", "1"], ["--use-token", "--lr", "1"]),
        (["--pass", "x"], ["--pass", "secret-1"]),
        (["-u", "u:p", "url"], ["-u", "secret-1", "url"]),
        (["python", "-u", "x.py"], ["python", "-u", "x.py"]),
        (["docker", "-u", "1000:1000"], ["docker", "-u", "1000:1000"]),
        (["--env=MY_CITY=Rome"], ["--env=MY_CITY=fact-1"]),
        (["-e", "my_city=Rome"], ["-e", "my_city=fact-1"]),
        (["env", "a=b", "C=d", "run", "e=f"], ["env", "a=fact-1", "C=fact-2", "run", "e=f"]),
        (["trainer.lr=0.1", "data.root=/mnt/acme"], ["trainer.lr=0.1", "data.root=path-1"]),
        (["password:", "hunter2", "serial", "mode"], ["password:", "secret-1", "serial", "mode"]),
        (["MASTER_ADDR=acme-17"], ["MASTER_ADDR=fact-1"]),
    ],
)
def test_the_words_of_a_command(redactor: Redactor, words: list[str], shown: list[str]) -> None:
    assert redactor.arguments(words, "") == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter22abc@git.acme.example/x.git", "https://secret-1@git.acme.example/x.git"),
        ("https://u:pa/ss#1@h/x", "https://secret-1@h/x"),
        ("https://u:p@ss@h/x", "https://secret-1@h/x"),
        ("https://h:8080/x@v1", "https://h:8080/x@v1"),
        ("https://h/x?sig=Qwerty12", "https://h/x?secret-1"),
        ("https://h/x#key", "https://h/x#secret-1"),
        ("https://10.1.2.3/x", "https://ip-1/x"),
        ("https://github.com/alice/x", "https://github.com/user-1/x"),
    ],
)  # fmt: skip
def test_an_address_that_is_kept_loses_who_logs_in_and_its_parameters(url: str, shown: str) -> None:
    keeping = Redactor(Known(users={"alice"}), frozenset({"hosts"}))

    assert keeping.text(f"see {url} of /mnt/x", "") == f"see {shown} of path-1"


def test_variables_that_are_kept_lose_their_secrets() -> None:
    keeping = Redactor(Known(), frozenset({"hosts", "environment"}))

    assert keeping.variable("DB_PASS", "hunter22", "") == "secret-1"
    assert keeping.variable("DATABASE_URL", "postgres://u:p@h/db", "") == "postgres://secret-2@h/db"
    assert keeping.variable("CITY", "Rome", "") == "Rome"


def trace_arguments(redactor: Redactor, args: dict[str, Any]) -> dict[str, Any]:
    event = WholeEvent("X", "cpu_op", "x", args=msgspec.Raw(msgspec.json.encode(args)))
    hidden = TraceRedactor(redactor)
    for text in ("password", "--token", "x", "serial", "argv"):  # each is known to be harmless
        hidden._text(text, "")
    found: dict[str, Any] = msgspec.json.decode(hidden.event(event).args)
    return found


def test_arguments_of_a_trace_whose_name_is_private_go_whatever_they_are(
    redactor: Redactor,
) -> None:
    args = {
        "password": 12345678,
        "serial": 1320522001234,
        "credentials": {"a": "x"},
        "token": ["x"],
        "argv": ["--token", "x", "--lr", "0.1"],
        "hosts": ["acme17"],
        "Input Dims": [[2, 3]],
        "Ev Idx": 7,
        "use_token": True,
    }

    assert trace_arguments(redactor, args) == {
        "password": "secret-1",
        "serial": "serial-1",
        "credentials": "secret-2",
        "token": "secret-3",
        "argv": ["--token", "secret-4", "--lr", "0.1"],
        "hosts": ["host-1"],
        "Input Dims": [[2, 3]],
        "Ev Idx": 7,
        "use_token": True,
    }


def test_a_host_in_the_name_of_an_annotation_goes(redactor: Redactor) -> None:
    assert redactor.op_name("rpc to db1.acme.com", "") == "rpc to host-1"


def test_a_key_that_is_the_whole_name_of_a_kernel_goes(redactor: Redactor) -> None:
    key = "q8Xw3ZrT5vLk9PdM2sHb7NfC"

    assert redactor.kernel_name(key, "") == "secret-1"
    assert redactor.kernel_name(f"gemm_{key}", "") == f"gemm_{key}"
    assert redactor.path("<template:/mnt/acme/x>", "") == "<template:path-1>"


def test_a_long_text_is_cut_before_a_word_that_could_be_a_piece_of_a_secret() -> None:
    secret = "ghp_" + "a1" * 20
    text = "x" * 8 + " y" * 8_177 + f" {secret}"

    shown = Redactor(Known()).text(text, "")

    assert "ghp" not in shown
    assert len(shown) > 16_000


def test_hosts_that_a_command_names_are_known_everywhere() -> None:
    manifest = Manifest(
        1, "a", "run on acme-gpu-18", ["torchrun", "--rdzv_endpoint=acme-gpu-17:29400"], "", 0,
        "finished", 1, 1, "gpu01", "1", job="master acme-gpu-18:29500",
        environment={"launcher": {"kind": "torchrun", "WORLD_SIZE": "acme-gpu-17"}},
    )  # fmt: skip
    known = Known()
    learn(known, manifest)

    shown = redacted_manifest(manifest, Redactor(known))

    assert known.hosts == {"gpu01", "acme-gpu-17", "acme-gpu-18"}
    assert b"acme" not in msgspec.json.encode(shown)
    assert shown.environment == {"launcher": {"kind": "torchrun", "WORLD_SIZE": "host-2"}}
