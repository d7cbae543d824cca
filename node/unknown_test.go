package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// newcomer returns an address whose home is a slot.
func newcomer(t *testing.T, id slot.ID, slots int) string {
	for i := 0; ; i++ {
		if u := fmt.Sprintf("new%d@example.test", i); addr(t, u).Home(slots) == id {
			return u
		}
	}
}

// begun is an LMTP transaction whose recipient was accepted.
func (s *site) begun(r *running, to string) *smtp.Client {
	s.t.Helper()
	c, err := net.Dial("tcp", r.cfg.LMTP.TCP)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	client, err := smtp.NewClient(lmtpAsSMTP{c}, "localhost")
	if err == nil {
		err = client.Mail("sender@sender.test")
	}
	if err == nil {
		err = client.Rcpt(to)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// send returns the answer to the message.
func (s *site) send(client *smtp.Client) error {
	s.t.Helper()
	w, err := client.Data()
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Write([]byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		s.t.Fatal(err)
	}
	return w.Close()
}

// RCPT was accepted by the old master, which knew the user; DATA comes after a
// failover whose loss was accepted. The new master does not know the user, who
// may be one of those that are missing: 451, NO [UNAVAILABLE], and no answer of
// an operator's verb says "unknown" (law 7; LAWS §7.4).
func TestLaw07DataAfterAnOpenLoss(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	sl, _ := n1.node.State().Slot(id)
	replica, front := s.nodes[1], s.nodes[2]
	if front.cfg.Node.Name == sl.Replicas[0] {
		replica, front = front, replica
	}
	user := newcomer(t, id, 3)
	replica.stopped()
	if _, err := n1.admin.AddUser(ctx, admin.AddUser{Address: addr(t, user), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	client := s.begun(front, user)
	n1.stopped() // with what only it has
	s.start(replica)
	s.nodes = []*running{front, replica, n1}
	s.eventually("the slot is proposed", func(admin.Status) bool { _, ok := front.node.State().OpenProposalOf(id); return ok })
	s.give(ctx, front, id, replica.cfg.Node.Name)
	s.eventually("the replica serves", func(st admin.Status) bool { return st.Slots[id].Serving })
	if err := s.send(client); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Errorf("DATA for an accepted recipient: %v, want 451", err)
	}
	for _, r := range []*running{front, replica} {
		if err := s.deliver(r, user, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("RCPT at %s: %v, want 451", r.name, err)
		}
		if _, err := s.count(r, user, "pw"); err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
			t.Errorf("LOGIN at %s: %v, want NO [UNAVAILABLE]", r.name, err)
		}
		var refusal *admin.Error
		if err := r.admin.SetPassword(ctx, admin.SetPassword{Address: addr(t, user), Password: "x"}); !errors.As(err, &refusal) || !strings.Contains(refusal.Text, "open loss") {
			t.Errorf("user passwd at %s: %v, want the open loss", r.name, err)
		}
	}
}

// An account that is deleted between RCPT and DATA: 451; the MTA's next try gets
// its 550 at RCPT (RFC 2033).
func TestLaw07AccountDeletedBetweenRcptAndData(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	user := s.users(ctx, 3)[servedBy(t, s.status(ctx, n1), "n1")]
	here, elsewhere := s.begun(n1, user), s.begun(s.nodes[1], user)
	if err := n1.admin.DeleteUser(ctx, admin.NamedUser{Address: addr(t, user)}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*smtp.Client{"the master": here, "another node": elsewhere} {
		if err := s.send(c); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("DATA at %s: %v, want 451", name, err)
		}
	}
	if err := s.deliver(s.nodes[1], user, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "550") {
		t.Errorf("RCPT afterwards: %v, want 550", err)
	}
}

// A master that answers "not found" and cannot prove that it is the master still
// has not answered: its epoch is over, or the leader cannot be asked.
func TestLaw07UnknownIsProved(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	m := n1.node.copies.serving(id)
	unknown := storage.Errorf(storage.ErrNotFound, "address is not known")
	s.fresh(ctx, n1)
	if err := n1.node.certain(ctx, m, unknown); !errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a proved master: %v", err)
	}
	both := storage.Errorf(storage.ErrUnavailable, "%w", unknown)
	if err := rpc.Wrap(both).Err(); !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("of two kinds, from another node: %v", err)
	}
	fresh := n1.node.currency.fresh
	n1.node.currency.fresh = func(context.Context) error { return errors.New("no leader is known") }
	if err := n1.node.certain(ctx, m, unknown); errors.Is(err, storage.ErrNotFound) || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a master that can't ask: %v", err)
	}
	if err := n1.node.certain(ctx, m, storage.ErrAuth); !errors.Is(err, storage.ErrAuth) || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a wrong password at a master that can't ask: %v", err)
	}
	n1.node.currency.fresh = fresh
	if err := n1.node.certain(ctx, m, storage.ErrAuth); !errors.Is(err, storage.ErrAuth) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a wrong password at a proved master: %v", err)
	}
	sl, _ := n1.node.State().Slot(id)
	s.give(ctx, n1, id, sl.Replicas[0])
	if err := n1.node.certain(ctx, m, unknown); errors.Is(err, storage.ErrNotFound) || !errors.Is(err, storage.ErrNotMaster) {
		t.Errorf("a master whose epoch is over: %v", err)
	}
}

// One proof serves all who came before it began, and nobody who came later.
func TestProofsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var proofs, stopped atomic.Int64
		c := newCurrency(func() time.Duration { return time.Since(start) }, func(context.Context) error {
			time.Sleep(50 * time.Millisecond)
			if proofs.Add(1) == 3 {
				return errors.New("no leader is known")
			}
			return nil
		})
		ask := func(n int) {
			for range n {
				go func() {
					if c.prove(t.Context()) != nil {
						stopped.Add(1)
					}
				}()
			}
		}
		ask(1) // proof 1, from 0 to 50 ms
		synctest.Wait()
		time.Sleep(10 * time.Millisecond)
		ask(100) // proof 2, from 100 to 150 ms
		time.Sleep(110 * time.Millisecond)
		ask(10) // proof 3, which fails
		time.Sleep(time.Second)
		if proofs.Load() != 3 || stopped.Load() != 10 {
			t.Errorf("%d proofs, %d without one; want 3 and 10", proofs.Load(), stopped.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.prove(ctx); !errors.Is(err, context.Canceled) && err != nil {
			t.Errorf("a caller that has hung up: %v", err)
		}
	})
}
