package local

import (
	"fmt"
	"strings"
	"testing"
)

func packName(n uint32) string { return fmt.Sprintf("%08d.pack", n) }

// tablesOf gives the paths of the index's tables.
func tablesOf(t *testing.T, s *Slot) (paths []string) {
	t.Helper()
	dir := s.o.FS.PathJoin(s.o.Dir, "index")
	names, err := s.o.FS.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") {
			paths = append(paths, s.o.FS.PathJoin(dir, n))
		}
	}
	return paths
}
