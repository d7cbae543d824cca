package testport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Two blocks never share a port, neither in one process nor in two, and a port on
// which a stranger listens is in none.
func TestBlocksAreApart(t *testing.T) {
	mine := Take(t)
	if other := Take(t); other.Base() == mine.Base() {
		t.Fatalf("two blocks begin at %d", mine.Base())
	}
	if mine.Addr() == mine.Addr() {
		t.Fatal("a block has given the same address twice")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
	child.Env = append(os.Environ(), "MAILNODE_TESTPORT_CHILD="+strconv.Itoa(mine.Base()))
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "took another") {
		t.Fatalf("the other process: %v\n%s", err, out)
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", mine.Base()+1))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if silent(mine.Base()) {
		t.Error("a block with a listener counts as silent")
	}
}

// TestChild takes every block that TestBlocksAreApart has left.
func TestChild(t *testing.T) {
	taken, err := strconv.Atoi(os.Getenv("MAILNODE_TESTPORT_CHILD"))
	if err != nil {
		t.Skip("SKIPPED: it is a part of TestBlocksAreApart")
	}
	if lock(t, taken) != nil {
		t.Fatalf("took the block at %d, which is another process's", taken)
	}
	if Take(t).Base() != taken {
		t.Log("took another")
	}
}
