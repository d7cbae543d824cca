package node

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/slot"
)

// rot restarts a node, so that its state lies in tables, and damages the largest
// table of a slot's index while the node runs.
func (s *site) rot(r *running, id string) {
	s.t.Helper()
	r.stop()
	r.ended.Wait()
	s.start(r)
	index := filepath.Join(r.slotDir(id), "index")
	until(s.t, "the index has a table", func() bool {
		paths, err := filepath.Glob(filepath.Join(index, "*.sst"))
		if err != nil {
			s.t.Fatal(err)
		}
		best, size := "", int64(4096)
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil && st.Size() > size {
				best, size = p, st.Size()
			}
		}
		if best == "" {
			return false
		}
		f, err := os.OpenFile(best, os.O_RDWR, 0)
		if err != nil {
			return false
		}
		defer f.Close()
		b := make([]byte, 1)
		for at := size / 4; at < size/2; at += 512 {
			if _, err := f.ReadAt(b, at); err != nil {
				s.t.Fatal(err)
			}
			b[0] ^= 0x10
			if _, err := f.WriteAt(b, at); err != nil {
				s.t.Fatal(err)
			}
		}
		return true
	})
}

func fillSite(t *testing.T, s *site, n int) {
	t.Helper()
	if _, err := s.nodes[0].admin.AddUser(context.Background(), admin.AddUser{Address: addr(t, "u@example.test"), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.deliver(s.nodes[0], "u@example.test", mendText(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// idleSession is a client that has selected INBOX and waits for news.
func idleSession(t *testing.T, r *running) (session net.Conn) {
	t.Helper()
	until(t, "a client waits in INBOX", func() bool {
		c, err := net.Dial("tcp", r.cfg.IMAP.Plain)
		if err != nil {
			return false
		}
		if _, err := c.Write([]byte("1 LOGIN u@example.test pw\r\n2 SELECT INBOX\r\n3 IDLE\r\n")); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "+ ") {
				session = c
				return true
			}
			if _, no, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(no, "NO ") || strings.HasPrefix(no, "BAD ") {
				break
			}
		}
		c.Close()
		return false
	})
	return session
}

// A replica that serves meets damage of its index while it runs: it is closed,
// rebuilt, opened and filled by the master, by itself; mail flows meanwhile.
func TestLaw07Law09ReplicaIsRebuiltWhileItRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	fillSite(t, s, 60)
	_, _, replica := s.masterOf(context.Background(), "u@example.test", 1)
	s.rot(replica, "s000")
	until(t, "an audit begins", func() bool {
		_, err := replica.admin.Audit(context.Background(), admin.AuditRequest{Slots: []slot.ID{0}})
		return err == nil
	})
	if d := s.reindexOver(replica, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the replica protects the slot again", func(st admin.Status) bool {
		return st.Slots[0].Serving && st.Slots[0].Protected && conditionsOf(st, "s000") == ""
	})
	if err := s.deliver(s.nodes[0], "u@example.test", mendText(99)); err != nil {
		t.Error(err)
	}
	if lines, end := audited(t, replica, false); end.State != job.Done {
		t.Errorf("afterwards: %v, %+v", lines, end)
	}
}

// The only copy meets damage of its index while clients are connected: they are
// told BYE, mail is refused for now and never for good, and all of it is there
// afterwards. A UID names what it named before, or its mailbox is a new one.
func TestLaw02Law09MasterAloneIsRebuiltWhileItServes(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	fillSite(t, s, 60)
	n := s.nodes[0]
	s.rot(n, "s000")
	session := idleSession(t, n)
	defer session.Close()
	ended := make(chan string, 1)
	go func() {
		said, _ := io.ReadAll(session) // its error says how the connection ended, not what was said
		ended <- string(said)
	}()
	until(t, "an audit begins", func() bool {
		_, err := n.admin.Audit(context.Background(), admin.AuditRequest{Slots: []slot.ID{0}})
		return err == nil
	})
	over := make(chan job.Detail, 1)
	go func() { over <- s.reindexOver(n, "s000 index") }()
	sent, refused := 60, 0
	var d job.Detail
	for d.ID == "" {
		err := s.deliver(n, "u@example.test", mendText(sent))
		switch {
		case err == nil:
			sent++
		case strings.HasPrefix(err.Error(), "451 "):
			refused++
		default:
			t.Fatalf("mail meanwhile: %v", err)
		}
		select {
		case d = <-over:
		default:
		}
	}
	if d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	t.Logf("%d messages, %d refused for now: %q", sent, refused, d.Lines)
	select {
	case said := <-ended:
		if !strings.Contains(said, "* BYE ") {
			t.Errorf("the session was told %q", said)
		}
	case <-time.After(20 * time.Second):
		t.Error("the session goes on as if nothing had been")
	}
	s.eventually("the slot serves", func(st admin.Status) bool { return st.Slots[0].Serving })
	if err := n.admin.SetPassword(context.Background(), admin.SetPassword{Address: addr(t, "u@example.test"), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	until(t, "all mail is there", func() bool {
		got, err := s.count(n, "u@example.test", "pw")
		// A message whose delivery was cut off may be there: its sender was told to
		// try again, and did.
		return err == nil && (int(got) == sent || int(got) == sent+1)
	})
	if lines, end := audited(t, n, false); end.State != job.Done {
		t.Errorf("afterwards: %v, %+v", lines, end)
	}
}
