"""Networks of the pretraining: backbone, FPN, box head, and the online/target pair (paper 3.3)."""
