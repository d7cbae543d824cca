package index

import "testing"

// TestMemTablesShareTheCache: however many indexes, their memtables fit into half
// of the cache, as long as each has the least that works.
func TestMemTablesShareTheCache(t *testing.T) {
	s := NewShared(256 << 20)
	defer s.Close()
	for indexes, want := range map[int]uint64{0: memTableBytesMax, 1: memTableBytesMax, 8: memTableBytesMax, 32: 2 << 20, 500: memTableBytesMin} {
		s.Expect(indexes)
		if got := s.memTableBytes(); got != want {
			t.Errorf("%d indexes: %d, want %d", indexes, got, want)
		}
	}
}
