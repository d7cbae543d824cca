package local

import (
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
)

// A slot of the first release is raised when it is opened; the checker, which
// runs at Close, counts the references itself.
func TestFormat1GetsReferenceCounts(t *testing.T) {
	fs := newFS(t)
	o := options(t, fs)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "a@example.test"), account(t, m, "b@example.test")
	deliver(t, m, mail(1), a, b)
	deliver(t, m, mail(2), a)
	box, _ := inbox(t, m, b)
	expungeAll(t, m, storage.Ref{Account: b.ID, Mailbox: box.ID})
	sp := event.SpanOf([]byte{event.PrefixRefs})
	if err := s.db.DeleteRange(sp.Lower, sp.Upper, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	asFormat1(t, s)
	s = openSlot(t, o)
	n := 0
	if err := s.read(func(v *view) error { return each(v, sp, func(_, _ []byte) error { n++; return nil }) }); err != nil || n != 2 {
		t.Fatalf("%d counts, %v; want 2", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s, "SLOT"); !strings.Contains(got, `"format":2`) {
		t.Errorf("SLOT says %q", got)
	}
}

func expungeAll(t *testing.T, m *Master, r storage.Ref) {
	t.Helper()
	var uids []storage.UID
	if err := m.Scan(t.Context(), r, 1, ^storage.UID(0), func(msg storage.Message) error {
		uids = append(uids, msg.UID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetFlags(t.Context(), r, uids, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, s *Slot, name string) string {
	t.Helper()
	f, err := s.o.FS.Open(s.o.FS.PathJoin(s.o.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func asFormat1(t *testing.T, s *Slot) {
	t.Helper()
	line, _, _ := strings.Cut(strings.Replace(readAll(t, s, "SLOT"), `"format":2`, `"format":1`, 1), "\n")
	f, err := s.o.FS.Create(s.o.FS.PathJoin(s.o.Dir, "SLOT"), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(disk.Seal(line)); err != nil {
		t.Fatal(err)
	}
}
