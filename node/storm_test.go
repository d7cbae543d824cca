package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mailnode/node/admin"
)

// stormUsers reconnect at once after a power cut.
const stormUsers = 5000

// stormCPU is what 5,000 may cost, clients and node together: a minute of two cores.
const stormCPU = 2 * time.Minute

// TestLongEverybodyReconnects: a node comes back, and 5,000 clients that were cut off
// come at once: TLS, LOGIN, SELECT. Each tries again, after a pause, when it is refused
// or cut off. All are served, for no more work than two cores do in a minute; no work is
// done twice, and none is told that its password is wrong. It prints how long they
// waited, and what the refusals were.
func TestLongEverybodyReconnects(t *testing.T) {
	onlyLong(t)
	for _, networks := range []int{stormUsers, 1} {
		t.Run(fmt.Sprintf("from %d addresses", networks), func(t *testing.T) {
			s := stormSite(t)
			st := &stormOf{t: t, at: s.nodes[0], networks: networks, seed: rand.Uint64(), refused: map[string]int{},
				took: make([]time.Duration, stormUsers), conns: make([]net.Conn, stormUsers)}
			t.Logf("seed %d", st.seed)
			st.run()
		})
	}
}

// stormSite makes a node with users that has just been started again.
func stormSite(t *testing.T) *site {
	t.Helper()
	s := newSiteWith(t, &site{t: t}, 1, 0, 24, fmt.Sprintf("imap_connections_per_ip_max = %d\n", 2*stormUsers))
	n1 := s.nodes[0]
	var makers sync.WaitGroup
	for part := range 16 {
		makers.Go(func() {
			for i := part; i < stormUsers; i += 16 {
				if _, err := n1.admin.AddUser(t.Context(), admin.AddUser{Address: addr(t, stormUser(i)), Password: "pw"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	n1.stopped()
	s.start(n1)
	s.eventually("every slot serves", func(st admin.Status) bool {
		return !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving })
	})
	return s
}

func stormUser(i int) string { return fmt.Sprintf("u%d@example.test", i) }

// stormOf is one storm.
type stormOf struct {
	t        *testing.T
	at       *running
	networks int
	seed     uint64
	began    time.Time
	served   atomic.Int64
	took     []time.Duration
	conns    []net.Conn

	mu      sync.Mutex
	refused map[string]int
}

// client comes until it is served.
func (s *stormOf) client(ctx context.Context, i int) {
	rng := rand.New(rand.NewPCG(s.seed, uint64(i)))
	for ctx.Err() == nil {
		c, err := reconnect(ctx, s.at.cfg.IMAP.TLS, i%s.networks, stormUser(i))
		if err == nil {
			s.took[i], s.conns[i] = time.Since(s.began), c
			s.served.Add(1)
			return
		}
		s.mu.Lock()
		s.refused[err.Error()]++
		s.mu.Unlock()
		pause := time.NewTimer(time.Second + time.Duration(rng.Int64N(int64(2*time.Second)))) // as clients do
		<-pause.C
	}
}

func (s *stormOf) run() {
	t := s.t
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	spent := cpuSpent()
	s.began = time.Now()
	var clients sync.WaitGroup
	for i := range stormUsers {
		clients.Go(func() { s.client(ctx, i) })
	}
	done := make(chan struct{})
	go func() { defer close(done); clients.Wait() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-tick.C:
			t.Logf("%.0f s: %d served", time.Since(s.began).Seconds(), s.served.Load())
		}
	}
	spent = cpuSpent() - spent
	slices.Sort(s.took)
	hashes, _ := s.at.node.passwords.Load()
	t.Logf("%d clients: p50 %.1f s, p99 %.1f s, all %.1f s; CPU of node and clients %.1f s; %d hashes", stormUsers,
		s.took[stormUsers/2].Seconds(), s.took[stormUsers*99/100].Seconds(), s.took[stormUsers-1].Seconds(), spent.Seconds(), hashes)
	for text, n := range s.refused {
		t.Logf("refused %d times: %s", n, text)
		if strings.Contains(text, "AUTHENTICATIONFAILED") {
			t.Errorf("a right password is said to be wrong")
		}
	}
	if n := s.served.Load(); n != stormUsers || spent > stormCPU || hashes > stormUsers+stormUsers/10 {
		t.Errorf("%d of %d are served, for %s of CPU and %d hashes", n, stormUsers, spent, hashes)
	}
	for _, c := range s.conns {
		if c != nil {
			c.Close()
		}
	}
}

// cpuSpent is what this process has taken of its cores.
func cpuSpent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reconnect logs a client in and opens its INBOX.
func reconnect(ctx context.Context, address string, network int, user string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(network>>8), byte(network))}}
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, errors.New("dial: " + reason(err))
	}
	nc.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	r := bufio.NewReaderSize(c, 1024)
	step := func(what, send, tag string) error {
		if send != "" {
			if _, err := c.Write([]byte(send)); err != nil {
				return errors.New(what + ": " + reason(err))
			}
		}
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return errors.New(what + ": " + reason(err))
			case strings.HasPrefix(line, tag+" OK"), tag == "*" && strings.HasPrefix(line, "* OK"):
				return nil
			case strings.HasPrefix(line, tag+" "), strings.HasPrefix(line, "* BYE"):
				return errors.New(what + ": " + strings.TrimSpace(line))
			}
		}
	}
	err = step("greeting", "", "*")
	if err == nil {
		err = step("login", "a LOGIN "+user+" pw\r\n", "a")
	}
	if err == nil {
		err = step("select", "b SELECT INBOX\r\n", "b")
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// reason is an error without its addresses.
func reason(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		err = e
	}
	return err.Error()
}
