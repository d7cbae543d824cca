package local

import (
	"testing"

	"mailnode/storage/event"
)

// keysOf returns the keys of the records under a prefix, without the prefix.
func keysOf(t *testing.T, s *Slot, prefix byte) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	if err := s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{prefix}), func(k, _ []byte) error {
			out[string(k[1:])] = true
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// A copy that has taken the master's state forgets the places of bodies that nothing in
// the state names: else their bytes would stay in the packs for ever.
func TestImportForgetsBodiesThatNothingNames(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	own := serve(t, s, 1, 0)
	deliver(t, own, mail(100), account(t, own, "old@example.test"))
	own.Stop()
	master := openSlot(t, options(t, newFS(t)))
	m := serve(t, master, 2, 1)
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	deliver(t, m, mail(1), a, b)
	deliver(t, m, mail(2), a)
	want := keysOf(t, master, event.PrefixRefs)
	r := &replicaHarness{h: &harness{t: t, w: &walk{t: t, m: m}}}
	if err := r.fetchInto(s); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(t, s, event.PrefixRefs); len(got) != 2 || len(want) != 2 {
		t.Errorf("%d bodies have counts, want %d", len(got), len(want))
	}
	for k := range keysOf(t, s, event.PrefixBody) {
		if !want[k] {
			t.Errorf("body %x has a place, and nothing names it", k)
		}
	}
	closeOnce(t, s)
}
