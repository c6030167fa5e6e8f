"""Other ways to train with few bits or little memory, as modules and hooks of plain PyTorch."""
