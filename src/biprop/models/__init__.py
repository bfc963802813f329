"""Networks: plans as data, PyTorch modules, and the graph that the engine runs."""
