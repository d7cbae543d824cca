package local

import "testing"

// TestMemTablesShareTheCache: however many copies, their memtables fit into half
// of the cache, as long as each has the least that works.
func TestMemTablesShareTheCache(t *testing.T) {
	r := NewResources(256 << 20)
	defer r.Close()
	for copies, want := range map[int]uint64{0: memTableBytesMax, 1: memTableBytesMax, 8: memTableBytesMax, 32: 2 << 20, 500: memTableBytesMin} {
		r.Expect(copies)
		if got := r.memTableBytes(); got != want {
			t.Errorf("%d copies: %d, want %d", copies, got, want)
		}
	}
}
