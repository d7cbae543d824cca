# n3 is gone for good. The record without it fails, and is proposed again.
start protected n2,n3 head 10
connect n2 10
connect n3 10
gone n3
wait 12s
    -> propose protected by n2: replicas have come or gone (at 11s)
record unsent
wait 1s
    -> propose protected by n2: replicas have come or gone (at 14s)
record unknown
wait 1s
    -> propose protected by n2: asked for again (at 15s)
record done
wait 20s
