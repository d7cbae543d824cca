# n2 goes while n3 counts. n3 must hold what n2 alone has confirmed first.
start protected n2,n3 head 100
connect n2 100
connect n3 100
wait 2s
change 110
    -> acknowledge up to 100
ack n2 110
    -> acknowledge up to 110
list n2,n3 leaving n2
wait 300ms
ack n3 110
wait 100ms
    -> propose protected by n3: replicas have come or gone (at 3.4s)
record done
    -> drop n2
dropped done
