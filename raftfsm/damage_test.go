package raftfsm

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// damagesTried is how many of the damages one run tries.
const damagesTried = 120

// damages are what may become of a log of this size while nobody looks. Seeded.
func damages(size int, rng *rand.Rand) map[string]func([]byte) []byte {
	const pageSize = 4096
	all := map[string]func([]byte) []byte{
		"cut by a byte":      func(b []byte) []byte { return b[:len(b)-1] },
		"one byte":           func(b []byte) []byte { return b[:1] },
		"zeros, as long":     func(b []byte) []byte { clear(b); return b },
		"zeros, longer":      func(b []byte) []byte { return make([]byte, len(b)+1<<20) },
		"noise":              func(b []byte) []byte { fillNoise(b, rng); return b },
		"both heads garbled": func(b []byte) []byte { fillNoise(b[:2*pageSize], rng); return b },
	}
	for at := pageSize; at < size; at += pageSize {
		all[fmt.Sprintf("cut at %d", at)] = func(b []byte) []byte { return b[:at] }
		odd := at + rng.IntN(pageSize)
		all[fmt.Sprintf("cut at %d", odd)] = func(b []byte) []byte { return b[:min(odd, len(b))] }
		all[fmt.Sprintf("sparse from %d", at)] = func(b []byte) []byte { clear(b[at:]); return b }
	}
	for at := 0; at < size; at += pageSize {
		all[fmt.Sprintf("zero page %d", at/pageSize)] = func(b []byte) []byte { clear(b[at : at+pageSize]); return b }
		all[fmt.Sprintf("page %d twice", at/pageSize)] = func(b []byte) []byte {
			copy(b[at:at+pageSize], b[rng.IntN(size/pageSize)*pageSize:])
			return b
		}
		for range 3 {
			bit := at*8 + rng.IntN(pageSize*8)
			all[fmt.Sprintf("bit %d", bit)] = func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b }
		}
		for range 5 { // the head of a page is what bbolt believes
			bit := at*8 + rng.IntN(96*8)
			all[fmt.Sprintf("bit %d", bit)] = func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b }
		}
	}
	return all
}

func fillNoise(b []byte, rng *rand.Rand) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// longLog makes a sole voter with a log of many pages, stops it, and returns its
// configuration, its last state and its log.
func longLog(t *testing.T) (Config, *cluster.State, []byte) {
	t.Helper()
	cfg := config(t, "n1", listenNew(t))
	n1 := first(t, cfg)
	n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	for i := range 300 {
		n1.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(1000 - i)})
	}
	n1.end(t)
	b, err := os.ReadFile(filepath.Join(cfg.Dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 16*4096 {
		t.Fatalf("a log of %d bytes proves nothing", len(b))
	}
	return cfg, n1.State(), b
}

// TestLaw09DamagedLogIsNeverMapped: whatever became of raft.db while the node was
// down, it is used when nothing that was promised is missing, and set aside
// otherwise; neither ends the process.
func TestLaw09DamagedLogIsNeverMapped(t *testing.T) {
	cfg, _, whole := longLog(t)
	cfg = cfg.withDefaults()
	rng := seeded(t)
	promised, err := os.ReadFile(filepath.Join(cfg.Memory.Dir, memoryName))
	if err != nil {
		t.Fatal(err)
	}
	used, aside := 0, 0
	all := damages(len(whole), rng)
	names := slices.Sorted(maps.Keys(all))
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:damagesTried] {
		damage := all[name]
		write(t, filepath.Join(cfg.Dir, logName), damage(bytes.Clone(whole)))
		write(t, filepath.Join(cfg.Memory.Dir, memoryName), promised)
		for _, again := range []string{"damaged", asideName, "snapshots"} {
			if err := os.RemoveAll(filepath.Join(cfg.Dir, again)); err != nil {
				t.Fatal(err)
			}
		}
		for start := range 2 {
			n := newNode(cfg, nil)
			if err := n.openFiles(); err != nil {
				t.Fatalf("%s, start %d: %v", name, start+1, err)
			}
			if had, _, err := n.readPromises(n.back); err != nil || had.Term < 1 || had.Last < 300 {
				t.Fatalf("%s, start %d: it goes on with %+v, %v", name, start+1, had, err)
			}
			if err := n.closeFiles(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if wasSetAside(cfg.Dir) != "" {
			aside++
		} else {
			used++
		}
	}
	t.Logf("%d damaged logs set aside, %d with damage that concerns nothing", aside, used)
	if aside < damagesTried/5 || used < damagesTried/10 {
		t.Errorf("%d set aside, %d used: that proves nothing", aside, used)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLaw09LogDamagedUnderARunningNode: the file is cut, zeroed or garbled while it
// is mapped. Raft stops on this node, the process lives, the state is kept, and the
// next start goes on from it; so does the one after that.
func TestLaw09LogDamagedUnderARunningNode(t *testing.T) {
	for name, damage := range map[string]func(f *os.File, size int64) error{
		"emptied":         func(f *os.File, _ int64) error { return f.Truncate(0) },
		"cut to one page": func(f *os.File, _ int64) error { return f.Truncate(4096) },
		"cut to half":     func(f *os.File, size int64) error { return f.Truncate(size / 2) },
		"cut at odd size": func(f *os.File, _ int64) error { return f.Truncate(3*4096 + 17) },
		"cut and grown": func(f *os.File, size int64) error {
			if err := f.Truncate(2 * 4096); err != nil {
				return err
			}
			return f.Truncate(size)
		},
		"garbled": func(f *os.File, size int64) error {
			b := make([]byte, size-2*4096)
			fillNoise(b, rand.New(rand.NewPCG(1, 1)))
			_, err := f.WriteAt(b, 2*4096)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, "n1", listenNew(t))
			n1 := first(t, cfg)
			n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
			for i := range 50 {
				n1.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(1000 - i)})
			}
			path := filepath.Join(cfg.Dir, logName)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(f, st.Size()); err != nil {
				t.Fatal(err)
			}
			// What is left may be enough for a while; in the end it is not.
			for i := range 200 {
				if _, err := n1.Propose(t.Context(), decidedOn(n1.Node, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(900 - i)})); err != nil {
					break
				}
			}
			n1.end(t)
			state := cluster.EncodeSnapshot(n1.State())
			for range 2 {
				cfg.Transport = listenNew(t)
				again := start(t, cfg)
				until(t, "a leader", again.IsLeader)
				if err := again.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(cluster.EncodeSnapshot(again.State()), state) {
					t.Error("it goes on with another state")
				}
				again.end(t)
			}
		})
	}
}

