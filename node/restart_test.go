package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// The restart lane (make bench-restart): 40 slots of 100,000 messages are made by
// a process of their own, opened as a node opens them, once after a clean stop
// and once after a kill -9 under load, each time by a fresh process and without
// the files in the page cache. MAILNODE_RESTART is a folder for them (they are
// kept, to be used again), or 1.
const (
	laneSlots    = 40
	laneMessages = 100_000
	laneUsers    = 50
	laneBody     = 4 << 10
	lanePackMax  = laneMessages / laneUsers * laneBody / 27 // as many packs as 100,000 messages of 70 KB make
	laneCache    = 256 << 20                                // the default of cache_bytes
)

func laneOptions(dir string, id slot.ID, r *local.Resources) local.Options {
	return local.Options{FS: vfs.Default, Dir: filepath.Join(dir, "slots", id.String()), Cluster: "lane", Slot: id, Logger: slog.New(slog.DiscardHandler),
		Clock: storage.SystemClock(), Resources: r, Passwords: local.NewPasswords(2), Limits: local.Limits{PackBytesMax: lanePackMax}}
}

// openAll opens and serves the lane's slots, as many at once as a node does.
func openAll(dir string) ([]*local.Slot, []*local.Master, error) {
	r := local.NewResources(laneCache)
	r.Expect(laneSlots)
	opening := make(chan struct{}, openingMax(runtime.GOMAXPROCS(0)))
	slots, masters, errs := make([]*local.Slot, laneSlots), make([]*local.Master, laneSlots), make([]error, laneSlots)
	var wg sync.WaitGroup
	for i := range laneSlots {
		wg.Go(func() {
			opening <- struct{}{}
			defer func() { <-opening }()
			if slots[i], errs[i] = local.Open(laneOptions(dir, slot.ID(i), r)); errs[i] == nil {
				masters[i], errs[i] = slots[i].Serve(context.Background(), 1, 0, local.NoGate{})
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	return slots, masters, nil
}

// laneMail makes a message with a body that no other has.
func laneMail(n uint64, size int) *storage.Spool {
	sp := (&storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"}).New()
	fmt.Fprintf(sp, "From: Ann Example <ann@example.test>\r\nTo: list@example.test\r\nSubject: Number %d of many\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d@example.test>\r\n\r\n", n, n)
	io.CopyN(sp, strings.NewReader(strings.Repeat(fmt.Sprintf("%016x line of text\r\n", n), size/30+1)), int64(size))
	return sp
}

// fill gives one slot its messages: each event is one message for all users.
func fill(m *local.Master, messages int) error {
	ctx := context.Background()
	var to []storage.Recipient
	for i := range laneUsers {
		a, err := m.CreateAccount(ctx, slot.Address(fmt.Sprintf("u%d@example.test", i)), "pw", 0)
		if err != nil {
			return err
		}
		to = append(to, storage.Recipient{Account: a.ID, Address: a.Address})
	}
	work := make(chan uint64)
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for range cap(errs) {
		wg.Go(func() {
			for n := range work {
				for _, err := range m.Deliver(ctx, storage.Delivery{Body: laneMail(n, laneBody), InternalDate: time.Unix(1_700_000_000, 0), Recipients: to}) {
					if err != nil && len(errs) < cap(errs) {
						errs <- err
					}
				}
			}
		})
	}
	for n := range messages / laneUsers {
		work <- uint64(n)
	}
	close(work)
	wg.Wait()
	close(errs)
	return <-errs
}

// load delivers to all slots for ever.
func load(masters []*local.Master) error {
	ctx := context.Background()
	errs := make(chan error)
	for _, m := range masters {
		list, err := m.Accounts(ctx)
		if err != nil {
			return err
		}
		for worker := range 2 {
			go func() {
				for n := uint64(worker) << 40; ; n++ {
					to := []storage.Recipient{{Account: list[n%laneUsers].ID, Address: list[n%laneUsers].Address}}
					for _, err := range m.Deliver(ctx, storage.Delivery{Body: laneMail(n, 4*laneBody), Recipients: to}) {
						if err != nil {
							errs <- err
						}
					}
				}
			}()
		}
	}
	return <-errs
}

// TestRestartChild is the other processes of TestRestart.
func TestRestartChild(t *testing.T) {
	verb, dir, _ := strings.Cut(os.Getenv("MAILNODE_RESTART_CHILD"), " ")
	if verb == "" {
		t.Skip("a part of TestRestart")
	}
	start := time.Now()
	slots, masters, err := openAll(dir)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("open %d\n", time.Since(start).Milliseconds())
	switch verb {
	case "build":
		for i, m := range masters {
			if err := fill(m, laneMessages); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("built %d\n", i+1)
		}
	case "load":
		fmt.Println("loading")
		t.Fatal(load(masters))
	case "idle":
		fmt.Printf("rss %d\n", rssBytes(t))
		<-time.After(10 * time.Second)
		fmt.Printf("rss %d\n", rssBytes(t))
	}
	start = time.Now()
	var wg sync.WaitGroup
	for i, s := range slots {
		wg.Go(func() {
			masters[i].Stop()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fmt.Printf("close %d\n", time.Since(start).Milliseconds())
}

func rssBytes(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// child runs one of the other processes; lines sees what it prints, and ends the
// process with kill -9 by returning false.
func child(t *testing.T, verb, dir string, lines func(word string, n int64) bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^TestRestartChild$", "-test.timeout=60m"}
	if profile := os.Getenv("MAILNODE_RESTART_PROFILE"); profile != "" && verb == "idle" {
		args = append(args, "-test.cpuprofile="+profile)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), "MAILNODE_RESTART_CHILD="+verb+" "+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for sc := bufio.NewScanner(out); sc.Scan(); {
		var word string
		var n int64
		fmt.Sscanf(sc.Text(), "%s %d", &word, &n)
		if strings.Contains(sc.Text(), "FAIL") || strings.Contains(sc.Text(), ".go:") {
			t.Log(sc.Text())
		}
		if !killed && !lines(word, n) {
			killed = true
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Wait(); err != nil && !killed {
		t.Fatalf("%s: %v", verb, err)
	}
}

// forget drops the lane's files out of the page cache, as after a reboot.
func forget(t *testing.T, dir string) (files int, bytes int64) {
	t.Helper()
	unix.Sync() // what is dirty stays in the cache
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		files, bytes = files+1, bytes+st.Size()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}); err != nil {
		t.Fatal(err)
	}
	return files, bytes
}

// TestRestart measures the restart of a node, and the memory of its open slots.
func TestRestart(t *testing.T) {
	dir := os.Getenv("MAILNODE_RESTART")
	if dir == "" {
		t.Skip("set MAILNODE_RESTART: make bench-restart")
	}
	if dir == "1" {
		dir = t.TempDir()
	}
	built := filepath.Join(dir, "built")
	if _, err := os.Stat(built); err != nil {
		start := time.Now()
		child(t, "build", dir, func(word string, n int64) bool { return true })
		if err := os.WriteFile(built, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("built in %s", time.Since(start).Round(time.Second))
	}
	for _, c := range []struct {
		name    string
		kill    bool
		within  time.Duration
		rssMost int64
	}{{"clean stop", false, 5 * time.Second, 400 << 20}, {"kill -9 under load", true, 15 * time.Second, 0}} {
		if c.kill {
			child(t, "load", dir, func(word string, _ int64) bool {
				if word == "loading" {
					<-time.After(20 * time.Second)
				}
				return word != "loading"
			})
		} else { // what an earlier run left was not closed
			child(t, "open", dir, func(string, int64) bool { return true })
		}
		files, bytes := forget(t, dir)
		var rss []int64
		child(t, "idle", dir, func(word string, n int64) bool {
			switch word {
			case "open":
				took := time.Duration(n) * time.Millisecond
				t.Logf("%s: %d slots of %d messages (%d files, %d MiB) open and served after %s", c.name, laneSlots, laneMessages, files, bytes>>20, took)
				if took > c.within {
					t.Errorf("%s: %s, want under %s", c.name, took, c.within)
				}
			case "rss":
				rss = append(rss, n)
			case "close":
				t.Logf("%s: closed after %d ms", c.name, n)
			}
			return true
		})
		t.Logf("%s: %d MiB resident, %d MiB 10 s later", c.name, rss[0]>>20, rss[1]>>20)
		if c.rssMost > 0 && rss[1] > c.rssMost {
			t.Errorf("%d MiB resident, want under %d", rss[1]>>20, c.rssMost>>20)
		}
	}
}
