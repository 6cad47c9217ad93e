"""The Ray Train backend of --launcher ray: places workers, sets torchrun's environment variables, restarts on failure.

A Ray worker runs its function in a thread, but only a main thread receives signals. So each worker starts a process
that trains, and waits for it. This module imports Ray at the top, so it is imported only after `require_ray`.
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

from fledge.core.jobs import DONE, FORKSERVER, REFUSED, STOPPED, Job, exit_status, failure_reason

MAX_RESTARTS = 3
POLL_SECONDS = 0.3
STOP_FILE = "stop"  # asks every rank to save and end


def ray_trainer(job: Job, folder: Path, count: int, cores: int, *, on_gpus: bool) -> TorchTrainer:
    """A trainer that does `job` in `count` processes. Logs go into `folder`, which every machine sees."""
    return TorchTrainer(
        run_worker,  # type: ignore[arg-type]  # Ray returns what it returns, whatever Ray's types say
        train_loop_config={"job": job, "folder": folder},
        torch_config=RayStore(),
        scaling_config=ScalingConfig(
            num_workers=count, use_gpu=on_gpus, resources_per_worker={"CPU": cores, "GPU": int(on_gpus)}
        ),
        run_config=RunConfig(
            name="train", storage_path=str(folder), failure_config=FailureConfig(max_failures=MAX_RESTARTS)
        ),
    )


class RayStore(TorchConfig):
    """Holds a TCPStore that outlives the ranks, as torchrun's does, so that flags set in it survive a restart."""

    store: TCPStore | None = None
    restarts = 0

    @property
    def backend_cls(self) -> type[Backend]:
        return RayStoreBackend


class RayStoreBackend(Backend):
    """Tells the workers the address of the store and the restart count; the ranks connect by themselves."""

    share_cuda_visible_devices = True  # each rank takes one GPU, by its local rank

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, RayStore)
        if backend_config.store is None:
            host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            backend_config.store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        variables = {
            "MASTER_ADDR": backend_config.store.host,
            "MASTER_PORT": str(backend_config.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 does not create the store
            "TORCHELASTIC_RESTART_COUNT": str(backend_config.restarts),
            "TORCHELASTIC_MAX_RESTARTS": str(MAX_RESTARTS),
        }
        worker_group.execute(set_environment, variables)
        backend_config.restarts += 1


def set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def run_worker(config: dict[str, Any]) -> int:
    """On each worker: start the process that trains, wait for it, return its exit status; raise to make Ray restart."""
    context = ray.train.get_context()
    rank, folder = context.get_world_rank(), config["folder"]
    job: Job = replace(config["job"], log=folder / f"rank-{rank}.log")
    ranks = {"RANK": rank, "WORLD_SIZE": context.get_world_size(), "LOCAL_RANK": context.get_local_rank()}
    set_environment({name: str(value) for name, value in ranks.items()})
    child_end, parent_end = FORKSERVER.Pipe(duplex=False)
    process = job.start(child_end, partial(set_environment, dict(os.environ)))
    while not wait([process.sentinel], POLL_SECONDS):
        if (folder / STOP_FILE).exists():
            process.terminate()
            break
    process.join()
    parent_end.close()
    code = exit_status(process)
    if code not in (DONE, REFUSED, *STOPPED):
        raise RuntimeError(f"rank {rank} ended with status {code}: {failure_reason(job.log)}")
    return code
