# The same, when the quorum is lost just then: nothing is acknowledged before it is
# certain that no record of an earlier process can come true.
start again local protected n2 head 10
    -> propose unprotected since 10: ack = "local", or no replicas
change 11
record unsent
wait 5s
    -> propose unprotected since 10: ack = "local", or no replicas (at 2s)
