"""Other methods of training with few bits or little memory, as modules and hooks of plain PyTorch."""
