# What a replica acknowledged before it dropped its state counts for nothing, nor
# does what it says on an old connection. Nobody who lacks something takes its place.
start protected n2 head 10
connect n2 10
connect n3 9
refill n2
change 11
ack n3 11
wait 1s
