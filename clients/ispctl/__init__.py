"""ispctl: the command line of ispd. A client of its JSON-RPC API and nothing else."""
