package peer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

func TestInitAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "mailnode")
	if _, err := Load(dir); !errors.Is(err, ErrNoCluster) {
		t.Errorf("before Init: %v", err)
	}
	made, err := Init(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, "n1"); !errors.Is(err, ErrHasCluster) {
		t.Errorf("second Init: %v", err)
	}
	if err := made.SetGeneration(5); err != nil {
		t.Fatal(err)
	}
	if err := made.SetGeneration(4); err == nil {
		t.Error("the generation went down")
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name() != "n1" || got.Generation() != 5 || got.ClusterID() != made.ClusterID() || got.CAFingerprint() != made.CAFingerprint() {
		t.Errorf("got %q generation %d", got.Name(), got.Generation())
	}
	if err := got.SetGeneration(6); err != nil {
		t.Errorf("a loaded identity cannot raise its generation: %v", err)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, clusterFile: 0o600, caFile: 0o600, caKeyFile: 0o600, nodeFile: 0o600, nodeKeyFile: 0o600} {
		stat, err := os.Stat(filepath.Join(dir, clusterFolder, path))
		if err != nil || stat.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v (%v)", path, stat.Mode().Perm(), want, err)
		}
	}
}

func TestInitNames(t *testing.T) {
	for name, ok := range map[slot.NodeName]bool{
		"n1": true, "1": true, "a-b": true, slot.NodeName(strings.Repeat("a", 31)): true,
		"": false, "-a": false, "N1": false, "a.b": false, "a/b": false, "ä": false, slot.NodeName(strings.Repeat("a", 32)): false,
	} {
		if _, err := Init(t.TempDir(), name); (err == nil) != ok {
			t.Errorf("Init as %q: %v", name, err)
		}
	}
}

// TestLaw06IdentityDamage: an identity with any byte changed, or any file cut
// or gone, is refused or still the same.
func TestLaw06IdentityDamage(t *testing.T) {
	dir := t.TempDir()
	made, err := Init(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{clusterFile, caFile, caKeyFile, nodeFile, nodeKeyFile} {
		path := filepath.Join(dir, clusterFolder, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, content []byte, mayLoad bool) {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Load(dir)
			if err != nil {
				return
			}
			same := got.name == made.name && got.cluster == made.cluster && got.generation == made.generation &&
				got.key.Equal(made.key) && got.cert.Equal(made.cert) && got.ca.key.Equal(made.ca.key) && got.ca.cert.Equal(made.ca.cert)
			if !mayLoad || !same {
				t.Errorf("%s %s: loaded, same = %v", name, what, same)
			}
		}
		for i := range whole {
			bad := append([]byte(nil), whole...)
			bad[i] ^= 0x01
			try("changed", bad, true)
		}
		try("cut", whole[:len(whole)/2], false)
		try("empty", nil, false)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if got, err := Load(dir); (err == nil) != (name == caKeyFile) || err == nil && got.Admits() {
			t.Errorf("%s gone: %v", name, err) // without the CA's key it is a node that admits nobody
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(dir); err != nil {
		t.Errorf("the repaired folder: %v", err)
	}
}

// TestCrashWhileCreating: whatever a crash left in the draft folder, there is
// no identity, and the next attempt succeeds.
func TestCrashWhileCreating(t *testing.T) {
	files, err := newCluster(t).files()
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(files) + 1 {
		dir := t.TempDir()
		draft := filepath.Join(dir, clusterFolder+".new")
		if err := os.Mkdir(draft, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files[:n] {
			if err := disk.ReplaceFile(filepath.Join(draft, f.name), f.content); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(dir); !errors.Is(err, ErrNoCluster) {
			t.Errorf("after %d files: %v", n, err)
		}
		if _, err := Init(dir, "n1"); err != nil {
			t.Errorf("Init after %d files of another: %v", n, err)
		}
		if _, err := Load(dir); err != nil {
			t.Errorf("Load after Init: %v", err)
		}
	}
}
