"""Fast implementations of the operations that take most of a step. Torch's stay as the reference and the fallback."""
