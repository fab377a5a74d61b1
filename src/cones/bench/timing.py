"""Wall-clock times of repeated calls, in milliseconds."""

import statistics
import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object], *, repeats: int) -> dict[str, float]:
    """Time ``call`` after one call to warm up; the minimum is the least disturbed figure."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return summary(times)


def summary(times: list[float]) -> dict[str, float]:
    """Return the minimum and median of times."""
    return {"min": round(min(times), 3), "median": round(statistics.median(times), 3)}
