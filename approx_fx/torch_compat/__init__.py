"""Private interfaces of torch that are only called, never replaced: one file each, behind functions of our own."""
