package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mailnode/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func registry(t *testing.T, runningMax map[string]int) *Registry {
	t.Helper()
	r := New(Options{Clock: storage.SystemClock(), Logger: slog.New(slog.DiscardHandler), RunningMax: runningMax})
	t.Cleanup(r.Close)
	return r
}

// TestLaw12BoundedPerKind: so many of a kind run at once, the others wait in
// order; one kind does not hold up another.
func TestLaw12BoundedPerKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, map[string]int{Reindex: 2})
		release, releaseOther := make(chan struct{}), make(chan struct{})
		wait := func(ctx context.Context, _ *Progress) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var all []*Job
		for range 4 {
			all = append(all, r.Start(Spec{Kind: Reindex}, wait))
		}
		other := r.Start(Spec{Kind: Audit}, func(context.Context, *Progress) error { <-releaseOther; return nil })
		states := func() (out string) {
			for _, j := range append(all, other) {
				out += string(j.Status().State[0])
			}
			return out
		}
		if got := states(); got != "rrqqr" {
			t.Fatalf("states %s, want rrqqr", got)
		}
		all[2].Stop() // while it waits
		release <- struct{}{}
		synctest.Wait()
		if got := states(); got != "drsrr" && got != "rdsrr" {
			t.Fatalf("states %s: want one done, the third stopped, nobody waiting", got)
		}
		close(release)
		close(releaseOther)
		synctest.Wait()
		if got := states(); got != "ddsdd" {
			t.Errorf("states %s, want ddsdd", got)
		}
	})
}

// TestLaw12RateAndETA: Spend holds the rate on the monotonic clock, and the ETA
// follows from it; what an earlier run did does not make it look faster.
func TestLaw12RateAndETA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, nil)
		start := time.Now()
		j := r.Start(Spec{Kind: Scrub, Slot: "s007", What: "packs", RateBytesPerSec: 1 << 20}, func(ctx context.Context, p *Progress) error {
			p.Total(100<<20, 0)
			p.Resumed(40<<20, 0)
			for range 60 {
				if err := p.Spend(ctx, 1<<20); err != nil {
					return err
				}
			}
			return nil
		})
		time.Sleep(20500 * time.Millisecond)
		s := j.Status()
		if s.BytesDone < 60<<20 || s.BytesDone > 62<<20 || s.EtaS < 36 || s.EtaS > 41 || s.Done < 0.6 || s.Done > 0.62 || s.About != "s007 packs" {
			t.Errorf("after 20 s: %+v", s)
		}
		<-j.Over()
		if took := time.Since(start); took < 58*time.Second || took > 61*time.Second {
			t.Errorf("60 MiB at 1 MiB/s took %s", took)
		}
		if s := j.Status(); s.State != Done || s.Done != 1 || s.EtaS != 0 || s.RunS < 58 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

// TestProgressStaysInsideTotal: an estimate that was too low is corrected by what
// was done, so that nothing is ever said to be done beyond the whole.
func TestProgressStaysInsideTotal(t *testing.T) {
	r := registry(t, nil)
	release, counted := make(chan struct{}), make(chan struct{})
	j := r.Start(Spec{Kind: Scrub, Slot: "s007"}, func(ctx context.Context, p *Progress) error {
		p.Total(100, 10)
		p.Items(11)
		err := p.Spend(ctx, 150)
		close(counted)
		<-release
		return err
	})
	<-counted
	s := j.Status()
	close(release)
	<-j.Over()
	if s.BytesDone != 150 || s.BytesTotal != 150 || s.ItemsDone != 11 || s.ItemsTotal != 11 || s.Done != 1 || s.EtaS != 0 {
		t.Errorf("150 of 100 bytes, 11 of 10 items: %+v", s)
	}
}

// TestLaw12StopEndsAWait: a job that waits for its rate ends when it is stopped.
func TestLaw12StopEndsAWait(t *testing.T) {
	r := registry(t, nil)
	j := r.Start(Spec{Kind: Scrub, RateBytesPerSec: 1}, func(ctx context.Context, p *Progress) error {
		for {
			if err := p.Spend(ctx, 1<<40); err != nil {
				return err
			}
		}
	})
	j.Stop()
	<-j.Over()
	if s := j.Status(); s.State != Stopped || !strings.Contains(s.Error, "canceled") {
		t.Errorf("%+v", s)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	r := registry(t, nil)
	const all = 25_000
	j := r.Start(Spec{Kind: Audit}, func(_ context.Context, p *Progress) error {
		for i := range all {
			p.Finding("line %d", i+1)
		}
		p.Finding("%s", strings.Repeat("x", 10_000))
		return errors.New("audit slot s007: broken")
	})
	<-j.Over()
	s := j.Status()
	if s.State != Failed || s.Error == "" || s.Findings != all+1 || s.Findings-s.Dropped > findingsMax || s.Dropped == 0 {
		t.Fatalf("%+v", s)
	}
	next, seen := 0, 0
	for {
		d := j.Detail(next)
		for i, line := range d.Lines {
			if n := d.After + i + 1; n <= all && line != fmt.Sprintf("line %d", n) || len(line) > findingBytes+3 {
				t.Fatalf("finding %d is %q", n, line)
			}
		}
		seen += len(d.Lines)
		next = d.After + len(d.Lines)
		if !d.More {
			break
		}
	}
	if next != all+1 || seen != s.Findings-s.Dropped {
		t.Errorf("read up to %d, %d lines: %+v", next, seen, s)
	}
	if d := j.Detail(1 << 40); len(d.Lines) != 0 {
		t.Errorf("after the end: %+v", d)
	}
}

// TestResultsAreKept: the last 100, and none that still runs is forgotten.
func TestResultsAreKept(t *testing.T) {
	r := registry(t, map[string]int{"short": 3})
	running := r.Start(Spec{Kind: "long"}, func(ctx context.Context, _ *Progress) error { <-ctx.Done(); return ctx.Err() })
	for range keptMax + 20 {
		<-r.Start(Spec{Kind: "short"}, func(context.Context, *Progress) error { return nil }).Over()
	}
	if _, ok := r.Find("j2"); ok {
		t.Error("j2 is still kept")
	}
	if got := r.List(true); len(got) != keptMax+1 || got[0].ID != running.ID() || got[1].ID != "j121" {
		t.Errorf("%d jobs, first %+v", len(got), got[:2])
	}
	if got := r.List(false); len(got) != 1 {
		t.Errorf("%d jobs are not over, want 1", len(got))
	}
}

// TestLaw09PanicEndsOneJob: and what runs after the end of the node is refused.
func TestLaw09PanicEndsOneJob(t *testing.T) {
	r := registry(t, nil)
	j := r.Start(Spec{Kind: Audit}, func(context.Context, *Progress) error { panic("oops") })
	<-j.Over()
	if s := j.Status(); s.State != Failed || !strings.Contains(s.Error, "oops") {
		t.Errorf("%+v", s)
	}
	block := func(ctx context.Context, _ *Progress) error { <-ctx.Done(); return ctx.Err() }
	first := r.Start(Spec{Kind: Audit, Slot: "s001", Alone: true}, block)
	if second := r.Start(Spec{Kind: Audit, Slot: "s001", Alone: true}, block); second != first {
		t.Error("the same job was started twice")
	}
	r.Close()
	if s := first.Status(); s.State != Stopped {
		t.Errorf("after Close: %+v", s)
	}
	if s := r.Start(Spec{Kind: Audit}, block).Status(); s.State != Stopped || s.Error == "" {
		t.Errorf("started after Close: %+v", s)
	}
}
