package local

import (
	"errors"
	"maps"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// A disk that does not read, or a volume that is not mounted, is no reason to remove a
// message: both pass. A body that is proved to have other bytes is given up.
func TestLaw07NothingIsGivenUpForAnErrorThatPasses(t *testing.T) {
	fs := newFS(t)
	f := &fault{folder: ".pack", kinds: []errorfs.OpKind{errorfs.OpFileReadAt}, err: syscall.EIO, forever: true}
	o := options(t, injected(fs, f))
	o.PacksDir = "/bulk/packs"
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	deliver(t, m, mail(2), a)
	r := storage.Ref{Account: a.ID, Mailbox: inboxID(t, m, a)}
	first, second := bodyAt(t, s, r, 1), bodyAt(t, s, r, 2)
	try := func(what string) {
		t.Helper()
		got, err := m.GiveUp(t.Context(), []slot.BodyRef{first, second})
		if len(got) != 0 || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: given up %v, %v", what, got, err)
		}
		if err := s.ForgetDamaged(t.Context(), first); err == nil {
			t.Errorf("%s: its place was forgotten", what)
		}
	}
	if err := fs.Rename("/bulk/packs", "/bulk/elsewhere"); err != nil { // before a pack is open for reading
		t.Fatal(err)
	}
	try("a volume that is not mounted")
	if err := fs.Rename("/bulk/elsewhere", "/bulk/packs"); err != nil {
		t.Fatal(err)
	}
	f.arm(1)
	try("a disk that does not read")
	f.arm(0)
	if _, got := inbox(t, m, a); !maps.Equal(got, map[storage.UID]string{1: mail(1), 2: mail(2)}) {
		t.Errorf("afterwards: %v", got)
	}
}
