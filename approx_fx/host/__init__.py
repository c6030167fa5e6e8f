"""What this project uses of torch's private interfaces: one file each, behind functions of our own."""
