package local

import "testing"

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
			if _, err := Rebuild(t.Context(), bad, RebuildOptions{Mode: Alone, Epoch: 1}); err == nil {
				t.Error("it went on")
			}
			if _, ok := RebuildPending(o); !ok {
				t.Error("it is done with")
			}
			if n := len(indexFiles(t, fs, ".sst")); n != before {
				t.Errorf("the index has %d tables, it had %d", n, before)
			}
			if got, err := Rebuild(t.Context(), o, RebuildOptions{Mode: Alone, Epoch: 1}); err != nil {
				t.Errorf("it does not go on at home: %+v, %v", got, err)
			}
			closeOnce(t, openSlot(t, o))
		})
	}
}
