package local

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "make the golden files again")
	if raceDetector { // rapid's own default is 100; the command line goes before both
		if err := flag.Set("rapid.checks", "20"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// trace notes what makes bytes or names durable.
type trace struct {
	mu  sync.Mutex
	off bool
	out strings.Builder
}

func (r *trace) String() string { return "trace" }

func (r *trace) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := fmt.Sprintf(format+"\n", args...)
	if !r.off && !strings.HasSuffix(r.out.String(), "\n"+line) { // how often Pebble syncs its folder is its own business
		r.out.WriteString(line)
	}
}

func (r *trace) mute(off bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off = off
}

var number = regexp.MustCompile(`\d{6}`) // Pebble's file numbers, which a new release may count otherwise

// MaybeError implements errorfs.Injector.
func (r *trace) MaybeError(op errorfs.Op) error {
	name := number.ReplaceAllString(strings.TrimPrefix(op.Path, "/slots/s007"), "N")
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncTo:
		r.note("  sync %s", name)
	case errorfs.OpFileSyncData:
		r.note("  fdatasync %s", name)
	case errorfs.OpRename:
		r.note("  rename %s", name)
		if name == "/HEAD.new" { // what Open does behind it goes on beside a flush
			r.mute(true)
		}
	}
	return nil
}

// freshLogs makes a new file of a log that Pebble would use again: errorfs does
// not see what becomes of a reused one.
type freshLogs struct{ vfs.FS }

// injected is a file system whose operations an injector sees, all of them.
func injected(fs vfs.FS, i errorfs.Injector) vfs.FS { return freshLogs{errorfs.Wrap(fs, i)} }

// Unwrap implements vfs.FS.
func (f freshLogs) Unwrap() vfs.FS { return f.FS }

// ReuseForWrite implements vfs.FS.
func (f freshLogs) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, c)
}

// The order of syncs is what law 1 rests on: the pack before the index that
// points into it, and one of each per group. It must not change unnoticed.
func TestLaw01SyncOrderIsFixed(t *testing.T) {
	const golden = "testdata/syncs.txt"
	tr := &trace{}
	o := options(t, injected(newFS(t), tr))
	tr.note("open")
	s := openSlot(t, o)
	if err := s.guarded(s.db.Flush); err != nil { // and the one that Open began
		t.Fatal(err)
	}
	tr.mute(false)
	tr.note("serve")
	m := serve(t, s, 1, 0)
	tr.note("create account")
	a := account(t, m, "u1@example.test")
	for _, what := range []string{"the first time", "again"} {
		tr.note("deliver %s", what)
		deliver(t, m, mail(1), a)
	}
	tr.note("append")
	if _, err := m.Append(context.Background(), a.ID, storage.Append{Mailbox: "Sent", Body: spooled("x\r\n"), InternalDate: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	tr.mu.Lock()
	got := tr.out.String()
	tr.mu.Unlock()
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
