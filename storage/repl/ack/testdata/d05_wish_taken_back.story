# A drop that was asked for and refused, because the wish was taken back, comes to nothing.
start protected n2,n3 head 100
connect n2 100
connect n3 100
wait 2s
list n2,n3 leaving n2
    -> propose protected by n3: replicas have come or gone
record done
    -> drop n2
list n2,n3
dropped refused
wait 12s
    -> propose protected by n2,n3: replicas have come or gone (at 11.1s)
record done
