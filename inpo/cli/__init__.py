"""The command line: `app` has the verbs, the other modules groups of them and what they share."""
