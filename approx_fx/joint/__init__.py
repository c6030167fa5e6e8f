"""Analyses of the joint graph: sides, demands, masks, norms, facts about values. They do not change the graph."""
