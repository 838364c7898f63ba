"""Studies of many runs: seeds, objectives, the paper's table, every probe on the embedded world."""
