package local

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/disk"
)

// TestLaw01HungCopyIsOpenedAgainWhenItsDiskAnswers: as long as the disk has a write of
// the copy that failed, its files are nobody else's; then all is there, the write that
// came late too or not, and the copy that failed changes nothing any more.
func TestLaw01HungCopyIsOpenedAgainWhenItsDiskAnswers(t *testing.T) {
	for name, h := range map[string]*hang{
		"sync of packs":  {folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData}},
		"write of index": {folder: "index", kinds: []errorfs.OpKind{errorfs.OpFileWrite}},
		"read of packs":  {folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileRead, errorfs.OpFileReadAt}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h.release = make(chan struct{})
			o := options(t, injected(vfs.Default, h))
			o.Dir, o.HangAfter = t.TempDir(), 200*time.Millisecond
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			deliver(t, m, mail(1), a)
			h.armed.Store(true)
			late, ref := make(chan struct{}), inboxRef(t, m, a)
			go func() {
				defer close(late)
				m.Deliver(context.Background(), storage.Delivery{Body: spooled(mail(2)), Recipients: []storage.Recipient{{Account: a.ID}}})
				if b, err := m.OpenBody(context.Background(), ref, 1); err == nil {
					b.Close()
				}
			}()
			<-s.Failed()
			if c := s.Cause(); c != CauseHang {
				t.Errorf("cause %d: %v", c, s.Failure())
			}
			within(t, "close", func() { s.Close() })
			for range 2 {
				if err := s.Release(); !errors.Is(err, disk.ErrHangs) {
					t.Fatalf("released while its disk has something of it: %v", err)
				}
			}
			if r, err := Open(o); err == nil {
				r.Close()
				t.Fatal("two copies are open on the same files")
			}
			h.armed.Store(false)
			close(h.release)
			within(t, "release", func() {
				for s.Release() != nil { // it waits for the disk
				}
			})
			r := openSlot(t, o)
			_, got := inbox(t, serve(t, r, 1, 0), a)
			if len(got) < 1 || len(got) > 2 || got[1] != mail(1) {
				t.Errorf("%d messages", len(got))
			}
			within(t, "whoever waited for the copy that failed", func() { <-late })
			if err := m.Deliver(context.Background(), storage.Delivery{Body: spooled(mail(3)), Recipients: []storage.Recipient{{Account: a.ID}}})[0]; err == nil {
				t.Error("the copy that failed acknowledges")
			}
		})
	}
}

func inboxRef(t *testing.T, m *Master, a storage.Account) storage.Ref {
	t.Helper()
	box, err := m.Mailbox(context.Background(), a.ID, "inbox")
	if err != nil {
		t.Fatal(err)
	}
	return storage.Ref{Account: a.ID, Mailbox: box.ID}
}

// TestCauseOfAStop: what is needed to open a copy again. A sync that says that the disk
// is full is one of room: nothing of what it lost was acknowledged, and the start reads
// from the disk what it has.
func TestCauseOfAStop(t *testing.T) {
	for err, want := range map[error]Cause{
		&fs.PathError{Op: "sync", Err: syscall.ENOSPC}: CauseRoom,
		&fs.PathError{Op: "sync", Err: syscall.EDQUOT}: CauseRoom,
		&fs.PathError{Op: "sync", Err: syscall.EIO}:    CauseDisk,
		&fs.PathError{Op: "write", Err: syscall.EROFS}: CauseDisk,
	} {
		s := openSlot(t, options(t, newFS(t)))
		s.fail(err)
		if got := s.Cause(); got != want {
			t.Errorf("%v: cause %d, want %d", err, got, want)
		}
		s.Close()
		if err := s.Release(); err != nil {
			t.Error(err)
		}
	}
}
