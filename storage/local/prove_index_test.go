package local

import (
	"context"
	"errors"
	"testing"

	"mailnode/storage"
)

// A block of the index goes bad while the copy serves: its readers get an error, the node
// is told that the index is lost, and the store goes on.
func TestLaw06Law09BadBlockIsReportedAndStopsNothing(t *testing.T) {
	fs := newFS(t)
	o, accounts, _ := written(t, fs, true)
	told := make(chan error, 100)
	o.OnDamage = func(d Damage) {
		select {
		case told <- d.Err:
		default:
		}
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := serve(t, s, 1, 0)
	for _, name := range indexFiles(t, fs, ".sst") {
		for _, part := range []float64{0.1, 0.3, 0.5, 0.7} {
			garble(t, fs, "/slots/s007/index/"+name, part, 200)
		}
	}
	_, err = s.Recount(context.Background(), Scope{}, RecountOptions{})
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Fatalf("a damaged index was read: %v", err)
	}
	select {
	case err := <-told:
		if !IndexLost(err) {
			t.Errorf("told of %v, which does not say that the index is lost", err)
		}
	default:
		t.Error("nobody was told")
	}
	if err := s.Failure(); err != nil {
		t.Errorf("one bad block has stopped the store: %v", err)
	}
	deliver(t, m, mail(2000), accounts[1])
}

// Pebble takes the first unsound record of its list of files for the end; the
// copy is refused instead.
func TestLaw07DamagedManifestRefusesTheCopy(t *testing.T) {
	fs := newFS(t)
	o, _, _ := written(t, fs, true)
	path := "/slots/s007/index/" + indexFiles(t, fs, "MANIFEST-")[0]
	garble(t, fs, path, 0.3, 1)
	if _, err := Open(o); !IndexLost(err) {
		t.Errorf("opened with a damaged list of files: %v", err)
	}
}
