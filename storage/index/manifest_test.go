package index

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestLaw07DamagedManifestIsNoTornOne: a list of files that is cut anywhere is what a
// crash may leave; whatever bit is flipped in it, it is not taken for sound.
func TestLaw07DamagedManifestIsNoTornOne(t *testing.T) {
	fs := vfs.NewMem()
	db, err := pebble.Open("/index", options(fs, quietLogger{}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 { // each table is an edit
		if err := db.Set(fmt.Appendf(nil, "key %d", i), []byte("value"), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	path, err := manifestIn(fs, "/index")
	if err != nil {
		t.Fatal(err)
	}
	whole := content(t, fs, path)
	if len(whole) < 200 {
		t.Fatal(len(whole))
	}
	if got := readManifest(whole); got != manifestSound {
		t.Fatalf("a sound list is %d", got)
	}
	for cut := range len(whole) {
		if got := readManifest(whole[:cut]); got == manifestDamaged {
			t.Fatalf("cut at %d it is taken for damaged", cut)
		}
	}
	undetected := 0
	for at := range whole {
		b := append([]byte(nil), whole...)
		b[at] ^= 0x10
		if readManifest(b) == manifestSound {
			undetected++
		}
	}
	if undetected > 0 {
		t.Errorf("%d flipped bits were not seen", undetected)
	}
}
