"""How the cores and GPUs of a cluster are divided, so that all workers fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cluster.connect import cores_per_worker

clusters = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), max_size=4)


@pytest.mark.parametrize(
    ("nodes", "count", "with_gpu", "cores"),
    [
        ([(8, 0)], 2, False, 4),
        ([(8, 0), (8, 0)], 3, False, 4),
        ([(3, 0), (1, 0)], 2, False, 1),  # with two cores each, only one would fit
        ([(32, 0), (64, 8)], 8, True, 8),  # a node without a GPU is not used
        ([(64, 8)], 9, True, 0),
        ([(2, 0)], 3, False, 0),
        ([], 1, False, 0),
    ],
)
def test_cores_per_worker_of_known_clusters(
    nodes: list[tuple[int, int]], count: int, with_gpu: bool, cores: int
) -> None:
    assert cores_per_worker(nodes, count, with_gpu=with_gpu) == cores


@given(nodes=clusters, count=st.integers(1, 16), with_gpu=st.booleans())
def test_all_workers_fit_and_one_core_more_would_not(nodes: list[tuple[int, int]], count: int, with_gpu: bool) -> None:
    def placed(each: int) -> int:
        """How many of the workers fit, placed greedily."""
        done = 0
        for cores, gpus in nodes:
            while done < count and cores >= each and (gpus > 0 or not with_gpu):
                cores, gpus, done = cores - each, gpus - 1, done + 1
        return done

    each = cores_per_worker(nodes, count, with_gpu=with_gpu)
    assert each == 0 or placed(each) == count
    assert placed(each + 1) < count
