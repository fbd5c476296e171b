"""`python -m benchmarks` is `mobilesam-bench`."""

from benchmarks.cli import main

raise SystemExit(main())
