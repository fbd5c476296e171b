"""Published checkpoints: the table, download, verification and shipped files."""
