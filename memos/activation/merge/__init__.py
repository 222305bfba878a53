"""How tokens that are not kept go on in those that are: one policy per file, each with its paper."""
