"""The peak of a machine in FLOP/s: what model FLOPs utilization (MFU) is a fraction of."""

import re

import torch

from fledge.core.device import Machine, matmul_rates

# Dense FLOP/s in bf16 or fp16 by the data sheets, in 10^12. The first name whose words are in that of the GPU counts.
DATA_SHEETS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 990,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}


def peak_flops(machine: Machine) -> float | None:
    """FLOP/s of matrix products in the precision of this machine, on all ranks together; None: not known.

    On a CPU it is measured once (a second), on a GPU it is that of the data sheet.
    """
    if machine.device == "cpu":
        return 1e9 * matmul_rates()[machine.dtype == "bfloat16"] * machine.world.size
    if machine.device != "cuda" or machine.dtype == "float32":
        return None
    teraflops = data_sheet(torch.cuda.get_device_name())
    return None if teraflops is None else 1e12 * teraflops * machine.world.size


def data_sheet(name: str) -> int | None:
    """10^12 FLOP/s of a GPU by its name; None: not known. The A1000 is no A100, and one of a laptop is slower."""
    if "Laptop" in name:
        return None
    return next((rate for known, rate in DATA_SHEETS.items() if re.search(rf"\b{known}\b", name)), None)
