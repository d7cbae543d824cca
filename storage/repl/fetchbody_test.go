package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// spoil turns a bit of every copy of a text in the packs over.
func (s *side) spoil(text string) {
	s.t.Helper()
	dir := "/slots/s003/packs"
	names, err := s.fs.List(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		f, err := s.fs.OpenReadWrite(s.fs.PathJoin(dir, name), "test")
		if err != nil {
			s.t.Fatal(err)
		}
		n += spoilFile(s.t, f, text)
	}
	if n == 0 {
		s.t.Fatalf("%q is in no pack of %s", text, s.name)
	}
}

func spoilFile(t *testing.T, f vfs.File, text string) (n int) {
	t.Helper()
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, st.Size())
	if _, err := f.ReadAt(all, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for at := 0; ; n++ {
		i := bytes.Index(all[at:], []byte(text))
		if i < 0 {
			return n
		}
		at += i + len(text)
		if _, err := f.WriteAt([]byte{all[at-1] ^ 4}, int64(at-1)); err != nil {
			t.Fatal(err)
		}
	}
}

// body finds the body of a message in an account's INBOX.
func (s *side) body(a storage.Account, uid storage.UID) (storage.Ref, slot.BodyRef) {
	s.t.Helper()
	box, err := s.master.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil {
		s.t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	m := &event.MessageRecord{}
	if v, _, err := s.get(event.MessageKey(ref, uid)); err != nil || proto.Unmarshal(v, m) != nil {
		s.t.Fatal(err)
	}
	return ref, m.Body()
}

// repair takes a body from another side, as a mender does.
func (s *side) repair(from *side, ref slot.BodyRef) {
	s.t.Helper()
	f, err := FetchBody(context.Background(), NewReplicationClient(from.conn), 3, ref, s.spool)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Body.Close()
	if err := s.copy.ReplaceBody(context.Background(), ref, f.Note, f.Body, f.Body.Size()); err != nil {
		s.t.Fatal(err)
	}
}

// An event whose body the master has given up must not hold up a replica that
// comes later: it takes the state, which holds without the body.
func TestLaw05GivenUpBodyDoesNotBlockAReplica(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	for i := range 3 {
		if err := n1.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	_, ref := n1.body(a, 2)
	n1.spoil(text(1, 10))
	if gone, err := n1.master.GiveUp(context.Background(), []slot.BodyRef{ref}); err != nil || len(gone) != 1 {
		t.Fatalf("gave up %v, %v", gone, err)
	}
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	if err := n1.deliver(a, text(9, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
}

// A body that the master has lost is taken from a third copy; the wrong bytes
// of the master are never taken (law 6).
func TestLaw05Law06LostBodyComesFromAThirdCopy(t *testing.T) {
	n1, n2, n3 := newSide(t, "n1"), newSide(t, "n2"), newSide(t, "n3")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	for i := range 3 {
		if err := n1.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	n3.follow(n1, 1)
	sameState(t, n1, n3)
	_, ref := n1.body(a, 2)
	n1.spoil(text(1, 10))
	n2.endRole()
	f := NewFollower(FollowerOptions{Slot: n2.copy, Node: "n2", Master: "n1", Epoch: 1, Client: NewReplicationClient(n1.conn), Spool: n2.spool,
		Clock: n2.o.Clock, Logger: n2.o.Logger, Others: func() []ReplicationClient { return []ReplicationClient{NewReplicationClient(n3.conn)} }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Run(ctx) }()
	n2.stop = func() { cancel(); <-ended }
	sameState(t, n1, n2)
	if err := n2.copy.ProveBody(ref); err != nil {
		t.Errorf("the replica's body: %v", err)
	}
	if _, err := FetchBody(context.Background(), NewReplicationClient(n1.conn), 3, ref, n2.spool); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the damaged copy returned %v", err)
	}
	n1.repair(n2, ref)
	if got := n1.bodies(a); got[text(1, 10)] != 1 {
		t.Errorf("after the repair: %v", got)
	}
}

// Two copies are compared while the slot moves; where they differ is named, and a
// replica that is told to fetches the state again.
func TestLaw08ComparedCopies(t *testing.T) {
	t.Parallel()
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	rec := &record{}
	n1.lead(1, 0, rec, time.Second)
	a, b := n1.account("u1@example.test"), n1.account("u2@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(b, text(0, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	n2.endRole()
	box, _ := n1.body(b, 1)
	st := &event.MailboxStats{}
	if v, _, err := n2.get(event.StatsKey(box)); err != nil || proto.Unmarshal(v, st) != nil {
		t.Fatal(err)
	}
	st.Digest = event.ParseDigest(st.Digest).Add(event.Digest{Lo: 1}).Bytes()
	n2.damage(event.StatsKey(box), event.Marshal(st))
	f := n2.follow(n1, 1)
	stop, moving := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				moving <- nil
				return
			default:
				if err := n1.deliver(a, text(i, 10)); err != nil {
					moving <- err
					return
				}
			}
		}
	}()
	ctx := context.Background()
	for range 5 {
		c, err := Compare(ctx, n2.copy, NewReplicationClient(n1.conn))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Mailboxes) != 1 || c.Mailboxes[0] != box || c.Rest {
			t.Fatalf("compared under load: %+v, want mailbox %v", c, box)
		}
	}
	close(stop)
	if err := <-moving; err != nil {
		t.Fatal(err)
	}
	h, err := n2.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	f.Refetch("it differs from its master")
	eventually(t, "the state is fetched again", func() bool { return n2.refetched(h.Position) })
	sameState(t, n1, n2)
	if c, err := Compare(ctx, n1.copy, NewReplicationClient(n2.conn)); err != nil || c.Differ() {
		t.Errorf("after the transfer: %+v, %v", c, err)
	}
}

// refetched reports whether a transfer has ended since this copy stood at p.
func (s *side) refetched(p slot.Position) bool {
	h, err := s.copy.Head()
	return err == nil && !h.Building && h.KeptAfter >= p
}

// The master can have a replica fetch the state again.
func TestLaw08MasterOrdersATransfer(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, time.Second)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(a, text(0, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	h, err := n2.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	n1.feed.Refetch("n2")
	eventually(t, "the state is fetched again", func() bool { return n2.refetched(h.Position) })
	sameState(t, n1, n2)
}

// A copy whose disk does not read now has not said that it lacks the body: the
// master must not give the message up for it (law 7).
func TestLaw07UnreadIsNotGone(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	_, ref := n1.body(a, 1)
	if err := n2.fs.Rename("/slots/s003/packs", "/slots/s003/elsewhere"); err != nil { // a volume that is not mounted
		t.Fatal(err)
	}
	_, err := FetchBody(context.Background(), NewReplicationClient(n2.conn), 3, ref, n1.spool)
	if err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("from a copy that cannot read it: %v", err)
	}
	if err := n2.fs.Rename("/slots/s003/elsewhere", "/slots/s003/packs"); err != nil {
		t.Fatal(err)
	}
	n1.repair(n2, ref)
}

// A replica that is to fetch the state keeps its own until the master has proved
// what it has: it may be the only copy that is right.
func TestLaw06Law07DamagedMasterDoesNotWipeASoundReplica(t *testing.T) {
	t.Parallel()
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	f := n2.follow(n1, 1)
	for i := range 3 {
		if err := n1.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, n1, n2)
	ref, _ := n1.body(a, 2)
	right, _, err := n1.get(event.MessageKey(ref, 2))
	if err != nil {
		t.Fatal(err)
	}
	m := &event.MessageRecord{}
	if err := proto.Unmarshal(right, m); err != nil {
		t.Fatal(err)
	}
	m.SavedUnix ^= 1
	n2.endRole()
	n1.endRole()
	n1.damage(event.MessageKey(ref, 2), event.Marshal(m))
	n1.lead(2, 0, &record{}, 50*time.Millisecond)
	f = n2.follow(n1, 2)
	eventually(t, "n2 follows", func() bool { return f.State().Connected })
	f.Refetch("a test")
	eventually(t, "it is refused", func() bool { return strings.Contains(f.State().Problem, "digest") })
	if n2.copy.Building() {
		t.Error("the sound copy was dropped for one that is damaged")
	}
	if at, _, err := n2.get(event.MessageKey(ref, 2)); err != nil || !bytes.Equal(at, right) {
		t.Errorf("its record: %x, %v", at, err)
	}
	if err := n1.deliver(a, text(7, 10)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on following", func() bool {
		h1, err1 := n1.copy.Head()
		h2, err2 := n2.copy.Head()
		return err1 == nil && err2 == nil && h1.Position == h2.Position
	})
	n1.endRole()
	n1.damage(event.MessageKey(ref, 2), right)
	n1.lead(3, 0, &record{}, 50*time.Millisecond)
	n2.follow(n1, 3)
	sameState(t, n1, n2)
}
