# A change was durable, and its client was told nothing, when the master ended its
# part. The client repeats it, and finds it done: it waits for the replica all the
# same.
start again protected n2 head 10
    -> propose protected by n2: this master serves again
record done
change 10
wait 1s
connect n2 9
    -> acknowledge up to 9
ack n2 10
    -> acknowledge up to 10
