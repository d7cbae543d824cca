package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
)

// settle restarts a node, so that its state lies in tables.
func (s *site) settle(r *running) {
	s.t.Helper()
	r.stopped()
	s.start(r)
}

// rot turns bits over in all tables of a slot's index while the node runs, and
// has an audit meet that, until a rebuild has begun: a table may go just then.
func (s *site) rot(r *running, id string) {
	s.t.Helper()
	bit, look := 0, time.Time{}
	until(s.t, "a rebuild begins", func() bool {
		list, err := r.admin.Jobs(context.Background())
		if err != nil {
			return false
		}
		busy := time.Now().Before(look)
		for _, j := range list.Jobs {
			if j.Kind == job.Reindex {
				return true
			}
			busy = busy || !j.State.Over()
		}
		if !busy && flipTables(s.t, filepath.Join(r.slotDir(id), "index"), 1<<bit) {
			bit = (bit + 1) % 8
			r.admin.Audit(context.Background(), admin.AuditRequest{All: true}) // refused while the copy is opened
			look = time.Now().Add(time.Second)
		}
		return false
	})
}

func flipTables(t *testing.T, dir string, bits byte) (some bool) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			continue // it has gone
		}
		st, err := f.Stat()
		b := make([]byte, 1)
		for at := int64(1024); err == nil && at < st.Size()*3/4; at += 512 {
			if _, err = f.ReadAt(b, at); err == nil {
				b[0] ^= bits
				_, err = f.WriteAt(b, at)
				some = true
			}
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return some
}

// idle waits until no job runs: the audit that met the damage must not be taken
// for a later one.
func idle(t *testing.T, r *running) {
	t.Helper()
	until(t, "no job runs", func() bool { return len(r.node.jobs.List(false)) == 0 })
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
	s.settle(replica)
	s.rot(replica, "s000")
	if d := s.reindexOver(replica, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the replica protects the slot again", func(st admin.Status) bool {
		return st.Slots[0].Serving && st.Slots[0].IsProtected() && conditionsOf(st, "s000") == ""
	})
	if err := s.deliver(s.nodes[0], "u@example.test", mendText(99)); err != nil {
		t.Error(err)
	}
	idle(t, replica)
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
	s.settle(n)
	session := idleSession(t, n)
	defer session.Close()
	ended := make(chan string, 1)
	go func() {
		said, _ := io.ReadAll(session) // its error says how the connection ended, not what was said
		ended <- string(said)
	}()
	s.rot(n, "s000")
	sent, refused := 60, 0
	over := func() bool {
		list, err := n.admin.Jobs(context.Background())
		return err == nil && slices.ContainsFunc(list.Jobs, func(j job.Status) bool { return j.Kind == job.Reindex && j.State.Over() })
	}
	until(t, "the rebuild ends", func() bool {
		err := s.deliver(n, "u@example.test", mendText(sent))
		switch {
		case err == nil:
			sent++
		case strings.HasPrefix(err.Error(), "451 "):
			refused++
		default:
			t.Fatalf("mail meanwhile: %v", err)
		}
		return over()
	})
	d := s.reindexOver(n, "s000 index")
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
	idle(t, n)
	if lines, end := audited(t, n, false); end.State != job.Done {
		t.Errorf("afterwards: %v, %+v", lines, end)
	}
}
