package local

import (
	"context"
	"strings"
	"testing"

	"mailnode/storage"
)

// TestLaw01DeletedFolderStopsTheCopy: what is written into files whose names are
// gone is lost, and is not acknowledged.
func TestLaw01DeletedFolderStopsTheCopy(t *testing.T) {
	for _, dir := range []string{"", "packs"} {
		o := options(t, newFS(t))
		s := openSlot(t, o)
		m := serve(t, s, 1, 0)
		a := account(t, m, "u1@example.test")
		deliver(t, m, mail(1), a)
		if s.StillThere(); s.Failure() != nil {
			t.Fatal(s.Failure())
		}
		gone := o.FS.PathJoin(o.Dir, dir, "SLOT")
		if err := o.FS.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if s.StillThere(); s.Failure() == nil || !strings.Contains(s.Failure().Error(), gone) {
			t.Fatalf("%q: %v", gone, s.Failure())
		}
		d := storage.Delivery{Body: body(t, mail(2)), Recipients: []storage.Recipient{{Account: a.ID}}}
		if err := m.Deliver(context.Background(), d)[0]; err == nil {
			t.Error("a delivery was acknowledged")
		}
	}
}
