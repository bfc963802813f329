"""Who a process is, from its launcher's variables; and that several processes compute what one
does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import network_of, random_ticket, write_cifar_parquet
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError, config, data, distributed
from biprop.distributed import ALONE, Group, launchers, spawn

CASES = {
    "torchrun": (
        {
            "RANK": "3",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "MASTER_ADDR": "node7",
            "MASTER_PORT": "1234",
        },
        Group(3, 8, 1, "torchrun", "node7", 1234),
    ),
    "srun": (
        {
            "SLURM_PROCID": "5",
            "SLURM_STEP_NUM_TASKS": "8",
            "SLURM_LOCALID": "1",
            "SLURM_STEP_NODELIST": "gpu[003-006],x",
            "SLURM_JOB_ID": "41234",
        },
        Group(5, 8, 1, "srun", "gpu003", 21234),
    ),
    "jsrun": (
        {
            "JSM_NAMESPACE_RANK": "2",
            "JSM_NAMESPACE_SIZE": "12",
            "JSM_NAMESPACE_LOCAL_RANK": "2",
            "LSB_MCPU_HOSTS": "batch5 1 h36n18 42 h36n19 42",
        },
        Group(2, 12, 2, "jsrun", "h36n18"),
    ),
    "mpirun on one machine": (
        {
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        },
        Group(1, 2, 1, "mpirun"),
    ),
    "mpirun over several": (
        {
            "OMPI_COMM_WORLD_RANK": "9",
            "OMPI_COMM_WORLD_SIZE": "16",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "MASTER_ADDR": "10.0.0.2",
        },
        Group(9, 16, 1, "mpirun", "10.0.0.2"),
    ),
    "PMI": ({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, Group(1, 4, 1, "PMI")),
    "PMI over several": (
        {
            "PMI_RANK": "5",
            "PMI_SIZE": "8",
            "MPI_LOCALRANKID": "1",
            "MPI_LOCALNRANKS": "4",
            "MASTER_ADDR": "n1",
        },
        Group(5, 8, 1, "PMI", "n1"),
    ),
    "mpirun within a SLURM step, which sees itself as one task": (
        {
            "SLURM_PROCID": "0",
            "SLURM_STEP_NUM_TASKS": "1",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "SLURM_JOB_ID": "7",
        },
        Group(1, 2, 1, "mpirun", port=20007),
    ),
    "none": ({"PATH": "/bin"}, ALONE),
    "a batch script of SLURM, not a step": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ALONE),
    "one process": ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ALONE),
}


@pytest.mark.parametrize("name", CASES)
def test_every_launcher_is_recognised(name: str) -> None:
    environment, group = CASES[name]
    assert distributed.detect(environment) == group


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "two", "WORLD_SIZE": "4"}, "must be numbers: 'two', '4'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK = 4 must be below WORLD_SIZE = 4"),
        (
            {
                "OMPI_COMM_WORLD_RANK": "0",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            "set MASTER_ADDR",
        ),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2"},
            "PMI over several machines .* set MASTER_ADDR",
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": ""},
            "cannot read the list of nodes",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "4", "MASTER_PORT": "http"},
            "MASTER_PORT must be a number: 'http'",
        ),
    ],
)
def test_contradictions_are_one_clear_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distributed.detect(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[03-07]", "gpu03"),
        ("gpu[3,5],x", "gpu3"),
        ("a-b[1-2]", "a-b1"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert launchers.first_host(nodes) == first


@given(st.integers(0, 1000), st.integers(1, 20))
def test_shares_are_everything_once_and_differ_by_at_most_one(count: int, size: int) -> None:
    shares = [Group(rank, size).share_of(count) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"augmix": True},
        {"augmix": True, "jsd": True},
        {"gaussian_aug": True, "p_clean": "0.5", "jsd": True},
    ],
    ids=str,
)
def test_the_processes_get_what_one_alone_would_get(how: dict[str, object]) -> None:
    images = data.load(
        config.override(config.Config(prune_rate=0.2, set="digits", augment="crop+flip"), how)
    )
    alone = list(images.training_batches(100, 0, 1))
    parts = [list(images.training_batches(100, 0, 1, Group(rank, 3))) for rank in range(3)]
    for (x, y), *shares in zip(alone, *parts, strict=True):
        assert torch.equal(y, torch.cat([labels for _, labels in shares]))
        whole = x.unflatten(0, (images.views, -1))
        together = torch.cat([share.unflatten(0, (images.views, -1)) for share, _ in shares], dim=1)
        torch.testing.assert_close(together, whole, atol=0.05, rtol=0)
        assert float((together - whole).abs().mean()) < 1e-4


def find(folder: Path, processes: int, *flags: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Run a search; returns its state, losses and how many test and validation images are right."""
    start = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    command = [
        sys.executable,
        *start,
        "-m",
        "biprop",
        "find",
        "--device",
        "cpu",
        "--name",
        f"of-{processes}",
        *flags,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    (run,) = folder.glob(f"runs/*/**/of-{processes}")
    state = torch.load(run / "checkpoints" / "epoch_most_recent.state", weights_only=True)[
        "state_dict"
    ]
    metrics = [
        json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(
        {"seconds_per_step", "images_per_second", "seconds_left", "memory"} <= line.keys()
        for line in metrics
    )
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["images"] == (20 if "CIFAR10" in flags else 360)  # every image once
    found = {
        "loss": [m["train/loss"] for m in metrics],
        "accuracies": [result[part]["right"] for part in ("test", "validation")],
    }
    return {key: value.numpy() for key, value in state.items()} | {
        key: np.array(value) for key, value in found.items()
    }


FLAGS = [
    "--arch",
    "Conv2Wide",
    "--width-mult",
    "0.125",
    "--epochs",
    "2",
    "--batch-size",
    "250",
    "--lr",
    "0.1",
    "--grad-clip",
]


CASES_OF_TWO = {
    "without batch norm": [
        *FLAGS,
        "--epochs",
        "1",
        "--augmix",
        "--jsd",
        "--conv-type",
        "GlobalSubnetConv",
    ],
    # Photographs: where images have areas of one grey, max pooling breaks ties by roundings, and
    # gradients jump (digits do). In channels_last, batch norm's sums over one process and over two
    # differ by more roundings than the tolerance below.
    "with batch norm over both": [
        "--no-channels-last",
        "--sync-batchnorm",
        "--set",
        "CIFAR10",
        "--data",
        "..",
        "--epochs",
        "1",
        "--batch-size",
        "20",
    ],
    "with a teacher that sees images once": [
        *FLAGS,
        "--set",
        "CIFAR10",
        "--data",
        "..",
        "--batch-size",
        "20",
        "--teacher",
        "../teacher.mpt",
        "--teacher-views",
        "plain",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES_OF_TWO))
def test_two_processes_search_as_one(case: str, tmp_path: Path) -> None:
    """The same losses and scores, to float rounding, and with them masks; the same accuracies, but
    for an image or two.
    """
    write_cifar_parquet(tmp_path)
    random_ticket(network_of("Conv2", (32, 32))).save(tmp_path / "teacher.mpt")
    one, two = (
        find(tmp_path / str(processes), processes, *CASES_OF_TWO[case]) for processes in (1, 2)
    )
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for key in one:
        np.testing.assert_allclose(
            two[key], one[key], rtol=1e-3, atol=2 if key == "accuracies" else 1e-4, err_msg=key
        )


MASKS_OF_ONE_PROCESS = """
import hashlib, json, os, sys
from biprop import config, data, distributed
from biprop.console import Console
from biprop.search.loop import Search

group = distributed.detect()
chosen, name = config.resolve(None, json.loads(sys.argv[1]))
with group.together("cpu"):
    search = Search(chosen, name, data.load(chosen), Console(open(os.devnull, "w")), group=group)
    subnetwork, seen = search.network.subnetwork, []
    choose = subnetwork.update
    def update(check):
        choose(check)
        parts = [t for layer in subnetwork.layers.values() for t in (layer.mask, layer.gain)]
        seen.append(hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest())
    subnetwork.update = update
    search.run()
with open(f"{group.rank}.json", "w") as file:
    json.dump(seen, file)
"""
EVERYTHING_AT_ONCE = (
    {
        "arch": "Conv2Wide_BinAct",
        "conv_type": "GlobalSubnetConv",
        "gaussian_aug": True,
        "p_clean": "0.5",
        "jsd": True,
    },
    {
        "arch": "cResNet20",
        "width_mult": "0.25",
        "augmix": True,
        "jsd": True,
        "bf16_gradients": True,
        "sync_batchnorm": True,
    },
)


@pytest.mark.parametrize(
    "how",
    [EVERYTHING_AT_ONCE[0], pytest.param(EVERYTHING_AT_ONCE[1], marks=pytest.mark.slow)],
    ids=lambda how: how["arch"],
)
def test_the_processes_hold_the_same_masks_after_every_step(
    how: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sends them; with all features on, of which one that differs between processes would
    show.
    """
    monkeypatch.chdir(tmp_path)
    options = {
        "width_mult": "0.125",
        "epochs": 1,
        "batch_size": 200,
        "lr": "0.1",
        "grad_clip": True,
        "device": "cpu",
        **how,
    }
    command = [sys.executable, "-c", MASKS_OF_ONE_PROCESS, json.dumps(options)]
    assert distributed.launch(command, 2, {**os.environ, "OMP_NUM_THREADS": "1"}) == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert len(set(first[:6])) == 6  # they do change


@pytest.mark.slow
def test_gradients_as_bfloat16_change_roundings_only(tmp_path: Path) -> None:
    flags = [*FLAGS, "--epochs", "1"]
    exact, rounded = (
        find(tmp_path / name, 2, *flags, *more)
        for name, more in (("a", []), ("b", ["--bf16-gradients"]))
    )
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert any((rounded[key] != exact[key]).any() for key in exact)


RESTARTS = {"SLURM_RESTART_COUNT": "2"}, {"TORCHELASTIC_RESTART_COUNT": "1"}


@pytest.mark.parametrize("variables", [*RESTARTS, {}, {"TORCHELASTIC_RESTART_COUNT": "0"}], ids=str)
def test_restarts_are_recognised(variables: dict[str, str]) -> None:
    assert distributed.is_restart(variables) == (variables in RESTARTS)


def launched(code: str, count: int = 2) -> int:
    return distributed.launch(
        [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK']); {code}"],
        count,
        os.environ,
    )


def test_launch_gives_every_process_its_place_and_returns_the_first_failure() -> None:
    assert (
        launched(
            "sys.exit(not (os.environ['LOCAL_RANK'] == str(rank) and os.environ['WORLD_SIZE'] =="
            " '3'))",
            3,
        )
        == 0
    )
    assert launched("time.sleep(rank); sys.exit(rank * 2)") == 2
    assert launched("os.kill(os.getpid(), 9 if rank else 15)", 1) == 128 + 15


def test_launch_tells_of_one_that_could_not_say_why_it_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launched("os.kill(os.getpid(), 9) if rank else time.sleep(0.5)") == 128 + 9
    assert capsys.readouterr().err == "biprop: process 1 of 2 was killed (SIGKILL)\n"


def test_launch_ends_those_that_do_not_notice_that_another_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spawn, "GRACE", 0.2)
    assert launched("time.sleep(0 if rank else 60); sys.exit(3)") == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_launch_passes_signals_on(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)  # below nohup, SIGHUP is ignored
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    assert launched("time.sleep(60)") == 75
    assert signal.getsignal(number) == signal.SIG_DFL


def test_one_that_is_stopped_hears_them_too() -> None:
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert launched("os.kill(os.getpid(), 19) if rank else 0; time.sleep(60)") == 75


def test_launched_processes_end_with_the_one_that_launched_them(tmp_path: Path) -> None:
    child = "import os, time; from biprop.distributed import group; group._end_with_parent()"
    child += f"; open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"
    code = (
        "import os, sys; from biprop import distributed; distributed.launch([sys.executable, '-c',"
        f" {child!r}], 2, os.environ)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None, "the processes did not start"
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{path.name}").exists() for path in tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nobody_on_another_machine_reaches_the_store_of_processes_on_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = Group(0, 1, port=port)._store()
    store.set("key", "value")
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):  # all addresses would include this one
        socket.create_connection(("127.0.0.2", port)).close()
    with (
        pytest.raises(UserError, match=r"cannot meet the others at .*Address already in use"),
        Group(0, 2, port=port).together("cpu"),
    ):
        pass


@pytest.mark.slow
def test_one_that_does_not_answer_is_noticed() -> None:
    """In a search it is a SearchStopped then, and exit code 75."""
    code = (
        "from biprop import distributed; from biprop.distributed import group as module;"
        " import torch; module.PATIENCE = 4; group = distributed.detect()\n"
    )
    code += (
        "try:\n with group.together('cpu'): time.sleep(60) if rank else group.sum([1.0], 'cpu')\n"
    )
    code += "except RuntimeError as e: os._exit(7 if group.is_broken_by(e) else 8)"
    began = time.monotonic()
    assert launched(code.replace("import torch; ", "")) == 7
    assert time.monotonic() - began < 50


MULTIGPU = [sys.executable, "-m", "biprop", "find", *FLAGS, "--device", "cpu", "--multigpu", "0,1"]


@pytest.mark.slow
def test_multigpu_starts_the_processes(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MULTIGPU, "--epochs", "1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes, cpu" in done.stdout
    # One epoch may find a ticket or none: either is reported once, by rank 0.
    outcomes = ("Multi-Prize Ticket found", "no Multi-Prize Ticket")
    assert sum(done.stdout.count(outcome) for outcome in outcomes) == 1


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.csv").write_text("other,columns\n")
    done = subprocess.run(MULTIGPU, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("has other columns than this program writes") == 1
