"""How the cores and GPUs of a cluster are shared out, so that all workers find a place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cluster.connect import cores_per_worker

machines = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), max_size=4)


@pytest.mark.parametrize(
    ("machines", "count", "with_gpu", "cores"),
    [
        ([(8, 0)], 2, False, 4),
        ([(8, 0), (8, 0)], 3, False, 4),
        ([(3, 0), (1, 0)], 2, False, 1),  # two would find a place for one of them only
        ([(32, 0), (64, 8)], 8, True, 8),  # what has no GPU takes no part
        ([(64, 8)], 9, True, 0),
        ([(2, 0)], 3, False, 0),
        ([], 1, False, 0),
    ],
)
def test_each_worker_gets_what_all_can_have(
    machines: list[tuple[int, int]], count: int, with_gpu: bool, cores: int
) -> None:
    assert cores_per_worker(machines, count, with_gpu=with_gpu) == cores


@given(machines=machines, count=st.integers(1, 16), with_gpu=st.booleans())
def test_all_find_a_place_and_with_one_core_more_they_would_not(
    machines: list[tuple[int, int]], count: int, with_gpu: bool
) -> None:
    def placed(each: int) -> int:
        """Workers put down one after the other."""
        done = 0
        for cores, gpus in machines:
            while done < count and cores >= each and (gpus > 0 or not with_gpu):
                cores, gpus, done = cores - each, gpus - 1, done + 1
        return done

    each = cores_per_worker(machines, count, with_gpu=with_gpu)
    assert each == 0 or placed(each) == count
    assert placed(each + 1) < count