// TestLaw07SetAsideRaftFilesAreKept: each loss has a folder of its own, and none
// replaces what lies there.
func TestLaw07SetAsideRaftFilesAreKept(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	n1 := first(t, cfg)
	n1.end(t)
	const losses = 3
	for i := range losses {
		write(t, filepath.Join(cfg.Dir, logName), fmt.Appendf(nil, "loss %d", i+1))
		if i == 1 { // a crash came before the reason was written
			remove(t, filepath.Join(cfg.Dir, asideName, "1", whyName))
		}
		cfg.Transport = listenNew(t)
		again := start(t, cfg)
		again.want(t, ConditionStoreFailed)
		until(t, "a leader", again.IsLeader)
		again.end(t)
	}
	for i := range losses {
		got, err := os.ReadFile(filepath.Join(cfg.Dir, asideName, strconv.Itoa(i+1), logName))
		if want := fmt.Sprintf("loss %d", i+1); err != nil || string(got) != want {
			t.Errorf("number %d: %q, %v, want %q", i+1, got, err, want)
		}
	}
	if said := wasSetAside(cfg.Dir); !strings.Contains(said, "damaged/3") || !strings.Contains(said, "3 lie there") {
		t.Errorf("it says %q", said)
	}
	remove(t, filepath.Join(cfg.Dir, asideName))
	if said := wasSetAside(cfg.Dir); said != "" {
		t.Errorf("a person has removed all, and it says %q", said)
	}
}

// TestLaw06SnapshotDamageIsFound: a snapshot that is damaged, or that is gone while the
// log begins behind it, is not what Raft starts from.
func TestLaw06SnapshotDamageIsFound(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"body":   func(t *testing.T, dir string) { flipIn(t, filepath.Join(dir, "state.bin")) },
		"head":   func(t *testing.T, dir string) { write(t, filepath.Join(dir, "meta.json"), []byte("{")) },
		"gone":   remove,
		"no end": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "state.bin"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "n1", listenNew(t))
			cfg.TrailingLogs, cfg.SnapshotThreshold = 4, 8
			n1 := first(t, cfg)
			n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
			for i := range 20 {
				n1.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(1000 - i)})
			}
			if err := n1.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
			n1.end(t)
			all, err := filepath.Glob(filepath.Join(cfg.Dir, "snapshots", "*"))
			if err != nil || len(all) == 0 {
				t.Fatalf("no snapshot: %v", err)
			}
			for _, dir := range all {
				damage(t, dir)
			}
			cfg.Transport = listenNew(t)
			again := start(t, cfg)
			again.want(t, ConditionStoreFailed)
			until(t, "a leader", again.IsLeader)
			if sl, _ := again.State().Slot(0); sl.UnprotectedSince != 981 {
				t.Errorf("it goes on with %+v", sl)
			}
		})
	}
}

func flipIn(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	write(t, path, b)
}

// TestLaw09FilesOfEveryKind: what stands where Raft's files should be is no file, or
// cannot be read. The node is halted and answers with what it knew.
func TestLaw09FilesOfEveryKind(t *testing.T) {
	for name, put := range map[string]func(cfg Config) error{
		"a file for the folder": func(cfg Config) error {
			if err := os.RemoveAll(cfg.Dir); err != nil {
				return err
			}
			return os.WriteFile(cfg.Dir, nil, 0o600)
		},
		"a disk that hangs": func(cfg Config) error { // to open a pipe waits for who writes
			remove(t, filepath.Join(cfg.Dir, logName))
			return syscall.Mkfifo(filepath.Join(cfg.Dir, logName), 0o600)
		},
		"another server's ID": func(cfg Config) error {
			return os.WriteFile(filepath.Join(cfg.Dir, idName), []byte("n9-01234567\n"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "n1", listenNew(t))
			n1 := first(t, cfg)
			n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
			n1.end(t)
			if err := put(cfg); err != nil {
				t.Fatal(err)
			}
			cfg.Transport, cfg.StallLimit = listenNew(t), time.Second
			n, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			asHalted(t, n.Err(), ConditionStoreFailed)
			if sl, _ := n.State().Slot(0); sl.Master != "n1" {
				t.Errorf("the halted node knows %+v", sl)
			}
			if !n.DecidesAlone() {
				t.Error("nobody else has a vote, and it waits for a leader")
			}
			if _, err := n.Servers(); err == nil {
				t.Error("a halted node knows Raft's servers")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := n.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
