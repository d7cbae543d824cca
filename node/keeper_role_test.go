package node

import "testing"

// A role that was ended while it began is not taken: what proved it is old.
func TestRoleEndedWhileItBegins(t *testing.T) {
	r := &roleState{}
	left := 0
	if err := r.take(r.term, roleParts{leave: func() { left++ }}); err != nil || left != 0 {
		t.Fatalf("take: %v, left %d times", err, left)
	}
	term := r.term
	r.end()
	if left != 1 {
		t.Fatalf("left %d times, want once", left)
	}
	if err := r.take(term, roleParts{leave: func() { left++ }}); err == nil || left != 2 || r.leave != nil {
		t.Errorf("an ended role was taken: %v, left %d times", err, left)
	}
}
