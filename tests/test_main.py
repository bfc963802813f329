"""The commands and files that users of the original research code look for, at the root of the
checkout.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from conftest import ROOT, shared, write_cifar_parquet

DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_its_command_for_several_machines_is_biprop_find() -> None:
    command = [
        sys.executable,
        str(ROOT / "parallel_main.py"),
        "--prune-rate",
        "0.3",
        "--print-config",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["prune_rate"] == 0.3


def test_its_command_is_biprop_find(tmp_path: Path) -> None:
    flags = ["--width-mult", "0.25", "--epochs", "1", "--prune-rate", "0.3", "--name", "old"]
    command = [sys.executable, str(ROOT / "main.py"), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "keeps 30 %" in done.stdout
    assert (
        tmp_path / "runs/digits/width_mult=0.25/prune-rate=0.3/old/checkpoints/model_best.pth"
    ).is_file()


def test_evaluation_as_users_of_the_original_research_code_call_it(tmp_path: Path) -> None:
    golden = shared("golden/conv4wide_025_p20.pth")
    write_cifar_parquet(tmp_path)
    arguments = [
        "--config",
        "configs/smallscale/conv4wide/conv4wide_kn_unsigned.yml",
        "--multigpu",
        "0",
        "--data",
        tmp_path,
    ]
    command = [
        sys.executable,
        ROOT / "main.py",
        *arguments,
        "--evaluate",
        "--pretrained",
        golden,
        "--prune-rate",
        "0.2",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 20 images" in done.stdout


def test_requirements_are_the_packages_own() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == DEPENDENCIES


def test_the_conda_environment_is_the_packages_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda_names = [
        item.replace("torch", "pytorch") if item.startswith("torch") else item
        for item in DEPENDENCIES
    ]
    assert environment["dependencies"] == [
        "python>=3.11",
        "pip",
        *conda_names,
        {"pip": ["--editable ."]},
    ]


def test_the_grid_script_is_a_sweep() -> None:
    script = ROOT / "scripts" / "cifar10_grid.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = subprocess.run(
        ["bash", script, "somewhere", "--slurm"], capture_output=True, text=True, check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--array=0-47" in done.stdout
    assert "--data somewhere" in done.stdout
