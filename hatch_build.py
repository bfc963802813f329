"""Compiles csrc/ into src/biprop/_core.so when biprop is built or installed. Without a C++ compiler biprop works too, slower."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# No -march: one library for every machine of its kind. No contraction: the same rounding everywhere.
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-pthread"]


class CompiledCore(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        library = root / "src" / "biprop" / "_core.so"
        library.unlink(missing_ok=True)
        compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        if compiler is None:
            self.app.display_warning(
                "biprop: no C++ compiler found: installing without the compiled core (AugMix will be slower)"
            )
            return
        sources = sorted(map(str, (root / "csrc").glob("*.cpp")))
        done = subprocess.run([compiler, *FLAGS, "-o", str(library), *sources], capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"biprop: the compiled core cannot be built, and is left out:\n{done.stderr}")
            return
        build_data["artifacts"].append("src/biprop/_core.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
