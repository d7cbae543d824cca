# A master that starts again replaces the record before it acknowledges, so that
# nothing an earlier process proposed can come true.
start again protected n2,n3 head 10
    -> propose protected by n2,n3: this master serves again
connect n2 10
connect n3 10
change 11
ack n2 11
record done
    -> acknowledge up to 11
