# A slot without a reachable replica is unprotected from the start: it never waits.
start unprotected 0 head 10
    -> mark alone since 10
change 11
marked
    -> acknowledge up to 11
change 12
    -> acknowledge up to 12
