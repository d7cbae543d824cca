package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/emersion/go-imap/v2"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// hangRead is a disk whose reads below a folder do not return, from when it is
// armed until release is closed.
type hangRead struct {
	part    string
	armed   atomic.Bool
	hits    atomic.Int64
	release chan struct{}
}

func (h *hangRead) String() string { return "hang" }

// MaybeError implements errorfs.Injector.
func (h *hangRead) MaybeError(op errorfs.Op) error {
	if h.armed.Load() && (op.Kind == errorfs.OpFileRead || op.Kind == errorfs.OpFileReadAt) && strings.Contains(op.Path, h.part) {
		h.hits.Add(1)
		<-h.release
	}
	return nil
}

// until asks a node's status until it is right.
func (s *site) until(r *running, within time.Duration, what string, ok func(admin.Status) bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last admin.Status
	for {
		if st, err := r.admin.Status(ctx); err == nil {
			if last = st; ok(st) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("not within %s at %s: %s; last: %+v", within, r.name, what, last)
		}
	}
}

func said(st admin.Status, condition, about string) string {
	for _, c := range st.Conditions {
		if string(c.Name) == condition && c.About == about {
			return c.Text
		}
	}
	return ""
}

func proposed(st admin.Status, id slot.ID) bool {
	for _, p := range st.Proposals {
		for _, ps := range p.Slots {
			if ps.Slot == id && strings.HasPrefix(p.Reason, "n1 lives and does not serve "+id.String()+": ") {
				return true
			}
		}
	}
	return false
}

