"""A run imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAX_FILES = 60
"""Project files that `miou` imports until its record is written, besides models and datasets."""
SCRIPT = """
import sys
from benchmarks import api
from benchmarks.cli.app import main

def stop(record, folder, **_):
    packages = ("mobilesam", "baselines", "benchmarks")
    files = {m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in packages}
    print(*sorted(f for f in files if f and not f.endswith("__init__.py")), sep="\\n")
    sys.exit()

api.write_tables_and_plots = stop
main(["miou", "--models=box", "--dataset=synthetic", "--limit=1", "--protocol=box", "--out=out",
      "--quiet"])
"""


def test_miou_imports_few_files_until_its_record_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # Models and datasets are imported by name: `box` and `synthetic` here.
    own = ("baselines/classical.py", "datasets/synthetic.py")
    files = [file for file in done.stdout.split() if not file.endswith(own)]
    assert (tmp_path / "out" / "record.json").is_file()
    assert any(file.endswith("benchmarks/run.py") for file in files)
    assert len(files) <= MAX_FILES, "\n".join(files)
