"""Finding hyperparameters."""
