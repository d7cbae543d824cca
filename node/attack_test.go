package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/node/admin"
)

const (
	attackUsers   = 60
	attackWorkers = 100
	attackFirst   = time.Second            // a first login's 99 %
	attackAgain   = 100 * time.Millisecond // a remembered one's
)

// One address attacks all nodes as fast as it can: wrong logins of users who are
// there and who are not, some of whom wait for their answer, connections with TLS
// that never speak, and chatter. Others log in beside it, for the first time and
// again, and Raft keeps its leader. It is a lane of its own: `make attack` sets
// MAILNODE_ATTACK to how long it goes on.
func TestAttackFromOneAddress(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("MAILNODE_ATTACK"))
	if err != nil {
		t.Skip("SKIPPED: MAILNODE_ATTACK is not set; run `make attack`")
	}
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range attackUsers {
		if _, err := s.nodes[i%3].admin.AddUser(ctx, admin.AddUser{Address: addr(t, attackUser(i)), Password: "pw"}); err != nil {
			t.Fatal(err)
		}
	}
	leader := s.status(ctx, s.nodes[0]).Leader
	quiet := victims(ctx, s, duration/4)
	struck := attackers(t, s)
	loud := victims(ctx, s, duration)
	conns, sent := struck()
	hashes := uint64(0)
	for _, r := range s.nodes {
		n, _ := r.node.passwords.Load()
		hashes += n
	}
	t.Logf("before: %s", quiet)
	t.Logf("under attack: %s", loud)
	t.Logf("%d hashes were computed on all nodes", hashes)
	if conns < 1000 || sent < 100 {
		t.Errorf("%d connections and %d wrong logins are no attack", conns, sent)
	}
	st := s.status(ctx, s.nodes[0])
	if st.Leader != leader || len(st.Proposals) > 0 {
		t.Errorf("the leader was %s and is %s, %d proposals", leader, st.Leader, len(st.Proposals))
	}
	for _, sl := range st.Slots {
		if sl.Epoch != 1 || !sl.IsProtected() {
			t.Errorf("%s: epoch %d, protected %t", sl.Slot, sl.Epoch, sl.IsProtected())
		}
	}
	if at(loud.first, 0.99) > attackFirst || at(loud.again, 0.99) > attackAgain {
		t.Errorf("first logins want 99%% within %s, remembered ones within %s", attackFirst, attackAgain)
	}
}

func attackUser(i int) string { return fmt.Sprintf("attacked%d@example.test", i%attackUsers) }

// attackers starts the attack in a process of its own, as another machine's
// would be. What it returns ends it, and returns what it did.
func attackers(t *testing.T, s *site) (end func() (conns, sent int64)) {
	t.Helper()
	var targets []string
	for _, r := range s.nodes {
		targets = append(targets, r.cfg.IMAP.Plain, r.cfg.IMAP.TLS)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestAttacker$")
	c.Env = append(os.Environ(), "MAILNODE_ATTACKED="+strings.Join(targets, ","))
	stop, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	return func() (conns, sent int64) {
		stop.Close()
		err := c.Wait()
		if _, err2 := fmt.Sscanf(out.String(), "attacked with %d connections, %d wrong logins", &conns, &sent); err != nil || err2 != nil {
			t.Errorf("the attack: %v, %v: %s", err, err2, out.String())
		}
		t.Log(strings.TrimSpace(out.String()))
		return conns, sent
	}
}

// TestAttacker is the attacker's process, until its standard input ends.
func TestAttacker(t *testing.T) {
	targets := strings.Split(os.Getenv("MAILNODE_ATTACKED"), ",")
	if len(targets) < 2 {
		t.Skip("SKIPPED: it is a part of TestAttackFromOneAddress")
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := &attack{targets: targets}
	var workers sync.WaitGroup
	for i := range attackWorkers {
		workers.Go(func() { a.strike(ctx, i) })
	}
	io.Copy(io.Discard, os.Stdin)
	cancel()
	workers.Wait()
	fmt.Printf("attacked with %d connections, %d wrong logins, %d of them answered\n", a.conns.Load(), a.sent.Load(), a.answered.Load())
}

type attack struct {
	targets               []string // of each node, without TLS and with it
	conns, sent, answered atomic.Int64
}

// strike attacks from one address until ctx ends.
func (a *attack) strike(ctx context.Context, worker int) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.66")}, Timeout: time.Second}
	for n := worker; ctx.Err() == nil; n++ {
		to, silent := a.targets[2*n%len(a.targets)], worker%4 == 0
		if silent {
			to = a.targets[(2*n+1)%len(a.targets)]
		}
		c, err := d.DialContext(ctx, "tcp", to)
		if err != nil {
			continue
		}
		a.conns.Add(1)
		if silent {
			if held = append(held, c); len(held) > 50 {
				held[0].Close()
				held = held[1:]
			}
			continue
		}
		a.talk(c, n, worker)
		c.Close()
	}
}

// talk tries a password or chats on one connection; some do not wait for an answer.
func (a *attack) talk(c net.Conn, n, worker int) {
	c.SetDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, 4096)
	if k, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:k]), "* OK") {
		return
	}
	if worker%4 == 1 {
		io.WriteString(c, strings.Repeat("a ID (\"name\" \"x\")\r\n", 60))
		io.Copy(io.Discard, c)
		return
	}
	user := attackUser(n)
	if n%2 == 0 {
		user = fmt.Sprintf("nobody%d@example.test", rand.IntN(1_000_000))
	}
	fmt.Fprintf(c, "a LOGIN %s wrong%d\r\n", user, n)
	a.sent.Add(1)
	if worker%4 == 2 {
		return
	}
	if _, err := c.Read(buf); err == nil {
		a.answered.Add(1)
	}
}

// logins are how long logins took, connection included.
type logins struct{ first, again []time.Duration }

func (l logins) String() string {
	text := func(d []time.Duration) string {
		return fmt.Sprintf("%d, median %s, 99%% %s, slowest %s", len(d), at(d, 0.5), at(d, 0.99), at(d, 1))
	}
	return "first logins " + text(l.first) + "; remembered " + text(l.again)
}

func at(sorted []time.Duration, share float64) time.Duration {
	return sorted[int(share*float64(len(sorted)-1))].Round(100 * time.Microsecond)
}

// victims log in from an address of their own, one after another, each once after
// his password was set, and set again.
func victims(ctx context.Context, s *site, duration time.Duration) logins {
	t := s.t
	var out logins
	login := func(i int) time.Duration {
		began := time.Now()
		c, err := imapFrom("127.0.0.3", s.nodes[i%3].cfg.IMAP.Plain)
		if err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
		defer c.conn.Close()
		if got, err := c.ask("LOGIN " + attackUser(i) + " pw"); !strings.HasPrefix(got, "OK") {
			t.Fatalf("login %d: %q, %v", i, got, err)
		}
		return time.Since(began)
	}
	until := time.Now().Add(duration)
	for i := 0; time.Now().Before(until); i++ {
		if err := s.nodes[0].admin.SetPassword(ctx, admin.SetPassword{Address: addr(t, attackUser(i)), Password: "pw"}); err != nil {
			t.Fatal(err)
		}
		out.first = append(out.first, login(i))
		out.again = append(out.again, login(i))
	}
	slices.Sort(out.first)
	slices.Sort(out.again)
	return out
}