// restartWithHang restarts n1 on a disk of which one slot's index can hang, and
// fills that slot with more than the cache holds. other is a healthy slot of n1.
func restartWithHang(t *testing.T, s *site, jump *atomic.Int64) (h *hangRead, id, other slot.ID, users []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users = s.users(ctx, 6)
	n1 := s.nodes[0]
	st := s.status(ctx, n1)
	id = servedBy(t, st, "n1")
	other = id
	for _, sl := range st.Slots {
		if sl.Master == "n1" && sl.Slot != id {
			other = sl.Slot
		}
	}
	if other == id {
		t.Fatal("n1 is master of one slot only")
	}
	n1.stopped()
	h = &hangRead{part: filepath.Join("slots", id.String(), "index"), release: make(chan struct{})}
	t.Cleanup(func() { close(h.release) })
	s.startWith(n1, func(n *Node) {
		n.fs = errorfs.Wrap(n.fs, h)
		mono := n.clock.Mono
		n.clock.Mono = func() time.Duration { return mono() + time.Duration(jump.Load()) }
	})
	s.eventually("n1 serves again", func(st admin.Status) bool {
		return st.Slots[id].Serving && st.Slots[other].Serving && st.Slots[id].IsProtected()
	})
	var to []string
	for i := range 150 {
		to = append(to, fmt.Sprintf("Some Body <somebody-with-a-name-%d@another-example.test>", i))
	}
	for range 20 {
		if err := s.deliver(n1, users[id], "To: "+strings.Join(to, ",\r\n ")+"\r\nSubject: x\r\n\r\nx\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	c := s.dialUser(n1, users[id])
	for range 5 {
		if _, err := c.Copy(imap.SeqSet{{Start: 1, Stop: 0}}, "INBOX").Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return h, id, other, users
}

// TestLaw09HangingReadsConcernTheirSlot: reads of one slot's index hang (a dead path
// of a SAN). That slot is proposed, and every node says that nobody serves it; the
// node and its other slots are not concerned, also not when the process is paused for
// 3 s then: the node acknowledges again for its other slots.
func TestLaw09HangingReadsConcernTheirSlot(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, &site{t: t}, 3, 1, 6, "cache_bytes = 1048576\n")
	var jump atomic.Int64
	h, id, other, users := restartWithHang(t, s, &jump)
	n1, n2, n3 := s.nodes[0], s.nodes[1], s.nodes[2]
	h.armed.Store(true)
	go s.deliver(n1, users[id], "x\r\n")
	for _, r := range []*running{n2, n3, n1} {
		s.until(r, 25*time.Second, "only the slot that hangs is proposed, and said to be without a master", func(st admin.Status) bool {
			for _, n := range st.Nodes {
				if n.State == "silent" {
					t.Errorf("%s calls %s silent", r.name, n.Name)
				}
			}
			for _, p := range st.Proposals {
				if len(p.Slots) != 1 || p.Slots[0].Slot != id {
					t.Errorf("proposed: %+v", p)
				}
			}
			return proposed(st, id) && said(st, "slot-no-master", id.String()) != "" && strings.Contains(st.Verdict, "1 slot not served") || t.Failed()
		})
	}
	if err := s.deliver(n1, users[other], "x\r\n"); err != nil {
		t.Errorf("deliver to a healthy slot of the same node: %v", err)
	}
	if h.hits.Load() == 0 {
		t.Error("nothing was read from the disk that hangs")
	}
	jump.Store(int64(3 * time.Second))
	s.until(n1, 15*time.Second, "a healthy slot takes mail after the pause", func(admin.Status) bool {
		return s.deliver(n1, users[other], "x\r\n") == nil
	})
}

// TestLongLaw09CopyThatHangsWhileItOpens: a node comes back while the disk of one of its
// slots hangs in a read. The slot is proposed, its node says at which step it is,
// and its others are served.
func TestLongLaw09CopyThatHangsWhileItOpens(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	users := s.users(ctx, 6)
	id := servedBy(t, s.status(ctx, n1), "n1")
	for _, u := range users {
		if err := s.deliver(n1, u, "Subject: x\r\n\r\nx\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	n1.stopped()
	h := &hangRead{part: filepath.Join("slots", id.String(), "index"), release: make(chan struct{})}
	h.armed.Store(true)
	release := sync.OnceFunc(func() { close(h.release) })
	t.Cleanup(release)
	s.startWith(n1, func(n *Node) { n.fs, n.hangAfter = errorfs.Wrap(n.fs, h), 12*time.Second })
	s.until(n1, 15*time.Second, "the node says that the copy is opening, and how far it is", func(st admin.Status) bool {
		return strings.Contains(said(st, "slot-opening", id.String()), "list of files") && strings.Contains(st.Slots[id].Waiting, "opening its copy")
	})
	seen := map[string]bool{}
	s.until(s.nodes[1], 15*time.Second, "the slot alone is proposed", func(st admin.Status) bool {
		for _, p := range st.Proposals {
			seen[p.ID] = true
		}
		return proposed(st, id) && len(st.Proposals[0].Slots) == 1 && strings.Contains(st.Proposals[0].Reason, "still opening")
	})
	st := s.status(ctx, s.nodes[1])
	for _, sl := range st.Slots {
		if sl.Serving == (sl.Slot == id) {
			t.Errorf("%s: served: %t (%s)", sl.Slot, sl.Serving, sl.Waiting)
		}
	}
	last := st.Proposals[0].ID
	s.until(s.nodes[1], 45*time.Second, "the store is said to have failed", func(st admin.Status) bool {
		if len(st.Proposals) != 1 || st.Proposals[0].ID != last {
			t.Fatalf("the proposal was withdrawn while nothing had changed: %+v", st.Proposals)
		}
		return strings.Contains(st.Proposals[0].Reason, "does not answer")
	})
	refused := (*admin.Error)(nil)
	if got, err := n1.admin.Serve(ctx, admin.ServeRequest{Slot: id}); !errors.As(err, &refused) || refused.Exit != admin.ExitRefused || !strings.HasPrefix(refused.Next, "mailnode fo ") {
		t.Errorf("serve while the disk does not answer: %+v, %v, want exit 4 and where else", got, err)
	}
	h.armed.Store(false)
	release()
	s.until(n1, 30*time.Second, "the disk answers: the slot serves again by itself", func(st admin.Status) bool {
		return st.Slots[id].Serving && len(st.Proposals) == 0 && said(st, "slot-refused", id.String()) == ""
	})
	if n, err := s.count(n1, users[id], "pw"); err != nil || n != 1 {
		t.Errorf("%d messages, %v: want 1", n, err)
	}
}

// TestLaw04MasterThatWaitsIsProposed: a node lives and reports, and none of its slots
// gets to know whether its epoch is still its own (its Raft has stopped, or only its
// link to the leader is cut). They are proposed, and every node says so.
func TestLaw04MasterThatWaitsIsProposed(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	var jump atomic.Int64
	n1.stopped()
	s.startWith(n1, func(n *Node) {
		mono := n.clock.Mono
		n.clock.Mono = func() time.Duration { return mono() + time.Duration(jump.Load()) }
	})
	s.eventually("n1 serves again", func(st admin.Status) bool { return st.Slots[id].Serving })
	if err := n1.node.raft.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	jump.Store(int64(3 * time.Second)) // a pause: it asks
	for _, r := range s.nodes[1:] {
		s.until(r, 20*time.Second, "the slot of a living master is proposed", func(st admin.Status) bool {
			return proposed(st, id) && said(st, "slot-no-master", id.String()) != "" && strings.Contains(st.Proposals[0].Reason, "until a quorum agrees")
		})
	}
}
