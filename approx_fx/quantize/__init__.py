"""How a kept value is stored: one quantizer a file, and the table that picks one."""
