"""What every buffer costs on one rank, and the ledger that adds it up."""
