"""What the parts of the benchmark beside TRL share: turns, processes, the workload, the record."""
