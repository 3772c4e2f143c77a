"""The NVIDIA GPUs that this process may use, by NVML; none where the driver or its Python binding is missing."""

from __future__ import annotations

import logging
import os
from typing import Any

logger = logging.getLogger(__name__)
MEBIBYTE = 1 << 20


class VisibleGpus:
    """Handles of the GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process."""

    def __init__(self) -> None:
        self._handles = _visible(_all_handles())
        self.count = len(self._handles)

    def joules(self) -> float | None:
        """Energy since the driver was loaded, all GPUs together; cards before Volta and some virtual ones don't say."""
        if not self._handles:
            return None
        try:
            import pynvml

            return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles)) / 1000
        except Exception as error:  # noqa: BLE001 - a card that does not count
            logger.debug("no energy of GPUs: %s", error)
            return None

    def sample(self) -> dict[str, float]:
        """Use, memory and power of each, named as MLflow's page shows system metrics."""
        values: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            values |= _sample(index, handle)
        return values


def _all_handles() -> list[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception as error:  # noqa: BLE001 - no binding, no driver, no right: no GPU numbers
        logger.debug("no GPU metrics: %s", error)
        return []


def _visible(handles: list[Any]) -> list[Any]:
    """NVML sees every GPU of the machine; the variable says which of them are ours. One of UUIDs is left to the pod."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = [one.strip() for one in chosen.split(",") if one.strip()] if chosen is not None else None
    if wanted is None or not all(one.isdigit() for one in wanted):
        return handles
    return [handles[int(one)] for one in wanted if int(one) < len(handles)]


def _sample(index: int, gpu: Any) -> dict[str, float]:
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        return {
            f"system/gpu_{index}_utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
            f"system/gpu_{index}_memory_usage_megabytes": memory.used / MEBIBYTE,
            f"system/gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
            f"system/gpu_{index}_power_usage_watts": pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        }
    except pynvml.NVMLError as error:
        logger.debug("no sample of GPU %s: %s", index, error)
        return {}
