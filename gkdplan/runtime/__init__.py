"""Everything with torch: it reads a RunPlan and does what its steps say."""
