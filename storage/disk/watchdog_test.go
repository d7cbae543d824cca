package disk

import "testing"

// TestPauseIsNoHang: a process that was stopped for an hour looks once at an
// operation that began an hour ago; only one that stays is a hang.
func TestPauseIsNoHang(t *testing.T) {
	w := &Watchdog{ops: map[*diskOp]struct{}{}}
	w.During("sync", "file", func() error {
		for range hangTicks {
			if op := w.look(); op != nil {
				t.Errorf("%+v hangs after %d looks", op, op.looks)
			}
		}
		if op := w.look(); op == nil || op.what != "sync" || op.path != "file" {
			t.Errorf("one that stays is not noticed: %+v", op)
		}
		return nil
	})
	for range 2 * hangTicks {
		if op := w.look(); op != nil {
			t.Errorf("%+v has returned", op)
		}
	}
}
