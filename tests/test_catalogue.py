"""The catalogue of devices: names are told apart, figures are plausible and sourced."""

from __future__ import annotations

import pytest

from boundscope.profiler.machine.catalogue import Device, devices, lookup
from boundscope.profiler.machine.roofs import Roofs


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        # as drivers, torch.cuda.get_device_name and traces report them
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe 80GB"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL 94GB"),
        ("NVIDIA H200", "NVIDIA H200 SXM 141GB"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96GB"),
        ("NVIDIA B200", "NVIDIA B200"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM4 40GB"),
        ("A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80GB"),
        ("NVIDIA A100-PG509-200", "NVIDIA A100 board PG509-200"),
        ("NVIDIA A10G", "NVIDIA A10G"),
        ("Tesla V100-SXM2-16GB", "NVIDIA V100 SXM2 16GB"),
        ("Tesla V100-DGXS-32GB", "NVIDIA V100 DGX Station 32GB"),
        ("Tesla T4", "NVIDIA T4"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("GeForce RTX 2080 Ti", "NVIDIA GeForce RTX 2080 Ti"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "NVIDIA GeForce RTX 4070 Laptop GPU"),
        ("NVIDIA RTX A4000", "NVIDIA RTX A4000"),
        ("NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX 6000 Ada"),
        ("AMD Instinct MI300X", "AMD Instinct MI300X"),
        ("AMD Instinct MI300X OAM", "AMD Instinct MI300X"),
        ("AMD Instinct(TM) MI210", "AMD Instinct MI210"),
        ("AMD Instinct MI250X/MI250", "AMD Instinct MI250X or MI250, one of its two devices"),
        ("Radeon RX 7900 XTX", "AMD Radeon RX 7900 XTX"),
    ],
)
def test_a_name_as_a_driver_reports_it_finds_its_device(reported: str, expected: str) -> None:
    # given a reported name, when
    found = lookup(reported)
    # then
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA RTX A1000",
        "NVIDIA A16",
        "NVIDIA A2",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3070 Ti Laptop GPU",
        "NVIDIA GeForce RTX 4050 Laptop GPU",
        "NVIDIA GeForce GTX 1080 Ti",
        "Quadro RTX 6000",
        "NVIDIA RTX 4000 Ada Generation",
        "NVIDIA RTX PRO 6000",
        "NVIDIA H100",
        "NVIDIA L40G",
        "Tesla V100-FHHL-16GB",
        "AMD Instinct MI308X",
        "AMD Radeon Graphics",
        "AMD Radeon RX 7900 XT",
        "Orin",
        "Intel(R) Data Center GPU Max 1550",
        "",
        "  ",
    ],
)
def test_a_device_that_is_not_in_the_catalogue_is_never_taken_for_its_neighbour(
    reported: str,
) -> None:
    # given a name of another device, when
    found = lookup(reported)
    # then
    assert found is None


@pytest.mark.parametrize(
    ("reported", "memory_bytes", "found"),
    [
        ("NVIDIA GeForce RTX 3060", 12 * 2**30, True),
        ("NVIDIA GeForce RTX 3060", 8 * 2**30, False),  # sold with slower memory
        ("NVIDIA GeForce RTX 3080", 12 * 2**30, False),
        ("NVIDIA GeForce RTX 4060 Ti", 16 * 2**30, True),
        ("Tesla V100-SXM2-32GB", 34079899648, True),  # from a public trace
        ("AMD Instinct MI300X", 206141652992, True),
        ("NVIDIA A100-PG509-200", 42297524224, True),
        ("NVIDIA PG509-210", 85198045184, True),
    ],
)
def test_memory_tells_apart_what_was_sold_under_one_name(
    reported: str, memory_bytes: int, found: bool
) -> None:
    # given a name and the memory that the driver reports, when
    device = lookup(reported, memory_bytes)
    # then
    assert (device is not None) is found


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.name)
def test_every_device_is_found_by_each_of_its_names_and_has_sane_figures(device: Device) -> None:
    # given a device, when
    roofs = device.roofs()
    # then
    assert all(lookup(name) == device for name in (device.name, *device.names))
    assert device.source
    assert device.tflops
    assert all(0.5 < rate < 10_000 for rate in device.tflops.values())
    assert device.memory_gb_per_s is None or 100 < device.memory_gb_per_s < 10_000
    assert 4 <= device.memory_gb <= 300
    assert all(10 < rate <= 1000 for rate in device.link_gb_per_s.values())
    assert roofs.source == "catalogue"


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.name)
def test_narrower_types_are_never_slower_than_wider_ones(device: Device) -> None:
    # given: dense figures; a mixed-up sparse or dense one would stand out
    order = ("fp64", "fp32", "tf32", "bf16", "fp8")
    # when
    rates = [device.tflops[dtype] for dtype in order if dtype in device.tflops]
    # then
    assert rates == sorted(rates)
    if "fp8" in device.tflops and "bf16" in device.tflops:
        assert device.tflops["fp8"] == pytest.approx(2 * device.tflops["bf16"], rel=0.02)
    if "bf16" in device.tflops and "tf32" in device.tflops:
        assert 1.9 <= device.tflops["bf16"] / device.tflops["tf32"] <= 2.1


def test_a_gpu_roof_uses_matrix_units_for_products_and_vector_units_for_the_rest() -> None:
    # given
    device = lookup("AMD Instinct MI210")
    assert device is not None
    # when
    roofs = device.roofs()
    # then: data sheet: 181.0 (FP16/BF16 matrix), 45.3 (FP32 matrix), 22.6 (FP32 vector) TFLOPS
    assert roofs.flops_for("bf16", matrix=True) == 181e12
    assert roofs.flops_for("fp32", matrix=True) == 45.3e12
    assert roofs.flops_for("bf16", matrix=False) == 22.6e12 / 2
    assert roofs.memory_bandwidth == 1638.4e9


def test_bandwidth_is_that_of_the_smallest_cache_that_holds_the_data() -> None:
    # given
    roofs = Roofs(
        flops={},
        bandwidth={"dram_copy": 20e9, "dram_triad": 25e9, "l2": 200e9, "l3": 100e9},
        cache_bytes={"l1": 1 << 15, "l2": 1 << 20, "l3": 1 << 25},
    )
    # when, then
    assert roofs.bandwidth_for(1000) == 200e9
    assert roofs.bandwidth_for(1 << 20) == 200e9
    assert roofs.bandwidth_for((1 << 20) + 1) == 100e9
    assert roofs.bandwidth_for(1 << 26) == 25e9
