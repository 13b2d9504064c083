# One meaning per wildcard, everywhere.
wildcard_constraints:
    system="[a-z0-9_]+",
    dataset="[a-z0-9_]+",
    variant="[a-z0-9_]+",
    extractor="[a-z0-9_]+",
    policy="[a-z0-9_]+",
    asset="[a-z0-9_]+",
    judge="[a-z0-9_]+",
    training="[a-z0-9_]+",
    prototypes="[a-z0-9_]+",
    shard="[0-9]+-of-[0-9]+",
