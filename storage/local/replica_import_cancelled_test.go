package local

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A replica gives up fetching the state while the emptied state is being made durable, as
// when its master is lost: the copy has nothing any more, and reports that it is building.
// If it did not, it could be promoted and serve a slot without mail.
func TestLaw01CancelledImportLeavesTheCopyBuilding(t *testing.T) {
	fs := newPowerFS(newFS(t))
	s := openSlot(t, options(t, fs))
	m := serve(t, s, 1, 0)
	deliver(t, m, mail(1), account(t, m, "u1@example.test"))
	m.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	returned := make(chan struct{})
	fs.watch(func(op errorfs.Op, after bool) error {
		if !after && changesDurability(op.Kind) && strings.HasSuffix(op.Path, ".log") {
			cancel()
			<-returned
		}
		return nil
	})
	err := s.BeginImport(ctx)
	close(returned)
	fs.watch(nil)
	if err == nil {
		t.Fatal("it did not give up")
	}
	if err := s.do(t.Context(), func(*txn) error { return nil }); err != nil { // behind it
		t.Fatal(err)
	}
	h, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	if h.Position == 0 && (!h.Building || !s.Building()) {
		t.Errorf("an emptied copy says that it is at %s and whole", h.Position)
	}
	if h.Position != 0 {
		t.Errorf("the state was not emptied: the test tests nothing")
	}
}
