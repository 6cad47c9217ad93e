"""What Ray Train does for --launcher ray: it places workers, introduces them, and starts all again when one dies.

A worker of Ray runs its work in a thread, and signals are heard by a main thread only. So each starts a process that
trains, with what torchrun would have told it in its environment, and waits for its end. Imported where Ray is there.
"""

import os
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it all the same

from fledge.core.jobs import DONE, FRESH, REFUSED, STOPPED, Job, failure_reason, status

FAILURES = 3  # that Ray makes good; one more is the end
POLL_SECONDS = 0.3  # seconds
STOP = "stop"  # a file that asks all to save and end


def trainer(each: Job, folder: Path, count: int, cores: int, *, on_gpus: bool) -> TorchTrainer:
    """`each` done by `count` processes; what they say goes into this folder, which all see."""
    share = {"CPU": cores, "GPU": int(on_gpus)}
    return TorchTrainer(
        work,  # type: ignore[arg-type]  # Ray passes on what it returns, whatever its types say
        train_loop_config={"errand": each, "folder": folder},
        torch_config=RayStore(),
        scaling_config=ScalingConfig(num_workers=count, use_gpu=on_gpus, resources_per_worker=share),
        run_config=RunConfig(
            name="train", storage_path=str(folder), failure_config=FailureConfig(max_failures=FAILURES)
        ),
    )


class RayStore(TorchConfig):
    """Where they meet outlives them, as with torchrun: they leave notes there for those who take their places."""

    place: TCPStore | None = None
    restarts = 0

    @property
    def backend_cls(self) -> type[Backend]:
        return RayStoreBackend


class RayStoreBackend(Backend):
    """Tells workers where they meet and how often they have been started; they join hands by themselves."""

    share_cuda_visible_devices = True  # each takes one, by its local rank

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, RayStore)
        if backend_config.place is None:
            here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            backend_config.place = TCPStore(here, 0, is_master=True, wait_for_workers=False)
        known = {
            "MASTER_ADDR": backend_config.place.host,
            "MASTER_PORT": str(backend_config.place.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # none of them has to make the place
            "TORCHELASTIC_RESTART_COUNT": str(backend_config.restarts),
            "TORCHELASTIC_MAX_RESTARTS": str(FAILURES),
        }
        worker_group.execute(set_addresses, known)
        backend_config.restarts += 1


def set_addresses(known: dict[str, str]) -> None:
    os.environ.update(known)


def work(config: dict[str, Any]) -> int:
    """On each worker: a process that trains, to its end. Raises where Ray is to start all again."""
    here = ray.train.get_context()
    rank, folder = here.get_world_rank(), config["folder"]
    errand: Job = replace(config["errand"], log=folder / f"rank-{rank}.log")
    given = {"RANK": rank, "WORLD_SIZE": here.get_world_size(), "LOCAL_RANK": here.get_local_rank()}
    set_addresses({name: str(value) for name, value in given.items()})
    life, ours = FRESH.Pipe(duplex=False)
    process = errand.start(life, partial(set_addresses, dict(os.environ)))
    while not wait([process.sentinel], POLL_SECONDS):
        if (folder / STOP).exists():
            process.terminate()
            break
    process.join()
    ours.close()
    code = status(process)
    if code not in (DONE, REFUSED, *STOPPED):
        raise RuntimeError(f"rank {rank} ended with status {code}: {failure_reason(errand.log)}")
    return code
