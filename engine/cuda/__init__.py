"""The exact search on NVIDIA GPUs through CuPy: raw kernels around five products of cuBLAS.

`StreamedSearch` searches images in host memory; `device_search` makes the search of those that lie on a GPU. Nothing
here needs CuPy to be imported; `unavailable` says why no GPU can be used.
"""

from skysom.engine.cuda.device import Device, is_on_device, unavailable
from skysom.engine.cuda.plan import block_images, device_memory
from skysom.engine.cuda.search import DeviceSearch, device_search
from skysom.engine.cuda.stream import StreamedSearch

__all__ = [
    "Device",
    "DeviceSearch",
    "StreamedSearch",
    "block_images",
    "device_memory",
    "device_search",
    "is_on_device",
    "unavailable",
]
