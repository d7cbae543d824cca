package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/node/admin"
)

// TestLaw04Law11NothingButAConfirmChangesAMaster: all nodes stop and start at once, a
// node of them late, and wall clocks jump by a year, forth and back, while they run.
// The masters and their epochs stay, and so does the mail.
func TestLaw04Law11NothingButAConfirmChangesAMaster(t *testing.T) {
	t.Parallel()
	const slots, year = 3, 365 * 24 * time.Hour
	s := newSite(t, 3, 1, slots)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, slots)
	owners := func() (list []string) {
		for _, sl := range s.nodes[0].node.State().Slots {
			list = append(list, fmt.Sprintf("%s %s %d", sl.ID, sl.Master, sl.Epoch))
		}
		return list
	}
	was := fmt.Sprint(owners())
	sent := map[string]uint32{}
	mail := func(when string) {
		t.Helper()
		for i, u := range users {
			if err := s.deliver(s.nodes[i%3], u, "Subject: "+when+"\r\n\r\nx\r\n"); err != nil {
				t.Errorf("%s: %v", when, err)
				continue
			}
			sent[u]++
		}
	}
	served := func(when string) {
		t.Helper()
		s.eventually("every slot is served and protected "+when, func(st admin.Status) bool {
			ok := len(st.Slots) == slots
			for _, sl := range st.Slots {
				ok = ok && sl.Serving && sl.IsProtected()
			}
			return ok
		})
		if now := fmt.Sprint(owners()); now != was {
			t.Fatalf("%s: %s, it was %s", when, now, was)
		}
		mail(when)
	}
	mail("before")
	ahead := map[string]*atomic.Int64{}
	for _, r := range s.nodes {
		ahead[r.name] = &atomic.Int64{}
	}
	start := func(r *running) {
		s.startWith(r, func(n *Node) {
			n.clock.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead[r.name].Load())) }
		})
	}
	for round, jumps := range []map[string]time.Duration{{"n1": year, "n2": -year}, {"n1": -year, "n3": year}} {
		s.stopAll()
		for name, by := range jumps { // while nobody runs
			ahead[name].Store(int64(by))
		}
		for _, r := range s.nodes {
			start(r)
		}
		served(fmt.Sprintf("after restart %d of all", round+1))
		for name, by := range jumps { // and while all run
			ahead[name].Store(int64(-by))
		}
		served(fmt.Sprintf("after jump %d", round+1))
	}
	for i, u := range users {
		if n, err := s.count(s.nodes[(i+1)%3], u, "pw"); err != nil || n != sent[u] {
			t.Errorf("%s: %d messages, %d acknowledged, %v", u, n, sent[u], err)
		}
	}
}
