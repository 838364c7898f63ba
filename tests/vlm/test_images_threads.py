"""vlm.images lets other threads run while it decodes and resizes: the loader's threads depend on it."""

import sys
import threading
import time

import pytest
from PIL import Image
from tiny.pictures import encoded, noise

from vlm.images import decode
from vlm.pixels import resize_uint8

OPENED = noise(400, 300).resize((3200, 2400))
BIG = encoded(OPENED, "JPEG")
WORK = {
    "decode": lambda: decode(BIG),
    "reduced decode": lambda: decode(BIG, fit=700),
    "PIL resize": lambda: OPENED.resize((224, 224), Image.BICUBIC),
    "torch resize": lambda: resize_uint8(OPENED, 2000, 2000),
}


@pytest.mark.parametrize("name", WORK)
def test_the_gil_is_released(name):
    """Python never switches threads by itself here: the other one runs only if the work releases the GIL."""
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread, interval = threading.Thread(target=tick), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        start = time.perf_counter()
        WORK[name]()
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert sum(start < moment < end for moment in ticks) >= 3
