"""Networks, data, training, alignment and merging, batched. Nothing here knows of money."""
