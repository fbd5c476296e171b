"""`python -m benchmarks` is `mobilesam-bench`."""

from benchmarks.cli.app import main

raise SystemExit(main())
