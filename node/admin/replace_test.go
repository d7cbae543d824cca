package admin

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// TestLaw07WipeKeepsWhatIsSetAside: --wipe deletes a copy that others have, and none in
// which something is set aside, whoever is recorded to have the slot.
func TestLaw07WipeKeepsWhatIsSetAside(t *testing.T) {
	c := config.Config{}
	c.Node.Data = t.TempDir()
	for _, file := range []string{"s001/index/CURRENT", "s002/index/CURRENT", "s002/quarantine/diverged-3-1/CURRENT", "s003/index/CURRENT"} {
		path := filepath.Join(c.Node.Data, "slots", file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := FindCopies(c, "x")
	if err != nil || len(found.Copies) != 3 {
		t.Fatalf("found %+v, %v", found, err)
	}
	var got Replaced
	recorded := []peer.Copy{{Slot: 1, Holds: true}, {Slot: 2, Holds: true}, {Slot: 3, Holds: true, Kept: true}}
	if err := found.settle(c, recorded, ReplaceOptions{Wipe: true}, &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Wiped, []slot.ID{1}) || !slices.Equal(got.Kept, []slot.ID{2, 3}) {
		t.Errorf("wiped %v, kept %v: want s001 wiped alone", got.Wiped, got.Kept)
	}
	if _, err := os.Stat(filepath.Join(c.Node.Data, "slots/s002/quarantine/diverged-3-1/CURRENT")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.Node.Data, "slots/s001")); err == nil {
		t.Error("s001 is still there")
	}
}
