package repl

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// heldBack is a master whose bodies come only once all of them were asked for.
type heldBack struct {
	ReplicationClient
	all int
}

type heldBackStream struct {
	Replication_BodiesClient
	left  int
	asked chan struct{}
}

func (h heldBack) Bodies(ctx context.Context, o ...grpc.CallOption) (Replication_BodiesClient, error) {
	s, err := h.ReplicationClient.Bodies(ctx, o...)
	return &heldBackStream{s, h.all, make(chan struct{})}, err
}

func (s *heldBackStream) Send(w *BodyWant) error {
	if len(w.Guid) > 0 {
		if s.left--; s.left == 0 {
			close(s.asked)
		}
	}
	return s.Replication_BodiesClient.Send(w)
}

func (s *heldBackStream) Recv() (*BodyFrame, error) {
	select {
	case <-s.asked:
		return s.Replication_BodiesClient.Recv()
	case <-s.Context().Done():
		return nil, s.Context().Err()
	}
}

// Bodies that were put before a replica connected are pushed by nobody. The first of
// them that is late tells that, and the whole group's are asked for: a group waits for
// one grace, not for one per event.
func TestUnpushedBodiesOfAGroupAreAskedForAtOnce(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	const messages = 8
	for i := range messages {
		if err := n1.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	head, err := n2.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	client := heldBack{NewReplicationClient(n1.conn), messages}
	var group []*event.Event
	if _, _, err := readJournal(ctx, client, 3, head.Position, func(ev *event.Event) error { group = append(group, ev); return nil }); err != nil {
		t.Fatal(err)
	}
	b, err := openBodies(ctx, client, n2.copy, n2.spool, true, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); b.run() }()
	defer func() { cancel(); <-ended }()
	f := &Follower{o: FollowerOptions{Slot: n2.copy}}
	silent := progress{waiting: func() error { return nil }, working: func() error { return nil }}
	for rest := group; len(rest) > 0; {
		n, err := f.applySome(ctx, b, rest, slot.Position(0), silent)
		if err != nil {
			t.Fatalf("with %d events to go: %v", len(rest), err)
		}
		rest = rest[n:]
	}
	sameState(t, n1, n2)
}
