"""Files and documents that no writer made, for every reader of what strangers give."""
