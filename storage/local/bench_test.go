package local

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// What `make bench-storage` measures: ratios of one run. It is a test that only
// runs when BENCH_STORAGE names a folder on a real disk (absolute). BENCH_ONLY picks parts
// (deliver, grow), BENCH_ROUNDS and BENCH_MESSAGES change how much is measured,
// BENCH_GROW_MAX is the size of the largest mailbox, BENCH_PROFILE names a file
// for a CPU profile.
func TestBenchStorage(t *testing.T) {
	top := os.Getenv("BENCH_STORAGE")
	if top == "" {
		t.Skip("BENCH_STORAGE names no folder")
	}
	dir, err := os.MkdirTemp(top, "bench-storage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if path := os.Getenv("BENCH_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	only := os.Getenv("BENCH_ONLY")
	if only == "" || only == "deliver" {
		t.Run("deliver", func(t *testing.T) { benchDeliver(t, dir) })
	}
	if only == "" || only == "grow" {
		t.Run("grow", func(t *testing.T) { benchGrow(t, dir) })
	}
}

func benchNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number above 0", name, v)
	}
	return n
}

// lane is one line of the table.
type lane struct {
	name        string
	slots, wide int // 0: a limit, not a delivery
	runs        []lap
}

// lap is one measurement.
type lap struct {
	took      time.Duration
	messages  int
	bytes     int64
	latencies []time.Duration
	cpu       time.Duration // of the whole process, user and system
}

// lapTimer measures a lap from its making to stop.
type lapTimer struct {
	start time.Time
	cpu   time.Duration
}

func cpuUsed() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func startLap() lapTimer { return lapTimer{time.Now(), cpuUsed()} }

func (t lapTimer) stop(l *lap) { l.took, l.cpu = time.Since(t.start), cpuUsed()-t.cpu }

func (l lap) mbPerSec() float64 { return float64(l.bytes) / 1e6 / l.took.Seconds() }

func (l lap) cpuMicros() float64 { return float64(l.cpu.Microseconds()) / float64(l.messages) }

func (l lap) perSec() float64 { return float64(l.messages) / l.took.Seconds() }

func (l lap) quantile(q float64) time.Duration {
	slices.Sort(l.latencies)
	return l.latencies[int(q*float64(len(l.latencies)-1))]
}

