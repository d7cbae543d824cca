# n2 leaves anyway, n3 waits for another that never comes: n3 goes on counting.
start protected n2,n3 head 100
connect n2 100
connect n3 100
wait 2s
list n2,n3 leaving n3 anyway n2
    -> propose protected by n3: replicas have come or gone
record done
    -> drop n2
dropped done
wait 15s
change 110
    -> acknowledge up to 100
ack n3 110
    -> acknowledge up to 110
