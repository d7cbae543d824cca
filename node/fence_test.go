package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/node/admin"
)

// wire is where other nodes find a node. While it is cut, connections stay open and
// nothing comes through, as when a router dies.
type wire struct {
	ln   net.Listener
	to   string
	cut  *atomic.Bool
	mu   sync.Mutex
	open []net.Conn
}

func (w *wire) run() {
	for {
		c, err := w.ln.Accept()
		if err != nil {
			return
		}
		d, err := net.Dial("tcp", w.to)
		if err != nil {
			c.Close()
			continue
		}
		w.mu.Lock()
		w.open = append(w.open, c, d)
		w.mu.Unlock()
		go w.pass(c, d)
		go w.pass(d, c)
	}
}

// pass carries bytes one way; what comes while the wire is cut is lost, and the
// connection with it when the wire is whole again.
func (w *wire) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	for b := make([]byte, 32<<10); ; {
		n, err := from.Read(b)
		for lost := false; ; lost = true {
			if !w.cut.Load() {
				if lost {
					return
				}
				break
			}
			t := time.NewTimer(50 * time.Millisecond)
			<-t.C
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) end() {
	w.ln.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		c.Close()
	}
}

// wiredSite is a site whose nodes reach each other over wires that can all be cut.
func wiredSite(t *testing.T, slots int, settings string) (s *site, cut *atomic.Bool) {
	t.Helper()
	s, cut = &site{t: t}, &atomic.Bool{}
	base := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	for i := range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r := s.install(base, fmt.Sprintf("n%d", i+1), settings+fmt.Sprintf("peer_advertise = %q\n", ln.Addr()))
		w := &wire{ln: ln, to: r.cfg.Node.Peer, cut: cut}
		go w.run()
		t.Cleanup(w.end)
		if i == 0 {
			_, err = admin.InitCluster(ctx, r.cfg, admin.InitOptions{Slots: slots, Replicas: 1, Nodes: 3})
		} else {
			var tok admin.Token
			if tok, err = s.nodes[0].admin.Token(ctx, admin.TokenRequest{Node: r.cfg.Node.Name}); err == nil {
				_, err = admin.JoinCluster(ctx, r.cfg, tok.Token)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		s.start(r)
	}
	t.Cleanup(s.stopAll)
	s.eventually("every slot serves and is protected", func(st admin.Status) bool {
		ok := len(st.Slots) == slots
		for _, sl := range st.Slots {
			ok = ok && sl.Serving && sl.IsProtected()
		}
		return ok
	})
	return s, cut
}

// TestFenceWithoutQuorum: with `fence_without_quorum` a master that is cut off from all
// others takes mail for less than 10 s more; it can be read, and takes mail again by
// itself when it has a quorum, in the same epoch. What it took meanwhile is kept.
func TestFenceWithoutQuorum(t *testing.T) {
	t.Parallel()
	s, cut := wiredSite(t, 3, "fence_without_quorum = true\n")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	users := s.users(ctx, 3)
	mine := servedBy(t, s.status(ctx, n1), "n1")
	if err := s.deliver(n1, users[mine], "Subject: x\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	taken := uint32(1)
	epoch := n1.node.copies.serving(mine).Epoch()
	cut.Store(true)
	began := time.Now()
	last := time.Duration(0)
	for alone := 0; ; {
		err := s.deliver(n1, users[mine], "Subject: x\r\n\r\nx\r\n")
		if err == nil {
			taken++
			alone++
			last = time.Since(began)
			continue
		}
		if st := s.status(ctx, n1); said(st, "slots-fenced", "") != "" {
			if alone == 0 {
				t.Error("it took no mail alone: this proves nothing")
			}
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("not fenced after 30 s, and it takes no mail: %v", err)
		}
	}
	t.Logf("the last message was acknowledged %.1f s after the cut", last.Seconds())
	if os.Getenv("MAILNODE_LONG") != "" && last > 10*time.Second {
		t.Errorf("that is more than 10 s")
	}
	if code, text := n1.healthz(t); code != http.StatusServiceUnavailable || !strings.Contains(text, "fence_without_quorum") {
		t.Errorf("/healthz of a fenced node: %d %q", code, text)
	}
	for range 5 {
		if err := s.deliver(n1, users[mine], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("deliver to a fenced slot: %v, want 451", err)
		}
	}
	readOnly(t, s.dialUser(n1, users[mine]))
	cut.Store(false)
	s.eventually("the fence is gone, and the slot serves", func(st admin.Status) bool {
		if said(st, "slots-fenced", "") != "" || !st.Slots[mine].Serving || s.deliver(n1, users[mine], "x\r\n") != nil {
			return false
		}
		taken++
		return true
	})
	if now := n1.node.copies.serving(mine).Epoch(); now != epoch {
		t.Errorf("epoch %d, it was %d", now, epoch)
	}
	if n, err := s.count(n1, users[mine], "pw"); err != nil || n < taken {
		t.Errorf("%d messages, %v: %d were acknowledged", n, err, taken)
	}
}

// readOnly wants a mailbox that can be read, and not be changed.
func readOnly(t *testing.T, c *imapclient.Client) {
	t.Helper()
	got, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{}}}).Collect()
	if err != nil || len(got) != 1 || len(got[0].BodySection) != 1 {
		t.Errorf("read from a fenced slot: %+v, %v", got, err)
	}
	for what, err := range map[string]error{
		"create": c.Create("other", nil).Wait(),
		"store":  c.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Close(),
	} {
		if err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
			t.Errorf("%s in a fenced slot: %v, want NO [UNAVAILABLE]", what, err)
		}
	}
}
