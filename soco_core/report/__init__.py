"""The report: our numbers beside the paper's, with what keeps them from being comparable."""
