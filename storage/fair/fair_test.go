package fair

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::9":      "2001:db8:1:2::/64",
		"2001:db8:1:3::9":      "2001:db8:1:3::/64",
		"fe80::1%eth0":         "fe80::/64",
		"::1":                  "::/64",
	} {
		if got := Network(netip.MustParseAddr(address)); got != want {
			t.Errorf("Network(%s) = %q, want %q", address, got, want)
		}
	}
	if got := Network(netip.Addr{}); got != "" {
		t.Errorf("no address is %q", got)
	}
}

// queued is Turns of which one is taken, and the order in which others get theirs.
type queued struct {
	t     *testing.T
	turns *Turns
	order []string
	stop  func()
}

func newQueued(t *testing.T, waitMax int) *queued {
	q := &queued{t: t, turns: NewTurns(1, waitMax)}
	end, err := q.turns.Take(t.Context(), Asker{"first", "first"})
	if err != nil {
		t.Fatal(err)
	}
	q.stop = func() { end(0) }
	return q
}

// ask waits in a goroutine for client's turn at account, which it ends at once.
func (q *queued) ask(ctx context.Context, client, account string) <-chan error {
	done := make(chan error, 1)
	go func() {
		end, err := q.turns.Take(ctx, Asker{client, account})
		if err == nil {
			q.order = append(q.order, client+" "+account)
			end(0)
		}
		done <- err
	}()
	synctest.Wait()
	return done
}

// TestTurnsAreFair: whoever comes last and has had nothing is next, whether others
// crowd as one client that tries many accounts, or as many that try one.
func TestTurnsAreFair(t *testing.T) {
	for _, crowd := range []func(i int) (client, account string){
		func(i int) (string, string) { return "evil", fmt.Sprint(i) },
		func(i int) (string, string) { return fmt.Sprint(i), "victim" },
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueued(t, 100)
			for i := range 50 {
				client, account := crowd(i)
				q.ask(t.Context(), client, account)
			}
			q.ask(t.Context(), "good", "ann")
			q.stop()
			synctest.Wait()
			if i := slices.Index(q.order, "good ann"); i > 1 || len(q.order) != 51 {
				t.Errorf("of %d turns the newcomer got number %d, want one of the first two", len(q.order), i)
			}
			if len(q.turns.clients)+len(q.turns.accounts) != 0 {
				t.Errorf("nobody waits, and %d clients, %d accounts are remembered", len(q.turns.clients), len(q.turns.accounts))
			}
		})
	}
}

// TestTurnsWithinACrowd: who comes from where the crowd comes from, for another
// account, or for the crowd's account from elsewhere, waits for two turns at most.
func TestTurnsWithinACrowd(t *testing.T) {
	for _, newcomer := range []string{"webmail ann", "home victim"} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueued(t, 100)
			for range 50 {
				q.ask(t.Context(), "webmail", "victim")
			}
			client, account, _ := strings.Cut(newcomer, " ")
			q.ask(t.Context(), client, account)
			q.stop()
			synctest.Wait()
			if i := slices.Index(q.order, newcomer); i > 1 || len(q.order) != 51 {
				t.Errorf("of %d turns %s got number %d, want one of the first two", len(q.order), newcomer, i)
			}
		})
	}
}

// TestTurnsShare: of four at once, one client has at most two, and one account too.
func TestTurnsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(4, 100)
		ctx, cancel := context.WithCancel(t.Context())
		running := make(chan string, 100)
		for i := range 10 {
			go func() {
				if end, err := turns.Take(ctx, Asker{"evil", fmt.Sprint(i)}); err == nil {
					running <- "evil"
					<-ctx.Done()
					end(0)
				}
			}()
		}
		synctest.Wait()
		if len(running) != 2 || turns.Waiting() != 8 {
			t.Errorf("%d of one client run, %d wait, want 2 and 8", len(running), turns.Waiting())
		}
		end, err := turns.Take(ctx, Asker{"good", "ann"})
		if err != nil {
			t.Fatal(err)
		}
		end(0)
		cancel()
		synctest.Wait()
	})
}

// TestTurnsLeave: whoever has gone is out at once, and has cost nobody a turn.
func TestTurnsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t, 100)
		for range 80 {
			ctx, cancel := context.WithCancel(t.Context())
			gone := q.ask(ctx, "evil", "victim")
			cancel()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("whoever had gone was told %v", err)
			}
		}
		if n := q.turns.Waiting(); n != 0 {
			t.Errorf("%d of those who have gone wait", n)
		}
		victim := q.ask(t.Context(), "home", "victim")
		other := q.ask(t.Context(), "good", "ann")
		q.stop()
		if err := errors.Join(<-victim, <-other); err != nil {
			t.Error(err)
		}
		if want := []string{"home victim", "good ann"}; !slices.Equal(q.order, want) {
			t.Errorf("turns went to %q, want %q", q.order, want)
		}
	})
}

