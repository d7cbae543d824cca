package node

import (
	"context"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailnode/node/admin"
)

const (
	soakWorkers = 16 // LMTP sessions side by side
	soakUsers   = 24
	soakSlowest = 500 * time.Millisecond
)

// Nothing fails, and deliveries come as fast as they are taken: none of them waits
// for anything but disks and the network, and no slot is ever unprotected. It is a
// lane of its own: `make soak` sets MAILNODE_SOAK to how long it goes on.
func TestLaw01Soak(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("MAILNODE_SOAK"))
	if err != nil {
		t.Skip("SKIPPED: MAILNODE_SOAK is not set; run `make soak`")
	}
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range soakUsers {
		if _, err := s.nodes[i%3].admin.AddUser(ctx, admin.AddUser{Address: addr(t, soakUser(i)), Password: "pw"}); err != nil {
			t.Fatal(err)
		}
	}
	k := &soak{s: s, until: time.Now().Add(duration)}
	var workers, watcher sync.WaitGroup
	for i := range soakWorkers {
		workers.Go(func() { k.deliver(i) })
	}
	watcher.Go(func() { k.watch(ctx) })
	workers.Wait()
	cancel()
	watcher.Wait()
	k.report(duration)
}

func soakUser(i int) string { return fmt.Sprintf("soak%d@example.test", i%soakUsers) }

type soak struct {
	s     *site
	until time.Time

	mu          sync.Mutex
	took        []time.Duration
	unprotected map[string]time.Time // slot -> when that was seen first
	looks       int
}

// deliver delivers over one session after the other, each to another node.
func (k *soak) deliver(worker int) {
	for n := worker; time.Now().Before(k.until); n++ {
		r := k.s.nodes[n%len(k.s.nodes)]
		if err := k.session(r, n*1000); err != nil {
			k.s.t.Errorf("deliver at %s: %v", r.name, err)
			return
		}
	}
}

// session delivers 200 messages of 1 to 30 KiB.
func (k *soak) session(r *running, first int) error {
	conn, err := net.Dial("tcp", r.cfg.LMTP.TCP)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := textproto.NewConn(conn)
	say := func(code int, format string, args ...any) error {
		if err := c.PrintfLine(format, args...); err != nil {
			return err
		}
		_, _, err := c.ReadResponse(code)
		return err
	}
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	if err := say(250, "LHLO soak.example.test"); err != nil {
		return err
	}
	for n := first; n < first+200 && time.Now().Before(k.until); n++ {
		for _, step := range []struct {
			code int
			line string
		}{{250, "MAIL FROM:<s@sender.test>"}, {250, "RCPT TO:<" + soakUser(n) + ">"}, {354, "DATA"}} {
			if err := say(step.code, "%s", step.line); err != nil {
				return err
			}
		}
		text := fmt.Sprintf("Subject: %d\r\n\r\n%s", n, strings.Repeat(strings.Repeat("x", 62)+"\r\n", 16+n%464))
		began := time.Now()
		if err := say(250, "%s.", text); err != nil {
			return err
		}
		took := time.Since(began)
		k.mu.Lock()
		k.took = append(k.took, took)
		k.mu.Unlock()
	}
	return say(221, "QUIT")
}

// watch looks at every slot ten times a second.
func (k *soak) watch(ctx context.Context) {
	k.unprotected = map[string]time.Time{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		st, err := k.s.nodes[0].admin.Status(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.s.t.Errorf("status: %v", err)
			return
		}
		k.looks++
		for _, sl := range st.Slots {
			if _, seen := k.unprotected[sl.Slot.String()]; !sl.IsProtected() && !seen {
				k.unprotected[sl.Slot.String()] = time.Now()
			}
		}
	}
}

func (k *soak) report(duration time.Duration) {
	t := k.s.t
	if len(k.took) == 0 {
		t.Fatal("nothing was delivered")
	}
	slices.Sort(k.took)
	at := func(share float64) time.Duration { return k.took[int(share*float64(len(k.took)-1))] }
	ends, last := 0, "" // of all, those before the load began too
	for _, r := range k.s.nodes {
		for _, c := range r.node.copies.all() {
			if _, _, f := c.role.parts(); f != nil {
				if st := f.State(); st.Ends > 0 {
					ends, last = ends+st.Ends, st.LastEnd
				}
			}
		}
	}
	t.Logf("%d messages in %s, %.0f/s: median %s, 99%% %s, 99.9%% %s, slowest %s; streams ended %d times %s; %d looks",
		len(k.took), duration, float64(len(k.took))/duration.Seconds(), at(0.5), at(0.99), at(0.999), at(1), ends, last, k.looks)
	if at(1) > soakSlowest {
		slow := len(k.took) - slices.IndexFunc(k.took, func(d time.Duration) bool { return d > soakSlowest })
		t.Errorf("%d deliveries took longer than %s, the slowest %s", slow, soakSlowest, at(1))
	}
	if ends > 0 {
		t.Errorf("%d streams ended: %s", ends, last)
	}
	for name, when := range k.unprotected {
		t.Errorf("%s was unprotected, %s before the end", name, k.until.Sub(when).Round(time.Millisecond))
	}
}
