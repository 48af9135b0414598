"""One verb each, for the command line and for Python users alike: train, export, push, evaluate, score, generate pairs, the demo."""