func median(runs []lap, of func(lap) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// benchDeliver measures the limits and the deliveries in turn, round after
// round, so that other work of the machine slows all of them alike.
func benchDeliver(t *testing.T, dir string) {
	rounds, n := benchNumber(t, "BENCH_ROUNDS", 3), benchNumber(t, "BENCH_MESSAGES", 6000)
	mails, bytes := benchMail(1, n)
	t.Logf("%d messages, %.0f MB, mean %.1f KB, median of %d rounds", n, float64(bytes)/1e6, float64(bytes)/1e3/float64(n), rounds)
	disk, chunks, hash := &lane{name: "disk: append + fdatasync, message by message"}, &lane{name: "disk: append + fdatasync, 64 messages at a time"}, &lane{name: "SHA-256, one core"}
	var delivers []*lane
	for _, slots := range []int{1, 16} {
		for _, wide := range []int{1, 16, 64} {
			delivers = append(delivers, &lane{name: fmt.Sprintf("deliver, %d slots, %d at once", slots, wide), slots: slots, wide: wide})
		}
	}
	lanes := os.Getenv("BENCH_LANES") // "1x64": only that many slots and clients
	for round := range rounds {
		disk.runs = append(disk.runs, appendAll(t, dir, mails, 1))
		chunks.runs = append(chunks.runs, appendAll(t, dir, mails, 64))
		hash.runs = append(hash.runs, hashAll(mails))
		for _, l := range delivers {
			if lanes != "" && lanes != fmt.Sprintf("%dx%d", l.slots, l.wide) {
				continue
			}
			l.runs = append(l.runs, deliverAll(t, filepath.Join(dir, fmt.Sprintf("r%d-%d-%d", round, l.slots, l.wide)), mails, l.slots, l.wide))
		}
	}
	printLanes(t, disk, chunks, hash, delivers)
}

// printLanes compares each lane with the limits of its own round.
func printLanes(t *testing.T, disk, chunks, hash *lane, delivers []*lane) {
	var out strings.Builder
	fmt.Fprintf(&out, "\n| what | MB/s | messages/s | p50 ms | p99 ms | CPU µs a message | of the limit | of 64 messages a sync |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, l := range []*lane{disk, chunks, hash} {
		fmt.Fprintf(&out, "| %s | %.0f | %.0f | | | %.0f | | |\n", l.name, median(l.runs, lap.mbPerSec), median(l.runs, lap.perSec), median(l.runs, lap.cpuMicros))
	}
	for _, l := range delivers {
		if len(l.runs) == 0 {
			continue
		}
		var ofLimit, ofChunks []float64
		for i, r := range l.runs {
			ofLimit = append(ofLimit, r.mbPerSec()/min(disk.runs[i].mbPerSec(), hash.runs[i].mbPerSec()))
			ofChunks = append(ofChunks, r.mbPerSec()/min(chunks.runs[i].mbPerSec(), hash.runs[i].mbPerSec()))
		}
		slices.Sort(ofLimit)
		slices.Sort(ofChunks)
		ms := func(q float64) float64 {
			return median(l.runs, func(r lap) float64 { return float64(r.quantile(q).Microseconds()) / 1e3 })
		}
		fmt.Fprintf(&out, "| %s | %.0f | %.0f | %.2f | %.2f | %.0f | %.0f%% | %.0f%% |\n", l.name, median(l.runs, lap.mbPerSec), median(l.runs, lap.perSec),
			ms(0.5), ms(0.99), median(l.runs, lap.cpuMicros), 100*ofLimit[len(ofLimit)/2], 100*ofChunks[len(ofChunks)/2])
	}
	t.Log(out.String())
}

// appendAll writes all messages to one file, with a sync after each so many.
func appendAll(t *testing.T, dir string, mails [][]byte, each int) lap {
	t.Helper()
	path := filepath.Join(dir, "stream")
	f, err := vfs.Default.Create(path, "bench")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	defer f.Close()
	l := lap{messages: len(mails)}
	timer := startLap()
	for i, m := range mails {
		if _, err := f.Write(m); err != nil {
			t.Fatal(err)
		}
		l.bytes += int64(len(m))
		if i%each == each-1 || i == len(mails)-1 {
			if err := f.SyncData(); err != nil {
				t.Fatal(err)
			}
		}
	}
	timer.stop(&l)
	return l
}

func hashAll(mails [][]byte) lap {
	l := lap{messages: len(mails)}
	timer := startLap()
	for _, m := range mails {
		sha256.Sum256(m)
		l.bytes += int64(len(m))
	}
	timer.stop(&l)
	return l
}

// benchSlots opens so many slots on the real disk, each with accounts.
func benchSlots(t *testing.T, dir string, slots, accounts int) (masters []*Master, to [][]storage.Account, stop func()) {
	t.Helper()
	res, pw := NewResources(64<<20), NewPasswords(2)
	var open []*Slot
	for i := range slots {
		s, err := Open(Options{FS: vfs.Default, Dir: filepath.Join(dir, fmt.Sprintf("s%03d", i)), Cluster: "bench", Slot: slot.ID(i),
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: storage.SystemClock(), Resources: res, Passwords: pw})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
		m := serve(t, s, 1, 0)
		var who []storage.Account
		for a := range accounts {
			who = append(who, account(t, m, slot.Address(fmt.Sprintf("u%d@s%d.example.test", a, i))))
		}
		masters, to = append(masters, m), append(to, who)
	}
	return masters, to, func() {
		for _, s := range open {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		res.Close()
		os.RemoveAll(dir)
	}
}

// deliverAll delivers all messages through the storage API, wide at a time,
// spread over slots: from the first byte into the spool to the answer.
func deliverAll(t *testing.T, dir string, mails [][]byte, slots, wide int) lap {
	t.Helper()
	masters, to, stop := benchSlots(t, dir, slots, 50/slots+1)
	defer stop()
	spoolDir := filepath.Join(dir, "spool")
	if err := os.MkdirAll(spoolDir, 0o700); err != nil {
		t.Fatal(err)
	}
	spools := &storage.SpoolDir{FS: vfs.Default, Dir: spoolDir}
	if wide == 1 {
		mails = mails[:len(mails)/4]
	}
	l := lap{messages: len(mails), latencies: make([]time.Duration, len(mails))}
	for _, m := range mails {
		l.bytes += int64(len(m))
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	timer := startLap()
	for range wide {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(mails); i = int(next.Add(1)) - 1 {
				began := time.Now()
				who := to[i%slots]
				if err := deliverSpooled(masters[i%slots], spools, mails[i], who[i/slots%len(who)]); err != nil {
					t.Error(err)
					return
				}
				l.latencies[i] = time.Since(began)
			}
		})
	}
	workers.Wait()
	timer.stop(&l)
	return l
}

func deliverSpooled(m *Master, spools *storage.SpoolDir, text []byte, to storage.Account) error {
	sp := spools.New()
	defer sp.Close()
	for rest := text; len(rest) > 0; { // as it comes from a network
		n := min(len(rest), 32<<10)
		if _, err := sp.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return m.Deliver(context.Background(), storage.Delivery{Body: sp, InternalDate: time.Unix(1_700_000_000, 0),
		Recipients: []storage.Recipient{{Account: to.ID, Address: to.Address}}})[0]
}

// benchGrow delivers into mailboxes of different sizes in turn: the cost of a
// delivery must not grow with the mailbox.
func benchGrow(t *testing.T, dir string) {
	masters, who, stop := benchSlots(t, filepath.Join(dir, "grow"), 1, 3)
	defer stop()
	most := benchNumber(t, "BENCH_GROW_MAX", 1_000_000)
	m, sizes := masters[0], []int{most / 1000, most / 10, most}
	rng := rand.New(rand.NewPCG(1, 1))
	for i, size := range sizes {
		start := time.Now()
		fillMailbox(t, m, who[0][i], size)
		t.Logf("mailbox of %d messages made in %v", size, time.Since(start).Round(time.Millisecond))
	}
	lanes := make([]lane, len(sizes))
	pool := base64Lines(rng, 1<<20)
	for round := range 5 {
		for i := range sizes {
			lanes[i].runs = append(lanes[i].runs, deliverSmall(t, m, who[0][i], pool, round, 2000))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n| messages in the mailbox | deliveries/s at 16 | p50 ms | p99 ms |\n| --- | --- | --- | --- |\n")
	for i, size := range sizes {
		r := lanes[i].runs
		fmt.Fprintf(&out, "| %d | %.0f | %.2f | %.2f |\n", size, median(r, lap.perSec),
			median(r, func(l lap) float64 { return float64(l.quantile(0.5).Microseconds()) / 1e3 }),
			median(r, func(l lap) float64 { return float64(l.quantile(0.99).Microseconds()) / 1e3 }))
	}
	t.Log(out.String())
}

// fillMailbox makes one message and copies it, as often and as many as COPY allows.
func fillMailbox(t *testing.T, m *Master, a storage.Account, size int) {
	t.Helper()
	ctx := context.Background()
	deliver(t, m, mail(1), a)
	box, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	uids := []storage.UID{1}
	for have := 1; have < size; {
		n := min(len(uids), size-have)
		got, err := m.Copy(ctx, storage.Ref{Account: a.ID, Mailbox: box.ID}, uids[:n], "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		have += n
		if room := storage.MaxCopyMessages - len(uids); room > 0 {
			uids = append(uids, got.To[:min(room, len(got.To))]...)
		}
	}
}

func deliverSmall(t *testing.T, m *Master, to storage.Account, pool []byte, round, n int) lap {
	t.Helper()
	spools := &storage.SpoolDir{FS: vfs.Default, Dir: "unused: these stay in memory"}
	l := lap{messages: n, latencies: make([]time.Duration, n)}
	var next atomic.Int64
	var workers sync.WaitGroup
	timer := startLap()
	for range 16 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				began := time.Now()
				text := fmt.Appendf(nil, "Subject: %d of round %d\r\n\r\n%s", i, round, pool[i:i+3000])
				if err := deliverSpooled(m, spools, text, to); err != nil {
					t.Error(err)
					return
				}
				l.latencies[i] = time.Since(began)
			}
		})
	}
	workers.Wait()
	timer.stop(&l)
	return l
}
