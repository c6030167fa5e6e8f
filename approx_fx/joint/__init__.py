"""Reading the joint forward-backward graph: sides, demands, masks, chains, attribution. Nothing here changes it."""
