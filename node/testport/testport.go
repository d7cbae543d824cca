// Package testport gives tests ports that stay theirs. A port that is only looked
// for is free for whoever comes first: another test process, or the kernel, which
// gives it to an outgoing connection while the node that had it restarts.
package testport

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

const (
	first    = 12_000
	end      = 32_000 // below the ports that the kernel hands out (ip_local_port_range)
	BlockLen = 40     // ports of a block
)

// Block is a run of ports on 127.0.0.1 that no other test has.
type Block struct {
	t    testing.TB
	base int
	used int
}

// Take returns a block that is the caller's until its test has ended. A lock on the
// block's file keeps other processes off, and goes with the process however it ends;
// ports on which something listens that takes no such lock are passed over.
func Take(t testing.TB) *Block {
	t.Helper()
	blocks := (end - first) / BlockLen
	for i := range blocks {
		// Processes begin at different blocks, so that few ask for the same one.
		base := first + (os.Getpid()+i)%blocks*BlockLen
		f := lock(t, base)
		if f == nil {
			continue
		}
		if silent(base) {
			t.Cleanup(func() { f.Close() })
			return &Block{t: t, base: base}
		}
		f.Close()
	}
	t.Fatalf("no block of %d ports is free from %d to %d", BlockLen, first, end)
	return nil
}

// lock returns the locked file of a block, nil when another has it.
func lock(t testing.TB, base int) *os.File {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("mailnode-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(base)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil
	}
	return f
}

// silent reports whether nothing listens on a block.
func silent(base int) bool {
	for port := base; port < base+BlockLen; port++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

// Base returns the first port.
func (b *Block) Base() int { return b.base }

// Addr returns an address that it has not returned before.
func (b *Block) Addr() string {
	b.t.Helper()
	if b.used == BlockLen {
		b.t.Fatalf("all %d ports of the block are used", BlockLen)
	}
	b.used++
	return fmt.Sprintf("127.0.0.1:%d", b.base+b.used-1)
}