// TestTurnsRest: whoever is to rest waits, as a client, and nobody else does.
func TestTurnsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, began := NewTurns(1, 100), time.Now()
		for _, tt := range []struct {
			client string
			at     time.Duration
		}{{"evil", 0}, {"evil", time.Second}, {"good", time.Second}, {"evil", 2 * time.Second}, {"", 2 * time.Second}, {"", 2 * time.Second}} {
			end, err := turns.Take(t.Context(), Asker{tt.client, "ann"})
			if err != nil {
				t.Fatal(err)
			}
			if at := time.Since(began); at != tt.at {
				t.Errorf("%q had its turn after %v, want %v", tt.client, at, tt.at)
			}
			end(time.Second)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(turns.clients)+len(turns.accounts) != 0 {
			t.Error("somebody is remembered who has rested")
		}
	})
}

// TestTurnsBound: when too many wait, the largest crowd loses one to a newcomer.
func TestTurnsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueued(t, 10)
		var crowd []<-chan error
		for i := range 10 {
			crowd = append(crowd, q.ask(t.Context(), fmt.Sprint(i%2), "victim"))
		}
		if err := <-q.ask(t.Context(), "evil", "victim"); !errors.Is(err, ErrBusy) {
			t.Errorf("one more of the crowd was told %v, want ErrBusy", err)
		}
		good := q.ask(t.Context(), "good", "ann")
		if err := <-crowd[9]; !errors.Is(err, ErrBusy) {
			t.Errorf("the newest of the crowd was told %v, want ErrBusy", err)
		}
		q.stop()
		if err := <-good; err != nil {
			t.Errorf("the newcomer was told %v", err)
		}
		synctest.Wait()
		if len(q.order) != 10 {
			t.Errorf("%d turns, want 10", len(q.order))
		}
	})
}

// TestTurnsWalk: random askers come, work and go; never too many run or wait, none
// is forgotten, and nothing is remembered in the end.
func TestTurnsWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("SEED %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		turns := NewTurns(4, 20)
		for range 3000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(50)+1)*time.Millisecond)
			a := Asker{fmt.Sprint(rnd.IntN(300)), fmt.Sprint(rnd.IntN(300))}
			if rnd.IntN(2) == 0 {
				a.Client = "evil"
			}
			work := time.Duration(rnd.IntN(5)) * time.Millisecond
			go func() {
				defer cancel()
				if end, err := turns.Take(ctx, a); err == nil {
					time.Sleep(work)
					end(work % (2 * time.Millisecond))
				}
			}()
			if rnd.IntN(2) == 0 {
				time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
			}
			synctest.Wait()
			turns.mu.Lock()
			if turns.free < 0 || len(turns.waiting) > 20 || len(turns.clients) > 90 || len(turns.accounts) > 90 {
				t.Errorf("free %d, waiting %d, clients %d, accounts %d", turns.free, len(turns.waiting), len(turns.clients), len(turns.accounts))
			}
			turns.mu.Unlock()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if turns.free != 4 || len(turns.waiting)+len(turns.clients)+len(turns.accounts) != 0 {
			t.Errorf("in the end: free %d, waiting %d, clients %d, accounts %d", turns.free, len(turns.waiting), len(turns.clients), len(turns.accounts))
		}
	})
}

// door is a connection that remembers that it was closed.
type door struct{ closed bool }

func (d *door) Close() error { d.closed = true; return nil }

// TestPending: one client too many loses its own oldest, all together the oldest.
func TestPending(t *testing.T) {
	p := NewPending(4, 2)
	var doors []*door
	for i, client := range []string{"good", "evil", "evil", "evil", "a", "b"} {
		doors = append(doors, &door{})
		if dropped, want := p.Add(doors[i], client), i == 3 || i == 5; dropped != want {
			t.Errorf("connection %d of %q: dropped one: %t, want %t", i, client, dropped, want)
		}
	}
	for i, want := range []bool{true, true, false, false, false, false} {
		if doors[i].closed != want || p.Done(doors[i]) == want {
			t.Errorf("connection %d: closed %t, want %t", i, doors[i].closed, want)
		}
	}
	if len(p.conns) != 0 {
		t.Errorf("%d are left", len(p.conns))
	}
	early, late := &door{}, &door{}
	p.Add(early, "a")
	p.Close()
	p.Add(late, "a")
	if !early.closed || !late.closed {
		t.Errorf("after Close: %t, %t are closed", early.closed, late.closed)
	}
}

// TestTurnsRemember: to forget idle accounts never loses the client that asks: it
// would be another one at its next turn.
func TestTurnsRemember(t *testing.T) {
	q := newQueued(t, 2)
	defer q.stop()
	for i := range 4 * q.turns.partiesMax() {
		w, err := q.turns.join(Asker{"client", fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		if q.turns.clients["client"] != w.client {
			t.Fatalf("after %d accounts the client is not remembered", i)
		}
		if n := len(q.turns.accounts); n > q.turns.partiesMax() {
			t.Fatalf("%d accounts are remembered", n)
		}
		q.turns.leave(w)
	}
}
