"""make test-machines: the tests that depend on the machine, on many machines that this one pretends to be.

    python tests/machines.py [NAME ...]

A row is a machine: what is pretended (see kit/pretend.py), which programs are not on its PATH, other variables, and the
tests that are affected. Prints a table; the exit status is 1 where any test fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
JOURNEYS = ("journey/test_train_and_resume.py", "journey/test_bad_input.py", "journey/test_generate.py",
            "journey/test_evaluate.py", "journey/test_plan.py", "journey/test_plot_and_runs.py")  # fmt: skip
NUMERICS = ("losses", "model", "optim", "training", "batches", "evaluation", "inference", "journey/test_compile.py")
OPTIONAL = "ray,optuna,wandb,tensorboard,s3fs,moto,transformers,xllamacpp,tiktoken,gigatoken"
# What a machine with a GPU may lack; transformers 5 needs rich for itself.
BARE = "rich,orjson,gguf,gigatoken,ray,optuna,wandb,tensorboard,s3fs,moto,xllamacpp,transformers"


@dataclass(frozen=True)
class Machine:
    name: str
    tests: tuple[str, ...]
    pretend: str = "bf16=no"
    without: tuple[str, ...] = ()  # programs
    variables: dict[str, str] = field(default_factory=dict)


MACHINES = [
    Machine("bf16 units", ("core", "recipes", "settings", "training", *JOURNEYS, "journey/test_exchange.py"),
            "bf16=yes"),
    Machine("no bf16 units", ("core", *JOURNEYS)),
    Machine("one core", ("core", "datasets", "training", "journey/test_kill_prepare.py", *JOURNEYS),
            "bf16=no cores=1"),
    Machine("no C++ compiler", ("training", "journey/test_compile.py", "faults/test_signals.py", *JOURNEYS),
            without=("g++", "c++", "gcc", "cc", "clang", "clang++")),
    Machine("no strace", ("faults/test_system_calls.py", "faults/test_kills.py"), without=("strace",)),
    Machine("no test data", ("tokenizers", "text", "exchange"), variables={"FLEDGE_TEST_DATA": ""}),
    Machine("AVX2 only", NUMERICS, variables={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Machine("no optional packages", ("tokenizers", "text", "datasets", "tracking", "recipes", "settings", *JOURNEYS),
            f"bf16=no absent={OPTIONAL}"),
    Machine("bare GPU machine", ("core", "losses", "model", "training", "tracking", *JOURNEYS),
            f"bf16=yes absent={BARE}"),
]  # fmt: skip


def main() -> None:
    wanted = sys.argv[1:] or [machine.name for machine in MACHINES]
    failed = []
    for machine in MACHINES:
        if machine.name in wanted:
            with tempfile.TemporaryDirectory() as programs:
                last, status = run(machine, Path(programs))
            failed += [machine.name] * (status != 0)
            print(f"{'failed' if status else 'passed':<8}{machine.name:<22}{last}", flush=True)
    sys.exit(bool(failed))


def run(machine: Machine, programs: Path) -> tuple[str, int]:
    variables = {**os.environ, "FLEDGE_PRETEND": machine.pretend, "PYTHONPATH": str(HERE / "kit"), **machine.variables}
    if machine.without:
        link_programs(programs, machine.without)
        variables["PATH"] = str(programs)
    words = [sys.executable, "-m", "pytest", "-n", "2", *(str(HERE / test) for test in machine.tests)]
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, flush=True)
    return done.stdout.strip().splitlines()[-1], done.returncode


def link_programs(folder: Path, without: tuple[str, ...]) -> None:
    """Every program of the PATH but these."""
    for place in reversed(os.get_exec_path()):
        for program in Path(place).glob("*"):
            if program.name not in without and not any(program.name.startswith(f"{name}-") for name in without):
                (folder / program.name).unlink(missing_ok=True)
                (folder / program.name).symlink_to(program)
    assert not any(shutil.which(name, path=str(folder)) for name in without)


if __name__ == "__main__":
    main()
