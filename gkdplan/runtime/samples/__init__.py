"""One response to every row, sampled once and kept in a file: `gkdplan sample`."""
