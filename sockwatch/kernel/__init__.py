"""The edge: everything that reads the kernel, and nothing else in sockwatch does."""
