"""For all tests: hypothesis has no deadline, as machines differ in speed."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# What differs between machines is pretended, here and in every process that a test starts, before fledge is imported.
KIT = str(Path(__file__).parent / "kit")
os.environ.setdefault("FLEDGE_PRETEND", "bf16=no load=0 fsync=no")
os.environ["PYTHONPATH"] = os.pathsep.join([KIT, *filter(None, [os.environ.get("PYTHONPATH")])])

import pytest  # noqa: E402
import torch  # noqa: E402

import clean_fork_server  # noqa: E402
import pretend  # noqa: E402, F401

# Compiled code outlives the folders of single tests.
KIND = f"{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"fledge-tests-compiled-{KIND}"))
clean_fork_server.install()
try:
    from hypothesis import settings
except ImportError:  # a GPU machine may lack it; its tests need none
    pass
else:
    settings.register_profile("fledge", deadline=None)
    settings.load_profile("fledge")


@pytest.fixture(autouse=True)
def the_same_chance_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of a real S3 server on this machine; processes that tests start find it, too."""
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "no_proxy": "*",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("duck")
        yield "s3://duck"
        s3fs.S3FileSystem().rm("duck", recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
