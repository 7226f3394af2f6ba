"""The tokens of rows, made by one rank, kept in files and mapped by all."""
