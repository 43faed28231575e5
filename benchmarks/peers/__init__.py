"""Other engines on the same weights, prompts and threads, each as a process of its own."""
