"""From a trained network to a verified int8 build for a VACC-like accelerator."""
