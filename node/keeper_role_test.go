package node

import "testing"

// A role that was ended while it began is not taken: what proved it is old.
func TestRoleEndedWhileItBegins(t *testing.T) {
	k := &keeper{}
	left := 0
	if err := k.take(k.term, func() { left++ }, func() {}); err != nil || left != 0 {
		t.Fatalf("take: %v, left %d times", err, left)
	}
	term := k.term
	k.end()
	if left != 1 {
		t.Fatalf("left %d times, want once", left)
	}
	if err := k.take(term, func() { left++ }, func() { t.Error("taken") }); err == nil || left != 2 {
		t.Errorf("an ended role was taken: %v, left %d times", err, left)
	}
}
