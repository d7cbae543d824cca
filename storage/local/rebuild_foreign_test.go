package local

import (
	"errors"
	"testing"

	"mailnode/storage"
)

// A rebuild that was cut off lies on a disk that is not this slot's, or beside a
// data volume that is not mounted: nothing there is touched.
func TestCutOffRebuildOfAForeignDiskIsNotResumed(t *testing.T) {
	for _, what := range []string{"foreign", "unmounted"} {
		t.Run(what, func(t *testing.T) {
			fs := newFS(t)
			o, _, _ := written(t, fs, true)
			rb := &rebuild{ctx: t.Context(), o: withPresets(o), ro: RebuildOptions{Mode: Alone, Epoch: 1}, fs: fs, dir: o.Dir}
			if err := rb.begin(); err != nil {
				t.Fatal(err)
			}
			before := len(indexFiles(t, fs, ".sst"))
			bad := o
			if what == "foreign" {
				bad.Cluster = "other"
			} else {
				bad.PacksDir = "/data/s007/packs"
			}
			_, err := Open(bad)
			var r *Refused
			if !errors.As(err, &r) || IndexLost(err) {
				t.Errorf("opened, or not refused by name: %v", err)
			}
			if _, ok := RebuildPending(o); !ok {
				t.Error("it is done with")
			}
			if n := len(indexFiles(t, fs, ".sst")); n != before {
				t.Errorf("the index has %d tables, it had %d", n, before)
			}
			s := openSlot(t, o)
			if _, _, err := s.get(localKey(keyClean)); errors.Is(err, storage.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
}
